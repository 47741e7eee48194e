"""Scans of a cross-validation that are unlike those it learned from, for its page.

A patient that was left out is compared with the training scans of its fold; that was done when it
was predicted. Unlabeled scans are among the training scans, and so compared with the labeled ones:
what the method makes of them rests on labels of other scans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.modality import stated_kind
from medssl.data.datasets.split_file import load_splits
from medssl.data.opened import cache_root, known_files
from medssl.data.preprocessing.cache import CaseCache
from medssl.data.preprocessing.scan_facts import ScanFacts, scan_facts
from medssl.data.preprocessing.tensors import read_images
from medssl.errors import MedSSLError
from medssl.inference.record_file import recorded_predictions
from medssl.inference.training_fingerprint import learn_fingerprint
from medssl.inference.unlike_training import Unlike
from medssl.progress import Display
from medssl.runs.folder import RunFolder
from medssl.settings.recipe import Recipe

MOST_SHOWN = 20


@dataclass(frozen=True)
class UnusualScan:
    """One scan: ``where`` is the fold that left it out, or ``unlabeled``; ``what`` is unlike."""

    case: str
    where: str
    what: str


@dataclass(frozen=True)
class UnusualScans:
    """What is shown of unusual scans.

    Attributes:
        scans: left-out ones first, then unlabeled ones, at most :data:`MOST_SHOWN`.
        more: how many further ones there are.
        left_out, unlabeled: how many scans of each kind were compared.
    """

    scans: tuple[UnusualScan, ...]
    more: int
    left_out: int
    unlabeled: int


def unusual_left_out(
    folder: Path, patients: Sequence[Mapping[str, Any]]
) -> tuple[list[UnusualScan], int]:
    """Return the left-out scans that are unlike the training scans of their fold, and how many
    were compared.

    Args:
        folder: of the cross-validation.
        patients: as in ``crossval.json``.
    """
    found, compared = [], 0
    records: dict[Path, dict[str, Any]] = {}
    for one in patients:
        for case, path in sorted(one["predictions"].items()):
            where = (folder / path).parent
            if where not in records:
                records[where] = recorded_predictions(where)
            if case not in records[where]:
                continue  # of a version that recorded nothing
            compared += 1
            lines = records[where][case].get("unusual", ())
            if lines:
                found.append(UnusualScan(case, f"fold_{one['fold']}", "; ".join(map(str, lines))))
    return found, compared


def unusual_unlabeled(
    first: RunFolder, recipe: Recipe, dataset: Dataset, labeled: Sequence[str], display: Display
) -> tuple[list[UnusualScan], int]:
    """Return the unlabeled scans that are unlike the labeled ones, and how many were compared.

    Args:
        first: run of a fold, whose unlabeled scans are those of all but what others left out.
        recipe: of the same.
        dataset: of the cases.
        labeled: ids of the cases with a label.
        display: shows progress.

    Raises:
        MedSSLError: a scan cannot be read, or the dataset is not the one of the run.
    """
    known = {case.id: case for case in dataset.training}
    own = [known[case_id] for case_id in labeled if case_id in known]
    others = [c for c in load_splits(first.splits, dataset).unlabeled if c.id not in set(labeled)]
    if not own or not others:
        return [], 0
    facts = _facts([*own, *others], recipe, dataset, display)
    fingerprint = learn_fingerprint(
        [facts[case.id] for case in own],
        patients=len({case.patient for case in own}),
        modality=stated_kind(dataset.modality) or recipe.spec.modality.upper(),
    )
    slices = len(recipe.training.patch) == 2
    found = []
    for case in others:
        spec = fingerprint.spec_for(facts[case.id], recipe.spec, slices=slices)
        comparison = Unlike(fingerprint).compare(facts[case.id], spec, None)
        impossible = () if comparison.impossible is None else (comparison.impossible,)
        lines = (*impossible, *comparison.unusual)
        if lines:
            found.append(UnusualScan(case.id, "unlabeled", "; ".join(lines)))
    return found, len(others)


def gathered(
    left_out: tuple[list[UnusualScan], int], unlabeled: tuple[list[UnusualScan], int]
) -> UnusualScans:
    """Put together what was found of left-out and of unlabeled scans."""
    scans = [*left_out[0], *unlabeled[0]]
    more = max(0, len(scans) - MOST_SHOWN)
    return UnusualScans(tuple(scans[:MOST_SHOWN]), more, left_out[1], unlabeled[1])


def _facts(
    cases: Sequence[Case], recipe: Recipe, dataset: Dataset, display: Display
) -> dict[str, ScanFacts]:
    """Describe scans by id: from the cache where it still has them, else read again."""
    root, files = cache_root(recipe.data), known_files(recipe.data)
    cache = CaseCache(root, recipe.spec, dataset.labels, files=files)
    out = {}
    with display.counting("comparing scans", len(cases)) as done:
        for case in cases:
            try:
                cached = cache.holds(case)
            except MedSSLError:
                cached = False
            if cached:
                cache.prepare([case])
                out[case.id] = cache.facts(case)
            else:
                image = read_images(case.images, spatial_unit=recipe.spec.spatial_unit)
                out[case.id] = scan_facts(image, recipe.spec)
            done(case.id)
    return out
