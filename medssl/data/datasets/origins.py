"""Where the label of a case comes from, kept with the case: as keys of its item in dataset.json.

A scan that a rule chose because the model is bad at it says nothing of the scans that it was chosen
from: verdicts are given without it. A label that was edited from the draft of a model leans
towards what such a model predicts. A case without these keys has a label of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medssl.data.datasets.case import Case

RANDOM, CHOSEN = "random", "chosen"
"""How the scan came to be labeled: drawn, or chosen by a rule."""
EDITED, CONFIRMED = "edited", "confirmed"
"""What became of its draft: changed by hand, or taken as it was."""

_HOW, _RULE, _DRAFT, _MODEL, _ROUND = (
    "label_origin",
    "label_rule",
    "label_draft",
    "label_model",
    "label_round",
)


@dataclass(frozen=True)
class LabelOrigin:
    """Where a label comes from that a round of labeling brought.

    Attributes:
        how: `RANDOM` or `CHOSEN`.
        rule: that chose the scan.
        draft: `EDITED` or `CONFIRMED`.
        model_sha256: of the weights that drew the draft.
        round_id: of the round.
    """

    how: str
    rule: str
    draft: str
    model_sha256: str
    round_id: str

    def as_item(self) -> dict[str, str]:
        """Return the keys that an item of dataset.json says it with."""
        values = (self.how, self.rule, self.draft, self.model_sha256, self.round_id)
        return dict(zip((_HOW, _RULE, _DRAFT, _MODEL, _ROUND), values, strict=True))


def origin_of(case: Case) -> LabelOrigin | None:
    """Return where a case's label comes from; None for one that no round brought."""
    meta: Mapping[str, str] = case.meta
    if _HOW not in meta:
        return None
    return LabelOrigin(*(meta.get(key, "") for key in (_HOW, _RULE, _DRAFT, _MODEL, _ROUND)))


def chosen_patients(cases: Iterable[Case]) -> set[str]:
    """Return the patients of whom a scan was chosen by a rule."""
    return {c.patient for c in cases if (o := origin_of(c)) is not None and o.how == CHOSEN}


def drafted_patients(cases: Iterable[Case]) -> set[str]:
    """Return the patients of whom a label was made from the draft of a model."""
    return {c.patient for c in cases if (o := origin_of(c)) is not None and o.draft}
