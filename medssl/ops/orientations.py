"""Orientations of a volume: the same voxels with the spatial axes in another order.

A permutation is exact: nothing is interpolated, and unlike a rotation it mirrors nothing, so left
stays left and no label has to be exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # settings name orientations without loading torch
    from torch import Tensor

Size = TypeVar("Size")

Orientation = tuple[int, ...]
"""Axis ``a`` of what is seen is axis ``orientation[a]`` of the volume."""

# The first three put another axis last, the others only transpose the remaining plane.
_ORDERS_3D: tuple[Orientation, ...] = (
    (0, 1, 2),
    (0, 2, 1),
    (1, 2, 0),
    (1, 0, 2),
    (2, 0, 1),
    (2, 1, 0),
)
_ORDERS_2D: tuple[Orientation, ...] = ((0, 1), (1, 0))
ORIENTATION_COUNTS = {2: (2,), 3: (2, 3, 6)}
"""How many views :func:`standard_orientations` knows, per number of spatial axes."""


def standard_orientations(count: int, spatial_dims: int) -> tuple[Orientation, ...]:
    """Return the usual ones: 2, 3 (axial, coronal, sagittal) or 6 of a volume, 2 of a slice.

    Raises:
        ValueError: there is no such set of views.
    """
    if count not in ORIENTATION_COUNTS[spatial_dims]:
        known = ", ".join(map(str, ORIENTATION_COUNTS[spatial_dims]))
        raise ValueError(f"{spatial_dims}D images have {known} standard views, not {count}")
    return (_ORDERS_3D if spatial_dims == 3 else _ORDERS_2D)[:count]


def permuted(sizes: Sequence[Size], orientation: Sequence[int]) -> list[Size]:
    """Return what is known of each axis, such as its size, in the order of an orientation."""
    return [sizes[axis] for axis in orientation]


def permute_axes(x: Tensor, orientation: Sequence[int]) -> Tensor:
    """Bring the trailing spatial axes of ``x`` into the order of an orientation; copies nothing.

    Args:
        x: ``(..., *spatial)``: images, logits or labels.
        orientation: permutation of ``0 ... n - 1`` for n spatial axes.
    """
    first = x.ndim - len(orientation)
    return x.permute(*range(first), *(first + axis for axis in orientation))


def inverse_orientation(orientation: Sequence[int]) -> Orientation:
    """Return the permutation that undoes ``orientation``."""
    return tuple(sorted(range(len(orientation)), key=orientation.__getitem__))


def restore_axes(x: Tensor, orientation: Sequence[int]) -> Tensor:
    """Bring an oriented tensor back: ``restore_axes(permute_axes(x, o), o)`` is x."""
    return permute_axes(x, inverse_orientation(orientation))
