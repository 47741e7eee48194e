"""``inference.json``, ``evaluate.json`` and ``train.json`` of a bundle."""

from __future__ import annotations

from typing import Any

from medssl.bundle import transforms as t
from medssl.bundle.contents import Contents
from medssl.bundle.model_tree import to_config
from medssl.inference.windows import stride_from_overlap

Config = dict[str, Any]

_IMPORTS = ["$import glob", "$import os", "$import numpy as np", "$import torch"]


def inference_config(contents: Contents) -> Config:
    """Segment every image of ``dataset_dir`` into ``output_dir``, on the image's own grid."""
    return {
        **_common(contents),
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii*'))",
        "preprocessing": {"_target_": "Compose", "transforms": _image_transforms(contents)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": _loader("@dataset"),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                *t.decide_transforms(
                    contents.spec, contents.labels, largest_component=contents.largest_component
                ),
                *t.to_label_values(contents.labels, "pred"),
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "",
                    "output_dtype": "$np.uint8"
                    if max(contents.labels.values) < 256
                    else "$np.uint16",
                    "resample": False,
                    "separate_folder": False,
                    "print_log": False,
                },
            ],
        },
        "handlers": [_load_handler()],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@predictor",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "initialize": [_check_data()],
        "run": ["$@evaluator.run()"],
    }


def evaluate_config(contents: Contents) -> Config:
    """Compare with references in ``label_dir``, file by file of the same name: Dice per class.

    On the network's grid and without ``medssl evaluate``'s distances: a check, not a report.
    """
    config = inference_config(contents)
    labels = contents.labels
    keys = ["image", "label"]
    preprocessing = [
        *t.read_transforms(keys),
        *t.to_classes(labels, "label"),
        *t.intensity_transforms(contents.spec.intensity),
        *t.spatial_transforms(contents.spec, keys),
        *t.padding_transforms(),
        {**_pad_label(contents)},
    ]
    config |= {
        "label_dir": "$@bundle_root + '/data_labels'",
        "preprocessing": {"_target_": "Compose", "transforms": preprocessing},
        "dataset": {
            "_target_": "Dataset",
            "data": (
                "$[{'image': p, 'label': os.path.join(@label_dir, os.path.basename(p))} "
                "for p in @datalist]"
            ),
            "transform": "@preprocessing",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "AsDiscreted",
                    "keys": ["pred", "label"],
                    "argmax": [True, False],
                    "to_onehot": labels.num_classes,
                }
            ],
        },
        "handlers": [
            _load_handler(),
            {
                "_target_": "MetricsSaver",
                "save_dir": "@output_dir",
                "metrics": "*",
                "metric_details": "*",
                "summary_ops": ["mean", "median"],
            },
        ],
    }
    del config["evaluator"]
    config["evaluator"] = {
        **inference_config(contents)["evaluator"],
        "key_val_metric": {
            "val_mean_dice": {
                "_target_": "MeanDice",
                "include_background": False,
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            }
        },
    }
    config["imports"] = [*_IMPORTS, "$import monai"]
    return config


