"""Segment images with a run, an ensemble or a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl.data.datasets.shard import parse_shard
from medssl.errors import MedSSLError
from medssl.inference.folder import FORMATS, PredictionResult, predict_files
from medssl.inference.inputs import find_cases
from medssl.optional import optional_module
from medssl.progress import Display, shown_on
from medssl.uncertainty.volumes_csv import write_tables
from medssl.workflows.open_predictor import open_predictor


def predict(
    source: Path,
    images: Sequence[Path],
    output: Path,
    *,
    checkpoint: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    ensemble: Sequence[Path] = (),
    largest_component: bool | None = None,
    tta: bool | None = None,
    probabilities: bool = False,
    uncertainty: bool = False,
    calibrated: bool = True,
    format: str = "nii.gz",  # noqa: A002 - what the option is called
    overwrite: bool = False,
    shard: str | None = None,
    display: Display | None = None,
) -> list[PredictionResult]:
    """Segment images with a run or a bundle; each result lies on its image's own grid.

    Args:
        source: a run folder, or a bundle that medssl exported.
        images: image files, folders of them, and folders of DICOM series.
        output: folder of the results, one ``CASE.nii.gz`` each.
        format: one of ``nii.gz nii nrrd mha dicom-seg``, the last for DICOM series only.
        ensemble: more runs (other seeds or folds), whose probabilities are averaged with it.
        largest_component: keep the largest piece of each structure; None: as the recipe says.
        tta: average over mirror images; None: as the recipe says.
        probabilities: also write each structure's probability map.
        uncertainty: also write the normalized entropy (0 is sure, 1 a mere guess), ``volumes.csv``
            and ``quality.csv``.
        calibrated: make them with the temperature of `calibrate`, where there is one.
        overwrite: predict again what is already there.
        shard: ``I/N``, to predict every N-th case from the I-th on, counted from 1. The shards may
            run at the same time and share their output folder; tables are about all that is there.

    Raises:
        MedSSLError: no run, no images, no such format or shard. A bad image does not stop the
            others: see ``error`` of its result.
    """
    display = display or Display(quiet=True)
    part = parse_shard(shard)
    if format not in FORMATS:
        raise MedSSLError(
            f"there is no output format '{format}'",
            where="--format",
            fix=f"choose one of {', '.join(FORMATS)}",
        )
    if format == "dicom-seg":
        optional_module("highdicom", "dicom-seg")
    with shown_on(display):
        items, notes = find_cases(images, only_dicom=format == "dicom-seg")
    for note in notes:
        display.say(note)
    if part is not None:
        _check_stays_the_same(images, output)
        everything, items = len(items), part.of(items)
        display.say(f"shard {part}: {len(items)} of {everything} cases")
    predictor, other = open_predictor(
        source,
        calibrated=calibrated and (probabilities or uncertainty),
        ensemble=ensemble,
        checkpoint=checkpoint,
        device=device,
        precision=precision,
        largest_component=largest_component,
        tta=tta,
    )
    if other is not None:
        display.say(f"note: calibration.json is left out: it is for {other}")
    with display.counting_parts("predicting", len(items)) as (done, window):
        results = predict_files(
            predictor,
            items,
            output,
            on_progress=done,
            suffix=FORMATS[format],
            on_window=window,
            skip_existing=not overwrite,
            probabilities=probabilities,
            uncertainty=uncertainty,
            assess=uncertainty,
        )
    if uncertainty:
        write_tables(output, predictor.calibration)
    return results


def _check_stays_the_same(images: Sequence[Path], output: Path) -> None:
    """Refuse an output that other shards would find among their images."""
    if any(Path(entry).is_dir() and output.resolve() == entry.resolve() for entry in images):
        raise MedSSLError(
            "other shards would take the predictions of this one for images",
            where=output,
            fix="choose an --output folder apart from the images",
        )
