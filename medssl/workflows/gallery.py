"""Draw what was predicted, and put it on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medssl.data.checks.measures import axis_codes
from medssl.data.dicom.series import Series
from medssl.data.images.geometry import spacing_of
from medssl.data.images.labels import read_label
from medssl.data.preprocessing.tensors import read_images, series_image
from medssl.errors import MedSSLError
from medssl.inference.folder import PredictionResult
from medssl.inference.inputs import Item, Source
from medssl.inference.predictor import Predictor
from medssl.inference.record_file import recorded_predictions
from medssl.inference.settings import DICOM_SEG
from medssl.progress import Display
from medssl.reports.gallery import MAX_PICTURES, GalleryCase, Tables, order, write_gallery
from medssl.reports.thumbnails import draw_thumbnail


def draw_gallery(
    folder: Path,
    items: Sequence[Item],
    results: Sequence[PredictionResult],
    predictor: Predictor,
    display: Display,
) -> Path:
    """Write ``gallery.html`` about predictions, with a picture of each.

    Args:
        folder: of the predictions and their tables.
        items: what they were made from.
        results: what became of each, and of what could not be tried.
        predictor: what predicted.
        display: shows progress.

    Raises:
        MedSSLError: the page cannot be written.
    """
    tables, sources = Tables.read(folder), dict(items)
    recorded = recorded_predictions(folder)
    cases = order((_case(r, recorded.get(r.case_id, {})) for r in results), tables)
    paths = {r.case_id: r.path for r in results}
    drawn = []
    with display.counting("drawing", min(len(cases), MAX_PICTURES)) as done:
        for number, case in enumerate(cases):
            path = paths[case.case_id]
            if number < MAX_PICTURES and path is not None and case.case_id in sources:
                case = _with_picture(case, sources[case.case_id], path)
                done(case.case_id)
            drawn.append(case)
    return write_gallery(
        folder,
        drawn,
        tables,
        model=predictor.source,
        calibrated=predictor.calibration is not None,
    )


def _case(result: PredictionResult, recorded: Mapping[str, object]) -> GalleryCase:
    """Return what is known of a case without its picture."""
    if result.error is not None:
        return GalleryCase(result.case_id, error=result.error)
    unusual = result.unusual
    before = recorded.get("unusual", ())
    if result.skipped and isinstance(before, list):
        unusual = tuple(map(str, before))
    return GalleryCase(result.case_id, unusual=unusual, note=result.note)


def _with_picture(case: GalleryCase, source: Source, path: Path) -> GalleryCase:
    """Draw a case; what cannot be read again is said in its place."""
    try:
        image = series_image(source) if isinstance(source, Series) else read_images(source[:1])
        label = None if path.suffix == DICOM_SEG else read_label(path)[0]
    except MedSSLError as error:
        return replace(case, note=f"not drawn: {error.what}")
    affine, voxels = image.affine.numpy(), image.as_tensor()[0].numpy()
    shape = " × ".join(map(str, voxels.shape))
    spacing = " × ".join(f"{s:.3g}" for s in spacing_of(affine))
    note = "" if label is not None else "outlines are drawn with another --format"
    return replace(
        case,
        picture=draw_thumbnail(np.nan_to_num(voxels), label, affine),
        details=f"{shape} voxels of {spacing} mm, {axis_codes(affine)}",
        note="; ".join(filter(None, (case.note, note))),
    )
