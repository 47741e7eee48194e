"""From a checked recipe to what the engine needs: cases, method, samplers, validation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from nibabel.orientations import io_orientation
from torch import nn

from medssl.data.datasets.case import IGNORE_INDEX, CachedCase, Case, Dataset
from medssl.data.datasets.integrity import check_training_set
from medssl.data.datasets.problem import Problem
from medssl.data.datasets.split import Splits, make_splits
from medssl.data.images.header import unit_factor
from medssl.data.images.stored import UnreadableError, open_volume
from medssl.data.opened import cache_root, open_dataset
from medssl.data.patches.augment import Augmenter
from medssl.data.patches.sampling import Deliver, PatchSampler
from medssl.data.patches.sides import class_pairs, side_axis
from medssl.data.preprocessing.cache import CaseCache
from medssl.data.preprocessing.region import Region
from medssl.errors import MedSSLError
from medssl.inference.mirror import mirrored
from medssl.inference.search_box import RegionFinder
from medssl.methods.base import Stage
from medssl.methods.registry import get_method
from medssl.progress import Display
from medssl.settings.recipe import Recipe
from medssl.training.distributed import ALONE, World

MAX_PADDED_SHARE = 2.0
"""A patch more than this many times as long as the median volume is refused, not padded."""


@dataclass(frozen=True)
class TrainingData:
    """The cases of a run, split and preprocessed."""

    dataset: Dataset
    splits: Splits
    labeled: tuple[CachedCase, ...]
    unlabeled: tuple[CachedCase, ...]
    validation: tuple[CachedCase, ...]
    regions: Mapping[str, Region] = field(default_factory=dict)


def plan_cases(recipe: Recipe, display: Display) -> tuple[Dataset, Splits]:
    """Read the dataset and decide which case is used as what. No image is opened."""
    dataset = open_dataset(recipe, display)
    uses_unlabeled = get_method(recipe.method.name).uses_unlabeled
    splits = make_splits(dataset, recipe.data, uses_unlabeled=uses_unlabeled)
    for note in splits.notes:
        display.say(f"note: {note}")
    _check_native_spacing(recipe, splits)
    make_augmenter(recipe, dataset, splits)  # refuses labels of which one side is missing
    if recipe.inference.tta:  # as evaluation will, after training
        mirrored(
            nn.Identity(), recipe.spec, dataset.labels, spatial_dims=recipe.training.spatial_dims
        )
    for value in sorted(recipe.spec.pieces.keys() - set(dataset.labels.values[1:])):
        display.say(f"note: spec.pieces: the dataset declares no label {value}")
    return dataset, splits


def _check_native_spacing(recipe: Recipe, splits: Splits) -> None:
    """Ask the method again with the voxels the scans really have, where the spec leaves them.

    A recipe alone cannot say whether native voxels suit a method that turns volumes around.
    """
    if not splits.labeled or (recipe.spec.spacing != "native" and None not in recipe.spec.spacing):
        return
    image = splits.labeled[0].images[0]
    try:
        affine = open_volume(image).affine
        affine = affine * unit_factor(image, affine, spatial_unit=recipe.spec.spatial_unit)
    except UnreadableError:
        return  # the check of all files says it better
    if recipe.spec.orientation:
        affine = affine[:, [*np.argsort(io_orientation(affine)[:, 0]).astype(int), 3]]
    spacing = [round(float(v), 4) for v in np.linalg.norm(affine[:3, :3], axis=0)]
    if recipe.spec.spacing != "native":
        wanted = zip(recipe.spec.spacing, spacing, strict=True)
        spacing = [own if target is None else target for target, own in wanted]
    spec = recipe.spec.model_copy(update={"spacing": spacing})
    method = get_method(recipe.method.name)
    settings = method.Settings.model_validate(recipe.method.options)
    problems = method.check_recipe(settings, recipe.model_copy(update={"spec": spec}))
    if problems:
        raise MedSSLError(
            problems[0], where=image, fix="override spec.spacing, or choose another method"
        )


def prepare_cases(
    recipe: Recipe,
    dataset: Dataset,
    splits: Splits,
    display: Display,
    *,
    finder: RegionFinder | None = None,
    world: World = ALONE,
) -> TrainingData:
    """Check every file that training will read, then preprocess what is not in the cache yet.

    Several processes divide the preprocessing; then each opens all cases. With a finder, every case
    is cropped to its region of interest, for which no label is read.

    Raises:
        MedSSLError: an unreadable or inconsistent file, or a patch that does not suit the volumes.
    """
    warnings: list[Problem] = []
    with world.together(), display.counting("checking files", len(_all(splits))) as done:
        if world.first:  # one reader is enough
            memory = cache_root(recipe) / "checked"
            warnings = check_training_set(dataset, splits, memory=memory, on_progress=done)
    for problem in warnings[:5]:
        display.say(f"warning: {problem.file.name}: {problem.what}")
    if len(warnings) > 5:
        display.say(f"warning: and {len(warnings) - 5} more files with warnings")
    uses_unlabeled = get_method(recipe.method.name).uses_unlabeled
    unlabeled = splits.unlabeled if uses_unlabeled else ()
    wanted = (*splits.labeled, *unlabeled, *splits.validation)
    mine = world.share(wanted)
    regions: dict[str, Region] = {}
    if finder is not None:
        found: list[tuple[str, Region]] = []
        with world.together(), display.counting("finding regions of interest", len(mine)) as done:
            for case in mine:
                found.append((case.id, finder.find(case.images)))
                done(case.id)
        regions = dict(world.collect(found))
    cache = CaseCache(cache_root(recipe), recipe.spec, dataset.labels, regions=regions)
    with world.together(), display.counting("preprocessing", len(mine)) as done:
        cached = cache.prepare(mine, on_progress=done)
    if not world.alone:
        cached = cache.prepare(wanted)
    labeled = tuple(cached[c.id] for c in splits.labeled)
    images = tuple(cached[c.id] for c in unlabeled)
    if uses_unlabeled:
        images += _partly_annotated(labeled, dataset, display)
        if not images:
            raise MedSSLError(
                "the method learns from unlabeled images but there are none: every label is "
                "annotated throughout",
                where=dataset.root,
                fix="lower data.labeled so that some labels are hidden, put images into imagesUn/, "
                "or set method to supervised",
            )
    data = TrainingData(
        dataset,
        splits,
        labeled=labeled,
        unlabeled=images,
        validation=tuple(cached[c.id] for c in splits.validation),
        regions=regions,
    )
    with world.together():
        _check_patch_against(data, recipe)
    return data


def _partly_annotated(
    labeled: Sequence[CachedCase], dataset: Dataset, display: Display
) -> tuple[CachedCase, ...]:
    """Return the labeled cases with voxels that nobody annotated, without their labels.

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
    return tuple(replace(case, label=None, class_indices={}) for case in partly)


