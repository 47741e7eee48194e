"""From an image to its label map: preprocess, network window by window, back to the own grid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from medssl.data.images.geometry import MM_PER_UNIT
from medssl.data.preprocessing.pipeline import Prepared, preprocess_image
from medssl.data.preprocessing.tensors import read_images
from medssl.errors import MedSSLError
from medssl.inference.assessment import Assessment, assess_prediction
from medssl.inference.compared import compared
from medssl.inference.decision import Decision
from medssl.inference.in_memory import Image, image_in_memory
from medssl.inference.prediction import Prediction
from medssl.inference.prepared_image import PreparedImagePredictor
from medssl.inference.windows import WindowProgress

logger = logging.getLogger(__name__)


class Predictor(PreparedImagePredictor):
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
        opinion: a second opinion about each scan, averaged with the network's; None: none.

    Raises:
        MedSSLError: the inference settings contradict the patch.
    """

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
                other=None if self.opinion is None else self.opinion.giver.probabilities(prepared),
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
