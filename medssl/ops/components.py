"""Connected components of label maps. Runs on the CPU, whatever the tensor's device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medssl.ops.moving import to_device

try:
    import cc3d
except ImportError:  # the extra `fast`
    cc3d = None


def largest_component(mask: np.ndarray, *, connectivity: int | None = None) -> np.ndarray:
    """Keep the largest connected component of a boolean array.

    Args:
        mask: boolean, 2D or 3D.
        connectivity: 1 joins voxels that share a face, 2 an edge, 3 a corner; None is the array's
            dimension (full). More than the dimension counts as full.

    Returns:
        Boolean array. Of components of equal size, the one met first in raster order is kept; an
        empty mask stays empty.
    """
    degree = mask.ndim if connectivity is None else min(connectivity, mask.ndim)
    labeled, count = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, degree))
    if count <= 1:
        return mask
    sizes = np.bincount(labeled.ravel())
    sizes[0] = 0
    largest = np.flatnonzero(sizes == sizes.max())
    if largest.size > 1:
        flat = labeled.ravel()
        keep = flat[np.argmax(np.isin(flat, largest))]
    else:
        keep = largest[0]
    return labeled == keep


def keep_largest(label: np.ndarray, num_classes: int, *, connectivity: int | None = None) -> None:
    """Reduce each foreground class of one label map to its largest component, in place.

    Removed voxels become background. With the extra ``fast`` installed all classes are labeled in
    one pass, about ten times as fast and with the same result.

    Args:
        label: integer array ``(*spatial)``.
        num_classes: classes including background; larger values are left as they are.
        connectivity: see :func:`largest_component`.
    """
    if cc3d is not None and label.dtype.itemsize == 1:
        _keep_largest_at_once(label, num_classes, connectivity)
        return
    boxes = ndimage.find_objects(label, max_label=num_classes - 1)
    for value, box in enumerate(boxes, start=1):
        if box is None:
            continue
        view = label[box]
        mask = view == value
        view[mask & ~largest_component(mask, connectivity=connectivity)] = 0


_NEIGHBORS = {2: (4, 8), 3: (6, 18, 26)}


def _keep_largest_at_once(label: np.ndarray, num_classes: int, connectivity: int | None) -> None:
    """Do the same by components of equal values."""
    choices = _NEIGHBORS[label.ndim]
    neighbors = choices[min(connectivity or label.ndim, label.ndim) - 1]
    labeled, count = cc3d.connected_components(label, connectivity=neighbors, return_N=True)
    flat = labeled.ravel()
    sizes = np.bincount(flat, minlength=count + 1)
    values = np.zeros(count + 1, label.dtype)
    values[flat] = label.ravel()
    keep = values >= num_classes
    for value in range(1, num_classes):
        mine = np.flatnonzero(values == value)
        if not len(mine):
            continue
        largest = mine[sizes[mine] == sizes[mine].max()]
        if len(largest) > 1:  # the one met first in raster order
            largest = flat[np.argmax(np.isin(flat, largest))]
        keep[largest] = True
    keep[0] = True
    label[~keep[labeled]] = 0


def largest_components(
    label: Tensor, num_classes: int, *, connectivity: int | None = None
) -> Tensor:
    """Keep the largest component of every foreground class of every sample.

    Voxels of the other components become background. The labels are copied to the CPU and back;
    :func:`begin_largest_components` lets a GPU work meanwhile.

    Args:
        label: ``(B, *spatial)`` integer class indices, 2D or 3D.
        num_classes: classes including background, at most 256.
        connectivity: 1, 2 or 3; see :func:`largest_component`.

    Returns:
        The cleaned labels, in the input's dtype and on its device.
    """
    return begin_largest_components(label, num_classes, connectivity=connectivity)()


def begin_largest_components(
    label: Tensor, num_classes: int, *, connectivity: int | None = None
) -> Callable[[], Tensor]:
    """Begin :func:`largest_components`; what is returned ends it and gives the cleaned labels.

    On a GPU the labels start on their way to the host. Work that is queued between beginning and
    end keeps the GPU busy while the host waits for them and looks for components.
    """
    card = label.device.type == "cuda"
    if card:
        host = torch.empty(label.shape, dtype=torch.uint8, pin_memory=True)
        host.copy_(label.detach().to(torch.uint8), non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(label.device))
    else:
        host = label.detach().to("cpu", torch.uint8, copy=True)

    def end() -> Tensor:
        if card:
            arrived.synchronize()
        for sample in host.numpy():
            keep_largest(sample, num_classes, connectivity=connectivity)
        return to_device(host, label.device).to(label.dtype)

    return end
