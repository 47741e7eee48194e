"""Settings of a recipe that cannot work together, and settings that do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError, did_you_mean
from medssl.methods.mixing_settings import MixingSettings
from medssl.methods.settings import MethodSettings
from medssl.networks.registry import check_patch
from medssl.settings.recipe import InferenceSettings, Recipe


def refuse_contradictions(recipe: Recipe, settings: MethodSettings, path: Path) -> None:
    """Refuse settings that cannot work together.

    Raises:
        MedSSLError: the first combination that is found.
    """
    training = recipe.training
    if recipe.method.name in recipe.spec.refuse:
        raise MedSSLError(
            f"method {recipe.method.name!r} makes no sense on {recipe.spec.name!r} data: "
            f"{recipe.spec.refuse[recipe.method.name]}",
            where=path,
            fix="choose another method; `medssl methods` lists them",
        )
    check_patch(recipe.network.name, training.patch, recipe.network.settings)
    if recipe.data.roi is not None and recipe.spec.align_slices:
        raise MedSSLError(
            "data.roi finds its boxes in scans as they are stored, but spec.align_slices moves "
            "their slices",
            where=path,
            fix="set spec.align_slices to false, or leave data.roi out",
        )
    check_stride(recipe.inference.stride, training.patch)
    if recipe.network.settings.get("deep_supervision") and not settings.takes_scales:
        key = "variant" if "official" in settings.words("variant") else "preset"
        why = f"{key} official is as published," if settings.scales else "its losses are"
        raise MedSSLError(
            f"network.deep_supervision trains at coarser scales, which method "
            f"{recipe.method.name!r} does not take: {why} at full resolution alone",
            where=path,
            fix="set network.deep_supervision to false"
            + (f", or method.{key} to corrected" if settings.scales else ""),
        )
    _refuse_regions(recipe, settings, path)
    if training.cache_on_device is True and training.augment.place == "loader":
        raise MedSSLError(
            "training.cache_on_device holds the cases on the device, where no loader can "
            "augment them, but training.augment.place is 'loader'",
            where=path,
            fix="set training.augment.place to auto, or training.cache_on_device to false",
        )
    if settings.uses_unlabeled and training.unlabeled_batch == 0:
        raise MedSSLError(
            f"method {recipe.method.name!r} learns from unlabeled patches but "
            "training.unlabeled_batch is 0",
            where=path,
            fix="set training.unlabeled_batch to 1 or more, or method to supervised",
        )
    stages = {s.name: s for s in settings.stages(training.iterations)}
    for name in training.stages:
        if name not in stages:
            raise MedSSLError(
                f"training.stages names a stage {name!r} that {recipe.method.name!r} has not",
                where=path,
                fix=did_you_mean(name, list(stages)),
            )
    for name, stage in stages.items():
        schedule = training.schedule_of(name)
        if schedule.warmup >= stage.iterations:
            raise MedSSLError(
                f"the learning-rate warm-up ({schedule.warmup} iterations) is not shorter than "
                f"stage {name!r} ({stage.iterations} iterations)",
                where=path,
                fix="lower training.schedule.warmup or raise training.iterations",
            )
    problems = list(settings.check_recipe(recipe))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise MedSSLError(problems[0] + more, where=path, fix="change one of the two settings")


def _refuse_regions(recipe: Recipe, settings: MethodSettings, path: Path) -> None:
    """Refuse a loss of regions from a method that has none."""
    if not recipe.training.region_loss or settings.takes_regions:
        return
    published = settings.regions
    key = "variant" if "official" in settings.words("variant") else "preset"
    raise MedSSLError(
        f"training.region_loss: the losses of method {recipe.method.name!r} are of labels alone"
        + (f" where method.{key} is as published" if published else ""),
        where=path,
        fix="set training.region_loss to false (regions are measured and predicted all the same)"
        + (f", or method.{key} to corrected" if published else ""),
    )


def spec_warnings(recipe: Recipe, settings: MethodSettings) -> list[str]:
    """Return what the data spec warns of the recipe's method, and of mixing patches."""
    spec, found = recipe.spec, []
    reason = spec.warn.get(recipe.method.name)
    if reason is not None:
        found.append(f"method {recipe.method.name!r} on {spec.name!r} data: {reason}")
    torn = spec.warn.get("bcp")  # whose boxes are the same
    if spec.label_pairs and torn is None:
        torn = "a pasted box tears structures from what tells left from right"
    if torn is not None and settings.mixes:
        found.append(f"method.mixing on {spec.name!r} data: {torn}; none leaves patches whole")
    return found


def idle_settings(recipe: Recipe, settings: MethodSettings, *, record: bool) -> list[str]:
    """Describe settings that can do nothing.

    Args:
        recipe: with its spec.
        settings: of its method.
        record: it is a run's, in which all keys are set, and not by its user.
    """
    training, found = recipe.training, []
    has_validation = recipe.data.validation not in (0, None, [])
    if training.early_stop and not has_validation:
        found.append("training.early_stop does nothing: there are no validation cases")
    if recipe.evaluation.checkpoint == "best" and not has_validation:
        found.append("evaluation.checkpoint 'best' means 'last': there are no validation cases")
    if has_validation and training.validate_every > training.iterations:
        found.append(
            f"validation never runs: training.validate_every ({training.validate_every}) is more "
            f"than training.iterations ({training.iterations})"
        )
    schedule = training.schedule
    if schedule.name == "step" and schedule.step_size >= training.iterations:
        found.append(
            f"the learning rate never drops: training.schedule.step_size ({schedule.step_size}) "
            f"is not below training.iterations ({training.iterations})"
        )
    if training.unlabeled_batch == 1 and isinstance(settings, MixingSettings) and settings.mixes:
        found.append(
            "method.mixing does nothing with training.unlabeled_batch 1: a box comes from the next "
            "patch of the batch"
        )
    optimizer = training.optimizer
    of_sgd = set() if record else {"momentum", "nesterov"} & optimizer.model_fields_set
    if optimizer.name != "sgd" and of_sgd:
        found.append(f"training.optimizer.momentum and nesterov do nothing with {optimizer.name}")
    unlabeled = recipe.data.unlabeled or recipe.data.test_as_unlabeled
    if unlabeled and not settings.uses_unlabeled:
        found.append(f"data.unlabeled is not read: {recipe.method.name!r} uses labels alone")
    flip = training.augment.flip and not record
    asked = flip and "flip" in training.augment.model_fields_set
    if asked and not recipe.spec.flip_axes:
        found.append("training.augment.flip does nothing: the data spec allows no flip_axes")
    return found


def check_stride(stride: Sequence[int] | None, patch: Sequence[int]) -> None:
    """Refuse a stride of a recipe that would leave voxels out; None is the overlap's own.

    Raises:
        MedSSLError: it has other axes than the patch, or is not from 1 to the patch's side.
    """
    if stride is None:
        return
    if len(stride) != len(patch) or any(
        not 1 <= s <= p for s, p in zip(stride, patch, strict=True)
    ):
        raise MedSSLError(
            f"inference.stride {list(stride)} does not fit training.patch {list(patch)}",
            fix="give one stride per axis of the patch, from 1 to the patch size",
        )


def check_decision(inference: InferenceSettings, labels: LabelMap, where: Path | str) -> None:
    """Refuse regions that are to decide where there are none.

    Raises:
        MedSSLError: so it is.
    """
    if inference.decide == "regions" and not labels.regions:
        raise MedSSLError(
            "regions are to decide (inference.decide), and the dataset states none",
            where=where,
            fix="let classes decide, or state regions in dataset.json or as data.regions of the "
            "recipe, and train again",
        )
