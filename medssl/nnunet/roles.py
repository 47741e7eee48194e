"""What each case of a dataset is exported as, given whose labels the run saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from medssl.data.datasets.case import Case, Dataset
from medssl.errors import MedSSLError
from medssl.nnunet.believed import PseudoLabels


@dataclass
class Roles:
    """What each case of the dataset is exported as."""

    truth: list[Case] = field(default_factory=list)
    pseudo: list[Case] = field(default_factory=list)
    unlabeled: list[Case] = field(default_factory=list)
    test: list[Case] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def roles_of(data: Dataset, sets: Sequence[PseudoLabels]) -> Roles:
    """Say what each case becomes.

    Raises:
        MedSSLError: pseudo-labels of scans that the dataset has not, or nothing to train on.
    """
    everyone = {c.id: c for c in (*data.test, *data.unlabeled, *data.training)}
    named = {case for one in sets for case in one.maps}
    strange = sorted(named - everyone.keys())
    if strange:
        raise MedSSLError(
            f"{len(strange)} pseudo-labels are of scans that the dataset has not (first: "
            f"'{strange[0]}')",
            where=data.root,
            fix="export the dataset that was predicted, with the same --unlabeled",
        )
    given = [one.truth for one in sets if one.truth is not None]
    roles, held, hidden = Roles(), 0, 0
    roles.notes += dict.fromkeys(one.note for one in sets if one.note)
    for case in data.training:
        if case.id in named:
            hidden += 1
            roles.pseudo.append(case)
        elif given and not any({case.id, case.patient} & truth for truth in given):
            held += 1
            roles.test.append(case)
        else:
            roles.truth.append(case)
    for case in data.unlabeled:
        (roles.pseudo if case.id in named else roles.unlabeled).append(case)
    for case in data.test:
        if case.id not in {c.id for c in data.unlabeled}:
            (roles.pseudo if case.id in named else roles.test).append(case)
    if hidden:
        roles.notes.append(
            f"{hidden} scans have a true label that the run did not see: their pseudo-label trains"
        )
    if held:
        roles.notes.append(
            f"{held} labeled scans that the run held back go to imagesTs: they do not train"
        )
    if not roles.truth:
        raise MedSSLError(
            "no true label of this dataset is one that the run learned from",
            where=data.root,
            fix="export the dataset that the run was trained on, with the same --patients",
        )
    return roles
