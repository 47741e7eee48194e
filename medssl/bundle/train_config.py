"""``train.json`` of a bundle: fine-tuning with MONAI's own trainer."""

from __future__ import annotations

from medssl.bundle import transforms as t
from medssl.bundle.carried.annotated import AnnotatedLoss
from medssl.bundle.config_parts import (
    FROM_ENGINE,
    Config,
    common,
    compared,
    compose,
    dataset,
    evaluator,
    ignored,
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


def train_config(contents: Contents) -> Config:
    """Fine-tune on labeled images with MONAI's own trainer (labels alone, Dice + cross-entropy).

    ``train``, ``validate`` and their parts have the names that MONAI Label and FLARE look for; with
    no validation data there is no validation.
    """
    read = [*t.read_transforms(_BOTH), to_classes(contents)]
    return {
        **common(contents),
        "label_dir": "$@bundle_root + '/data_labels'",
        "output_dir": "$@bundle_root + '/models'",
        "max_epochs": 50,
        "learning_rate": 1e-4,
        "batch_size": 2,
        "val_interval": 5,
        "loss": {"_target_": target(AnnotatedLoss), "ignore_class": ignored(contents)},
        "optimizer": {
            "_target_": "torch.optim.Adam",
            "params": "$@network.parameters()",
            "lr": "@learning_rate",
        },
        "train": _train(contents, read),
        "validate": {
            "preprocessing": compose([*read, *prepare(contents, ["image"])]),
            "dataset": dataset([], "@validate::preprocessing"),
            "dataloader": loader("@validate::dataset"),
            "postprocessing": compose(compared(contents)),
            "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
            "evaluator": {
                **evaluator(
                    "@validate::dataloader", "@validate::postprocessing", "@validate::handlers"
                ),
                "key_val_metric": mean_dice(),
            },
        },
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@train::trainer.run()"],
    }


def _train(contents: Contents, read: list[Config]) -> Config:
    return {
        "preprocessing": compose([*read, *prepare(contents, _BOTH), *_patches(contents, _BOTH)]),
        "dataset": {
            "_target_": "CacheDataset",
            "data": pairs(),
            "transform": "@train::preprocessing",
            "num_workers": 2,
            "progress": False,
        },
        "dataloader": loader("@train::dataset", batch_size="@batch_size", shuffle=True),
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            load_handler(),
            {
                "_target_": "ValidationHandler",
                "_disabled_": "$not @validate::dataset::data",
                "validator": "@validate::evaluator",
                "epoch_level": True,
                "interval": "@val_interval",
            },
            {
                "_target_": "StatsHandler",
                "tag_name": "train_loss",
                "output_transform": f"{FROM_ENGINE}(['loss'], first=True)",
            },
            {
                "_target_": "CheckpointSaver",
                "save_dir": "@output_dir",
                "save_dict": {"model": "@network"},
                "save_final": True,
                "final_filename": "fine_tuned.pt",
            },
        ],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "device": "@device",
            "max_epochs": "@max_epochs",
            "train_data_loader": "@train::dataloader",
            "network": "@network",
            "loss_function": "@loss",
            "optimizer": "@optimizer",
            "inferer": "@train::inferer",
            "train_handlers": "@train::handlers",
            "amp": False,
        },
    }


def _patches(contents: Contents, keys: list[str]) -> list[Config]:
    """Cut random patches, as often around one class as around another, and mirror them."""
    spec, classes = contents.spec, contents.labels.num_classes
    size = list(contents.patch)
    flat = len(size) == 2
    if flat:
        size.insert(spec.slice_axis, 1)
    flips = [] if spec.label_pairs else spec.flip_axes
    crop = {
        "_target_": "RandCropByLabelClassesd",
        "keys": keys,
        "label_key": "label",
        "spatial_size": size,
        "num_classes": classes + 1,
        "ratios": [1] * classes + [0],  # none around voxels that nobody annotated
        "num_samples": 2,
        "warn": False,
    }
    squeeze = {"_target_": "SqueezeDimd", "keys": keys, "dim": spec.slice_axis + 1}
    return [
        {"_target_": "SpatialPadd", "keys": keys, "spatial_size": size},
        crop,
        *(
            {"_target_": "RandFlipd", "keys": keys, "prob": 0.5, "spatial_axis": axis}
            for axis in flips
        ),
        *([squeeze] if flat else []),
    ]
