"""What the figures of a run can and cannot say, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl.evaluation.failures import failure_sentence
from medssl.evaluation.summary_table import lineage_lines
from medssl.runs.changes import CHANGES, notes_of
from medssl.settings.recipe import Recipe

FEW_PATIENTS = 20


def caveats_of(
    summary: Mapping[str, Any], recipe: Recipe, manifest: Mapping[str, Any]
) -> list[str]:
    """Return one sentence per limit of a result.

    Args:
        summary: of the evaluated split.
        recipe: of the run.
        manifest: of the run.
    """
    patients, cases = summary["n_patients"], summary["n_cases"]
    dice = summary["overall"]["metrics"]["dice"]
    out = [
        f"The figures rest on {cases} {summary.get('split', 'test')} "
        f"{'case' if cases == 1 else 'cases'} of {patients} "
        f"{'patient' if patients == 1 else 'patients'}{_range(dice)}."
    ]
    if "coverage" in summary:  # those of earlier versions do not say
        out.append(f"{summary['coverage']} See docs/verdict.md.")
    failures = summary["overall"].get("failures")
    if failures:
        out.append(f"{failure_sentence(failures, 'mean Dice')}.")
    out += [f"{line}." for line in lineage_lines(summary)]
    if patients < FEW_PATIENTS:
        out.append(
            f"{patients} patients are few: rare failures have probably not been seen, and one bad "
            "case moves the mean."
        )
    out.append(
        "It is one training. Training again with another seed moves the mean by up to a few "
        "points; only runs with several seeds show how much (`medssl sweep`)."
    )
    out += [
        f"It was changed while it was trained: {note}."
        for note in notes_of(manifest.get(CHANGES, ()))
    ]
    missed = summary["overall"].get("n_missed", 0)
    if missed:
        out.append(
            f"{missed} structures were missed altogether. They count with Dice 0 and the image "
            "diagonal as distance: see the table of cases."
        )
    if summary.get("checkpoint") == "best":
        out.append(
            "The checkpoint was chosen on validation cases, which are therefore no test; figures "
            "of the validation split are optimistic."
        )
    if recipe.protocol == "literature":
        out.append(
            "The protocol is that of the literature, with its liberties (fixed split, cropped "
            "images, voxel distances): compare with papers, not with the clinic."
        )
    labeled = (manifest.get("cases") or {}).get("labeled")
    if labeled:
        out.append(
            f"It learned from {labeled} labeled images. Other scanners, protocols, ages and "
            "diseases than theirs have not been tried."
        )
    out.append("It is not a medical device; a reader has to look at every result.")
    return out


def _range(dice: Mapping[str, Any]) -> str:
    """Say where the mean over all such patients lies; how sure that is, is said beside it."""
    if dice.get("low") is None or dice.get("high") is None:
        return ", which gives no interval"
    return (
        ". From these the mean Dice over all patients of the same kind is estimated to lie between "
        f"{dice['low']:.3f} and {dice['high']:.3f}"
    )
