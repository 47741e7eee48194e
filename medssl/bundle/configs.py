"""``inference.json`` and ``evaluate.json`` of a bundle.

Every entry is a value, a reference, or a call by ``_target_``: of MONAI, PyTorch, or the modules
of :mod:`medssl.bundle.carried` that the bundle brings in ``scripts``. Expressions (``$``) are
references and calls, never statements.
"""

from __future__ import annotations

from medssl.bundle import transforms as t
from medssl.bundle.carried.reading import file_metas, image_list
from medssl.bundle.config_parts import (
    Config,
    common,
    compared,
    compose,
    dataset,
    decide,
    evaluator,
    load_handler,
    loader,
    mean_dice,
    pairs,
    prepare,
    to_classes,
)
from medssl.bundle.contents import Contents
from medssl.bundle.scripts import target

_BOTH = ["image", "label"]


def inference_config(contents: Contents) -> Config:
    """Segment every image of ``dataset_dir`` into ``output_dir``, on the image's own grid."""
    values = contents.labels.values
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "",
        "output_dtype": "$np.uint8" if max(values) < 256 else "$np.uint16",
        "resample": False,
        "separate_folder": False,
        "print_log": False,
    }
    return {
        **common(contents),
        "output_dir": "$@bundle_root + '/eval'",
        "preprocessing": compose([*t.read_transforms(["image"]), *prepare(contents, ["image"])]),
        "dataset": dataset({"_target_": target(image_list), "folder": "@dataset_dir"}),
        "dataloader": loader("@dataset"),
        "postprocessing": compose([decide(contents, values=list(values)), save]),
        "handlers": [load_handler()],
        "evaluator": evaluator("@dataloader", "@postprocessing", "@handlers"),
        "run": ["$@evaluator.run()"],
    }


def evaluate_config(contents: Contents) -> Config:
    """Compare with references in ``label_dir``, file by file of the same name: Dice per class.

    The prediction is that of ``inference.json``, post-processing included, and is measured on the
    image's own grid; without ``medssl evaluate``'s distances and patients.
    """
    config = inference_config(contents)
    saver = {
        "_target_": "MetricsSaver",
        "save_dir": "@output_dir",
        "metrics": "*",
        "metric_details": "*",
        "batch_transform": {"_target_": target(file_metas), "_mode_": "callable"},
        "summary_ops": ["mean", "median"],
    }
    return {
        **config,
        "label_dir": "$@bundle_root + '/data_labels'",
        "preprocessing": compose(
            [*t.read_transforms(_BOTH), to_classes(contents), *prepare(contents, ["image"])]
        ),
        "dataset": dataset(pairs()),
        "postprocessing": compose(compared(contents)),
        "handlers": [load_handler(), saver],
        "evaluator": {**config["evaluator"], "key_val_metric": mean_dice()},
    }
