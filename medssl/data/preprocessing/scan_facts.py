"""A scan before preprocessing in a few numbers: voxel size, extent and how its values are spread.

Of all training scans together they are the fingerprint that every prediction is compared with, see
:mod:`medssl.inference.training_fingerprint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from monai.data import MetaTensor
from nibabel import orientations

from medssl.settings.spec import DataSpec

PERCENTS = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
FAT = -50.0
"""Hounsfield units below which nothing lies but fat, lung and air: no CT of a body is without."""
_SAMPLE = 200_000


@dataclass(frozen=True)
class ChannelFacts:
    """The stored values of one channel.

    Attributes:
        percentiles: at :data:`PERCENTS`.
        below: share of voxels below :data:`FAT`.
    """

    percentiles: tuple[float, ...]
    below: float

    @property
    def span(self) -> float:
        """From the lowest to the highest percentile."""
        return self.percentiles[-1] - self.percentiles[0]


@dataclass(frozen=True)
class ScanFacts:
    """One scan, its axes in the order of the data spec.

    Attributes:
        spacing: voxel edges in the data spec's unit.
        extent: voxels times edges, in the same unit.
        channels: what the values are like.
        axes: where the stored axes lead, such as ``LPS``; empty in older records.
    """

    spacing: tuple[float, ...]
    extent: tuple[float, ...]
    channels: tuple[ChannelFacts, ...]
    axes: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the content as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ScanFacts:
        """Read back what :meth:`as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        channels = tuple(
            ChannelFacts(tuple(map(float, c["percentiles"])), float(c["below"]))
            for c in content["channels"]
        )
        spacing, extent = (tuple(map(float, content[key])) for key in ("spacing", "extent"))
        return cls(spacing, extent, channels, str(content.get("axes", "")))


def scan_facts(image: MetaTensor, spec: DataSpec) -> ScanFacts:
    """Describe a scan as it was read; at most about 200,000 voxels of a channel are looked at.

    Args:
        image: ``(C, X, Y, Z)`` as from :func:`medssl.data.preprocessing.tensors.read_images`.
        spec: the data spec, whose orientation gives the order of the axes.
    """
    affine = image.affine.numpy()
    order = spec_axes(affine, spec.orientation)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[order]
    extent = spacing * np.asarray(image.shape[1:])[order]
    return ScanFacts(
        tuple(float(v) for v in spacing),
        tuple(float(v) for v in extent),
        tuple(_channel(channel) for channel in image.as_tensor().numpy()),
        "".join(code or "?" for code in orientations.aff2axcodes(affine)),
    )


def spec_axes(affine: np.ndarray, orientation: str | None) -> list[int]:
    """Return which of a file's axes each axis of prepared volumes is, but for its direction.

    Args:
        affine: ``(4, 4)`` of the file.
        orientation: of the data spec; None leaves the file's order.
    """
    if orientation is None:
        return [0, 1, 2]
    own = orientations.io_orientation(affine)[:, 0]
    wanted = orientations.axcodes2ornt(orientation)[:, 0]
    return [int(np.flatnonzero(own == axis)[0]) for axis in wanted]


def _channel(values: np.ndarray) -> ChannelFacts:
    flat = values.reshape(-1)
    # An odd step does not fall into step with an axis of even length.
    sample = flat[:: max(1, flat.size // _SAMPLE) | 1]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        sample = np.zeros(1, np.float32)
    percentiles = np.percentile(sample, PERCENTS)
    return ChannelFacts(tuple(float(v) for v in percentiles), float((sample < FAT).mean()))
