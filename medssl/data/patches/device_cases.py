"""All training cases in the memory of a device: patches are cut there and never copied from a host.

Where to cut is still drawn on the host, by the patch sampler itself; only those numbers travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from medssl.data.datasets.case import CachedCase
from medssl.data.patches.augment import Geometry
from medssl.progress import Done

Box = tuple[slice, ...]


def overlap(start: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> tuple[Box, Box]:
    """Return which part of a volume lies in a crop, and where in the crop it lies."""
    inside = tuple(
        slice(max(s, 0), min(s + n, limit)) for s, n, limit in zip(start, size, shape, strict=True)
    )
    return inside, tuple(slice(i.start - s, i.stop - s) for i, s in zip(inside, start, strict=True))


def describe_place(
    case: int, start: Sequence[int], size: Sequence[int], geometry: Geometry, *, swaps: bool
) -> np.ndarray:
    """Return the ``(14,)`` whole numbers by which :meth:`DeviceCases.cut` finds a patch.

    Args:
        case: its position among the stream's cases.
        start: first voxel of the crop; negative where the volume is padded.
        size: of the crop, before turns.
        geometry: its turns and mirrored axes.
        swaps: left and right labels are to be exchanged.
    """
    # Any turning and mirroring is a permutation of axes with signs, which NumPy keeps as strides.
    strides = geometry.move(np.empty((2, 2, 2), np.int8), first_axis=0).strides
    axes = [(4, 2, 1).index(abs(stride)) for stride in strides]
    return np.array([case, *start, *size, *axes, *(s < 0 for s in strides), swaps], np.int64)


class DeviceCases:
    """The cases of a run's streams, held on a device.

    Args:
        streams: the cases of each stream, as its sampler has them; what streams share is held once.
        device: where.
        slice_axis: axis across the slices of 2D patches, or None.
        swapped: the new class of each class where left and right are exchanged.
        on_progress: called with the case's id for each case.
    """

    def __init__(
        self,
        streams: Mapping[str, Sequence[CachedCase]],
        device: torch.device,
        *,
        slice_axis: int | None,
        swapped: np.ndarray,
        on_progress: Done | None = None,
    ) -> None:
        held: dict[int, Tensor] = {}

        def hold(case: CachedCase) -> tuple[Tensor, Tensor | None]:
            if on_progress is not None and id(case.image) not in held:
                on_progress(case.id)
            arrays = [case.image] if case.label is None else [case.image, case.label]
            for array in arrays:
                if id(array) not in held:
                    held[id(array)] = torch.from_numpy(np.array(array)).to(device)
            return held[id(case.image)], None if case.label is None else held[id(case.label)]

        self.streams = {name: [hold(case) for case in cases] for name, cases in streams.items()}
        self.slice_axis = slice_axis
        self.swapped = torch.from_numpy(swapped).to(device)

    def cut(self, stream: str, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cut a batch of plain crops out, turned and mirrored, as the sampler does on the host.

        Args:
            stream: name of the stream.
            rows: on the host ``place (B, 14)``, see `describe_place`; ``pad (B,)``: the image's
                value outside of the volume, missing where no image is wanted; and what else was
                drawn, which is passed on.

        Returns:
            The crops, and the index of each one's case on the host.
        """
        places = rows["place"].tolist()
        pads = rows["pad"].tolist() if "pad" in rows else None
        images, labels = [], []
        for position, place in enumerate(places):
            image, label = self.streams[stream][place[0]]
            if pads is not None:
                images.append(self._patch(image, place, pads[position]))
            if label is not None:
                crop = self._patch(label[None], place, 0)[0]
                labels.append(self.swapped[crop.long()] if place[13] else crop)
        out = {name: row for name, row in rows.items() if name not in ("place", "pad")}
        out["case"] = rows["place"][:, 0].clone()
        if images:
            out["image"] = torch.stack(images)
        if labels:
            out["label"] = torch.stack(labels)
        return out

    def _patch(self, volume: Tensor, place: Sequence[int], pad: float) -> Tensor:
        """Return ``(C, *patch)`` of a volume ``(C, X, Y, Z)``."""
        start, size, axes, mirrored = (place[i : i + 3] for i in (1, 4, 7, 10))
        inside, target = overlap(start, size, volume.shape[1:])
        patch = volume[(slice(None), *inside)]
        if list(patch.shape[1:]) != size:
            crop = volume.new_full((volume.shape[0], *size), pad)
            crop[(slice(None), *target)] = patch
            patch = crop
        patch = patch.permute(0, *(a + 1 for a in axes))
        patch = patch.flip([a + 1 for a in range(3) if mirrored[a]])
        return patch if self.slice_axis is None else patch.squeeze(self.slice_axis + 1)


def held_bytes(streams: Iterable[Sequence[CachedCase]]) -> int:
    """Return the memory that :class:`DeviceCases` needs."""
    arrays = {
        id(array): array.nbytes
        for cases in streams
        for case in cases
        for array in (case.image, case.label)
        if array is not None
    }
    return sum(arrays.values())
