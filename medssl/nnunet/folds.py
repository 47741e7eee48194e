"""The folds that nnU-Net trains: only true labels validate, and no patient whose label helped.

A pseudo-label carries what its makers learned from the labels they saw. So a fold validates no
patient whose label made one of its pseudo-labels, and trains on no scan of a patient it validates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from medssl.data.datasets.folds import deal_folds

MOST = 5
"""Folds that are dealt where pseudo-labels are of no fold in particular, as nnU-Net's own."""


@dataclass(frozen=True)
class Pseudo:
    """One set of pseudo-labels, as far as folds are concerned.

    Attributes:
        ids: what nnU-Net calls its cases, with the person that each shows.
        seen: persons whose true labels made it; None: nobody knows, so it may be all.
        validates: persons of the fold that it is for; None: it is for any.
    """

    ids: Mapping[str, str]
    seen: frozenset[str] | None
    validates: frozenset[str] | None = None


def plan_folds(
    truth: Mapping[str, str], pseudo: Sequence[Pseudo]
) -> tuple[list[dict[str, list[str]]], bool]:
    """Return the folds for ``splits_final.json``, and whether they train on pseudo-labels.

    Where the makers saw the label of every patient no fold can have the pseudo-labels: folds are
    then of true labels alone, and only nnU-Net's fold ``all`` trains on all of it.

    Args:
        truth: what nnU-Net calls the cases of true labels, with the person that each shows.
        pseudo: sets of pseudo-labels, one of any fold or one for each; none at all.

    Returns:
        ``train`` and ``val`` of each fold, sorted; none where fewer than two persons have labels.
    """
    people = sorted(set(truth.values()))
    if any(one.validates is not None for one in pseudo):
        found = []
        for one in pseudo:
            seen = set(people) if one.seen is None else one.seen
            held = (one.validates or frozenset()) - seen
            found.append(_fold(truth, held, one))
        return [fold for fold in found if fold["val"] and fold["train"]], True
    for one in pseudo:
        free = [] if one.seen is None else [p for p in people if p not in one.seen]
        if free and len(people) > 1:
            return [_fold(truth, held, one) for held in _deal(free)], True
    if len(people) < 2:
        return [], False
    return [_fold(truth, held, None) for held in _deal(people)], False


def _deal(people: Sequence[str]) -> list[frozenset[str]]:
    if len(people) == 1:
        return [frozenset(people)]
    dealt = deal_folds(dict.fromkeys(people, frozenset({1})), min(MOST, len(people)))
    return [frozenset(fold) for fold in dealt]


def _fold(
    truth: Mapping[str, str], held: Iterable[str], pseudo: Pseudo | None
) -> dict[str, list[str]]:
    held = set(held)
    train = [case for case, person in truth.items() if person not in held]
    if pseudo is not None:
        train += [case for case, person in pseudo.ids.items() if person not in held]
    return {
        "train": sorted(train),
        "val": sorted(case for case, person in truth.items() if person in held),
    }
