"""Predict many images, and let no bad file stop the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.dicom.series import Series
from medssl.data.images.names import NIFTI, image_suffix, split_extension
from medssl.data.images.volume import read_header
from medssl.data.images.write import check_writable
from medssl.data.preprocessing.tensors import read_images, series_image
from medssl.errors import MedSSLError
from medssl.files import refusals
from medssl.inference.assessment_files import write_assessment
from medssl.inference.case_files import CaseFiles, files_of_case
from medssl.inference.dicom_seg import check_dicom_seg, check_names, write_dicom_seg
from medssl.inference.inputs import Item, Source, files_of
from medssl.inference.prediction import Prediction
from medssl.inference.predictor import Predictor
from medssl.inference.record import Record
from medssl.inference.settings import DICOM_SEG, PredictSettings
from medssl.inference.volumes import Volumes, volumes_of
from medssl.inference.windows import WindowProgress
from medssl.progress import Done, PartDone

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionResult:
    """What became of one case: either ``path`` or ``error`` is set.

    ``seconds`` is the time it took; ``skipped`` means its prediction was there already. ``note``
    says what of the image's header ITK reads in another way than other programs, ``unusual`` what
    of the image is unlike the training scans, ``volumes`` how large the structures are.
    """

    case_id: str
    path: Path | None
    error: str | None
    seconds: float
    skipped: bool = False
    note: str = ""
    unusual: tuple[str, ...] = ()
    volumes: Volumes | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for scripts."""
        return {
            "case": self.case_id,
            "path": None if self.path is None else str(self.path),
            "error": self.error,
            "seconds": self.seconds,
            "skipped": self.skipped,
            "note": self.note,
            "unusual": list(self.unusual),
            "volumes": None if self.volumes is None else self.volumes.as_dict(),
        }


def predict_files(
    predictor: Predictor,
    items: Sequence[Item],
    output: Path,
    settings: PredictSettings,
    *,
    everyone: Collection[str] | None = None,
    on_progress: Done | None = None,
    on_window: PartDone | None = None,
) -> list[PredictionResult]:
    """Predict cases one after another into a folder, one file each.

    A case that fails is reported in the results; the others go on.

    Args:
        predictor: what predicts.
        items: case ids and images, as from :func:`medssl.inference.inputs.find_cases`.
        output: folder, made if it is not there.
        settings: what is written: label maps, and beside them ``probabilities/CASE_STRUCTURE``,
            masks ``regions/CASE_STRUCTURE``, the entropy ``uncertainty/CASE`` and the assessment
            ``uncertainty/CASE.json``. Unless
            they are overwritten, cases whose files are there are left out, and a folder with
            predictions of another model, or of other images, is refused; see
            :mod:`medssl.inference.record`. Files are written whole or not at all, so a second call
            finishes what the first one left.
        everyone: ids of all cases that are to be predicted into the folder, by other processes at
            the same time too; None: these alone.
        on_progress: called after each case.
        on_window: called after each forward pass.

    Returns:
        One result per case, in order.

    Raises:
        MedSSLError: the folder cannot be made, or holds what this model did not make of these
            images; predictions would overwrite images; or DICOM-SEG cannot be written.
    """
    if settings.suffix == DICOM_SEG or settings.outputs.rtstruct:
        check_names(predictor.label_map)
    if settings.regions:
        _check_regions(predictor)
    jobs = [files_of_case(predictor, item, output, settings) for item in items]
    _check_output(output, jobs)
    everyone = {job.case_id for job in jobs} if everyone is None else everyone
    record, results = Record(output, predictor), []
    with record.adding(jobs, everyone, overwrite=settings.overwrite) as there:
        for job in jobs:
            if job.case_id in there:
                results.append(PredictionResult(job.case_id, job.label, None, 0.0, skipped=True))
            else:
                record.start(job)
                progress = None if on_window is None else partial(on_window, job.case_id)
                results.append(_predict_one(predictor, job, progress, force=settings.force))
                if results[-1].error is None:
                    record.finish(job, results[-1].unusual, results[-1].volumes)
            if on_progress is not None:
                on_progress(job.case_id)
    return results