def _all(splits: Splits) -> Sequence[Case]:
    return (*splits.labeled, *splits.unlabeled, *splits.validation, *splits.test)


def _check_patch_against(data: TrainingData, recipe: Recipe) -> None:
    """Refuse a patch that would mostly be padding."""
    shapes = np.array([c.shape for c in (*data.labeled, *data.unlabeled)])
    axes = [a for a in range(3) if recipe.training.spatial_dims == 3 or a != recipe.spec.slice_axis]
    median = np.median(shapes[:, axes], axis=0)
    patch = np.array(recipe.training.patch)
    if (patch > MAX_PADDED_SHARE * median).any():
        raise MedSSLError(
            f"training.patch {patch.tolist()} is larger than the volumes: the median volume has "
            f"{median.astype(int).tolist()} voxels after preprocessing",
            where=data.dataset.root,
            fix=f"use a patch of at most {median.astype(int).tolist()}, or a finer spec.spacing",
        )


def make_augmenter(recipe: Recipe, dataset: Dataset, splits: Splits) -> Augmenter:
    """Return the augmentation of a run, which exchanges left and right labels when it mirrors.

    Raises:
        MedSSLError: the dataset's labels do not go with the spec's left and right pairs.
    """
    training, spec = recipe.training, recipe.spec
    axis = side_axis(spec, splits.labeled) if spec.label_pairs else 0
    in_patch = training.spatial_dims == 3 or axis != spec.slice_axis
    pairs = class_pairs(
        spec,
        dataset.labels,
        mirrored=training.augment.flip and axis in spec.flip_axes and in_patch,
        where=dataset.root / "dataset.json",
    )
    return Augmenter(
        training.augment,
        spec,
        spatial_dims=training.spatial_dims,
        label_pairs=pairs,
        side_axis=axis,
    )


def stream_cases(data: TrainingData) -> dict[str, tuple[CachedCase, ...]]:
    """Return the cases of each stream."""
    return {"labeled": data.labeled, "unlabeled": data.unlabeled, "masks": data.labeled}


def sampler_factory(
    recipe: Recipe, data: TrainingData, *, strong: bool, deliver: Deliver = "finished"
) -> Callable[[Stage], dict[str, PatchSampler]]:
    """Return a function that makes the patch samplers of a stage.

    Unless they ``deliver`` finished patches, `to_batch` finishes them on the device.
    """
    training, spec = recipe.training, recipe.spec
    augmenter = make_augmenter(recipe, data.dataset, data.splits)
    cases = stream_cases(data)
    sizes = {
        "labeled": training.labeled_batch,
        "unlabeled": training.unlabeled_batch,
        "masks": training.labeled_batch,
    }

    def make(stage: Stage) -> dict[str, PatchSampler]:
        return {
            stream: PatchSampler(
                cases[stream],
                patch=training.patch,
                batch_size=stage.batch_sizes.get(stream, sizes[stream]),
                seed=recipe.seed,
                stream=f"{stage.name}/{stream}",
                foreground_fraction=0.0 if stream == "unlabeled" else training.foreground_fraction,
                slice_axis=spec.slice_axis,
                augment=augmenter,
                strong=strong and stream == "unlabeled",
                labels_only=stream == "masks",
                deliver=deliver,
                sparse=data.dataset.labels.ignore_value is not None,
            )
            for stream in stage.streams
        }

    return make


def loader_workers(setting: int | str, device: torch.device, *, resident: bool = False) -> int:
    """Return the number of loader processes; ``auto`` keeps a CPU run's cores for the networks.

    Where the cases are ``resident`` on the device, drawing places is too little for a process.
    """
    if isinstance(setting, int):
        return setting
    return 0 if device.type == "cpu" or resident else max(1, min(4, (os.cpu_count() or 2) - 1))
