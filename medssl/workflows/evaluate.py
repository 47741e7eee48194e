"""Measure the predictions of a run on a split of its dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.datasets.case import Case, LabelMap
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.split_file import load_splits
from medssl.data.opened import known_files, open_dataset
from medssl.data.preprocessing.align import deeper, depth_and_slices
from medssl.errors import MedSSLError
from medssl.evaluation.boundaries import (
    Depth,
    evaluate_boundaries,
    summarize_boundaries,
    write_boundaries_csv,
)
from medssl.evaluation.case_metrics import Measures, evaluate_case
from medssl.evaluation.folders import read_label
from medssl.evaluation.summary import summarize, write_cases_csv
from medssl.files import write_json
from medssl.inference.compared import say_unusual
from medssl.inference.folder import predict_files
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.models.coarse import record_regions
from medssl.models.loaded_run import LoadedRun, load_run
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.runs.lineage import read_lineage
from medssl.runs.resume import check_same_labels
from medssl.runs.seen import refuse_seen, who_was_seen
from medssl.settings.recipe import Recipe
from medssl.settings.spec import DataSpec


def evaluate_run(
    path: AnyPath,
    split: str,
    *,
    checkpoint: str = "auto",
    name: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    display: Display | None = None,
) -> dict[str, Any]:
    """Predict and measure a split of the run's dataset on the native grid.

    Args:
        path: the run folder.
        split: ``validation`` or ``test``.
        name: folder name under ``predictions/`` and ``evaluation/``; the split's by default.

    Returns:
        the summary that is also written to ``evaluation/NAME/summary.json``.

    Raises:
        MedSSLError: the split is empty, a label of its patients was seen in training
            (:mod:`medssl.runs.lineage`), or a prediction failed.

    Example:
        >>> summary = medssl.evaluate_run("runs/mine", "validation")
        >>> summary["n_cases"]
        2
    """
    display = display or Display(quiet=True)
    run = load_run(path, checkpoint=checkpoint, device=device, precision=precision)
    dataset = open_dataset(run.recipe.data, run.recipe.spec)
    check_same_labels(run.folder, dataset)
    cases = sorted(getattr(load_splits(run.folder.splits, dataset), split, ()), key=lambda c: c.id)
    if not cases:
        raise MedSSLError(
            f"the run has no {split} cases",
            where=run.folder.splits,
            fix="name a split that has some, or set data.test or data.validation and train again",
        )
    seen = who_was_seen(
        read_lineage(run.folder),
        cases,
        dataset.name,
        contents=Contents(known_files(run.recipe.data), dataset.spatial_unit),
        chosen=split == "validation",
    )
    refuse_seen(seen, split, where=run.folder.path)
    paths = predict_cases(
        run.predictor, cases, run.folder.predictions(name or split), split, display
    )
    with display.counting(f"measuring {split}", len(cases)) as done:
        # Regions may have been stated since: the run learned the labels that they are made of.
        labels = replace(run.label_map, regions=dataset.labels.regions)
        rows, boundaries = measure(run.recipe, labels, cases, paths, done)
    more = {"split": split} | seen.as_dict()
    return _write(run, cases, rows, boundaries, more, run.folder.evaluation(name or split))


def _write(
    run: LoadedRun,
    cases: Sequence[Case],
    rows: list[dict[str, Any]],
    boundaries: list[dict[str, Any]],
    more: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """Summarize what was measured on a split, and write it with what there is ``more`` to say."""
    recipe, patients = run.recipe, {c.id: c.patient for c in cases}
    summary = summarize(
        rows,
        patients=patients,
        nsd_tolerance=measures_of(recipe).nsd_tolerance,
        failure_dice=recipe.evaluation.failure_dice,
    )
    summary |= more | {"checkpoint": run.checkpoint, "run": recipe.name}
    skipped = run.folder.read_manifest().get("skipped_iterations")
    if skipped:
        summary["skipped_iterations"] = skipped
    if run.regions is not None:
        regions = {c.id: run.regions.find(c.images) for c in cases}
        record_regions(regions, folder / "roi.json")
        summary["regions_not_found"] = sorted(k for k, r in regions.items() if not r.found)
    write_cases_csv(rows, folder / "cases.csv")
    if boundaries:
        unit = recipe.spec.spatial_unit
        summary["boundaries"] = summarize_boundaries(boundaries, patients, unit=unit)
        write_boundaries_csv(boundaries, folder / "boundaries.csv", unit=unit)
    write_json(folder / "summary.json", summary)
    return summary


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    output: Path,
    split: str,
    display: Display,
    *,
    anew: bool = True,
) -> dict[str, Path]:
    """Predict cases of the model's own dataset; return their files by id.

    Args:
        predictor: what predicts.
        cases: of the dataset.
        output: folder of the predictions.
        split: what the cases are, for the reader.
        anew: predict again what is there.

    Raises:
        MedSSLError: a prediction failed.
    """
    items = [(c.id, c.images) for c in cases]
    settings = PredictSettings(overwrite=anew, force=True)
    with display.counting_parts(f"predicting {split}", len(cases)) as (done, window):
        results = predict_files(
            predictor, items, output, settings, on_progress=done, on_window=window
        )
    say_unusual({r.case_id: r.unusual for r in results}, display)
    failed = [r for r in results if r.error]
    if failed:
        raise MedSSLError(
            f"{len(failed)} of {len(cases)} predictions failed; the first: {failed[0].error}",
            where=failed[0].case_id,
            fix="mend or remove these files, then run `medssl evaluate` again",
        )
    return {r.case_id: r.path for r in results if r.path}


def measure(
    recipe: Recipe,
    label_map: LabelMap,
    cases: Sequence[Case],
    predictions: Mapping[str, Path],
    done: Callable[[str], None],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare each written prediction with its reference, as a reader of the files would.

    Returns:
        The rows of structures, and those of boundaries if the data spec asks for them.
    """
    rows: list[dict[str, Any]] = []
    boundaries: list[dict[str, Any]] = []
    spec, measures = recipe.spec, measures_of(recipe)
    for case in cases:
        assert case.label is not None
        reference, affine = read_label(case.label, unit=spec.spatial_unit)
        prediction, _ = read_label(predictions[case.id])
        truth = label_map.to_classes(reference)
        guess = label_map.to_classes(prediction)
        spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
        if "boundaries" in spec.metrics:
            boundaries += _boundaries(spec, label_map, case, (guess, truth), affine)
        rows += evaluate_case(
            guess,
            truth,
            measures,
            spacing=spacing,
            label_map=label_map,
            case_id=case.id,
        )
        done(case.id)
    return rows, boundaries


def _boundaries(
    spec: DataSpec,
    label_map: LabelMap,
    case: Case,
    both: tuple[np.ndarray, np.ndarray],
    affine: np.ndarray,
) -> list[dict[str, Any]]:
    """Measure the boundaries of one case, prediction and reference, on its file's own grid."""
    try:
        axis, _ = depth_and_slices(spec, affine)
        spacing = float(np.linalg.norm(affine[:3, axis]))
        return evaluate_boundaries(
            *both,
            Depth(axis, deeper(spec, affine), spacing),
            label_map=label_map,
            case_id=case.id,
            unit=spec.spatial_unit,
        )
    except ValueError as error:
        raise MedSSLError(
            str(error),
            where=case.label,
            fix="use labels that count up with depth, or set spec.metrics to []",
        ) from None


def measures_of(recipe: Recipe) -> Measures:
    """Return what a recipe measures."""
    settings, spec = recipe.evaluation, recipe.spec
    tolerance = settings.nsd_tolerance or spec.nsd_tolerance
    return Measures(tolerance, spec.spatial_unit, settings.voxel_metrics)
