"""Preprocessing of a run as MONAI configuration.

The transforms and their order are those of :mod:`medssl.data.preprocessing.pipeline`, so that a
bundle gives the labels of ``medssl predict``. What MONAI has no transform for is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medssl.bundle.carried.reading import ItkPlacedReader
from medssl.bundle.carried.spatial import ToSpacingd
from medssl.bundle.scripts import target
from medssl.data.preprocessing.geometry import FINE_SPACING
from medssl.errors import MedSSLError
from medssl.inference.training_fingerprint import SAME_SPACING, TrainingFingerprint
from medssl.settings.spec import DataSpec, Intensity

Config = dict[str, Any]


def read_transforms(keys: Sequence[str]) -> list[Config]:
    """Read NIfTI files as ``(C, X, Y, Z)`` float32."""
    names = list(keys)
    return [
        {
            "_target_": "LoadImaged",
            "keys": names,
            "reader": {"_target_": target(ItkPlacedReader)},
            "image_only": True,
        },
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


def spatial_transforms(
    spec: DataSpec,
    keys: Sequence[str],
    fingerprint: TrainingFingerprint | None = None,
    *,
    slices: bool = False,
) -> list[Config]:
    """Orient, resample and resize the image and perhaps its label (in this order).

    Args:
        spec: the data spec of the run.
        keys: ``image``, and perhaps ``label``.
        fingerprint: of the training scans, into whose range native voxels are brought.
        slices: the network sees one slice at a time.

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
    fixed = spec.spacing if isinstance(spec.spacing, list) else [None] * 3
    if any(v is not None and v < FINE_SPACING for v in fixed):
        raise _inexpressible(f"a spacing of {spec.spacing}")
    ranges: list[list[float] | None] = [None] * 3
    if fingerprint is not None:
        for axis in fingerprint.free_axes(spec, slices=slices):
            ranges[axis] = list(fingerprint.spacing_range(axis))
    if isinstance(spec.spacing, list) or any(ranges):
        out.append(
            {
                "_target_": target(ToSpacingd),
                "keys": names,
                # A spacing that is not positive keeps the image's own.
                "pixdim": [-1.0 if v is None else v for v in fixed],
                "mode": ["bilinear", "nearest"][: len(names)],
                "ranges": ranges,
                "tolerance": SAME_SPACING,
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


def _inexpressible(what: str) -> MedSSLError:
    return MedSSLError(
        f"a bundle of MONAI's own transforms cannot express {what}",
        fix="use `medssl predict RUN` for this run; its results are on the image's own grid too",
    )
