"""Numbers that describe an image and its prediction, to find cases unlike others.

Cheap, and each has a plain name, since a reader is told which of them is out of line. Names:

``intensity 1 %`` ... ``intensity 99 %``
    percentiles of the preprocessed image (per channel, if there are several);
``noise``
    median size of the second difference between neighbors in a slice, over the image's spread;
``share at the lowest value``
    for instance of an image that was cut and filled;
``size along axis 1`` ... ``3``
    natural logarithm of the image's size in its spatial unit;
``volume of NAME``
    natural logarithm of 1 + the structure's volume;
``intensity in NAME``
    mean of the preprocessed image there (of the first channel), absent without the structure;
``pieces of NAME``
    share of the structure that lies outside its largest piece;
``raggedness of NAME``
    faces of its surface over those of a cube of the same volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import find_objects
from torch import Tensor

PERCENTS = (1, 5, 25, 50, 75, 95, 99)
_SAMPLE = 1_000_000


def image_features(image: Tensor, spacing: Sequence[float]) -> dict[str, float]:
    """Describe a preprocessed image.

    Args:
        image: ``(C, X, Y, Z)``.
        spacing: voxel size along each axis.
    """
    out: dict[str, float] = {}
    for number, channel in enumerate(image.numpy(), start=1):
        of = "" if image.shape[0] == 1 else f" of channel {number}"
        sample = _sampled(channel)
        for percent, value in zip(PERCENTS, np.percentile(sample, PERCENTS), strict=True):
            out[f"intensity {percent} %{of}"] = float(value)
        out[f"noise{of}"] = _noise(channel, float(sample.std()))
        out[f"share at the lowest value{of}"] = float((sample == channel.min()).mean())
    for axis, (n, step) in enumerate(zip(image.shape[1:], spacing, strict=True), start=1):
        out[f"size along axis {axis}"] = math.log(n * step)
    return out


def prediction_features(
    classes: np.ndarray,
    image: Tensor,
    names: Sequence[str],
    *,
    volumes: Sequence[float],
    voxels: Sequence[int],
    first_voxels: Sequence[int],
) -> dict[str, float]:
    """Describe a predicted label map.

    Args:
        classes: class indices ``(X, Y, Z)`` of the final label map.
        image: preprocessed image ``(C, X, Y, Z)``.
        names: of all classes, background first.
        volumes: of all classes, in the cube of the spatial unit.
        voxels, first_voxels: of all classes, finally and before pieces were dropped.
    """
    out: dict[str, float] = {}
    boxes = find_objects(classes, max_label=len(names) - 1)
    for index, (name, box) in enumerate(zip(names[1:], boxes, strict=True), start=1):
        out[f"volume of {name}"] = math.log1p(volumes[index])
        if box is None:
            continue
        mask = classes[box] == index
        out[f"intensity in {name}"] = float(image[0].numpy()[box][mask].mean())
        dropped = max(first_voxels[index] - voxels[index], 0)
        out[f"pieces of {name}"] = dropped / max(first_voxels[index], 1)
        out[f"raggedness of {name}"] = _faces(mask) / (6 * voxels[index] ** (2 / 3))
    return out


def _sampled(channel: np.ndarray) -> np.ndarray:
    """Return at most about a million voxels, evenly spread."""
    flat = channel.reshape(-1)
    # An odd step does not fall into step with an axis of even length.
    return flat[:: max(1, flat.size // _SAMPLE) | 1]


def _noise(channel: np.ndarray, spread: float) -> float:
    """Return the median second difference along the last two axes over the standard deviation."""
    step = max(1, channel.size // _SAMPLE)
    slices = channel[::step] if step < channel.shape[0] else channel[:1]
    found = [
        np.abs(np.diff(slices, n=2, axis=axis)).ravel() for axis in (1, 2) if slices.shape[axis] > 2
    ]
    return float(np.median(np.concatenate(found))) / max(spread, 1e-6) if found else 0.0


def _faces(mask: np.ndarray) -> int:
    """Count the faces between a structure and its surroundings."""
    padded = np.pad(mask, 1)
    return sum(int(np.count_nonzero(np.diff(padded, axis=axis))) for axis in range(3))
