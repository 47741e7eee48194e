"""Intensity rules of the data specs, as MONAI dictionary transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from monai.data import MetaTensor
from monai.transforms import (
    NormalizeIntensityd,
    ScaleIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
)
from scipy import ndimage

from medssl.data.preprocessing.geometry import PerImaged
from medssl.settings.intensity_rules import Rule, plugged_rule
from medssl.settings.spec import Intensity


class ScaleNonzerod(PerImaged):
    """Scale each channel to [0, 1] between two percentiles of its non-zero voxels; zero stays."""

    def __init__(self, keys: Sequence[str], *, lower: float, upper: float) -> None:
        super().__init__(keys, self._scale)
        self.lower, self.upper = lower, upper

    def _scale(self, image: MetaTensor) -> MetaTensor:
        out = image.clone()
        for channel in out.as_tensor():
            inside = channel != 0
            if inside.any():
                low, high = np.percentile(channel[inside].numpy(), [self.lower, self.upper])
                scaled = (channel[inside] - low) / max(high - low, 1e-8)
                channel[inside] = scaled.clamp(0, 1).float()
        return out


class PercentileZscored(PerImaged):
    """Clip each channel between two percentiles, then give it mean 0 and standard deviation 1.

    For modalities without a unit (CBCT, OCT). Voxels that were not scanned count in none of these
    figures and get the lowest value.

    Args:
        keys: keys of images ``(C, X, Y, Z)``.
        lower, upper: percentiles of the voxels that count.
        exclude: what does not count: ``zero``, exact zeros; ``padding``, see `padding_value`.
    """

    def __init__(
        self,
        keys: Sequence[str],
        *,
        lower: float,
        upper: float,
        exclude: Literal["none", "zero", "padding"] = "none",
    ) -> None:
        super().__init__(keys, self._scale)
        self.lower, self.upper, self.exclude = lower, upper, exclude

    def _scale(self, image: MetaTensor) -> MetaTensor:
        out = image.clone()
        for channel in out.as_tensor().numpy():
            outside = self._outside(channel)
            inside = channel if outside is None else channel[~outside]
            low, high = np.percentile(inside, [self.lower, self.upper]).astype(np.float32)
            inside = np.clip(inside, low, high)
            mean, std = inside.mean(dtype=np.float64), inside.std(dtype=np.float64)
            np.clip(channel, low, high, out=channel)
            if outside is not None:
                channel[outside] = low
            channel -= np.float32(mean)
            channel /= np.float32(max(std, 1e-8))
        return out

    def _outside(self, channel: np.ndarray) -> np.ndarray | None:
        """Mark the voxels that do not count, None if all do."""
        value = padding_value(channel) if self.exclude == "padding" else 0.0
        if self.exclude == "none" or value is None:
            return None
        outside = channel == value
        if self.exclude == "padding" and value > channel.min():
            # Tissue may have the same value: padding reaches the border of the volume.
            pieces, _ = ndimage.label(outside)
            border = [np.take(pieces, [0, -1], axis=a).ravel() for a in range(pieces.ndim)]
            outside = np.isin(pieces, np.setdiff1d(np.concatenate(border), [0]))
        return None if outside.all() or not outside.any() else outside


def padding_value(volume: np.ndarray) -> float | None:
    """Return the value that surrounds the scanned field, None if there is no such value.

    A cylindrical field leaves the edges of the volume without a measurement, and software fills
    them with one exact value (-1000, 0, ...). So it is the value of at least half the voxels on the
    volume's twelve edges.
    """
    ends = [(0,) if n == 1 else (0, n - 1) for n in volume.shape]
    edges = []
    for axis in range(volume.ndim):
        corners = [slice(None) if a == axis else list(e) for a, e in enumerate(ends)]
        line = volume
        for a, index in enumerate(corners):
            line = line[(slice(None),) * a + (index,)]
        edges.append(line.ravel())
    values, counts = np.unique(np.concatenate(edges), return_counts=True)
    most = int(counts.argmax())
    return float(values[most]) if 2 * counts[most] >= counts.sum() else None


def _apply(plugged: Rule, rule: Intensity, image: MetaTensor) -> MetaTensor:
    """Apply the rule of a plugin.

    Raises:
        ValueError: it returns something else than a finite image of the same shape.
    """
    out = image.clone()
    array = out.as_tensor().numpy()
    made = np.asarray(plugged(array.copy(), rule))
    if made.shape != array.shape or not np.isfinite(made).all():
        raise ValueError(
            f"intensity rule {rule.rule!r} must return a finite image of shape {array.shape}, "
            f"not one of {made.shape} with {np.count_nonzero(~np.isfinite(made))} other values"
        )
    array[...] = made
    return out


def intensity_transforms(rule: Intensity) -> list[Callable[..., Any]]:
    """Return the transforms that bring the key ``image`` to a rule's intensities."""
    keys = ["image"]
    plugged = plugged_rule(rule.rule)
    if plugged is not None:
        return [PerImaged(keys, partial(_apply, plugged, rule))]
    if rule.rule == "none":
        return []
    if rule.rule == "zscore":
        return [NormalizeIntensityd(keys, nonzero=rule.nonzero, channel_wise=True)]
    if rule.rule == "window":
        low, high = rule.lower, rule.upper
        assert low is not None  # the rule asks for both
        assert high is not None
        return [ScaleIntensityRanged(keys, low, high, b_min=0.0, b_max=1.0, clip=True)]
    lower = 0.5 if rule.lower is None else rule.lower
    upper = 99.5 if rule.upper is None else rule.upper
    if rule.rule == "percentile_zscore":
        return [PercentileZscored(keys, lower=lower, upper=upper, exclude=rule.exclude)]
    if rule.rule == "minmax":
        lower, upper = 0.0, 100.0
    if rule.nonzero:
        return [ScaleNonzerod(keys, lower=lower, upper=upper)]
    if rule.rule == "minmax":
        return [ScaleIntensityd(keys, minv=0.0, maxv=1.0, channel_wise=True)]
    return [ScaleIntensityRangePercentilesd(keys, lower, upper, 0.0, 1.0, True, channel_wise=True)]
