"""Preprocessing and post-processing of a run as MONAI configuration, of MONAI's own transforms.

The transforms and their order are those of
:mod:`medssl.data.preprocessing.pipeline`, so that a bundle gives
the labels of ``medssl predict``. What MONAI has no transform for is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError
from medssl.settings.spec import DataSpec, Intensity

Config = dict[str, Any]


def read_transforms(keys: Sequence[str]) -> list[Config]:
    """Read NIfTI files as ``(C, X, Y, Z)`` float32."""
    names = list(keys)
    return [
        {"_target_": "LoadImaged", "keys": names, "reader": "NibabelReader", "image_only": True},
        {"_target_": "EnsureChannelFirstd", "keys": names},
    ]


def intensity_transforms(rule: Intensity) -> list[Config]:
    """Turn raw intensities into network input.

    Raises:
        MedSSLError: MONAI has no such rule.
    """
    keys = ["image"]
    match rule.rule:
        case "none":
            return []
        case "zscore":
            return [
                {
                    "_target_": "NormalizeIntensityd",
                    "keys": keys,
                    "nonzero": rule.nonzero,
                    "channel_wise": True,
                }
            ]
        case "window":
            return [
                {
                    "_target_": "ScaleIntensityRanged",
                    "keys": keys,
                    "a_min": rule.lower,
                    "a_max": rule.upper,
                    "b_min": 0.0,
                    "b_max": 1.0,
                    "clip": True,
                }
            ]
        case "minmax" if not rule.nonzero:
            return [
                {
                    "_target_": "ScaleIntensityd",
                    "keys": keys,
                    "minv": 0.0,
                    "maxv": 1.0,
                    "channel_wise": True,
                }
            ]
        case "percentile" if not rule.nonzero:
            return [
                {
                    "_target_": "ScaleIntensityRangePercentilesd",
                    "keys": keys,
                    "lower": 0.5 if rule.lower is None else rule.lower,
                    "upper": 99.5 if rule.upper is None else rule.upper,
                    "b_min": 0.0,
                    "b_max": 1.0,
                    "clip": True,
                    "channel_wise": True,
                }
            ]
    raise _inexpressible(f"intensity rule {rule.rule!r} with its options")


def spatial_transforms(spec: DataSpec, keys: Sequence[str]) -> list[Config]:
    """Orient, resample and resize the image and perhaps its label (in this order).

    Raises:
        MedSSLError: MONAI has no such transform.
    """
    if spec.spatial_unit != "mm":
        raise _inexpressible("a dataset in micrometers")
    if spec.align_slices:
        raise _inexpressible("the alignment of slices")
    names = list(keys)
    out: list[Config] = []
    if spec.orientation is not None:
        out.append(
            {"_target_": "Orientationd", "keys": names, "axcodes": spec.orientation, "labels": None}
        )
    if isinstance(spec.spacing, list):
        if any(v is not None and v < 0.1 for v in spec.spacing):
            raise _inexpressible(f"a spacing of {spec.spacing}")
        out.append(
            {
                "_target_": "Spacingd",
                "keys": names,
                # A spacing that is not positive keeps the image's own.
                "pixdim": [-1.0 if v is None else v for v in spec.spacing],
                "mode": ["bilinear", "nearest"][: len(names)],
                "dtype": "$np.float32",
            }
        )
    if spec.resize is not None:
        if spec.resize_mode != "linear":
            raise _inexpressible("resizing by nearest neighbors")
        out.append(
            {
                "_target_": "Resized",
                "keys": names,
                "spatial_size": [-1 if v is None else v for v in spec.resize],
                "mode": ["trilinear", "nearest-exact"][: len(names)],
            }
        )
    return out


def padding_transforms() -> list[Config | str]:
    """Pad the image with its own lowest value to at least one window, and crop it when inverted.

    MONAI's inferer pads with a constant, but the lowest value differs from image to image: the
    first entry tells it to the transform that is the second.
    """
    return [
        "$lambda d: (@padder.padder.kwargs.update(value=float(d['image'].min())), d)[1]",
        "@padder",
    ]


def padder(patch: Sequence[int], slice_axis: int) -> Config:
    """Return the transform that pads to a window; across slices nothing is padded."""
    size = list(patch)
    if len(size) == 2:
        size.insert(slice_axis, -1)
    return {
        "_target_": "SpatialPadd",
        "keys": ["image"],
        "spatial_size": size,
        "method": "symmetric",
        "value": 0.0,
    }


def decide_transforms(spec: DataSpec, labels: LabelMap, *, largest_component: bool) -> list[Config]:
    """From probabilities on the network's grid to class indices on the image's own grid."""
    decide = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
    invert = {
        "_target_": "Invertd",
        "keys": "pred",
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": True,
        "to_tensor": True,
    }
    if not largest_component:
        return [decide, invert]
    pieces = spec.pieces_of(labels.values)
    counts = {i: pieces.get(i, 1) for i in range(1, labels.num_classes)}
    keep = [
        {
            "_target_": "KeepLargestConnectedComponentd",
            "keys": "pred",
            "applied_labels": [i for i, n in counts.items() if n == count],
            "is_onehot": False,
            "num_components": count,
        }
        for count in sorted(set(counts.values()))
    ]
    # medssl looks for pieces without the padding, which is gone only after the inversion. Pieces
    # stay the same then unless the image was resampled.
    same_voxels = isinstance(spec.spacing, str) and spec.resize is None
    return [decide, invert, *keep] if same_voxels else [decide, *keep, invert]


def to_label_values(labels: LabelMap, key: str) -> list[Config]:
    """Map class indices to the dataset's label values; nothing where they are the same."""
    return _map_labels(key, list(range(labels.num_classes)), list(labels.values))


def to_classes(labels: LabelMap, key: str) -> list[Config]:
    """Map the dataset's label values to class indices; nothing where they are the same."""
    return _map_labels(key, list(labels.values), list(range(labels.num_classes)))


def _map_labels(key: str, before: list[int], after: list[int]) -> list[Config]:
    if before == after:
        return []
    return [
        {
            "_target_": "MapLabelValued",
            "keys": key,
            "orig_labels": before,
            "target_labels": after,
            "dtype": "$np.float32",
        }
    ]


def _inexpressible(what: str) -> MedSSLError:
    return MedSSLError(
        f"a bundle of MONAI's own transforms cannot express {what}",
        fix="use `medssl predict RUN` for this run; its results are on the image's own grid too",
    )
