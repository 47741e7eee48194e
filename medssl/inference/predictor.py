"""From an image to its label map: preprocess, network window by window, back to the own grid."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medssl.data.images.geometry import MM_PER_UNIT
from medssl.data.preprocessing.pipeline import Prepared, preprocess_image
from medssl.data.preprocessing.region import Regions
from medssl.data.preprocessing.tensors import read_images
from medssl.device import Precision
from medssl.errors import MedSSLError
from medssl.inference.assessment import Assessment, assess_prediction
from medssl.inference.blocks import Block
from medssl.inference.calibration import Calibration
from medssl.inference.compared import compared
from medssl.inference.decision import Deciding, Decision, decide
from medssl.inference.in_memory import Image, image_in_memory
from medssl.inference.members import members_of
from medssl.inference.mirror import mirrored
from medssl.inference.prediction import Prediction
from medssl.inference.task import Task
from medssl.inference.windowed import Windowed
from medssl.inference.windows import WindowProgress
from medssl.recipe.contradictions import check_stride
from medssl.settings.recipe import InferenceSettings

logger = logging.getLogger(__name__)


class Predictor:
    """Segment images with a trained network, in 3D windows or slice by slice.

    Predicting leaves no trace: the model's training flags and all random states stay as they were.

    Args:
        model: image in, logits out; moved to ``device``.
        task: what it was trained for.
        inference: sliding-window settings.
        device: where the network runs.
        precision: of the forward pass; softmax and blending are always float32.
        regions: what finds the region of interest of a scan; outside of it is background.

    Attributes:
        calibration: makes probability and entropy maps calibrated, and says how far volumes can be
            off; None: they are the network's own. Label maps do not depend on it; what they depend
            on, the temperatures of folds that are averaged, is in the model.
        source: the run or bundle it was loaded from, for the reader.
        folds: names of the folds that predict, of a cross-validation.

    Raises:
        MedSSLError: the inference settings contradict the patch.
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
        if inference.tta:
            model = mirrored(model, task.spec, task.label_map, spatial_dims=len(self.patch))
        self.model = model.to(self.device)
        self.regions = regions
        check_stride(inference.stride, self.patch)

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
    ) -> Decision:
        """Return the class of each voxel and, if asked for, how sure the network is.

        Args:
            image: preprocessed image ``(C, X, Y, Z)``.
            probabilities: keep all class probabilities; costs four bytes per class and voxel.
            entropy: also return the entropy of each voxel.
            assess: also return the sums that volumes and expected Dice are made from.
            margins: also return how sure each voxel is of its class.
            progress: called with the windows done and their total.
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
            looks=looks,
        )
        blocks = self._windowed.looked_at(image, progress, members=members, looks=looks)
        return decide(blocks, image.shape[1:], deciding, members=members)

    @property
    def looks(self) -> int:
        """How members are looked at when a prediction is assessed: 0 not at all by themselves, 1 by
        what they say of the image, 2 by its mirror image, too.
        """
        return 0 if self.calibration is None else self.calibration.looks

    def predict_file(
        self,
        paths: Path | Sequence[Path],
        *,
        keep_probabilities: bool = False,
        entropy: bool = False,
        assess: bool = False,
        progress: WindowProgress | None = None,
        force: bool = False,
    ) -> Prediction:
        """Segment one image on disk, on its own grid.

        Args:
            paths: the image, or one file per channel.
            keep_probabilities: return the class probabilities too.
            entropy: return the entropy too.
            assess: return volumes, expected Dice and features too.
            progress: called with the windows done and their total.
            force: predict what the model cannot be meant for, too: another modality, impossible
                values.

        Raises:
            MedSSLError: the image cannot be read or predicted, or the model cannot be meant for it;
                names the file.
        """
        files = (Path(paths),) if isinstance(paths, str | Path) else tuple(map(Path, paths))
        image = read_images(files, spatial_unit=self.spec.spatial_unit)
        return self.predict_image(
            image,
            reference=files[0],
            keep_probabilities=keep_probabilities,
            entropy=entropy,
            assess=assess,
            progress=progress,
            force=force,
        )

    def predict(
        self,
        image: Image,
        *,
        affine: np.ndarray | Sequence[Sequence[float]] | None = None,
        spacing_mm: Sequence[float] | None = None,
        orientation: str | None = None,
        keep_probabilities: bool = False,
        force: bool = False,
    ) -> Prediction:
        """Segment an image in memory: what :meth:`predict_file` says of it as a file.

        What of it is unlike the training scans is logged as a warning, and ``unusual`` of the
        result.

        Args:
            image: a SimpleITK or nibabel image as it is; or an array or tensor ``(X, Y, Z)`` or
                ``(C, X, Y, Z)`` with ``affine``, or with ``spacing_mm`` and ``orientation``.
            affine: ``(4, 4)``, voxel to RAS world coordinates in mm.
            spacing_mm: voxel edge lengths along the array's axes.
            orientation: where these axes lead, such as ``LPS``.
            keep_probabilities: return the class probabilities too.
            force: see :meth:`predict_file`.

        Raises:
            MedSSLError: the image is none, nothing says where it lies, or the model cannot be meant
                for it.

        Example:
            >>> predictor = medssl.load_run("runs/mine").predictor  # doctest: +SKIP
            >>> found = predictor.predict(scan, spacing_mm=(1, 1, 2), orientation="RAS")
            ... # doctest: +SKIP
        """
        unit = self.spec.spatial_unit
        found = image_in_memory(
            image,
            affine=affine,
            spacing_mm=spacing_mm,
            orientation=orientation,
            spatial_unit=unit,
        )
        prediction = self.predict_image(found, keep_probabilities=keep_probabilities, force=force)
        for line in prediction.unusual:
            logger.warning("the image is unlike the training scans: %s", line)
        return prediction

    def predict_image(
        self,
        image: MetaTensor,
        *,
        reference: Path | None = None,
        keep_probabilities: bool = False,
        entropy: bool = False,
        assess: bool = False,
        progress: WindowProgress | None = None,
        force: bool = False,
    ) -> Prediction:
        """Segment one image in memory, on its own grid.

        Args:
            image: as from :func:`medssl.data.preprocessing.tensors.read_images` or ``make_image``.
            reference: the file whose header tells the geometry of what is written, where there
                is one; otherwise the image's affine does.
            keep_probabilities, entropy, assess, progress, force: see :meth:`predict_file`.

        Raises:
            MedSSLError: the image cannot be predicted, or the model cannot be meant for it; names
                its source.
        """
        try:
            spec, unusual = compared(image, self.task, force=force)
            prepared = preprocess_image(image, spec)
            if self.regions is not None:
                files = tuple(map(Path, image.meta["files"]))
                region = self.regions.find(files, image if reference is None else None)
                prepared = region.crop(prepared)
            decision = self.decide(
                prepared.image,
                probabilities=keep_probabilities,
                entropy=entropy,
                assess=assess,
                margins=prepared.grid.voted,
                progress=progress,
            )
            classes = prepared.restore(decision.classes, decision.margins)
        except MedSSLError as error:
            if error.where is not None:
                raise
            raise MedSSLError(error.what, where=image.meta["files"][0], fix=error.fix) from error
        in_mm = np.diag([*[MM_PER_UNIT[self.spec.spatial_unit]] * 3, 1.0])
        return Prediction(
            values=self.label_map.to_values(classes),
            affine=in_mm @ prepared.native_affine,
            reference=reference,
            prepared=prepared,
            probabilities=decision.probabilities,
            entropy=decision.entropy,
            assessment=self._assess(prepared, decision, classes, unusual) if assess else None,
            note=str(image.meta.get("note", "")),
            unusual=unusual,
        )

    def _assess(
        self,
        prepared: Prepared,
        decision: Decision,
        native: np.ndarray,
        unusual: tuple[str, ...],
    ) -> Assessment:
        """Describe a prediction: ``native`` is its label map, in classes, on the file's grid."""
        assert decision.findings is not None
        assessment = assess_prediction(
            prepared,
            decision.classes,
            decision.findings,
            native,
            label_map=self.label_map,
            unit=self.spec.spatial_unit,
            temperature=self.temperature,
        )
        return replace(assessment, unusual=unusual)
