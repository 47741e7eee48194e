"""One experiment from its recipe to its figures: check, prepare, train, evaluate, draw."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medssl.data.datasets.case import Dataset
from medssl.data.datasets.split import Splits, save_splits, split_hash
from medssl.data.opened import cache_root
from medssl.device import resolve_device, resolve_precision
from medssl.errors import MedSSLError, located
from medssl.models.coarse import check_coarse, describe_regions, keep_regions, open_finder
from medssl.models.create import create_method
from medssl.models.loaded_run import LoadedRun, load_run
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
from medssl.training.distributed import ALONE, World, joined, own_device, this_world
from medssl.training.engine import Engine
from medssl.training.manifest import description, peak_memory, recorded
from medssl.training.placement import place_cases
from medssl.training.setup import (
    TrainingData,
    loader_workers,
    plan_cases,
    prepare_cases,
    sampler_factory,
)
from medssl.training.validation import make_diagnosis, make_validator
from medssl.workflows.evaluate import evaluate_run


@dataclass(frozen=True)
class TrainResult:
    """What a training run leaves."""

    path: Path
    summaries: dict[str, dict[str, Any]]
    seconds: float


def train(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    output: Path | None = None,
    resume: bool = False,
    resume_or_start: bool = False,
    device: str = "auto",
    precision: str | None = None,
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

    Raises:
        MedSSLError: anything the user can mend, before the long work where possible.
        Stopped: SIGINT, SIGTERM or SIGUSR1 arrived; the state is saved.
    """
    with ExitStack() as locked:
        return _train(
            locked,
            recipe,
            overrides,
            output,
            resume=resume,
            resume_or_start=resume_or_start,
            device=device,
            precision=precision,
            display=display or Display(quiet=True),
        )


def _train(
    locked: ExitStack,
    recipe: str | Path,
    overrides: Sequence[str],
    output: Path | None,
    *,
    resume: bool,
    resume_or_start: bool,
    device: str,
    precision: str | None,
    display: Display,
) -> TrainResult:
    """Train; the run folder's lock is entered into ``locked``, as soon as there is a folder."""
    started = time.monotonic()
    world = this_world()
    device = own_device(device, world)
    where = resolve_device(device)
    if not world.first:
        display = Display(quiet=True)
    locked.enter_context(joined(world, where))
    with world.together():
        loaded = load_recipe(recipe, overrides)
        for warning in loaded.warnings:
            display.say(f"warning: {warning}")
        how = resolve_precision(precision or loaded.recipe.training.precision, where)
        path = _run_path(loaded, recipe, output, resume=resume or resume_or_start)
    run = RunFolder(world.from_first(path), writes=world.first)
    with world.together():
        resume = resume or (resume_or_start and run.recipe.is_file())
        if resume and not run.recipe.is_file():
            raise MedSSLError(
                "there is no run to resume", where=run.path, fix="start it without --resume"
            )
        if resume and run.writes:
            locked.enter_context(only_writer(run.path, display.say))
        with located(loaded.source):
            dataset, splits = plan_cases(loaded.recipe, display)
        if resume:
            check_same_experiment(loaded, run, split_hash(splits))
    load = partial(load_run, device=device, precision=how)
    data = prepare_run(loaded, run if resume else None, load, dataset, splits, display, world)
    method = create_method(
        loaded.recipe,
        loaded.settings,
        num_classes=dataset.labels.num_classes,
        channels=len(dataset.modality),
        labels=dataset.labels,
    )
    if loaded.recipe.privacy == "strict":
        run.redactor = Redactor(dataset)
    with world.together():
        if run.writes:
            run.create(resume=resume)
            if not resume:
                locked.enter_context(only_writer(run.path, display.say))
            save_recipe(loaded.recipe, run.recipe)
            save_splits(splits, run.splits)
    run.write_manifest(
        **environment(where, how),
        **description(loaded, dataset, splits, method),
        processes=world.size,
    )
    sizes = {"num_classes": dataset.labels.num_classes, "channels": len(dataset.modality)}
    with recorded(run, where), memory_explained(loaded, where, how, **sizes):
        if loaded.recipe.data.roi is not None and run.writes:
            keep_regions(run, loaded.recipe.data.roi, data.regions)
        _announce(loaded, data.splits, run, where, how, display)
        training = loaded.recipe.training
        accelerate(
            method, training, device=where, precision=how, alone=world.alone, say=display.say
        )
        placed = place_cases(
            loaded.recipe,
            data,
            where,
            display,
            step_bytes=partial(step_bytes, loaded, precision=how, device="cuda", **sizes),
        )
        Engine(
            method,
            loaded.recipe,
            samplers=sampler_factory(
                loaded.recipe, data, strong=method.uses_strong_view, deliver=placed.deliver
            ),
            validate=make_validator(loaded.recipe, data, device=where, precision=how, world=world),
            diagnose=make_diagnosis(loaded.recipe, data, device=where, precision=how),
            run=run,
            device=where,
            precision=how,
            workers=loader_workers(training.workers, where, resident=placed.resident is not None),
            display=display,
            world=world,
            resident=placed.resident,
        ).fit(resume=resume)
        if not run.writes:
            return TrainResult(run.path, {}, time.monotonic() - started)
        run.write_manifest(peak_memory_bytes=peak_memory(where))
        summaries = _evaluate_splits(run, loaded, device, how, display)
        seconds = time.monotonic() - started
        run.write_manifest(status=STATUS_FINISHED, wall_seconds=seconds)
    return TrainResult(run.path, summaries, seconds)


