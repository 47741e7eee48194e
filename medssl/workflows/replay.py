"""Build a training batch again from its address, and say what is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medssl.data.datasets.case import IGNORE_INDEX, LabelMap
from medssl.data.datasets.copies import recorded_copies, without
from medssl.data.datasets.split_file import split_hash
from medssl.device import autocast, resolve_device, resolve_precision
from medssl.errors import MedSSLError
from medssl.methods.base import Method, Progress
from medssl.methods.settings import Stage
from medssl.models.create import create_method
from medssl.paths import AnyPath
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.runs.budget import extended
from medssl.runs.checkpoint import load_newest, load_weights
from medssl.runs.folder import RunFolder, open_run, read_lines
from medssl.settings.recipe import Recipe
from medssl.training.batches import batch_numbers, to_batch, torch_seed
from medssl.training.cases import plan_cases
from medssl.training.compute import Compute
from medssl.training.prepare import TrainingData, prepare_cases
from medssl.training.regions import open_regions
from medssl.training.setup import make_samplers, patch_settings
from medssl.workflows.teaching import taught_by


@dataclass(frozen=True)
class Patch:
    """What one patch of a batch holds.

    Attributes:
        stream: ``labeled``, ``unlabeled`` or ``masks``.
        batch: which batch of the stream it belongs to.
        start, size: the crop in voxels of the preprocessed case, before augmentation.
        lowest, highest: of the finite voxels of the image; None where there are none.
        not_finite: number of voxels that are NaN or infinite.
        labels: label values of the dataset that occur; empty without a label.
    """

    stream: str
    batch: int
    case: str
    start: tuple[int, ...]
    size: tuple[int, ...]
    lowest: float | None
    highest: float | None
    not_finite: int
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Replay:
    """A batch of a run, and the losses of the run's newest checkpoint on it.

    Attributes:
        iteration: 1-based, as in metrics.jsonl.
        checkpoint: the file, saved after ``checkpoint_step`` iterations of all stages.
        terms: means over accumulated batches, with ``loss/total``.
    """

    stage: str
    iteration: int
    patches: tuple[Patch, ...]
    checkpoint: Path
    checkpoint_step: int
    terms: dict[str, float]


def replay(
    run: AnyPath,
    *,
    iteration: int | None = None,
    stage: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    display: Display | None = None,
) -> Replay:
    """Build the batch of an iteration again. Nothing is trained, nothing in the run changes.

    Args:
        run: the run folder.
        iteration: 1-based within its stage, as in metrics.jsonl; by default the one that was last
            recorded as not finite.
        stage: name of the stage; by default the one recorded for the iteration, else the last.

    Raises:
        MedSSLError: not a run, no checkpoint, no such iteration, or the cases have changed.

    Example:
        >>> batch = medssl.replay("runs/mine", iteration=20)
        >>> batch.iteration, batch.checkpoint_step
        (20, 20)
    """
    display = display or Display(quiet=True)
    folder = open_run(run)
    loaded = load_recipe(folder.recipe)
    where = resolve_device(device)
    how = resolve_precision(precision or loaded.recipe.training.precision, where)
    compute = Compute(where, how)
    plan = plan_cases(loaded, display)
    known = without(plan.splits, recorded_copies(folder.splits))
    recorded = folder.read_manifest().get("splits_sha256")
    if recorded and recorded != split_hash(known):
        raise MedSSLError(
            "the cases of the run have changed since it was started: its batches are lost",
            where=folder.splits,
            fix="restore the dataset as it was",
        )
    finder = open_regions(loaded, folder, plan, compute, display)
    labels = plan.dataset.labels
    method = create_method(loaded.recipe, loaded.settings, labels=labels, **plan.sizes).to(where)
    if loaded.settings.taught:
        method.learn_from(taught_by(folder, loaded, plan).to(where))
    data = prepare_cases(loaded, plan, display, finder=finder)
    saved, path, _ = load_newest(
        (folder.last, folder.previous), map_location=where, method=loaded.recipe.method.name
    )
    stages = extended(method.stages(loaded.recipe.training.iterations), saved)
    chosen, number = _choose(folder, stages, stage, iteration)
    method.start_stage(chosen.name)
    load_weights(method, saved["method_state"], path)
    method.train()
    patches, terms = _take(loaded.recipe, data, method, chosen, number, compute)
    return Replay(chosen.name, number, patches, path, saved["step"], terms)


def _take(
    recipe: Recipe,
    data: TrainingData,
    method: Method,
    stage: Stage,
    number: int,
    compute: Compute,
) -> tuple[tuple[Patch, ...], dict[str, float]]:
    """Return the patches of iteration ``number`` (1-based) of a stage, and the losses on them."""
    training = recipe.training
    settings = patch_settings(training, recipe.spec, data)
    samplers = make_samplers(recipe, data, settings, views=method.settings.unlabeled_views)(stage)
    patches: list[Patch] = []
    sums: dict[str, float] = {}
    batches = batch_numbers(method, stage.name, training.accumulate, number - 1)
    for micro, batch in enumerate(batches):
        streams = {name: sampler.batch(batch) for name, sampler in samplers.items()}
        for name, sampler in samplers.items():
            for position, place in enumerate(sampler.addresses(batch)):
                patch = {k: v[position] for k, v in streams[name].items()}
                patches.append(_describe(name, batch, place, patch, data.plan.dataset.labels))
        progress = Progress(stage.name, number - 1, stage.iterations, recipe.seed, micro)
        for key, value in _losses(method, streams, progress, compute).items():
            sums[key] = sums.get(key, 0.0) + value / training.accumulate
    return tuple(patches), sums


def _choose(
    folder: RunFolder, stages: Sequence[Stage], stage: str | None, iteration: int | None
) -> tuple[Stage, int]:
    """Return the stage and the 1-based iteration that are meant."""
    recorded = read_lines(folder.nonfinite) if folder.nonfinite.is_file() else []
    recorded = [r for r in recorded if stage in (None, r["stage"])]
    if iteration is None:
        if not recorded:
            raise MedSSLError(
                "no iteration of the run is recorded as not finite",
                where=folder.nonfinite,
                fix="say which one to replay: --iteration N",
            )
        stage, iteration = recorded[-1]["stage"], int(recorded[-1]["iteration"])
    elif stage is None:
        same = [r["stage"] for r in recorded if r["iteration"] == iteration]
        stage = same[-1] if same else stages[-1].name
    found = next((s for s in stages if s.name == stage), None)
    if found is None:
        raise MedSSLError(
            f"the run has no stage {stage!r}",
            where="--stage",
            fix=f"name one of {', '.join(s.name for s in stages)}",
        )
    if not 1 <= iteration <= found.iterations:
        raise MedSSLError(
            f"stage {found.name!r} has no iteration {iteration}",
            where="--iteration",
            fix=f"give a number from 1 to {found.iterations}",
        )
    return found, iteration


def _describe(
    stream: str, batch: int, place: Mapping[str, Any], patch: Mapping[str, Tensor], labels: LabelMap
) -> Patch:
    lowest = highest = None
    bad, values = 0, []
    if "image" in patch:
        finite = patch["image"][patch["image"].isfinite()]
        bad = patch["image"].numel() - finite.numel()
        if finite.numel():
            lowest, highest = float(finite.min()), float(finite.max())
    if "label" in patch:
        for index in patch["label"].unique().tolist():
            value = labels.ignore_value if index == IGNORE_INDEX else labels.values[index]
            values.append(IGNORE_INDEX if value is None else value)
    start, size = tuple(place["start"]), tuple(place["size"])
    return Patch(
        stream, batch, place["case"], start, size, lowest, highest, bad, tuple(sorted(values))
    )


def _losses(
    method: Method,
    streams: Mapping[str, Mapping[str, Tensor]],
    progress: Progress,
    compute: Compute,
) -> dict[str, float]:
    """Return the loss and its terms, computed as in training."""
    torch.manual_seed(torch_seed(progress))
    with autocast(compute.device, compute.precision):
        output = method.training_step(to_batch(streams, compute.device), progress)
        total = torch.stack([loss.detach().float() for loss in output.losses()]).sum()
    terms = {"loss/total": total, **output.terms}
    return {name: float(value) for name, value in terms.items()}
