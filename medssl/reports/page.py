"""``medssl report``: one self-contained HTML file about a run, for whoever has to trust it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from medssl._version import __version__
from medssl.comparison.compare import compare
from medssl.data.datasets.case import Case
from medssl.data.datasets.split_file import load_splits
from medssl.data.opened import open_dataset
from medssl.errors import MedSSLError
from medssl.evaluation.case_metrics import distance_columns
from medssl.evaluation.summary import read_cases_csv
from medssl.files import write_text
from medssl.models.loaded_run import load_run
from medssl.paths import AnyPath, as_paths, command
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.reports.caveats import caveats_of
from medssl.reports.crossval_page import crossval_report
from medssl.reports.figures import box_plots, calibration_picture, read_metrics
from medssl.reports.figures import training_curves as draw_training_curves
from medssl.reports.least_believed import least_believed
from medssl.reports.overlays import CasePictures, case_scores, chosen_cases, picture_case
from medssl.reports.render import render
from medssl.runs.folder import RunFolder, open_run
from medssl.runs.members import is_crossval

TEMPLATE = "report.html.j2"
MANIFEST_KEYS = (
    *("medssl", "status", "method", "seed", "protocol", "device_name", "precision", "threads"),
    *("parameters", "iterations_done", "training_seconds", "wall_seconds", "started", "platform"),
    *("dataset_name", "splits_sha256", "git"),
)


def report(
    run: AnyPath,
    *,
    output: AnyPath | None = None,
    split: str = "test",
    baseline: AnyPath | Sequence[AnyPath] = (),
    pictures: bool = True,
    device: str = "auto",
    display: Display | None = None,
) -> Path:
    """Write a report of a run.

    Args:
        run: a run folder that was evaluated on ``split``, or the folder of a cross-validation,
            which has its own verdict.
        output: the HTML file; by default ``RUN/report.html``.
        split: ``test`` or ``validation``, or another folder under ``evaluation/``.
        baseline: runs of the labeled-only baseline, for the verdict.
        pictures: draw cases; needs the dataset, and runs the network on three of its images.
        device: where the network runs.
        display: shows progress.

    Returns:
        The file.

    Raises:
        MedSSLError: not a run, not evaluated, runs that cannot be compared, or a file that cannot
            be written.

    Example:
        >>> page = medssl.report("runs/mine", baseline="runs/baseline")
        >>> page.name
        'report.html'
    """
    display = display or Display(quiet=True)
    if is_crossval(Path(run)):
        return crossval_report(Path(run), output=output, pictures=pictures, display=display)
    others = as_paths(baseline)
    folder = open_run(run)
    summary, rows = _evaluation(folder, split)
    loaded = load_recipe(folder.recipe)
    manifest = folder.read_manifest()
    comparison = compare([run, *others], split=split, baseline=others[0]) if others else None
    notes: list[str] = []
    shown = _pictures(folder, split, rows, device, display, notes) if pictures else []
    unit = str(summary.get("unit") or "mm")
    other = read_cases_csv(others[0] / "evaluation" / split / "cases.csv") if others else []
    metrics = ("dice", distance_columns(unit)[0])
    html = render(
        TEMPLATE,
        run=folder.path.name,
        recipe=loaded.recipe,
        recipe_text=folder.recipe.read_text(encoding="utf-8"),
        split=split,
        summary=summary,
        failures=summary["overall"].get("failures"),  # summaries of earlier versions have none
        columns=["dice", *distance_columns(unit), "nsd"],
        verdicts=[] if comparison is None else comparison["verdicts"],
        compare_warnings=[] if comparison is None else comparison["warnings"],
        experiments=[] if comparison is None else comparison["experiments"],
        boxes=[box_plots(rows, metric, other=other) for metric in metrics],
        cases=shown,
        least_believed=least_believed(folder, pictures=pictures),
        rows=sorted(rows, key=lambda r: (_sortable(r["dice"]), r["case"])),
        unit=unit,
        curves=draw_training_curves(read_metrics(folder.metrics)),
        calibration=calibration_picture(folder.path),
        caveats=caveats_of(summary, loaded.recipe, manifest),
        notes=notes,
        manifest={k: manifest[k] for k in MANIFEST_KEYS if manifest.get(k) is not None},
        versions=manifest.get("versions") or {},
        counts=manifest.get("cases") or {},
        version=__version__,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )
    target = folder.path / "report.html" if output is None else Path(output)
    write_text(target, html)
    return target


def _evaluation(folder: RunFolder, split: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    where = folder.evaluation(split)
    try:
        summary = json.loads((where / "summary.json").read_text(encoding="utf-8"))
        summary["overall"]["metrics"]["dice"]
    except (OSError, ValueError, KeyError, TypeError):
        raise MedSSLError(
            f"the run was not evaluated on its {split} cases",
            where=where,
            fix=f"run `{command('evaluate', folder.path, '--split', split)}`, or name another "
            "--split",
        ) from None
    return summary, read_cases_csv(where / "cases.csv")


def _pictures(
    folder: RunFolder,
    split: str,
    rows: Sequence[Mapping[str, Any]],
    device: str,
    display: Display,
    notes: list[str],
) -> list[CasePictures]:
    """Draw the chosen cases; what is not there any more becomes a note instead of an error."""
    scores = case_scores(rows)
    chosen = chosen_cases(scores)
    try:
        recipe = load_recipe(folder.recipe).recipe
        dataset = open_dataset(recipe.data, recipe.spec)
        cases: dict[str, Case] = {
            c.id: c for c in getattr(load_splits(folder.splits, dataset), split, ())
        }
        predictor = load_run(folder.path, device=device).predictor
    except MedSSLError as error:
        notes.append(f"No pictures of cases: {error.what}.")
        return []
    out: list[CasePictures] = []
    names = dict(zip(dataset.labels.values, dataset.labels.names, strict=True))
    with display.counting("drawing cases", len(chosen)) as done:
        for rank, case_id in chosen.items():
            if case_id not in cases:
                notes.append(f"Case {case_id} is no longer in the dataset: not drawn.")
                continue
            try:
                picture = picture_case(
                    cases[case_id],
                    folder.predictions(split) / f"{case_id}.nii.gz",
                    rank=rank,
                    dice=scores[case_id],
                    names=names,
                    predictor=predictor,
                )
            except MedSSLError as error:
                notes.append(f"Case {case_id} could not be drawn: {error.what}.")
            else:
                out.append(picture)
            done(case_id)
    return out


def _sortable(value: float) -> float:
    return math.inf if math.isnan(value) else value
