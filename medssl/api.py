"""What medssl does, as functions: each CLI command is a thin call of the one of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medssl.bundle.export import ExportResult, export
from medssl.bundle.verify import Verification, verify_bundle
from medssl.checking import CheckResult, check
from medssl.data.decathlon import read_dataset
from medssl.data.importers import ImportResult, import_dataset
from medssl.data.importers.base import optional_module, shown_on
from medssl.data.shard import parse_shard
from medssl.errors import MedSSLError
from medssl.evaluation.case_metrics import evaluate_case
from medssl.evaluation.folders import evaluate_folders
from medssl.evaluation.summary import summarize, write_cases_csv, write_summary_json
from medssl.experiment import TrainResult, train
from medssl.inference.folder import FORMATS, PredictionResult, predict_files
from medssl.inference.inputs import find_cases
from medssl.inference.tables import write_tables
from medssl.planning.planner import Plan, plan
from medssl.preprocessing import Preprocessed, preprocess
from medssl.recipe import load_recipe
from medssl.replaying import Replay, replay
from medssl.report.compare import compare
from medssl.report.page import report
from medssl.report.sweep import SweepResult, sweep
from medssl.run_calibration import calibrate
from medssl.run_triage import Triage, triage
from medssl.runs import LoadedRun, evaluate_run, load_ensemble, load_run
from medssl.sources import open_predictor
from medssl.training.progress import Display
from medssl.training.state import Stopped

__all__ = [
    "CheckResult",
    "ExportResult",
    "ImportResult",
    "LoadedRun",
    "MedSSLError",
    "Plan",
    "Preprocessed",
    "Replay",
    "Stopped",
    "SweepResult",
    "TrainResult",
    "Triage",
    "Verification",
    "calibrate",
    "check",
    "compare",
    "evaluate",
    "evaluate_case",
    "evaluate_run",
    "export",
    "import_dataset",
    "load_ensemble",
    "load_recipe",
    "load_run",
    "plan",
    "predict",
    "preprocess",
    "replay",
    "report",
    "sweep",
    "train",
    "triage",
    "verify_bundle",
]


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


def evaluate(
    predictions: Path,
    reference: Path,
    output: Path,
    *,
    dataset_json: Path | None = None,
    nsd_tolerance: float = 2.0,
    voxel_metrics: bool = False,
    display: Display | None = None,
) -> dict[str, Any]:
    """Measure a folder of predictions against a folder of references of the same names.

    Args:
        dataset_json: a ``dataset.json`` that names the labels and the unit of distances; else
            every value found is a label, and distances are in mm.
        nsd_tolerance: surface tolerance, in that unit.

    Raises:
        MedSSLError: missing predictions, mismatched grids, unreadable files.
    """
    display = display or Display(quiet=True)
    # Its images are not opened, so they may lie anywhere.
    dataset = read_dataset(dataset_json.parent, allow_outside=True) if dataset_json else None
    with display.counting("measuring", sum(1 for _ in reference.glob("*"))) as done:
        rows = evaluate_folders(
            predictions,
            reference,
            label_map=dataset.labels if dataset else None,
            nsd_tolerance=nsd_tolerance,
            voxel_metrics=voxel_metrics,
            on_progress=done,
            unit=dataset.spatial_unit if dataset else "mm",
        )
    summary = summarize(rows, nsd_tolerance=nsd_tolerance)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_cases_csv(rows, output / "cases.csv")
        write_summary_json(summary, output / "summary.json")
    except OSError as error:
        raise MedSSLError(
            f"cannot write: {error.strerror or error}", where=output, fix="choose another --output"
        ) from None
    return summary