def _predict_one(
    predictor: Predictor, job: CaseFiles, progress: WindowProgress | None, *, force: bool
) -> PredictionResult:
    start = time.perf_counter()
    path, message, note = None, None, ""
    unusual: tuple[str, ...] = ()
    volumes = None
    try:
        prediction = _segment(predictor, job, progress, force=force)
        note, unusual = prediction.note, prediction.unusual
        unit = predictor.spec.spatial_unit
        labels = predictor.label_map
        volumes = volumes_of(prediction.values, prediction.affine, labels, unit)
        prediction.save_probabilities({labels.classes_of(s): p for s, p in job.maps.items()})
        prediction.save_masks(job.masks)
        if job.entropy is not None:
            prediction.save_entropy(job.entropy)
        if job.assessment is not None and prediction.assessment is not None:
            write_assessment(prediction.assessment, job.assessment)
        job.structures.write(
            prediction.values,
            prediction.affine,
            labels=labels,
            unit=unit,
            source=job.source,
            channels=partial(_channels, job.source),
        )
        if isinstance(job.source, Series) and job.label.suffix == DICOM_SEG:
            path = write_dicom_seg(prediction.values, job.label, series=job.source, labels=labels)
        else:
            path = prediction.save(job.label)
    except MedSSLError as error:
        message = str(error)
    except Exception as error:
        logger.debug("prediction of %s failed", job.case_id, exc_info=True)
        message = f"{type(error).__name__}: {error}\n  where: {files_of(job.source)[0]}"
    seconds = time.perf_counter() - start
    return PredictionResult(
        job.case_id, path, message, seconds, note=note, unusual=unusual, volumes=volumes
    )


def _check_regions(predictor: Predictor) -> None:
    """Refuse masks of regions from a model that knows none."""
    if not predictor.label_map.regions:
        raise MedSSLError(
            "the dataset that the model was trained on states no regions",
            where=predictor.source or "--regions",
            fix="leave --regions out (--probabilities writes a map of each structure), or state "
            "regions in dataset.json or as data.regions of the recipe, and train again",
        )


def _channels(source: Source) -> list[np.ndarray]:
    """Return the intensities ``(X, Y, Z)`` of each channel of an image."""
    image = series_image(source) if isinstance(source, Series) else read_images(source)
    return [channel.numpy() for channel in image.as_tensor()]


def _segment(
    predictor: Predictor, job: CaseFiles, progress: WindowProgress | None, *, force: bool
) -> Prediction:
    wanted: dict[str, Any] = {
        "force": force,
        "keep_probabilities": bool(job.maps),
        "entropy": job.entropy is not None,
        "assess": job.assessment is not None,
    }
    job.structures.check(job.source)
    if not isinstance(job.source, Series):
        header = read_header(job.source[0], unit=predictor.spec.spatial_unit)
        check_writable(job.label, header.affine, header.shape)  # before hours are spent
        return predictor.predict_file(job.source, progress=progress, **wanted)
    if job.label.suffix == DICOM_SEG:
        check_dicom_seg(job.source, predictor.label_map)
    image = series_image(job.source, spatial_unit=predictor.spec.spatial_unit)
    return predictor.predict_image(image, progress=progress, **wanted)


def _both_spellings(path: Path) -> set[Path]:
    """Return a NIfTI file's places, behind links too, without ``.nii`` or ``.nii.gz``."""
    if image_suffix(path) not in NIFTI:
        return set()
    return {p.parent.resolve() / split_extension(p.name)[0] for p in (path, path.resolve())}


def _check_output(output: Path, jobs: Sequence[CaseFiles]) -> None:
    images = {path.resolve() for job in jobs for path in files_of(job.source)}
    beside = {one for job in jobs for path in files_of(job.source) for one in _both_spellings(path)}
    for target in (path for job in jobs for path in job.targets):
        if target.resolve() in images:
            raise MedSSLError(
                "the prediction would overwrite an image",
                where=target,
                fix="choose another output folder",
            )
        if _both_spellings(target) & beside:
            raise MedSSLError(
                "the prediction would lie beside its image under the same name, packed the one and "
                "the other not: ITK programs show the voxels of the .nii for both",
                where=target,
                fix="choose another output folder, or --format nrrd",
            )
    slices = {
        path.parent.resolve()
        for job in jobs
        if isinstance(job.source, Series)
        for path in files_of(job.source)
    }
    if any(output.resolve() in (folder, *folder.parents) for folder in slices):
        raise MedSSLError(
            "predictions would lie among the DICOM files they are made from",
            where=output,
            fix="choose another output folder",
        )
    with refusals(output, what="cannot make the output folder"):
        output.mkdir(parents=True, exist_ok=True)
