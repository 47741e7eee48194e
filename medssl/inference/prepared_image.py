"""A network and a preprocessed image: the class of each voxel, and how sure the network is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from medssl.data.preprocessing.region import Regions
from medssl.device import Precision
from medssl.inference.blocks import Block
from medssl.inference.calibration import Calibration
from medssl.inference.decision import Deciding, Decision, decide
from medssl.inference.members import members_of
from medssl.inference.mirror import mirrored
from medssl.inference.opinion import Opinion, as_block, blended
from medssl.inference.task import Task
from medssl.inference.windowed import Windowed
from medssl.inference.windows import WindowProgress
from medssl.recipe.contradictions import check_decision, check_stride
from medssl.settings.recipe import InferenceSettings


class PreparedImagePredictor:
    """Decide preprocessed images with a trained network, in 3D windows or slice by slice.

    Arguments, attributes and errors are those of :class:`medssl.inference.predictor.Predictor`,
    which adds the way from a file and back.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        inference: InferenceSettings,
        *,
        device: torch.device,
        precision: Precision = "fp32",
        regions: Regions | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.task, self.inference, self.precision = task, inference, precision
        self.spec, self.label_map = task.spec, task.label_map
        self.patch, self.in_channels = task.patch, task.in_channels
        self.calibration: Calibration | None = None
        self.source = ""
        self.folds: tuple[str, ...] = ()
        self.opinion: Opinion | None = None
        if inference.tta:
            model = mirrored(model, task.spec, task.label_map, spatial_dims=len(self.patch))
        self.model = model.to(self.device)
        self.regions = regions
        check_stride(inference.stride, self.patch)
        check_decision(inference, task.label_map, where=self.spec.name)

    @property
    def largest_component(self) -> bool:
        """Whether only the largest piece of each structure is kept."""
        choice = self.inference.largest_component
        return self.spec.largest_component if choice is None else choice

    @property
    def temperature(self) -> float:
        """The temperature of the calibration; 1 without one."""
        return 1.0 if self.calibration is None else self.calibration.temperature

    @property
    def members(self) -> int:
        """How many networks or mirror images are averaged; 1 for a single network."""
        return self._windowed.members

    @property
    def _windowed(self) -> Windowed:
        return Windowed(self.model, self.task, self.inference, self.device, self.precision)

    def blocks(self, image: Tensor, *, progress: WindowProgress | None = None) -> Iterator[Block]:
        """Yield the network's class probabilities block by block; see :class:`Windowed`.

        However large the image and however many the classes, about ``inference.memory_gb`` of host
        memory is used at a time.

        Args:
            image: preprocessed image ``(C, X, Y, Z)``.
            progress: called with the windows done and their total.

        Raises:
            MedSSLError: the image has other channels than the network takes, the network gives
                other classes than the dataset has or values that are not finite, or memory ran out.
        """
        return self._windowed.blocks(image, progress)

    def member_blocks(
        self, image: Tensor, *, progress: WindowProgress | None = None
    ) -> Iterator[Block]:
        """Yield the probabilities ``(members, K, *block)`` of every member by itself.

        Takes as much memory at a time as the mean alone, in more and narrower columns.

        Args and errors: see :meth:`blocks`.
        """
        return self._windowed.member_blocks(image, progress)

    def probabilities(self, image: Tensor, *, progress: WindowProgress | None = None) -> Tensor:
        """Return all class probabilities at once, ``(K, X, Y, Z)`` float32 on the CPU.

        Args and errors: see :meth:`blocks`.
        """
        result = torch.empty(self.label_map.num_classes, *image.shape[1:])
        for where, block in self.blocks(image, progress=progress):
            result[(slice(None), *where)] = block
        return result

    def classes(self, image: Tensor, *, progress: WindowProgress | None = None) -> np.ndarray:
        """Return the class index of each voxel of a preprocessed image, ``(X, Y, Z)`` uint8."""
        return self.decide(image, progress=progress).classes

    def decide(
        self,
        image: Tensor,
        *,
        probabilities: bool = False,
        entropy: bool = False,
        assess: bool = False,
        margins: bool = False,
        progress: WindowProgress | None = None,
        other: Tensor | None = None,
    ) -> Decision:
        """Return the class of each voxel and, if asked for, how sure the network is.

        Args:
            image: preprocessed image ``(C, X, Y, Z)``.
            probabilities: keep all class probabilities; costs four bytes per class and voxel.
            entropy: also return the entropy of each voxel.
            assess: also return the sums that volumes and expected Dice are made from.
            margins: also return how sure each voxel is of its class.
            progress: called with the windows done and their total.
            other: probabilities ``(K, X, Y, Z)`` of the second opinion, which are mixed in.
        """
        looks = self.looks if assess else 0
        # Of a network by itself, its mirror images are members; of several, the networks are.
        members = len(members_of(self.model)) if looks else self.members if assess else 1
        pieces = self.spec.pieces_of(self.label_map.values)
        deciding = Deciding(
            self.label_map.num_classes,
            temperature=self.temperature,
            pieces=pieces if self.largest_component else None,
            probabilities=probabilities,
            entropy=entropy,
            assess=assess,
            margins=margins,
            regions=self.label_map.region_classes if self.inference.decide == "regions" else (),
            looks=looks,
        )
        weight = 0.0 if other is None or self.opinion is None else self.opinion.weight
        blocks: Iterable[Block]
        if other is not None and weight == 1:  # the network is not asked
            members, blocks = 1, as_block(other, image.shape[1:])
        else:
            blocks = self._windowed.looked_at(image, progress, members=members, looks=looks)
            if other is not None and weight:
                blocks = blended(blocks, other, weight)
        return decide(blocks, image.shape[1:], deciding, members=members)

    @property
    def looks(self) -> int:
        """How members are looked at when a prediction is assessed: 0 not at all by themselves, 1 by
        what they say of the image, 2 by its mirror image, too.
        """
        return 0 if self.calibration is None else self.calibration.looks
