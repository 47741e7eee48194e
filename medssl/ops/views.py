"""Views of a volume: the same voxels with the spatial axes in another order.

A permutation is exact: nothing is interpolated, and unlike a rotation it mirrors nothing, so left
stays left and no label has to be exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

View = tuple[int, ...]
"""Axis ``a`` of the view is axis ``view[a]`` of the volume."""

# The first three put another axis last, the others only transpose the remaining plane.
_VIEWS_3D: tuple[View, ...] = ((0, 1, 2), (0, 2, 1), (1, 2, 0), (1, 0, 2), (2, 0, 1), (2, 1, 0))
_VIEWS_2D: tuple[View, ...] = ((0, 1), (1, 0))
VIEW_COUNTS = {2: (2,), 3: (2, 3, 6)}
"""How many views :func:`standard_views` knows, per number of spatial axes."""


def standard_views(count: int, spatial_dims: int) -> tuple[View, ...]:
    """Return the usual views: 2, 3 (axial, coronal, sagittal) or 6 of a volume, 2 of a slice.

    Raises:
        ValueError: there is no such set of views.
    """
    if count not in VIEW_COUNTS[spatial_dims]:
        known = ", ".join(map(str, VIEW_COUNTS[spatial_dims]))
        raise ValueError(f"{spatial_dims}D images have {known} standard views, not {count}")
    return (_VIEWS_3D if spatial_dims == 3 else _VIEWS_2D)[:count]


def permuted(sizes: Sequence[int], view: Sequence[int]) -> list[int]:
    """Return the sizes of a view's axes."""
    return [sizes[axis] for axis in view]


def permute_view(x: Tensor, view: Sequence[int]) -> Tensor:
    """Bring the trailing spatial axes of ``x`` into the order of a view; copies nothing.

    Args:
        x: ``(..., *spatial)``: images, logits or labels.
        view: permutation of ``0 ... n - 1`` for n spatial axes.
    """
    first = x.ndim - len(view)
    return x.permute(*range(first), *(first + axis for axis in view))


def inverse_view(view: Sequence[int]) -> View:
    """Return the permutation that undoes ``view``."""
    return tuple(sorted(range(len(view)), key=view.__getitem__))


def invert_view(x: Tensor, view: Sequence[int]) -> Tensor:
    """Bring a tensor in the frame of a view back: ``invert_view(permute_view(x, v), v)`` is x."""
    return permute_view(x, inverse_view(view))
