"""Rank new images by what a look at them, or their annotation, is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.errors import MedSSLError
from medssl.files import write_csv
from medssl.inference.assessment_files import assessment_file, read_assessment
from medssl.inference.calibration import Calibration
from medssl.inference.folder import PredictionResult, predict_files
from medssl.inference.inputs import Item, files_of, find_cases
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.paths import AnyPath, as_paths
from medssl.progress import Display
from medssl.settings.model_names import is_bundle
from medssl.uncertainty.triage import Ranked, rank_cases
from medssl.uncertainty.volumes_csv import write_tables
from medssl.workflows.open_predictor import open_predictor


@dataclass(frozen=True)
class Triage:
    """A ranking.

    Attributes:
        path: the CSV.
        predictions: folder of the label maps, assessments, volumes.csv and quality.csv.
        ranked: cases in order, those that failed first.
        failed: number of cases that could not be predicted.
    """

    path: Path
    predictions: Path
    ranked: tuple[Ranked, ...]
    failed: int


def triage(
    source: AnyPath,
    inputs: AnyPath | Sequence[AnyPath],
    output: AnyPath | None = None,
    *,
    checkpoint: str = "auto",
    ensemble: AnyPath | Sequence[AnyPath] = (),
    members: int | None = None,
    fold: int | None = None,
    largest_component: bool | None = None,
    tta: bool | None = None,
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
    display: Display | None = None,
) -> Triage:
    """Predict images and rank them: the unreadable, the strange, then the uncertain and different.

    Args:
        source: a calibrated run folder or cross-validation, or a bundle exported from one.
        inputs: image files or folders of them, one or several.
        output: CSV with columns rank, case, flag, quality, unusual, similar_to, why, image; of a
            cross-validation predicted_dice and agreement, too (see docs/uncertainty.md).
            Predictions go to the folder of the same name without ``.csv``; a second call reuses
            them. By default ``RUN/triage/NAME.csv``, where NAME is that of the first input.
        checkpoint, ensemble, members, fold, largest_component, tta, device, precision: as for
            `predict`.
        overwrite: predict again what is already there.

    Raises:
        MedSSLError: no images, or the run is not calibrated.

    Example:
        >>> found = medssl.calibrate("runs/mine", cases=["mr_001", "mr_004", "mr_006"])
        >>> ranking = medssl.triage("runs/mine", "data/imagesUn", "ranking.csv")
        >>> len(ranking.ranked), ranking.failed
        (2, 0)
    """
    settings = PredictSettings(
        checkpoint=checkpoint,
        ensemble=tuple(as_paths(ensemble)),
        members=members,
        fold=fold,
        device=device,
        precision=precision,
        largest_component=largest_component,
        tta=tta,
        assess=True,
        overwrite=overwrite,
        force=True,  # the strangest come first
    )
    source, images = Path(source), as_paths(inputs)
    table = _table(source, images, None if output is None else Path(output))
    return _triage(source, images, table, settings, display or Display(quiet=True))


def _table(source: Path, inputs: Sequence[Path], output: Path | None) -> Path:
    """Return where the ranking is written.

    Raises:
        MedSSLError: none is named and there is no run to keep it with, or it is no CSV.
    """
    if output is None:
        if is_bundle(source):
            raise MedSSLError("name the table to write", where="--output", fix="add --output CSV")
        first = inputs[0] if inputs else Path("images")
        return source / "triage" / f"{first.resolve().name.partition('.')[0]}.csv"
    if output.suffix != ".csv":
        raise MedSSLError("the table must be a .csv file", where=output, fix="add .csv to its name")
    return output


def _triage(
    source: Path, inputs: Sequence[Path], table: Path, settings: PredictSettings, display: Display
) -> Triage:
    """Predict, rank and write."""
    items, notes = find_cases(inputs)
    for note in notes:
        display.say(note)
    predictor, difference = open_predictor(source, settings)
    calibration = _calibration(predictor, difference, source)
    if calibration.of_folds and calibration.dice is None:
        display.say(
            "note: no Dice is predicted, there were too few patients to learn it from; cases are "
            "ranked all the same"
        )
    folder = table.with_suffix("")
    with display.counting_parts("predicting", len(items)) as (done, window):
        results = predict_files(
            predictor, items, folder, settings, on_progress=done, on_window=window
        )
    write_tables(folder, predictor.calibration)
    ranked = _rank(calibration, results, folder)
    _write(table, ranked, items, of_folds=calibration.of_folds)
    return Triage(table, folder, tuple(ranked), sum(1 for r in results if r.error))


def _calibration(predictor: Predictor, difference: str | None, source: Path) -> Calibration:
    """Return the calibration of a predictor, which knows what is usual.

    Raises:
        MedSSLError: it is not calibrated, or on too few cases.
    """
    if predictor.calibration is None:
        why = f": its calibration is for {difference}" if difference else ""
        raise MedSSLError(
            f"the run is not calibrated for this{why}",
            where=source,
            fix="run `medssl calibrate RUN` with the same options first",
        )
    if predictor.calibration.reference is None:
        raise MedSSLError(
            "the calibration had fewer than three cases, so nobody knows what is usual",
            where=source,
            fix="run `medssl calibrate RUN --cases ...` with more cases",
        )
    return predictor.calibration


def _rank(
    calibration: Calibration, results: Sequence[PredictionResult], folder: Path
) -> list[Ranked]:
    assert calibration.reference is not None
    failed = [
        Ranked(
            r.case_id, "failed", math.nan, math.nan, "", f"not predicted: {r.error.splitlines()[0]}"
        )
        for r in results
        if r.error
    ]
    cases = {}
    for result in results:
        found = read_assessment(assessment_file(folder, result.case_id))
        if result.error is None and found is not None:
            cases[result.case_id] = found
    return failed + rank_cases(cases, calibration.reference, calibration.dice)


def _write(path: Path, ranked: Sequence[Ranked], items: Sequence[Item], *, of_folds: bool) -> None:
    files = dict(items)
    rows = [
        {
            "rank": place,
            "case": line.case,
            "flag": line.flag,
            "quality": line.quality,
            **(
                {"predicted_dice": line.predicted_dice, "agreement": line.agreement}
                if of_folds
                else {}
            ),
            "unusual": line.unusual,
            "similar_to": line.similar_to,
            "why": line.why,
            "image": str(files_of(files[line.case])[0]),
        }
        for place, line in enumerate(ranked, start=1)
    ]
    write_csv(path, rows)
