"""A network that is asked about whole images, window by window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from medssl.device import Precision
from medssl.errors import MedSSLError
from medssl.inference.blocks import Block, probability_blocks
from medssl.inference.forward import forward_logits, wrong_channels
from medssl.inference.members import WithMirrored
from medssl.inference.mirror import Mirroring, mirroring
from medssl.inference.reused_memory import memory_reused
from medssl.inference.task import Task
from medssl.inference.windows import (
    Empty,
    Predict,
    WindowProgress,
    Windows,
    as_slices,
    column_size,
    stride_from_overlap,
    windows_at_a_time,
)
from medssl.networks.ensemble import HasMembers, SideBySide
from medssl.ops.modes import eval_mode
from medssl.settings.recipe import InferenceSettings


@dataclass(frozen=True)
class Windowed:
    """A network, and how it is asked about images.

    Attributes:
        model: image in, logits out; on ``device``.
        task: what it was trained for.
        inference: sliding-window settings.
        device: where the network runs.
        precision: of the forward pass; softmax and blending are always float32.
    """

    model: nn.Module
    task: Task
    inference: InferenceSettings
    device: torch.device
    precision: Precision

    @property
    def members(self) -> int:
        """How many networks or mirror images are averaged; 1 for a single network."""
        return self.model.count if isinstance(self.model, HasMembers) else 1

    def blocks(self, image: Tensor, progress: WindowProgress | None = None) -> Iterator[Block]:
        """Yield the class probabilities ``(K, *block)`` block by block.

        Args:
            image: preprocessed image ``(C, X, Y, Z)``.
            progress: called with the windows done and their total.

        Raises:
            MedSSLError: the image has other channels than the network takes, the network gives
                other classes than the dataset has or values that are not finite, or memory ran out.
        """
        return self._blocks(image, self.model, 1, progress)

    def member_blocks(
        self, image: Tensor, progress: WindowProgress | None = None
    ) -> Iterator[Block]:
        """Yield the probabilities ``(members, K, *block)`` of every member by itself.

        Takes as much memory at a time as the mean alone, in more and narrower columns.

        Args and errors: see :meth:`blocks`.
        """
        count = self.members
        model = SideBySide(self.model) if count > 1 else self.model
        for where, block in self._blocks(image, model, count, progress):
            yield where, block.unflatten(0, (count, -1)).mul_(count)

    @property
    def mirror_image(self) -> Mirroring | None:
        """The mirror image that each member can be compared with; None where there is none.

        None may be made where the data spec allows none, or predictions are means over them.
        """
        if self.inference.tta:
            return None
        try:
            return mirroring(self.task.spec, self.task.label_map, spatial_dims=len(self.task.patch))
        except MedSSLError:
            return None

    def looked_at(
        self, image: Tensor, progress: WindowProgress | None, *, members: int, looks: int
    ) -> Iterator[Block]:
        """Yield what is needed to decide, and to describe every member if that is asked for.

        Args:
            image, progress: see :meth:`blocks`.
            members: how many are wanted by themselves; 1 is all of them as one.
            looks: see :class:`medssl.inference.decision.Deciding`.

        Yields:
            ``(K, *block)``, or ``(members * looks, K, *block)`` where that is more than one.
        """
        mirror = self.mirror_image if looks > 1 else None
        if mirror is not None:
            both = replace(self, model=WithMirrored(self.model, mirror))
            return both.member_blocks(image, progress)
        return (self.member_blocks if members > 1 else self.blocks)(image, progress)

    def _blocks(
        self, image: Tensor, model: nn.Module, members: int, progress: WindowProgress | None
    ) -> Iterator[Block]:
        expected = self.task.in_channels
        if expected is not None and image.shape[0] != expected:
            raise wrong_channels(expected, image.shape[0])
        classes = members * self.task.label_map.num_classes
        settings, lowest = self.inference, float(image.min())
        predict, windows = self._windows(model, classes, pad_value=lowest)
        budget = settings.memory_gb * 2**30
        on_host = self.device.type == "cpu"
        reused = memory_reused(predict, model) if on_host else nullcontext(predict)
        with eval_mode(self.model), reused as predict:
            for where, block in probability_blocks(
                image,
                predict,
                windows,
                column=column_size(image.shape[1:], windows.patch, classes, budget),
                empty=Empty(lowest, classes, members) if settings.skip_empty else None,
                progress=progress,
            ):
                if not torch.isfinite(block.sum()):
                    raise MedSSLError(
                        f"the network's output is not finite in {self.precision}",
                        fix="check the image for NaN voxels, or predict with --precision fp32",
                    )
                yield where, block

    def _windows(
        self, model: nn.Module, classes: int, *, pad_value: float
    ) -> tuple[Predict, Windows]:
        """Return what predicts a window, and how images are cut into them."""
        patch, settings = self.task.patch, self.inference
        predict: Predict = partial(
            forward_logits,
            model=model,
            classes=classes,
            device=self.device,
            precision=self.precision,
        )
        windows = Windows(
            patch,
            tuple(settings.stride or stride_from_overlap(patch, settings.overlap)),
            batch=windows_at_a_time(settings.window_batch, patch, self.device),
            blend=settings.blend,
            pad_value=pad_value,  # as training pads volumes smaller than the patch
            device=self.device,
        )
        if len(patch) == 2:
            return as_slices(predict, windows, self.task.spec.slice_axis)
        return predict, windows
