"""A run from its recipe to its figures: resolve, split, check, set up, train, evaluate, draw."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medssl.data.datasets.split import save_splits, split_hash
from medssl.device import resolve_device, resolve_precision
from medssl.errors import MedSSLError
from medssl.methods.base import Method
from medssl.models.coarse import keep_regions
from medssl.models.create import create_method
from medssl.paths import AnyPath
from medssl.planning.memory import step_bytes
from medssl.planning.smaller import memory_explained
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe, load_recipe, save_recipe
from medssl.reports.preview import write_previews
from medssl.runs.folder import STATUS_FINISHED, RunFolder, environment, free_run_path
from medssl.runs.lock import only_writer
from medssl.runs.privacy import Redactor
from medssl.runs.resume import check_same_experiment
from medssl.training.acceleration import accelerate
from medssl.training.cases import CasePlan, plan_cases
from medssl.training.compute import Compute
from medssl.training.distributed import joined, own_device, this_world
from medssl.training.engine import Engine
from medssl.training.manifest import description, peak_memory, recorded
from medssl.training.prepare import TrainingData, prepare_cases
from medssl.training.regions import open_regions
from medssl.training.setup import make_feed
from medssl.training.validation import make_validation
from medssl.workflows.evaluate import evaluate_run


@dataclass(frozen=True)
class TrainResult:
    """What a training run leaves."""

    path: Path
    summaries: dict[str, dict[str, Any]]
    seconds: float


def train(
    recipe: AnyPath,
    *,
    overrides: Sequence[str] = (),
    output: AnyPath | None = None,
    resume: bool = False,
    resume_or_start: bool = False,
    device: str = "auto",
    precision: str | None = None,
    verify_cache: bool = False,
    display: Display | None = None,
) -> TrainResult:
    """Train a recipe from its first check to the evaluation of its test cases.

    Args:
        recipe: a recipe file, the name of a shipped recipe, or a run folder.
        overrides: ``section.key=value`` assignments.
        output: the run folder; by default ``runs/NAME``, or the next free ``runs/NAME-2``, ...
        resume: continue the run in ``output`` from its last checkpoint.
        resume_or_start: continue it if it is there, else start it. ``output`` is ``runs/NAME`` by
            default, so that the same call always means the same run.
        verify_cache: hash every image whole, whatever is known of it, before the cache is used.

    Raises:
        MedSSLError: anything the user can mend, before the long work where possible.
        Stopped: SIGINT, SIGTERM or SIGUSR1 arrived; the state is saved.

    Example:
        >>> result = medssl.train("mine.yaml", overrides=["seed=5"], output="runs/again")
        >>> (result.path / "checkpoints" / "last.pt").is_file()
        True
    """
    asked = _Asked(
        recipe,
        tuple(overrides),
        None if output is None else Path(output),
        resume,
        resume_or_start,
        device,
        precision,
        verify_cache,
    )
    with ExitStack() as held:
        return _train(asked, display or Display(quiet=True), held)


@dataclass(frozen=True)
class _Asked:
    """What :func:`train` was asked for."""

    recipe: AnyPath
    overrides: tuple[str, ...]
    output: Path | None
    resume: bool
    resume_or_start: bool
    device: str
    precision: str | None
    verify_cache: bool


@dataclass(frozen=True)
class _Resolved:
    """A run that is to be trained.

    Attributes:
        loaded: its recipe.
        compute: what trains it.
        run: its folder, which may not be there yet.
        resume: whether it is there, and is gone on with.
        display: silent in all processes but the first.
        verify_cache: believe nothing that is known of image files.
    """

    loaded: LoadedRecipe
    compute: Compute
    run: RunFolder
    resume: bool
    display: Display
    verify_cache: bool = False


def _train(asked: _Asked, display: Display, held: ExitStack) -> TrainResult:
    """Resolve, split, check, set up, train, evaluate; ``held`` keeps processes and lock."""
    started = time.monotonic()
    this = _resolve(asked, display, held)
    run, compute, loaded = this.run, this.compute, this.loaded
    plan = _split(this)
    regions = open_regions(loaded, run if this.resume else None, plan, compute, this.display)
    # Before a scan is read: what is wrong with the networks is said first.
    labels = plan.dataset.labels
    method = create_method(loaded.recipe, loaded.settings, labels=labels, **plan.sizes)
    for warning in method.warn_networks():
        this.display.say(f"warning: {warning}")
    data = prepare_cases(loaded, plan, this.display, finder=regions, world=compute.world)
    _begin(this, plan, method, held)
    with (
        recorded(run, compute.device),
        memory_explained(loaded, compute.device, compute.precision, **plan.sizes),
    ):
        if loaded.recipe.data.roi is not None and run.writes:
            keep_regions(run, loaded.recipe.data.roi, data.regions)
        _announce(this, plan)
        _set_up(this, data, method).fit(resume=this.resume)
        if not run.writes:
            return TrainResult(run.path, {}, time.monotonic() - started)
        run.write_manifest(peak_memory_bytes=peak_memory(compute.device))
        summaries = _evaluate_splits(this)
        seconds = time.monotonic() - started
        run.write_manifest(status=STATUS_FINISHED, wall_seconds=seconds)
    return TrainResult(run.path, summaries, seconds)


def _resolve(asked: _Asked, display: Display, held: ExitStack) -> _Resolved:
    """Load the recipe and decide where it is trained; a run to go on with is locked."""
    world = this_world()
    device = resolve_device(own_device(asked.device, world))
    if not world.first:
        display = Display(quiet=True)
    held.enter_context(joined(world, device))
    with world.together():
        loaded = load_recipe(asked.recipe, asked.overrides)
        for warning in loaded.warnings:
            display.say(f"warning: {warning}")
        precision = resolve_precision(asked.precision or loaded.recipe.training.precision, device)
        path = _run_path(asked, loaded.recipe.name)
    run = RunFolder(world.from_first(path), writes=world.first)
    with world.together():
        resume = asked.resume or (asked.resume_or_start and run.recipe.is_file())
        if resume and not run.recipe.is_file():
            raise MedSSLError(
                "there is no run to resume", where=run.path, fix="start it without --resume"
            )
        if resume and run.writes:
            held.enter_context(only_writer(run.path, display.say))
    compute = Compute(device, precision, world)
    return _Resolved(loaded, compute, run, resume, display, asked.verify_cache)


def _run_path(asked: _Asked, name: str) -> Path:
    """Return the run folder: the one that is named, the one to go on with, or a free one."""
    if asked.output is not None:
        return asked.output
    if not (asked.resume or asked.resume_or_start):
        return free_run_path(Path("runs"), name)
    return Path(asked.recipe) if Path(asked.recipe).is_dir() else Path("runs") / name


def _split(this: _Resolved) -> CasePlan:
    """Decide which case is used as what: as when the run began, if it is gone on with."""
    with this.compute.world.together():
        plan = plan_cases(this.loaded, this.display, verify_cache=this.verify_cache)
        if this.resume:
            check_same_experiment(this.loaded, this.run, split_hash(plan.splits))
    return plan


def _begin(this: _Resolved, plan: CasePlan, method: Method, held: ExitStack) -> None:
    """Make the run folder, lock it, and write down what is trained."""
    run, recipe, world = this.run, this.loaded.recipe, this.compute.world
    if recipe.privacy == "strict":
        run.redactor = Redactor(plan.dataset)
    with world.together():
        if run.writes:
            run.create(resume=this.resume)
            if not this.resume:
                held.enter_context(only_writer(run.path, this.display.say))
            # The record of a run that goes on unchanged stays as it is, whoever wrote it.
            if not this.resume or load_recipe(run.recipe).recipe != recipe:
                save_recipe(recipe, run.recipe)
            save_splits(plan.splits, run.splits)
    run.write_manifest(
        **environment(this.compute.device, this.compute.precision),
        **description(this.loaded, plan, method),
        processes=world.size,
    )


def _set_up(this: _Resolved, data: TrainingData, method: Method) -> Engine:
    """Return the engine, with networks and cases where they are fast."""
    loaded, recipe, compute = this.loaded, this.loaded.recipe, this.compute
    accelerate(method, recipe.training, compute, this.display.say)
    need = partial(
        step_bytes, loaded, precision=compute.precision, device="cuda", **data.plan.sizes
    )
    views = method.settings.unlabeled_views
    return Engine(
        method,
        recipe,
        make_feed(recipe, data, compute, this.display, views=views, step_bytes=need),
        validation=make_validation(recipe, data, compute),
        run=this.run,
        compute=compute,
        display=this.display,
    )


def _announce(this: _Resolved, plan: CasePlan) -> None:
    """Say what is trained, where, on how many cases."""
    recipe, display, splits = this.loaded.recipe, this.display, plan.splits
    device, precision = this.compute.device, this.compute.precision
    display.say(
        f"{recipe.name}: method {recipe.method.name}, network {recipe.network.name}, "
        f"{recipe.training.iterations} iterations on {device} in {precision}"
    )
    display.say(
        f"cases: {len(splits.labeled)} labeled, {len(splits.unlabeled)} unlabeled, "
        f"{len(splits.validation)} validation, {len(splits.test)} test; run folder {this.run.path}"
    )
    if device.type == "cpu" and recipe.training.iterations > 5000:
        display.say(
            "note: this is a long training for a CPU; --set training.iterations=500 gives a first "
            "look, --device cuda uses a graphics card"
        )


def _evaluate_splits(this: _Resolved) -> dict[str, dict[str, Any]]:
    """Evaluate what the recipe asks for; under the literature's protocol both checkpoints."""
    run, recipe = this.run, this.loaded.recipe
    evaluate = partial(
        evaluate_run,
        run.path,
        device=str(this.compute.device),
        precision=this.compute.precision,
        display=this.display,
    )
    manifest = run.read_manifest()
    asked = recipe.evaluation.checkpoint
    if asked == "best" and not run.best().is_file():
        asked = "last"
    summaries: dict[str, dict[str, Any]] = {}
    for split in recipe.evaluation.splits:
        if not manifest["cases"][split]:
            continue
        summaries[split] = evaluate(split, checkpoint=asked)
        write_previews(run, split)
        if recipe.protocol == "literature" and run.best().is_file():
            other = "last" if summaries[split]["checkpoint"] == "best" else "best"
            name = f"{split}-{other}"
            summaries[name] = evaluate(split, checkpoint=other, name=name)
    return summaries
