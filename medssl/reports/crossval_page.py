"""The page of a cross-validation: verdict, patients, failures, the worst and the best."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from medssl._version import __version__
from medssl.data.opened import open_dataset
from medssl.errors import MedSSLError
from medssl.evaluation.case_metrics import distance_columns
from medssl.evaluation.failures import failure_sentence
from medssl.evaluation.summary import read_cases_csv
from medssl.evaluation.summary_table import lineage_lines
from medssl.files import write_text
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.reports.crossval_unusual import (
    UnusualScan,
    UnusualScans,
    gathered,
    unusual_left_out,
    unusual_unlabeled,
)
from medssl.reports.figures import (
    Picture,
    calibration_picture,
    data_uri,
    read_metrics,
    training_curves,
)
from medssl.reports.overlays import CasePictures, case_scores, chosen_cases, picture_case
from medssl.reports.render import render
from medssl.runs.folder import RunFolder, open_run
from medssl.runs.lineage import CROSSVAL

TEMPLATE = "crossval.html.j2"
GAINS = "crossval.png"
"""Picture of the gains, which the cross-validation draws."""


def crossval_report(
    folder: Path,
    *,
    output: AnyPath | None = None,
    pictures: bool = True,
    display: Display | None = None,
) -> Path:
    """Write the page of a finished cross-validation.

    Args:
        folder: of the cross-validation.
        output: the HTML file; by default ``FOLDER/report.html``.
        pictures: draw cases; needs the dataset.
        display: shows progress.

    Returns:
        The file.

    Raises:
        MedSSLError: it is not finished, or a file cannot be read or written.
    """
    found = _finished(folder)
    first = open_run(folder / found["members"][0])
    summary = found["out_of_fold"]
    notes: list[str] = []
    shown = _pictures(folder, found, display or Display(quiet=True), notes) if pictures else []
    unusual = _unusual(folder, found, display or Display(quiet=True), notes, look=pictures)
    worst = RunFolder(folder / f"fold_{found['patients'][0]['fold']}")
    html = render(
        TEMPLATE,
        found=found,
        summary=summary,
        failures=summary["overall"]["failures"],
        columns=["dice", *distance_columns(str(summary.get("unit") or "mm")), "nsd"],
        caveats=crossval_caveats(found),
        gains=_gains(folder / GAINS),
        cases=shown,
        unusual=unusual,
        calibration=calibration_picture(folder),
        notes=notes,
        curves=training_curves(read_metrics(worst.metrics)),
        curves_of=worst.path.name,
        recipe_text=first.recipe.read_text(encoding="utf-8"),
        version=__version__,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )
    target = folder / "report.html" if output is None else Path(output)
    write_text(target, html)
    return target


def crossval_caveats(found: Mapping[str, Any]) -> list[str]:
    """Return one sentence per limit of a cross-validation; ``found`` is what its file holds."""
    summary = found["out_of_fold"]
    out = [
        f"Each of {found['n_patients']} patients was predicted by a model that never saw its label"
        f" ({len(found['folds'][0])} folds; the last checkpoint counts, no patient chose it).",
        f"{found['coverage']} See docs/verdict.md.",
    ]
    for experiment in found["experiments"]:
        sentence = failure_sentence(experiment["failures"], "mean Dice")
        out.append(f"{experiment['name']}: {sentence}.")
    out += [f"{line}." for line in (*lineage_lines(summary), *found["notes"])]
    apart = found.get("apart")
    out += [f"{apart['sentence']}; the table per structure is of all."] if apart else []
    out += [f"Shared by all folds: {line}." for line in found["shared"]]
    out.append(
        "Other scanners, protocols, ages and diseases than these have not been tried. It is not a "
        "medical device; a reader has to look at every result."
    )
    return out


def _finished(folder: Path) -> dict[str, Any]:
    path = folder / CROSSVAL
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["patients"][0]["fold"], found["out_of_fold"]["overall"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise MedSSLError(
            "the cross-validation is not finished",
            where=path,
            fix="go on with the same `medssl crossval` command",
        ) from None
    return found


def _unusual(
    folder: Path, found: Mapping[str, Any], display: Display, notes: list[str], *, look: bool
) -> UnusualScans:
    """Find scans unlike those trained on; ``look`` at the unlabeled ones, too, in the dataset."""
    left_out = unusual_left_out(folder, found["patients"])
    unlabeled: tuple[list[UnusualScan], int] = ([], 0)
    first = RunFolder(folder / found["members"][0])
    if look and first.splits.is_file():
        labeled = [case for one in found["patients"] for case in one["predictions"]]
        try:
            recipe = load_recipe(first.recipe).recipe
            dataset = open_dataset(recipe.data, recipe.spec)
            unlabeled = unusual_unlabeled(first, recipe, dataset, labeled, display)
        except MedSSLError as error:
            notes.append(f"The unlabeled scans were not compared with the labeled: {error.what}.")
    return gathered(left_out, unlabeled)


def _gains(path: Path) -> Picture | None:
    if not path.is_file():
        return None
    caption = (
        "Gain in Dice over labels alone: a dot per case, the mean with its interval. The band "
        "marks ties."
    )
    return Picture("Gains", caption, data_uri(path.read_bytes(), "image/png"), "gain of each case")


def _pictures(
    folder: Path, found: Mapping[str, Any], display: Display, notes: list[str]
) -> list[CasePictures]:
    """Draw the worst, the median and the best case, and one of the patient that gains least."""
    rows = read_cases_csv(folder / "evaluation" / "out_of_fold" / "cases.csv")
    scores = case_scores(rows)
    chosen = {rank: case for rank, case in chosen_cases(scores).items() if case in scores}
    predictions = {c: p for one in found["patients"] for c, p in one["predictions"].items()}
    least = found["patients"][0]
    lowest = min(least["predictions"], key=lambda c: scores.get(c, 1.0))
    if found["verdict"] and lowest in scores and lowest not in chosen.values():
        chosen[f"least gain ({least['gain']:+.3f})"] = lowest
    try:
        recipe = load_recipe(RunFolder(folder / found["members"][0]).recipe).recipe
        dataset = open_dataset(recipe.data, recipe.spec)
    except MedSSLError as error:
        notes.append(f"No pictures of cases: {error.what}.")
        return []
    cases = {case.id: case for case in dataset.training}
    names = dict(zip(dataset.labels.values, dataset.labels.names, strict=True))
    out = []
    with display.counting("drawing cases", len(chosen)) as done:
        for rank, case_id in chosen.items():
            try:
                picture = picture_case(
                    cases[case_id],
                    folder / predictions[case_id],
                    rank=rank,
                    dice=scores[case_id],
                    names=names,
                    predictor=None,
                )
                out.append(picture)
            except (MedSSLError, KeyError) as error:
                what = error.what if isinstance(error, MedSSLError) else "it is not there any more"
                notes.append(f"Case {case_id} could not be drawn: {what}.")
            done(case_id)
    return out
