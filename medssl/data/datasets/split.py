"""Divide a dataset by patient into labeled, unlabeled, validation and test cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.selection import SELECTION_FIX, Pool, named_cases, named_patients
from medssl.errors import MedSSLError
from medssl.settings.recipe import DataSettings

ROLES = ("labeled", "unlabeled", "validation", "test")


class NothingUnlabeled(MedSSLError):  # noqa: N818 - what is said
    """A method learns from unlabeled images, but there are none."""


@dataclass(frozen=True)
class LeftOut:
    """A case that is left out of a training.

    Attributes:
        case: its id.
        role: what it would have been used as.
        copy_of: the id of the scan that is kept: with the same voxels, or of the patient who has
            such a scan.
        kept_as: role of that scan.
        exact: whether the case itself has its voxels; else another scan of its patient has.
        nearly: whether the case itself looks as that scan does, on another scale of intensities.
        partly: whether the case itself is cut out of that scan, or the scan out of it.
    """

    case: str
    role: str
    copy_of: str
    kept_as: str
    exact: bool
    nearly: bool = False
    partly: bool = False

    @property
    def sentence(self) -> str:
        """What is wrong with it, for a message."""
        same = "has exactly the voxels" if self.exact else "is of the same patient as a copy"
        if self.nearly:
            same = "is a copy in other intensities"
        if self.partly:
            same = "is a cropped or padded copy"
        return f"{self.role} case '{self.case}' {same} of {self.kept_as} case '{self.copy_of}'"


@dataclass(frozen=True)
class Splits:
    """Which case is used as what.

    Unlabeled cases have no label here, whatever the dataset holds; the other roles keep theirs.
    ``notes`` says in plain words what was left out and why, ``left_out`` which copies were.
    """

    labeled: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def make_splits(
    dataset: Dataset,
    data: DataSettings,
    *,
    uses_unlabeled: bool = True,
    needs_labels: bool = True,
) -> Splits:
    """Choose the cases of each role; no patient is in two of labeled, validation and test.

    Numbers are patients. A seeded shuffle of all patients is laid out once: test patients come from
    its end and labeled ones from its start, so that smaller labeled sets lie inside larger ones and
    the test set does not depend on how many are labeled. A number of validation patients is
    taken from the labeled ones, last first. Everything else is unlabeled: its labels are hidden,
    and images of validation and test patients never enter training, but for those of test patients
    with ``data.transductive``. Patients of ``data.excluded`` are as if they were not there.

    Args:
        dataset: the dataset as read.
        data: the recipe's section.
        uses_unlabeled: False leaves the unlabeled cases out, for methods without use for them.
        needs_labels: False lets a site of a federation train on unlabeled cases alone.

    Raises:
        MedSSLError: unknown ids, overlapping roles, more patients asked for than exist, or nothing
            left to train on.
    """
    dataset = _without(dataset, data.excluded)
    pool = Pool.of(dataset, data.split_seed, needs_labels=needs_labels)
    explicit = {
        role: named_cases(getattr(data, role), role, dataset, pool)
        for role in ("labeled", "validation", "test")
    }
    notes: list[str] = []
    test = explicit["test"]
    if isinstance(data.test, int):
        test = _draw_test(data.test, pool, explicit, notes)
    test = test or []
    labeled, validation = _draw_labeled(data, pool, explicit, test)
    if needs_labels and not labeled:
        raise MedSSLError(
            "no labeled case is left to train on", where="data.labeled", fix=SELECTION_FIX
        )
    _refuse_overlap(labeled, validation, test)
    unlabeled: tuple[Case, ...] = ()
    if uses_unlabeled:
        unlabeled = _unlabeled(dataset, data, (labeled, validation, test), notes)
    return Splits(tuple(labeled), unlabeled, tuple(validation), tuple(test), tuple(notes))


def _without(dataset: Dataset, excluded: Sequence[str]) -> Dataset:
    """Return a dataset without the patients of some ids of cases or patients."""
    if not excluded:
        return dataset
    gone = named_patients(excluded, "excluded", dataset)

    def kept(cases: tuple[Case, ...]) -> tuple[Case, ...]:
        return tuple(c for c in cases if c.patient not in gone)

    return replace(
        dataset,
        training=kept(dataset.training),
        unlabeled=kept(dataset.unlabeled),
        test=kept(dataset.test),
    )


def _patients(cases: Iterable[Case]) -> list[str]:
    """Return the patients of some cases in order of first appearance."""
    return list(dict.fromkeys(c.patient for c in cases))


def _draw_test(
    count: int, pool: Pool, explicit: dict[str, list[Case] | None], notes: list[str]
) -> list[Case]:
    """Take ``count`` patients from the end of the shuffle, passing over those named elsewhere."""
    named = {c.patient for role in ("labeled", "validation") for c in explicit[role] or ()}
    free = [p for p in pool.order if p not in named]
    if count > len(free):
        raise _too_many("test", count, free, pool, "named in data.labeled or data.validation")
    chosen = free[len(free) - count :]
    passed_over = [p for p in pool.order[len(pool.order) - count :] if p in named]
    if passed_over:
        notes.append(
            f"the test patients depend on data.labeled and data.validation, which name "
            f"{len(passed_over)} of the patients that would have been drawn"
        )
    return pool.cases_of(chosen)


def _draw_labeled(
    data: DataSettings, pool: Pool, explicit: dict[str, list[Case] | None], test: list[Case]
) -> tuple[list[Case], list[Case]]:
    """Return labeled and validation cases."""
    labeled, validation = explicit["labeled"], explicit["validation"]
    taken = {c.patient for c in [*test, *(validation or ())]}
    if labeled is None:
        free = [p for p in pool.order if p not in taken]
        count = data.labeled if isinstance(data.labeled, int) else len(free)
        if count > len(free):
            raise _too_many("labeled", count, free, pool, "used for validation and test")
        labeled = pool.cases_of(free[:count])
    if validation is None:
        count = data.validation if isinstance(data.validation, int) else 0
        patients = _patients(labeled)
        if count and count >= len(patients):
            raise MedSSLError(
                f"{count} validation patients are to be taken from {len(patients)} labeled ones, "
                "which leaves none to train on",
                where="data.validation",
                fix="lower data.validation, raise data.labeled, or name validation cases by list",
            )
        held = set(patients[len(patients) - count :])
        validation = [c for c in labeled if c.patient in held]
        labeled = [c for c in labeled if c.patient not in held]
    return labeled, validation


def _too_many(role: str, count: int, free: Sequence[str], pool: Pool, why: str) -> MedSSLError:
    used = len(pool.order) - len(free)
    rest = f", of whom {used} are {why}" if used else ""
    return MedSSLError(
        f"{count} {role} patients are asked for but only {len(free)} are available: the dataset "
        f"has {len(pool.order)} patients with labels ({len(pool.cases)} cases){rest}",
        where=f"data.{role}",
        fix=f"set data.{role} to {len(free)} or less"
        + (", so that labeled ones are left to train on" if role == "test" else ""),
    )


def _refuse_overlap(labeled: list[Case], validation: list[Case], test: list[Case]) -> None:
    roles = {"labeled": labeled, "validation": validation, "test": test}
    names = list(roles)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            patients = {c.patient for c in roles[first]}
            both = [c for c in roles[second] if c.patient in patients]
            if both:
                raise MedSSLError(
                    f"patient '{both[0].patient}' is in both {first} and {second} (case "
                    f"'{both[0].id}'; {len(_patients(both))} such patients)",
                    where=f"data.{first}, data.{second}",
                    fix="give each patient one role only; if the ids do not belong to one patient, "
                    "say so with data.patients",
                )


def _unlabeled(
    dataset: Dataset,
    data: DataSettings,
    roles: tuple[list[Case], list[Case], list[Case]],
    notes: list[str],
) -> tuple[Case, ...]:
    """Collect every remaining image, without its label and without held-back patients."""
    labeled, validation, test = roles
    candidates = [*dataset.training, *dataset.unlabeled]
    if data.transductive:
        candidates += test
    if data.test_as_unlabeled:
        candidates += dataset.test
        if not dataset.test:
            notes.append("data.test_as_unlabeled does nothing: the dataset lists no test images")
    # Transductive: the test patients' images are unlabeled ones like any other.
    hidden = validation if data.transductive else [*validation, *test]
    held_back = {c.patient for c in hidden}
    used = {c.images for c in [*labeled, *hidden]}
    left_out, found = [], {}
    for case in candidates:
        if case.images in used or case.images in found:
            continue
        if case.patient in held_back:
            left_out.append(case)
        else:
            found[case.images] = case.without_label()
    if left_out:
        notes.append(
            f"{len(left_out)} unlabeled images (first: {left_out[0].id}) are left out of training: "
            "they show patients of the validation or test set"
        )
    unlabeled = list(found.values())
    if data.unlabeled_limit is not None:
        unlabeled = _limit(unlabeled, data.unlabeled_limit, data.split_seed)
    # What of a labeled image is not annotated is unlabeled too, which its label alone can tell.
    if not unlabeled and dataset.labels.ignore_value is None:
        raise NothingUnlabeled(
            "the method learns from unlabeled images but there are none"
            + (
                f" ({len(left_out)} are left out as validation or test patients)"
                if left_out
                else ""
            ),
            where="data",
            fix="lower data.labeled so that some labels are hidden, put images into imagesUn/ or "
            "data.unlabeled, or set method to supervised",
        )
    return tuple(unlabeled)


def _limit(cases: list[Case], limit: int, seed: int) -> list[Case]:
    """Keep ``limit`` cases of a seeded shuffle, in their given order; smaller limits nest."""
    ids = np.array(sorted(c.id for c in cases), dtype=object)
    # The 1 makes this stream independent of the shuffle of patients.
    kept = set(np.random.default_rng([seed, 1]).permutation(ids)[:limit].tolist())
    return [c for c in cases if c.id in kept]
