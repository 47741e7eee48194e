"""Parts that the configurations of a bundle share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from medssl.bundle import transforms as t
from medssl.bundle.carried.annotated import ToClassesd, WithoutIgnoredd
from medssl.bundle.carried.inferer import ProbabilityInferer
from medssl.bundle.carried.reading import image_list
from medssl.bundle.carried.spatial import NativeLabelsd
from medssl.bundle.contents import Contents
from medssl.bundle.model_tree import to_config
from medssl.bundle.scripts import target
from medssl.inference.mirror import mirroring
from medssl.inference.windows import stride_from_overlap

Config = dict[str, Any]

CARRIED = sorted(
    {part.__module__ for part in (ProbabilityInferer, NativeLabelsd, image_list, ToClassesd)}
)
"""The modules that the configurations name."""

FROM_ENGINE = "$monai.handlers.from_engine"


def common(contents: Contents) -> Config:
    """Return where things are, the network, and how its windows are averaged."""
    inference, patch = contents.inference, contents.patch
    mirror = None
    if inference.tta:
        found = mirroring(contents.spec, contents.labels, spatial_dims=len(patch))
        mirror = asdict(found)
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": to_config(contents.model),
        "network": "$@network_def.to(@device)",
        "inferer": {
            "_target_": target(ProbabilityInferer),
            "roi_size": list(patch),
            "stride": list(inference.stride or stride_from_overlap(patch, inference.overlap)),
            "slice_axis": contents.spec.slice_axis,
            "sw_batch_size": inference.window_batch,
            "mode": inference.blend,
            "mirror": mirror,
            "skip_empty": inference.skip_empty,
        },
    }


def prepare(contents: Contents, keys: Sequence[str]) -> list[Config]:
    """From what was read to the network's grid and intensities; ``keys``: image, perhaps label."""
    return [
        *t.intensity_transforms(contents.spec.intensity),
        *t.spatial_transforms(
            contents.spec, keys, contents.fingerprint, slices=len(contents.patch) == 2
        ),
    ]


def decide(contents: Contents, values: list[int] | None) -> Config:
    """Return the step to labels on the image's own grid: ``values``, or class indices if None."""
    spec, labels = contents.spec, contents.labels
    pieces = None
    if contents.largest_component:
        known = spec.pieces_of(labels.values)
        pieces = [known.get(index, 1) for index in range(1, labels.num_classes)]
    regions = [[list(members), written] for members, written in labels.region_classes]
    return {
        "_target_": target(NativeLabelsd),
        "keys": "pred",
        "orientation": spec.orientation,
        "pieces": pieces,
        "values": values,
        **({"regions": regions} if contents.inference.decide == "regions" else {}),
    }


def ignored(contents: Contents) -> int:
    """Return the class index of voxels that nobody annotated: the first that is none."""
    return contents.labels.num_classes


def to_classes(contents: Contents) -> Config:
    """Return the step from label values to class indices."""
    return {
        "_target_": target(ToClassesd),
        "keys": "label",
        "values": list(contents.labels.values),
        "ignore_value": contents.labels.ignore_value,
        "ignore_class": ignored(contents),
    }


def compared(contents: Contents) -> list[Config]:
    """Prediction and label, one-hot on the image's grid, without what nobody annotated."""
    both = ["pred", "label"]
    return [
        decide(contents, values=None),
        {
            "_target_": target(WithoutIgnoredd),
            "keys": both,
            "ignore_class": ignored(contents),
        },
        {"_target_": "AsDiscreted", "keys": both, "to_onehot": contents.labels.num_classes},
    ]


def compose(steps: Sequence[Config]) -> Config:
    """Return steps as one."""
    return {"_target_": "Compose", "transforms": list(steps)}


def pairs() -> Config:
    """Return the list of images and their labels."""
    return {"_target_": target(image_list), "folder": "@dataset_dir", "label_folder": "@label_dir"}


def dataset(data: Config | list[Config], transform: str = "@preprocessing") -> Config:
    """Return a dataset of entries, each prepared by a transform."""
    return {"_target_": "Dataset", "data": data, "transform": transform}


def loader(dataset: str, *, batch_size: int | str = 1, shuffle: bool = False) -> Config:
    """Return what loads a dataset."""
    return {
        "_target_": "DataLoader",
        "dataset": dataset,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "num_workers": 0,
    }


def evaluator(loader: str, postprocessing: str, handlers: str) -> Config:
    """Return what predicts the images of a loader."""
    return {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": loader,
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": postprocessing,
        "val_handlers": handlers,
        "amp": False,
    }


def mean_dice() -> Config:
    """Return the mean Dice of the structures."""
    return {
        "val_mean_dice": {
            "_target_": "MeanDice",
            "include_background": False,
            "output_transform": f"{FROM_ENGINE}(['pred', 'label'])",
        }
    }


def load_handler() -> Config:
    """Return what loads the weights."""
    return {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
        "map_location": "@device",
    }
