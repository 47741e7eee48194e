"""Which patients a verdict is about: those whose scans no rule chose to be labeled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medssl.comparison.experiments import Experiment
from medssl.data.datasets.case import Case
from medssl.data.datasets.origins import chosen_patients, drafted_patients
from medssl.evaluation.statistics import nanmean, patient_means

FEWEST = 3
"""With fewer patients that nothing chose there is no verdict about them: it is about all."""


@dataclass(frozen=True)
class Judged:
    """The patients of a verdict, and those apart.

    Attributes:
        cases: ids of the cases that the verdict is about.
        groups: the patient of each.
        apart: ids of the cases whose patients a rule chose, unless the verdict is about all.
        cautions: what a reader must know of where the labels come from.
    """

    cases: tuple[str, ...]
    groups: tuple[str, ...]
    apart: tuple[str, ...]
    cautions: tuple[str, ...]


def judged_cases(cases: Mapping[str, Case]) -> Judged:
    """Divide the cases of a cross-validation by how they came to be labeled.

    A rule chooses scans that the model is bad at, or unlike the others: they say nothing of the
    patients that they were chosen from.
    """
    chosen = chosen_patients(cases.values())
    everyone = {c.patient for c in cases.values()}
    drawn = everyone - chosen
    cautions = []
    apart = tuple(sorted(i for i, c in cases.items() if c.patient in chosen))
    if chosen and len(drawn) < FEWEST:
        apart = ()
        cautions.append(
            f"{len(chosen)} of {len(everyone)} patients were chosen to be labeled, by a rule that "
            "looks for scans the model is bad at: the figures are not those of a patient drawn at "
            "random"
        )
    drafted = len(drafted_patients(cases.values()))
    if drafted:
        cautions.append(
            f"labels of {drafted} patients were made from drafts of a model: they lean towards "
            "what such models predict, and carry what it learned from other patients' labels"
        )
    left = tuple(sorted(cases.keys() - set(apart)))
    return Judged(left, tuple(cases[i].patient for i in left), apart, tuple(cautions))


def describe_apart(
    judged: Judged, cases: Mapping[str, Case], experiments: Sequence[Experiment]
) -> dict[str, Any] | None:
    """Return what was measured on the patients that a rule chose; None if there are none.

    Returns:
        Their number, the mean Dice of the method and of the baseline (None without one), and a
        sentence.
    """
    if not judged.apart:
        return None
    groups = [cases[i].patient for i in judged.apart]
    structures = list(experiments[0].runs[0].structures)
    dice = [
        float(
            nanmean(
                nanmean(patient_means(e.values("dice", judged.apart, structures), groups), 2).mean(
                    0
                ),
                0,
            )
        )
        for e in experiments
    ]
    count = len(set(groups))
    gain = f", gain {dice[0] - dice[1]:+.3f}" if len(dice) > 1 else ""
    return {
        "n_patients": count,
        "patients": sorted(set(groups)),
        "dice": dice[0],
        "baseline": dice[1] if len(dice) > 1 else None,
        "sentence": (
            f"{count} patients that a rule chose to be labeled stand apart, for they say nothing "
            f"of others: mean Dice {np.round(dice[0], 3):.3f}{gain}. The verdict is about the "
            f"other {len(set(judged.groups))}"
        ),
    }
