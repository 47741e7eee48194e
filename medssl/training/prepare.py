"""The cases of a run, read: every file checked, regions found, preprocessed into the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medssl.data.datasets.case import IGNORE_INDEX, CachedCase, Dataset
from medssl.data.datasets.modality import stated_kind
from medssl.data.opened import cache_root
from medssl.data.preprocessing.cache import CaseCache
from medssl.data.preprocessing.region import Region
from medssl.errors import MedSSLError, located
from medssl.inference.search_box import RegionFinder
from medssl.inference.training_fingerprint import TrainingFingerprint, learn_fingerprint
from medssl.models.coarse import describe_regions
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe
from medssl.settings.spec import DataSpec
from medssl.settings.training import TrainingSettings
from medssl.training.cases import CasePlan
from medssl.training.checked import checked_plan
from medssl.training.distributed import ALONE, World
from medssl.training.regions import find_regions

MOST_SCANS = 500
"""Scans that a fingerprint is made of at most."""
MAX_PADDED_SHARE = 2.0
"""A patch more than this many times as long as the median volume is refused, not padded."""


@dataclass(frozen=True)
class TrainingData:
    """The cases of a run, preprocessed, and their regions of interest if it has any.

    ``fingerprint`` is that of the scans it trains on, known to the first of several processes.
    """

    plan: CasePlan
    labeled: tuple[CachedCase, ...]
    unlabeled: tuple[CachedCase, ...]
    validation: tuple[CachedCase, ...]
    regions: Mapping[str, Region] = field(default_factory=dict)
    fingerprint: TrainingFingerprint | None = None

    @property
    def streams(self) -> dict[str, tuple[CachedCase, ...]]:
        """The cases of each stream of patches."""
        return {"labeled": self.labeled, "unlabeled": self.unlabeled, "masks": self.labeled}


def prepare_cases(
    loaded: LoadedRecipe,
    plan: CasePlan,
    display: Display,
    *,
    finder: RegionFinder | None = None,
    world: World = ALONE,
) -> TrainingData:
    """Check every file that training will read, then preprocess what is not in the cache yet.

    Copies of validation and test scans are left out: the plan of what is returned lacks them.
    Several processes divide the preprocessing; then each opens all cases. With a finder, every case
    is cropped to its region of interest, for which no label is read.

    Raises:
        MedSSLError: an unreadable or inconsistent file, or a patch that does not suit the volumes.
    """
    recipe = loaded.recipe
    root = cache_root(recipe.data)
    plan = checked_plan(loaded, plan, display, world)
    splits = plan.splits
    mine = world.share(plan.cached)
    regions = {} if finder is None else find_regions(finder, mine, display, world)
    cache = CaseCache(root, recipe.spec, plan.dataset.labels, regions=regions, files=plan.files)
    with world.together(), display.counting("preprocessing", len(mine)) as done:
        cached = cache.prepare(mine, on_progress=done)
    if not world.alone:
        cached = cache.prepare(plan.cached)
    labeled = tuple(cached[c.id] for c in splits.labeled)
    unlabeled = tuple(cached[c.id] for c in splits.unlabeled)
    if loaded.settings.uses_unlabeled:
        if not loaded.settings.segments:
            unlabeled += _images_of(labeled)
        else:
            unlabeled += _images_of(_partly_annotated(labeled, plan.dataset, display))
        if not unlabeled:
            raise MedSSLError(
                "the method learns from unlabeled images but there are none: every label is "
                "annotated throughout",
                where=plan.dataset.root,
                fix="lower data.labeled so that some labels are hidden, put images into imagesUn/, "
                "or set method to supervised",
            )
    validation = tuple(cached[c.id] for c in splits.validation)
    with world.together():
        fingerprint = _fingerprint(plan, cache, recipe.spec, display) if world.first else None
        data = TrainingData(plan, labeled, unlabeled, validation, regions, fingerprint)
        _check_patch(recipe.training, recipe.spec, data)
    if finder is not None:
        with located(loaded.source):
            for line in describe_regions(regions, labeled, plan.dataset.labels.names):
                display.say(line)
    return data


def _fingerprint(
    plan: CasePlan, cache: CaseCache, spec: DataSpec, display: Display
) -> TrainingFingerprint:
    """Describe the scans that are trained on, at most ``MOST_SCANS`` of them, evenly spread."""
    cases = [*plan.splits.labeled, *plan.splits.unlabeled]
    if len(cases) > MOST_SCANS:
        cases = [cases[int(i)] for i in np.linspace(0, len(cases) - 1, MOST_SCANS).round()]
    facts = []
    with display.counting("describing the scans", len(cases)) as done:
        for case in cases:
            facts.append(cache.facts(case))
            done(case.id)
    return learn_fingerprint(
        facts,
        patients=len({case.patient for case in cases}),
        modality=stated_kind(plan.dataset.modality) or spec.modality.upper(),
    )


def _partly_annotated(
    labeled: Sequence[CachedCase], dataset: Dataset, display: Display
) -> tuple[CachedCase, ...]:
    """Return the labeled cases with voxels that nobody annotated.

    What is not annotated of them is unlabeled data like any other.
    """
    if dataset.labels.ignore_value is None:
        return ()
    partly = [c for c in labeled if c.label is not None and (c.label == IGNORE_INDEX).any()]
    if partly:
        display.say(
            f"note: {len(partly)} labeled cases are annotated in part; their images also serve as "
            "unlabeled ones"
        )
    return tuple(partly)


def _images_of(cases: Sequence[CachedCase]) -> tuple[CachedCase, ...]:
    """Return cases without their labels."""
    return tuple(replace(case, label=None, class_indices={}) for case in cases)


def _check_patch(training: TrainingSettings, spec: DataSpec, data: TrainingData) -> None:
    """Refuse a patch that would mostly be padding."""
    shapes = np.array([c.shape for c in (*data.labeled, *data.unlabeled)])
    axes = [a for a in range(3) if training.spatial_dims == 3 or a != spec.slice_axis]
    median = np.median(shapes[:, axes], axis=0)
    patch = np.array(training.patch)
    if (patch > MAX_PADDED_SHARE * median).any():
        raise MedSSLError(
            f"training.patch {patch.tolist()} is larger than the volumes: the median volume has "
            f"{median.astype(int).tolist()} voxels after preprocessing",
            where=data.plan.dataset.root,
            fix=f"use a patch of at most {median.astype(int).tolist()}, or a finer spec.spacing",
        )
