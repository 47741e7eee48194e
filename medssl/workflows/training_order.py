"""What is known of a training without PyTorch: what was asked for, which cases it has, its result.

What recipe and dataset are refused for is said here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.errors import MedSSLError
from medssl.paths import AnyPath, command
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe, load_recipe
from medssl.runs.folder import RunFolder, free_run_path
from medssl.runs.given_weights import WeightSource, find_weights
from medssl.runs.lineage import lineage_of, teacher_of
from medssl.runs.resume import is_finished
from medssl.runs.seen import refuse_seen, who_was_seen
from medssl.workflows.teaching import find_teacher, open_teacher

if TYPE_CHECKING:
    from medssl.settings.recipe import Recipe
    from medssl.training.cases import CasePlan
    from medssl.training.exchange import Exchange


@dataclass(frozen=True)
class TrainResult:
    """What a training run leaves."""

    path: Path
    summaries: dict[str, dict[str, Any]]
    seconds: float

    @property
    def last_words(self) -> list[str]:
        """What is said at the end: how long it took, and where everything lies."""
        said = [f"finished in {self.seconds / 60:.1f} minutes: {self.path}"]
        pictures = sorted(RunFolder(self.path).preview.glob("*.png"))
        if pictures:
            said.append(f"pictures: {pictures[0].parent} ({len(pictures)} files)")
        if self.summaries:  # a method that segments
            said.append(f"new scans:  {command('predict', self.path)} SCANS --output FOLDER")
            said.append(f"a page of it all:  {command('report', self.path)}")
        return said


@dataclass(frozen=True)
class Asked:
    """What :func:`train` was asked for."""

    recipe: AnyPath
    overrides: tuple[str, ...]
    output: Path | None
    resume: bool
    resume_or_start: bool
    device: str
    precision: str | None
    verify_cache: bool
    exchange: Exchange | None = None


@dataclass(frozen=True)
class TrainingOrder:
    """A training whose recipe is resolved and whose cases are chosen.

    Attributes:
        loaded: the recipe.
        path: of the run folder, which may not be there yet.
        resume: whether it is there, and is gone on with.
        finished: whether it has nothing left to train.
        plan: which case is used as what.
    """

    loaded: LoadedRecipe
    path: Path
    resume: bool
    finished: bool
    plan: CasePlan


def order_of(asked: Asked, display: Display) -> TrainingOrder:
    """Resolve the recipe and decide which case is used as what; no voxel is read.

    Raises:
        MedSSLError: a recipe that cannot work, or a dataset that it does not suit; or a run that is
            finished, with another recipe.
    """
    loaded = load_recipe(asked.recipe, asked.overrides)
    for warning in loaded.warnings:
        display.say(f"warning: {warning}")
    path = _run_path(asked, loaded.recipe.name)
    run = RunFolder(path)
    there = run.recipe.is_file()
    if asked.resume and not there:
        raise MedSSLError("there is no run to resume", where=path, fix="start it without --resume")
    resume = asked.resume or (asked.resume_or_start and there)
    from medssl.planning.median import with_spacing  # the readers of images: the recipe first
    from medssl.training.cases import plan_cases

    # The dataset may have grown since a run began.
    loaded = spaced_as(loaded, run) if resume else with_spacing(loaded, display)
    finished = resume and is_finished(run, loaded)
    if not resume and loaded.recipe.network.given is not None:
        check_pretraining(loaded, find_weights(Path(loaded.recipe.network.given)))
    find_teacher(loaded)
    alone, settings = asked.exchange is None, loaded.settings
    if alone and settings.needs_others:
        raise MedSSLError(
            "method.teacher global is the last common model of a federation, and this run has none",
            where=loaded.source,
            fix="train it with `medssl federate`, or set method.teacher to ema",
        )
    plan = plan_cases(
        loaded,
        display,
        verify_cache=asked.verify_cache,
        needs_labels=alone or not settings.labels_optional,
    )
    if not resume:
        refuse_seen_patients(loaded, plan)
    return TrainingOrder(loaded, path, resume, finished, plan)


def refuse_seen_patients(loaded: LoadedRecipe, plan: CasePlan) -> None:
    """Refuse to train what could not be scored: an ancestor saw the labels of its test patients.

    Raises:
        MedSSLError: names the patients, and what saw their labels.
    """
    from medssl.data.datasets.contents import Contents

    recipe = loaded.recipe
    lineage = lineage_of(recipe, plan.dataset, plan.splits, None)
    if not lineage.ancestors:
        return
    for split in recipe.evaluation.splits:
        seen = who_was_seen(
            lineage,
            getattr(plan.splits, split),
            plan.dataset.name,
            contents=Contents(plan.files, plan.dataset.spatial_unit),
            chosen=split == "validation",
        )
        refuse_seen(seen, split, where=loaded.source)


def starts_with(recipe: Recipe) -> tuple[str | None, str | None]:
    """Return the weights that a recipe starts from, and the model that teaches it."""
    return recipe.network.given, teacher_of(recipe)


def check_pretraining(loaded: LoadedRecipe, source: WeightSource) -> None:
    """Refuse weights that were pre-trained on other images than the recipe's.

    Raises:
        MedSSLError: another voxel size or modality.
    """
    if source.kind != "run":
        return
    before = load_recipe(RunFolder(source.path).recipe)
    if before.settings.segments:
        return
    for key in ("modality", "spacing"):
        there, here = getattr(before.recipe.spec, key), getattr(loaded.recipe.spec, key)
        if here not in (there, "median"):
            raise MedSSLError(
                f"network.init: its spec.{key} is {there!r}, not {here!r}",
                where=source.path,
                fix="pre-train with the data spec of the recipe that starts from it",
            )


def check_start(loaded: LoadedRecipe, plan: CasePlan) -> None:
    """Refuse weights to start from, or a teacher, that do not fit; loads PyTorch and the weights.

    Raises:
        MedSSLError: they cannot be read, or do not fit the recipe.
    """
    from medssl.models.create import create_method
    from medssl.models.warm_start import warm_start

    labels, given = plan.dataset.labels, loaded.recipe.network.given
    if given is not None:
        check_pretraining(loaded, find_weights(Path(given)))
        method = create_method(loaded.recipe, loaded.settings, labels=labels, **plan.sizes)
        warm_start(method, given, labels, lambda _: None)
    if find_teacher(loaded) is not None:
        open_teacher(loaded, plan, lambda _: None)


def spaced_as(loaded: LoadedRecipe, run: RunFolder) -> LoadedRecipe:
    """Return the recipe with the voxel size that a run found, where it asks for the median."""
    recipe = loaded.recipe
    if recipe.spec.spacing != "median":
        return loaded
    spacing = load_recipe(run.recipe).recipe.spec.spacing
    spec = recipe.spec.model_copy(update={"spacing": spacing})
    return replace(loaded, recipe=recipe.model_copy(update={"spec": spec}))


def _run_path(asked: Asked, name: str) -> Path:
    """Return the run folder: the one that is named, the one to go on with, or a free one."""
    if asked.output is not None:
        return asked.output
    if not (asked.resume or asked.resume_or_start):
        return free_run_path(Path("runs"), name)
    return Path(asked.recipe) if Path(asked.recipe).is_dir() else Path("runs") / name
