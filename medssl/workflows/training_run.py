"""A run from its resolved recipe to its figures: check, set up, train, evaluate, draw."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from medssl.data.datasets.contents import Contents
from medssl.data.datasets.copies import recorded_copies, without
from medssl.data.datasets.split import ROLES
from medssl.data.datasets.split_file import save_splits, split_hash
from medssl.device import resolve_device, resolve_precision
from medssl.errors import MedSSLError
from medssl.evaluation.summary_table import summary_text
from medssl.inference.training_fingerprint import FINGERPRINT
from medssl.methods.base import Method
from medssl.models.coarse import keep_regions
from medssl.models.create import create_method
from medssl.models.warm_start import warm_start
from medssl.planning.footprint import step_bytes
from medssl.planning.smaller import memory_explained
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe, save_recipe
from medssl.reports.preview import RANKS, write_previews
from medssl.runs.changes import FILES, Continuation
from medssl.runs.checkpoint import is_whole
from medssl.runs.folder import STATUS_FINISHED, RunFolder, environment
from medssl.runs.given_weights import STARTED_FROM, TAUGHT_BY
from medssl.runs.lineage import lineage_of, write_lineage
from medssl.runs.lock import only_writer
from medssl.runs.privacy import Redactor
from medssl.runs.resume import (
    check_same_cases,
    check_same_experiment,
    check_same_labels,
    check_same_regions,
)
from medssl.trackers.trackers import Trackers, check_trackers
from medssl.training.acceleration import accelerate
from medssl.training.case_table import write_case_table
from medssl.training.cases import CasePlan
from medssl.training.compute import Compute
from medssl.training.distributed import joined, own_device, this_world
from medssl.training.engine import Engine
from medssl.training.exchange import (
    Exchange,
    federated_ancestor,
    refuse_other_exchange,
    refuse_unsuited,
)
from medssl.training.manifest import description, file_hashes, peak_memory, recorded, sessions
from medssl.training.prepare import TrainingData, prepare_cases
from medssl.training.regions import open_regions
from medssl.training.setup import make_feed
from medssl.training.validation import make_validation
from medssl.workflows.evaluate import evaluate_run
from medssl.workflows.teaching import open_teacher, refuse_another_teacher
from medssl.workflows.training_order import Asked, TrainingOrder, TrainResult, order_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Resolved:
    """A run that is to be trained.

    Attributes:
        loaded: its recipe.
        plan: which case is used as what.
        compute: what trains it.
        run: its folder, which may not be there yet.
        resume: whether it is there, and is gone on with.
        finished: whether it has nothing left to train.
        display: silent in all processes but the first.
        exchange: what it is trained together with, if anything.
    """

    loaded: LoadedRecipe
    plan: CasePlan
    compute: Compute
    run: RunFolder
    resume: bool
    finished: bool
    display: Display
    exchange: Exchange | None


def train_run(
    asked: Asked, order: TrainingOrder | None, display: Display, held: ExitStack
) -> TrainResult:
    """Check, set up, train, evaluate; ``held`` keeps processes and lock.

    Args:
        asked: what :func:`medssl.workflows.train.train` was asked for.
        order: what came of it; None where several processes find it together.
        display: silent in all processes but the first.
        held: keeps the processes together, and the run folder locked, until it is closed.
    """
    started = time.monotonic()
    this = _resolve(asked, order, display, held)
    run, compute, loaded, plan = this.run, this.compute, this.loaded, this.plan
    if this.finished and is_whole(run.last):
        this.display.say("the run is finished: it is evaluated again, its record stays as it is")
        summaries = _evaluate_splits(this) if run.writes else {}
        return TrainResult(run.path, summaries, time.monotonic() - started)
    regions = open_regions(loaded, run if this.resume else None, plan, compute, this.display)
    # Before a scan is read: what is wrong with the networks is said first.
    labels = plan.dataset.labels
    method = create_method(loaded.recipe, loaded.settings, labels=labels, **plan.sizes)
    for warning in method.warn_networks():
        this.display.say(f"warning: {warning}")
    start = _start_warm(this, method) | _find_teacher(this, method)
    data = prepare_cases(loaded, plan, this.display, finder=regions, world=compute.world)
    this = replace(this, plan=data.plan)  # without copies
    method.know_cases({name: len(cases) for name, cases in data.streams.items()})
    with compute.world.together():
        if this.resume:
            check_same_cases(run, split_hash(data.plan.splits))
    _begin(this, data, method, held)
    run.write_manifest(**start)
    with (
        recorded(run, compute.device),
        memory_explained(loaded, compute.device, compute.precision, labels=labels, **plan.sizes),
    ):
        if loaded.recipe.data.roi is not None and run.writes:
            keep_regions(run, loaded.recipe.data.roi, data.regions)
        _announce(this)
        _set_up(this, data, method).fit(resume=this.resume, on_resume=partial(_gone_on, this))
        if not run.writes:
            return TrainResult(run.path, {}, time.monotonic() - started)
        run.write_manifest(peak_memory_bytes=peak_memory(compute.device))
        write_case_table(method, run.path, [c.id for c in data.unlabeled])
        summaries = _evaluate_splits(this)
        result = TrainResult(run.path, summaries, time.monotonic() - started)
        for summary in summaries.values():
            logger.info("\n%s", summary_text(summary).rstrip())
        for line in result.last_words:
            logger.info("%s", line)
        run.write_manifest(status=STATUS_FINISHED, wall_seconds=result.seconds)
    return result


def _resolve(
    asked: Asked, order: TrainingOrder | None, display: Display, held: ExitStack
) -> _Resolved:
    """Decide where the run is trained; one to go on with is locked, and must be the same."""
    world = this_world()
    device = resolve_device(own_device(asked.device, world))
    held.enter_context(joined(world, device))
    with world.together():
        order = order or order_of(asked, display)
        check_trackers(order.loaded.recipe.training.loggers)
        wanted = asked.precision or order.loaded.recipe.training.precision
        precision = resolve_precision(wanted, device)
    run = RunFolder(world.from_first(order.path), writes=world.first)
    with world.together():
        if asked.exchange is not None:
            regions = bool(order.plan.dataset.labels.regions)
            refuse_unsuited(order.loaded.recipe, world.size, regions=regions)
        if order.resume:
            refuse_other_exchange(run, asked.exchange)
            if run.writes:
                held.enter_context(only_writer(run.path, display.say))
            check_same_experiment(order.loaded, run)
            check_same_labels(run, order.plan.dataset)
            if not order.finished:
                check_same_regions(run, order.plan.dataset)
            # Copies are found when the files have been read; here those that were found then.
            known = without(order.plan.splits, recorded_copies(run.splits))
            check_same_cases(run, split_hash(known))
    compute = Compute(device, precision, world)
    return _Resolved(
        order.loaded,
        order.plan,
        compute,
        run,
        order.resume,
        order.finished,
        display,
        asked.exchange,
    )


def _start_warm(this: _Resolved, method: Method) -> dict[str, Any]:
    """Load the weights that the recipe starts from; a run with a checkpoint has its own.

    Returns:
        What is added to the manifest.

    Raises:
        MedSSLError: they do not fit, or are not those that the run was begun with.
    """
    given, run = this.loaded.recipe.network.given, this.run
    if given is None or (this.resume and (run.last.is_file() or run.previous.is_file())):
        return {}
    with this.compute.world.together():
        record = warm_start(method, given, this.plan.dataset.labels, this.display.say)
        begun = (run.read_manifest() if this.resume else {}).get(STARTED_FROM)
        if begun is not None and begun["sha256"] != record["sha256"]:
            raise MedSSLError(
                "the weights that the run was begun with have changed, and it has no checkpoint",
                where=given,
                fix="train into another --output",
            )
    return {STARTED_FROM: record}


def _find_teacher(this: _Resolved, method: Method) -> dict[str, Any]:
    """Give a method the trained model that it learns from.

    Returns:
        What is added to the manifest.

    Raises:
        MedSSLError: it does not suit, or is not the one that the run was begun with.
    """
    if not this.loaded.settings.taught:
        return {}
    with this.compute.world.together():
        teacher, record = open_teacher(this.loaded, this.plan, this.display.say)
        if this.resume:
            refuse_another_teacher(this.run, record)
    method.learn_from(teacher)
    return {TAUGHT_BY: record}


def _begin(this: _Resolved, data: TrainingData, method: Method, held: ExitStack) -> None:
    """Make the run folder, lock it, and write down what is trained."""
    run, recipe, world, plan = this.run, this.loaded.recipe, this.compute.world, this.plan
    if recipe.privacy == "strict":
        run.redactor = Redactor(plan.dataset)
    with world.together():
        if run.writes:
            run.create(resume=this.resume)
            if not this.resume:
                held.enter_context(only_writer(run.path, this.display.say))
                save_recipe(recipe, run.recipe)
            if not this.resume or not run.splits.is_file():  # killed in between
                save_splits(plan.splits, run.splits)
                run.write_manifest(**{FILES: file_hashes(plan)})
            if not run.lineage.is_file():
                contents = Contents(plan.files, plan.dataset.spatial_unit)
                lineage = lineage_of(recipe, plan.dataset, plan.splits, contents)
                if this.exchange is not None:
                    others = (*lineage.ancestors, federated_ancestor(this.exchange))
                    lineage = replace(lineage, ancestors=others)
                write_lineage(lineage, run)
    surroundings = environment(this.compute.device, this.compute.precision)
    run.write_manifest(
        **surroundings,
        **description(this.loaded, plan, method),
        sessions=sessions(run.read_manifest() if this.resume else {}, surroundings),
        **({} if data.fingerprint is None else {FINGERPRINT: data.fingerprint.as_dict()}),
        processes=world.size,
    )


def _gone_on(this: _Resolved, step: int) -> None:
    """Write down what was changed of a run that goes on from an iteration."""
    if this.run.writes:
        ids = {role: [c.id for c in getattr(this.plan.splits, role)] for role in ROLES}
        files = file_hashes(this.plan)
        Continuation(this.run, this.loaded.recipe, files, ids).record(step, this.display.say)


def _set_up(this: _Resolved, data: TrainingData, method: Method) -> Engine:
    """Return the engine, with networks and cases where they are fast."""
    loaded, recipe, compute = this.loaded, this.loaded.recipe, this.compute
    accelerate(method, recipe.training, compute, this.display.say)
    sizes = {"labels": data.plan.dataset.labels, **data.plan.sizes}
    need = partial(step_bytes, loaded, precision=compute.precision, device="cuda", **sizes)
    views = method.settings.unlabeled_views
    ids = [case.id for case in data.unlabeled]
    write = partial(write_case_table, folder=this.run.path, ids=ids)
    segments = loaded.settings.segments
    engine = Engine(
        method,
        recipe,
        make_feed(recipe, data, compute, this.display, views=views, step_bytes=need),
        validation=make_validation(recipe, data, compute, write) if segments else None,
        run=this.run,
        compute=compute,
        display=this.display,
    )
    if this.exchange is not None:
        engine.join(this.exchange, len({case.patient for case in this.plan.splits.labeled}))
    return engine


def _announce(this: _Resolved) -> None:
    """Say what is trained, where, on how many cases."""
    recipe, display, splits = this.loaded.recipe, this.display, this.plan.splits
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
    if not this.loaded.settings.segments:
        this.display.say(f"next: medssl train RECIPE --init {run.path}")
        return {}
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
    shown = () if this.finished else recipe.training.loggers  # once, when it has been trained
    trackers = Trackers(shown, run, this.display.say)
    for split in recipe.evaluation.splits:
        if not manifest["cases"][split]:
            continue
        summaries[split] = evaluate(split, checkpoint=asked)
        pictures = {
            f"{split}/{rank}": path
            for rank, path in zip(RANKS, write_previews(run, split), strict=False)
        }
        # One later than the last numbers, which TensorBoard would drop as made again.
        trackers.pictures(pictures, int(manifest.get("iterations_done", 0)) + 1)
        if recipe.protocol == "literature" and run.best().is_file():
            other = "last" if summaries[split]["checkpoint"] == "best" else "best"
            name = f"{split}-{other}"
            summaries[name] = evaluate(split, checkpoint=other, name=name)
    trackers.close()
    return summaries
