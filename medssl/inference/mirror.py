"""Test-time augmentation by mirroring: the mean over all allowed mirror images of a window."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from medssl.data.datasets.case import LabelMap
from medssl.data.patches.sides import class_pairs
from medssl.errors import MedSSLError
from medssl.networks.mirror_mean import MirrorMean
from medssl.settings.spec import DataSpec
from medssl.settings.specs import axis_along


@dataclass(frozen=True)
class Mirroring:
    """What :class:`~medssl.networks.mirror_mean.MirrorMean` is told.

    Attributes:
        axes: spatial axes of the window that may be mirrored.
        swap_axis: the one whose mirroring exchanges left and right, or None.
        pairs: class indices of left and right structures.
    """

    axes: tuple[int, ...]
    swap_axis: int | None
    pairs: tuple[tuple[int, int], ...]


def mirroring(spec: DataSpec, label_map: LabelMap, *, spatial_dims: int) -> Mirroring:
    """Return which mirror images of a window the data spec allows.

    Args:
        spec: which axes may be mirrored, and where left and right are.
        label_map: the classes of the logits.
        spatial_dims: of a window; 2 where it is a slice across ``spec.slice_axis``.

    Raises:
        MedSSLError: the spec allows no axis, or does not say which one is left-right where that
            has to be known.
    """
    volume = [a for a in range(3) if spatial_dims == 3 or a != spec.slice_axis]
    axes = [volume.index(a) for a in spec.flip_axes if a in volume]
    if not axes:
        raise MedSSLError(
            f"data spec {spec.name!r} allows no axis to be mirrored",
            fix="leave out --tta (inference.tta), or set spec.flip_axes where mirroring is anatomy",
        )
    pairs = class_pairs(spec, label_map, mirrored=True, where=Path(spec.name))
    side = axis_along(spec, "R")
    if pairs and side is None:
        raise MedSSLError(
            f"data spec {spec.name!r} keeps stored axes, so it is not known which one to "
            "mirror for left and right to be exchanged",
            fix="leave out --tta (inference.tta), or set spec.orientation to RAS",
        )
    swap = volume.index(side) if side in volume else None
    return Mirroring(tuple(axes), swap, tuple((int(a), int(b)) for a, b in pairs))


def mirrored(
    model: nn.Module, spec: DataSpec, label_map: LabelMap, *, spatial_dims: int
) -> MirrorMean:
    """Wrap a network so that it averages over the mirror images the data spec allows.

    Args:
        model: image in, logits out.
        spec, label_map, spatial_dims, errors: see :func:`mirroring`.
    """
    found = mirroring(spec, label_map, spatial_dims=spatial_dims)
    return MirrorMean(model, found.axes, swap_axis=found.swap_axis, pairs=found.pairs)