def prepare_run(
    loaded: LoadedRecipe,
    run: RunFolder | None,
    load: Callable[[Path], LoadedRun],
    dataset: Dataset,
    splits: Splits,
    display: Display,
    world: World = ALONE,
) -> TrainingData:
    """Preprocess the cases, cropped to regions of interest if the recipe has a coarse run."""
    recipe = loaded.recipe
    with world.together(), located(loaded.source):
        finder = open_finder(recipe, run, load, cache=cache_root(recipe) / "regions")
        if finder is not None:
            check_coarse(finder, dataset, splits, display)
    data = prepare_cases(recipe, dataset, splits, display, finder=finder, world=world)
    if finder is not None:
        with located(loaded.source):
            for line in describe_regions(data.regions, data.labeled, dataset.labels.names):
                display.say(line)
    return data


def _run_path(
    loaded: LoadedRecipe, recipe: str | Path, output: Path | None, *, resume: bool
) -> Path:
    if output is not None:
        return output
    if resume and Path(recipe).is_dir():
        return Path(recipe)
    if resume:
        return Path("runs") / loaded.recipe.name
    return free_run_path(Path("runs"), loaded.recipe.name)


def _announce(
    loaded: LoadedRecipe,
    splits: Splits,
    run: RunFolder,
    device: torch.device,
    precision: str,
    display: Display,
) -> None:
    recipe = loaded.recipe
    display.say(
        f"{recipe.name}: method {recipe.method.name}, network {recipe.network.name}, "
        f"{recipe.training.iterations} iterations on {device} in {precision}"
    )
    display.say(
        f"cases: {len(splits.labeled)} labeled, {len(splits.unlabeled)} unlabeled, "
        f"{len(splits.validation)} validation, {len(splits.test)} test; run folder {run.path}"
    )
    if device.type == "cpu" and recipe.training.iterations > 5000:
        display.say(
            "note: this is a long training for a CPU; --set training.iterations=500 gives a first "
            "look, --device cuda uses a graphics card"
        )


def _evaluate_splits(
    run: RunFolder, loaded: LoadedRecipe, device: str, precision: str, display: Display
) -> dict[str, dict[str, Any]]:
    """Evaluate what the recipe asks for; under the literature's protocol both checkpoints."""
    manifest, recipe = run.read_manifest(), loaded.recipe
    asked = recipe.evaluation.checkpoint
    if asked == "best" and not run.best().is_file():
        asked = "last"
    summaries = {}
    for split in recipe.evaluation.splits:
        if not manifest["cases"][split]:
            continue
        common = {"device": device, "precision": precision, "display": display}
        summaries[split] = evaluate_run(run.path, split, checkpoint=asked, **common)
        write_previews(run, split)
        if recipe.protocol == "literature" and run.best().is_file():
            other = "last" if summaries[split]["checkpoint"] == "best" else "best"
            name = f"{split}-{other}"
            summaries[name] = evaluate_run(run.path, split, checkpoint=other, name=name, **common)
    return summaries
