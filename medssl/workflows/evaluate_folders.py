"""Measure one folder of label maps against another; loads neither PyTorch nor MONAI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medssl.data.datasets.case import Case
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.images.names import list_images, split_extension
from medssl.evaluation.case_metrics import Measures
from medssl.evaluation.folders import evaluate_folders
from medssl.evaluation.summary import summarize, write_cases_csv
from medssl.files import check_writable, write_json
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.runs.lineage import Lineage, predicted_by, read_ancestor
from medssl.runs.seen import refuse_seen, who_was_seen
from medssl.settings.recipe import FAILURE_DICE


def evaluate(
    predictions: AnyPath,
    reference: AnyPath,
    output: AnyPath,
    *,
    dataset_json: AnyPath | None = None,
    nsd_tolerance: float = 2.0,
    voxel_metrics: bool = False,
    failure_dice: float = FAILURE_DICE,
    display: Display | None = None,
) -> dict[str, Any]:
    """Measure a folder of predictions against a folder of references of the same names.

    Args:
        predictions: the folder of label maps.
        reference: the folder of references; only cases that are predicted may lie there.
        output: folder for ``cases.csv`` and ``summary.json``.
        dataset_json: a ``dataset.json`` that names the labels and the unit of distances; else
            every value found is a label, and distances are in mm.
        nsd_tolerance: surface tolerance, in that unit.
        failure_dice: patients whose Dice is lower are counted as failures; choose it before you see
            the figures.

    Returns:
        What ``summary.json`` holds.

    Raises:
        MedSSLError: missing predictions, mismatched grids, unreadable files; or the record beside
            the predictions names a run that saw the label of one of these cases.

    Example:
        >>> results = medssl.predict("runs/mine", "data/imagesTs", "predictions")
        >>> summary = medssl.evaluate("predictions", "data/labelsTs", "measured")
        >>> 0 <= summary["overall"]["metrics"]["dice"]["mean"] <= 1
        True
    """
    display = display or Display(quiet=True)
    reference, output = Path(reference), Path(output)
    check_writable(output, make=False)  # before hours are spent
    # Its images are not opened, so they may lie anywhere.
    dataset = None
    if dataset_json is not None:
        dataset = read_dataset(Path(dataset_json).parent, allow_outside=True)
    seen = _refuse_seen_files(Path(predictions), reference, dataset.name if dataset else None)
    with display.counting("measuring", sum(1 for _ in reference.glob("*"))) as done:
        rows = evaluate_folders(
            Path(predictions),
            reference,
            Measures(nsd_tolerance, dataset.spatial_unit if dataset else "mm", voxel_metrics),
            label_map=dataset.labels if dataset else None,
            on_progress=done,
        )
    summary = summarize(rows, nsd_tolerance=nsd_tolerance, failure_dice=failure_dice) | seen
    write_cases_csv(rows, output / "cases.csv")
    write_json(output / "summary.json", summary)
    return summary


def _refuse_seen_files(predictions: Path, reference: Path, dataset: str | None) -> dict[str, Any]:
    """Refuse to score predictions of patients whose labels the run that made them saw.

    Returns:
        What the summary says of whose images were seen, and of whom nobody knows.

    Raises:
        MedSSLError: the record beside the predictions names such a run.
    """
    cases = [
        Case(case_id, (path,), path, case_id)
        for path in (list_images(reference) if reference.is_dir() else [])
        for case_id in (split_extension(path.name)[0],)
    ]
    maps = list_images(predictions) if predictions.is_dir() else []
    ancestors = [read_ancestor(how, Path(source)) for how, source in predicted_by(maps)]
    seen = who_was_seen(Lineage(ancestors=tuple(ancestors)), cases, dataset)
    refuse_seen(seen, "predicted", where=predictions)
    return seen.as_dict()