def train_config(contents: Contents) -> Config:
    """Fine-tune on labeled images with MONAI's own trainer (labels alone, Dice + cross-entropy)."""
    labels, keys = contents.labels, ["image", "label"]
    flips = [] if contents.spec.label_pairs else contents.spec.flip_axes
    transforms: list[Config] = [
        *t.read_transforms(keys),
        *t.to_classes(labels, "label"),
        *t.intensity_transforms(contents.spec.intensity),
        *t.spatial_transforms(contents.spec, keys),
        {"_target_": "SpatialPadd", "keys": keys, "spatial_size": _crop(contents)},
        {
            "_target_": "RandCropByLabelClassesd",
            "keys": keys,
            "label_key": "label",
            "spatial_size": _crop(contents),
            "num_classes": labels.num_classes,
            "num_samples": 2,
            "warn": False,
        },
        *(
            {"_target_": "RandFlipd", "keys": keys, "prob": 0.5, "spatial_axis": axis}
            for axis in flips
        ),
    ]
    if len(contents.patch) == 2:
        transforms.append(
            {"_target_": "SqueezeDimd", "keys": keys, "dim": contents.spec.slice_axis + 1}
        )
    return {
        **_common(contents),
        "imports": [*_IMPORTS, "$import monai"],
        "label_dir": "$@bundle_root + '/data_labels'",
        "max_epochs": 50,
        "learning_rate": 1e-4,
        "batch_size": 2,
        "output_dir": "$@bundle_root + '/models/fine_tuned'",
        "images": "$sorted(glob.glob(@dataset_dir + '/*.nii*'))",
        "loss": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True, "batch": True},
        "optimizer": {
            "_target_": "torch.optim.Adam",
            "params": "$@network.parameters()",
            "lr": "@learning_rate",
        },
        "train": {
            "preprocessing": {"_target_": "Compose", "transforms": transforms},
            "dataset": {
                "_target_": "CacheDataset",
                "data": (
                    "$[{'image': p, 'label': os.path.join(@label_dir, os.path.basename(p))} "
                    "for p in @images]"
                ),
                "transform": "@train::preprocessing",
                "num_workers": 2,
                "progress": False,
            },
            "dataloader": {
                **_loader("@train::dataset"),
                "batch_size": "@batch_size",
                "shuffle": True,
            },
            "inferer": {"_target_": "SimpleInferer"},
            "handlers": [
                _load_handler(),
                {
                    "_target_": "StatsHandler",
                    "tag_name": "train_loss",
                    "output_transform": "$monai.handlers.from_engine(['loss'], first=True)",
                },
                {
                    "_target_": "CheckpointSaver",
                    "save_dir": "@output_dir",
                    "save_dict": {"model": "@network"},
                    "save_final": True,
                    "final_filename": "model.pt",
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
        },
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": ["$@train::trainer.run()"],
    }


def _common(contents: Contents) -> Config:
    flat = len(contents.patch) == 2
    inference = contents.inference
    stride = inference.stride or stride_from_overlap(contents.patch, inference.overlap)
    # MONAI rounds a stride down; the small number keeps it at what it is meant to be.
    overlap = [max(0.0, 1 - s / p - 1e-6) for s, p in zip(stride, contents.patch, strict=True)]
    window: Config = {
        "_target_": "SliceInferer" if flat else "SlidingWindowInferer",
        "roi_size": list(contents.patch),
        "sw_batch_size": inference.window_batch,
        "overlap": overlap,
        "mode": inference.blend,
    }
    if flat:
        axis = contents.spec.slice_axis
        window["spatial_dim"] = axis
        overlap.insert(axis, 0.0)  # one number per axis of the volume
    return {
        "imports": _IMPORTS,
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": to_config(contents.model),
        "network": "$@network_def.to(@device)",
        # Probabilities, not logits, are averaged where windows overlap.
        "predictor": "$torch.nn.Sequential(@network, torch.nn.Softmax(dim=1))",
        "padder": t.padder(contents.patch, contents.spec.slice_axis),
        "inferer": window,
    }


def _image_transforms(contents: Contents) -> list[Config | str]:
    return [
        *t.read_transforms(["image"]),
        *t.intensity_transforms(contents.spec.intensity),
        *t.spatial_transforms(contents.spec, ["image"]),
        *t.padding_transforms(),
    ]


def _crop(contents: Contents) -> list[int]:
    size = list(contents.patch)
    if len(size) == 2:
        size.insert(contents.spec.slice_axis, 1)
    return size


def _pad_label(contents: Contents) -> Config:
    size = [n if n > 1 else -1 for n in _crop(contents)]
    return {"_target_": "SpatialPadd", "keys": ["label"], "spatial_size": size}


def _loader(dataset: str) -> Config:
    return {
        "_target_": "DataLoader",
        "dataset": dataset,
        "batch_size": 1,
        "shuffle": False,
        "num_workers": 0,
    }


def _load_handler() -> Config:
    return {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
        "map_location": "@device",
    }


def _check_data() -> str:
    return "$@datalist or exec('raise FileNotFoundError(\"no NIfTI image in dataset_dir\")')"
