"""Training patches by address: the patch of (seed, stream, number) is a pure function.

Nothing is iterated, so nothing has to be saved: training resumes by asking for the next number, and
worker processes, several devices or a skipped iteration do not change any patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medssl.data.datasets.case import IGNORE_INDEX, CachedCase
from medssl.data.patches.augment import Augmenter, Geometry, move
from medssl.data.patches.augment_batch import finish
from medssl.data.patches.crop_position import draw_center, draw_start
from medssl.data.patches.device_cases import describe_place, overlap
from medssl.data.patches.items import Items, generator
from medssl.data.preprocessing.mapped_cases import pack, unpack
from medssl.errors import MedSSLError

Deliver = Literal["finished", "plain", "places"]

_DRAW, _VIEWS = 0, 1
"""What an address is of: a patch, or further views of it (plus the number of the view, from 1 on;
1 itself is the order of an epoch)."""
_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Stream:
    """One stream of patches of a run.

    Attributes:
        name: streams of other names draw independently.
        seed: the run's seed.
        batch_size: patches per batch.
        foreground_fraction: chance that a labeled patch is centered on a voxel of a structure. All
            structures of the volume (2D: of the slice) are equally likely, whatever their size.
        views: further views of each patch, by name: ``strong`` has the same geometry and strong
            changes of intensity. They need augmentation.
        labels_only: deliver labels alone; no image is read.
    """

    name: str
    seed: int
    batch_size: int
    foreground_fraction: float = 0.0
    views: tuple[str, ...] = ()
    labels_only: bool = False


@dataclass(frozen=True)
class PatchSettings:
    """How patches are cut out of cases: the same for all streams of a run.

    Attributes:
        patch: voxels per axis; two numbers draw slices across ``slice_axis``.
        slice_axis: axis across the slices, for 2D.
        augment: augmentation, or None for plain crops.
        deliver: ``finished`` patches; ``plain`` crops and what was drawn for them, for
            `augment_batch.finish` to do on a device; or the ``places`` of crops alone, to be cut
            by `DeviceCases`.
        sparse: labels may hold voxels without annotation. Slices without any annotated voxel are
            then left out, and volumes that are annotated in part are cropped around annotated
            voxels, so that every labeled patch teaches something.
    """

    patch: Sequence[int]
    slice_axis: int = 2
    augment: Augmenter | None = None
    deliver: Deliver = "finished"
    sparse: bool = False


class PatchSampler:
    """One stream of patches.

    Each epoch visits every item once in a new order; an item is a case, or for 2D patches a slice.

    Args:
        cases: cached cases, all with a label or all without.
        stream: what is drawn.
        settings: how it is cut.

    Raises:
        MedSSLError: there are no cases.
        ValueError: cases with and without labels are mixed, a view without ``augment`` or
            of an unknown name, or ``labels_only`` of cases without labels.
    """

    def __init__(
        self, cases: Sequence[CachedCase], stream: Stream, settings: PatchSettings
    ) -> None:
        if not cases:
            raise MedSSLError(
                f"there are no cases to draw {stream.name} patches from",
                fix="check data.labeled and data.unlabeled of the recipe",
            )
        labeled = {case.label is not None for case in cases}
        if len(labeled) > 1:
            raise ValueError(f"stream {stream.name!r} mixes cases with and without labels")
        if set(stream.views) - {"strong"}:
            raise ValueError(f"there are no views {stream.views}, only 'strong' ones")
        if stream.views and settings.augment is None:
            raise ValueError("a strong view needs an augmenter")
        self.cases = tuple(cases)
        self.labeled = labeled.pop()
        if stream.labels_only and not self.labeled:
            raise ValueError(f"stream {stream.name!r} asks for labels of unlabeled cases")
        self.stream = stream
        self.batch_size = stream.batch_size
        self.augment = settings.augment
        self.deliver = settings.deliver
        self.slice_axis = settings.slice_axis if len(settings.patch) == 2 else None
        size = list(settings.patch)
        if self.slice_axis is not None:
            size.insert(self.slice_axis, 1)
        self.size = tuple(size)
        self.sparse = settings.sparse and self.labeled
        self.items = Items(self.cases, self.slice_axis, annotated=self.sparse)
        self._pad_values: dict[int, float] = {}
        self._partly: dict[int, bool] = {}

    def batch(self, iteration: int, rows: range | None = None) -> dict[str, Tensor]:
        """Return batch number ``iteration``, or some of its rows.

        Returns:
            ``image (B, C, *patch)`` float32, ``label (B, *patch)`` int64 if the cases have labels,
            ``case (B,)`` int64, the index of each patch's case, and ``view_0``, ``view_1``, ...
            like ``image`` as far as asked for. Plain crops, if those are wanted, have their cache's
            types, and come with what `augment_batch.finish` takes.
        """
        first = iteration * self.batch_size
        rows = range(self.batch_size) if rows is None else rows
        finished = self.deliver == "finished"
        draw = {"finished": self.draw, "plain": self.plain, "places": self.place}[self.deliver]
        out: dict[str, Tensor] = {}
        for place, row in enumerate(rows):
            for name, tensor in draw(first + row).items():
                if name not in out:
                    dtype = torch.int64 if name == "label" and finished else tensor.dtype
                    out[name] = torch.empty((len(rows), *tensor.shape), dtype=dtype)
                out[name][place].copy_(tensor)
        return out

    def addresses(self, iteration: int) -> list[dict[str, Any]]:
        """Say of which part of which case each patch of batch number ``iteration`` is made.

        Returns:
            For each patch its ``case``, and ``start`` and ``size`` of the crop in voxels of the
            preprocessed case, before augmentation. No image is read.
        """
        first, out = iteration * self.batch_size, []
        for number in range(first, first + self.batch_size):
            index, start, size, _, _ = self._place(number)
            place = {"start": [int(v) for v in start], "size": [int(v) for v in size]}
            out.append({"case": self.cases[index].id, **place})
        return out

    def _place(
        self, number: int
    ) -> tuple[int, tuple[int, ...], tuple[int, ...], Geometry, np.random.Generator]:
        """Return case, first voxel, size and geometry of a patch, and the generator after them."""
        rng = generator(self.stream.seed, self.stream.name, _DRAW, number)
        index, slice_index = self.item(number)
        geometry = Geometry() if self.augment is None else self.augment.draw_geometry(rng)
        size = geometry.source_size(self.size)
        return index, self._start(index, slice_index, size, rng), size, geometry, rng

    def _start(
        self, index: int, slice_index: int, size: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[int, ...]:
        """Draw the first voxel of the crop; negative where the volume is padded."""
        case, center = self.cases[index], None
        plane = None if self.slice_axis is None else (self.slice_axis, slice_index)
        if rng.random() < self.stream.foreground_fraction:
            center = draw_center(case, self.size, plane, rng)
        if center is None and self.sparse and self._is_partly_annotated(index):
            center = draw_center(case, self.size, plane, rng, background=True)
        return draw_start(case.shape, size, center, plane, rng)

    def draw(self, number: int) -> dict[str, Tensor]:
        """Return patch ``number`` of the stream: ``image``, ``label`` (uint8), ``case``, views."""
        plain = {name: tensor[None] for name, tensor in self.plain(number).items()}
        return {name: tensor[0] for name, tensor in finish(plain, _HOST).items()}

    def plain(self, number: int) -> dict[str, Tensor]:
        """Return patch ``number`` cut out, turned and mirrored, and what else was drawn for it."""
        index, start, size, geometry, rng = self._place(number)
        case = self.cases[index]
        image = label = None
        if not self.stream.labels_only:
            image = _crop(case.image, start, size, lambda: self._pad_value(index))
        if case.label is not None:
            # Padding is labeled background, as in the literature: outside of a scan is nothing.
            label = _crop(case.label[None], start, size, lambda: 0)[0]
        mover = move if self.augment is None else self.augment.move
        moved, target = mover(image, label, geometry)
        named = {"image": moved, "label": target}
        out = {name: tensor for name, tensor in named.items() if tensor is not None}
        if self.slice_axis is not None:
            # The slice axis counts from the end, whether or not there is a channel axis.
            out = {name: tensor.squeeze(self.slice_axis - 3) for name, tensor in out.items()}
        return {**out, "case": torch.tensor(index), **self._drawn(number, geometry, rng)}

    def place(self, number: int) -> dict[str, Tensor]:
        """Return where patch ``number`` lies, and what else was drawn for it; no image is read."""
        index, start, size, geometry, rng = self._place(number)
        swaps = self.augment is not None and self.augment.swapped_by(geometry) is not None
        row = describe_place(index, start, size, geometry, swaps=swaps)
        out = {"place": torch.from_numpy(row)}
        if not self.stream.labels_only:
            shape = self.cases[index].shape
            reaches_out = any(
                s < 0 or s + n > m for s, n, m in zip(start, size, shape, strict=True)
            )
            pad = self._pad_value(index) if reaches_out else 0.0
            out["pad"] = torch.tensor(pad, dtype=torch.float64)
        return {**out, **self._drawn(number, geometry, rng)}

    def _drawn(
        self, number: int, geometry: Geometry, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Draw the intensity changes; return all that `augment_batch.finish` is to do.

        The first view goes on with the patch's own generator. Each further one has its own, so that
        a view's bits do not depend on how many there are.
        """
        if self.augment is None:
            return {}
        axes = [a for a in range(3) if a != self.slice_axis]
        matrix = np.eye(3) if geometry.matrix is None else geometry.matrix
        rows = {"matrix": matrix[np.ix_(axes, axes)]}
        if self.augment.settings.deform_voxels:
            rows["deform"] = np.array(geometry.deform or (0.0, 0.0, 0.0))
        if not self.stream.labels_only:
            rows["weak"] = self.augment.draw_weak(rng)
        for k, _ in enumerate(self.stream.views):
            own = generator(self.stream.seed, self.stream.name, _VIEWS + k, number) if k else rng
            rows[f"changes_{k}"] = self.augment.draw_strong(own)
        return {name: torch.from_numpy(row) for name, row in rows.items()}

    def item(self, number: int) -> tuple[int, int]:
        """Return the case index and slice (0 for volumes) of patch ``number``."""
        return self.items.at(number, seed=self.stream.seed, stream=self.stream.name)

    def _is_partly_annotated(self, index: int) -> bool:
        if index not in self._partly:
            label = self.cases[index].label
            self._partly[index] = label is not None and bool((label == IGNORE_INDEX).any())
        return self._partly[index]

    def _pad_value(self, index: int) -> float:
        """Return the volume's lowest value, its background under every intensity rule."""
        if index not in self._pad_values:
            image = np.array(self.cases[index].image)  # NumPy itself is slow in half precision
            self._pad_values[index] = float(torch.from_numpy(image).min())
        return self._pad_values[index]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle memory maps by file name, for worker processes that are not forked."""
        return {**self.__dict__, "cases": tuple(pack(case) for case in self.cases)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the memory maps again."""
        self.__dict__.update(state)
        self.cases = tuple(unpack(case) for case in state["cases"])


def _crop(
    volume: np.ndarray, start: Sequence[int], size: Sequence[int], fill: Callable[[], float]
) -> np.ndarray:
    """Return ``(C, *size)`` from ``(C, X, Y, Z)``: a view, or a padded copy if it reaches out."""
    inside, target = overlap(start, size, volume.shape[1:])
    view = volume[(slice(None), *inside)]
    if view.shape[1:] == tuple(size):
        return view
    out = np.full((volume.shape[0], *size), fill(), dtype=volume.dtype)
    out[(slice(None), *target)] = view
    return out
