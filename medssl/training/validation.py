"""What is measured at each validation: a predictor's Dice, and what a method says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from medssl.data.datasets.case import CachedCase, LabelMap
from medssl.data.patches.sampling import PatchSampler, PatchSettings, Stream
from medssl.device import autocast
from medssl.evaluation.overlap import confusion_matrix, dice_and_iou, of_structures
from medssl.inference.predictor import Predictor
from medssl.inference.task import Task
from medssl.methods.base import Method, Progress
from medssl.methods.registry import get_method
from medssl.ops.modes import eval_mode
from medssl.settings.recipe import Recipe
from medssl.training.compute import Compute
from medssl.training.prepare import TrainingData

MAX_DIAGNOSED = 16
"""Patches that a method is diagnosed on: enough for a mean, and cheap beside a validation."""


@dataclass(frozen=True)
class Validation:
    """What is measured at each validation.

    Attributes:
        dice: returns the mean foreground Dice of a predictor on the validation cases.
        diagnose: returns what the method says about itself on them; None if it says nothing.
        write: writes down what the method made of each unlabeled case so far.
    """

    dice: Callable[[nn.Module], float]
    diagnose: Callable[[Method, Progress], dict[str, float]] | None = None
    write: Callable[[Method], None] | None = None


def make_validation(
    recipe: Recipe, data: TrainingData, compute: Compute, write: Callable[[Method], None]
) -> Validation | None:
    """Return what a run measures at each validation; None without validation cases."""
    if not data.validation:
        return None
    diagnose = make_diagnosis(recipe, data, compute)
    return Validation(make_dice(recipe, data, compute), diagnose, write)


def make_dice(recipe: Recipe, data: TrainingData, compute: Compute) -> Callable[[nn.Module], float]:
    """Return a function from a predictor to its mean Dice of structures on the validation cases.

    Several processes divide the cases and get the same mean. Measured on the preprocessed grid,
    without post-processing, as a signal for selection; the figures of a run come from the evaluator
    on the native grid.
    """
    labels, world = data.plan.dataset.labels, compute.world
    channels = data.plan.sizes["channels"]
    task = Task(recipe.spec, labels, tuple(recipe.training.patch), channels)
    inference = recipe.inference.model_copy(update={"largest_component": False})

    def dice(model: nn.Module) -> float:
        predictor = Predictor(
            model, task, inference, device=compute.device, precision=compute.precision
        )
        mine = world.share(data.validation)
        scores = world.collect([case_dice(predictor, c, labels) for c in mine])
        return float(np.nanmean(np.concatenate(scores)))

    return dice


def make_diagnosis(
    recipe: Recipe, data: TrainingData, compute: Compute
) -> Callable[[Method, Progress], dict[str, float]] | None:
    """Return a function that asks a method about itself on fixed patches of validation cases.

    One patch without augmentation per case, at most 16, each centered on a structure. Terms are
    means over the patches that have one. The method's modes and torch's generator stay as they
    were.
    """
    if get_method(recipe.method.name).diagnose is Method.diagnose:
        return None
    device = compute.device
    patches = PatchSampler(
        data.validation,
        Stream("diagnosis", recipe.seed, batch_size=1, foreground_fraction=1.0),
        PatchSettings(recipe.training.patch, slice_axis=recipe.spec.slice_axis),
    )
    cards = [device] if device.type == "cuda" else []

    @torch.no_grad()
    def diagnose(method: Method, progress: Progress) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        with torch.random.fork_rng(cards), eval_mode(method):
            for number in range(min(len(data.validation), MAX_DIAGNOSED)):
                torch.manual_seed(number)
                patch = {k: v.to(device) for k, v in patches.batch(number).items()}
                with autocast(device, compute.precision):
                    terms = method.diagnose(patch["image"], patch["label"], progress)
                for key, value in terms.items():
                    found.setdefault(key, []).append(float(value))
        known = {k: [v for v in values if math.isfinite(v)] for k, values in found.items()}
        return {k: float(np.mean(values)) for k, values in known.items() if values}

    return diagnose


def case_dice(predictor: Predictor, case: CachedCase, labels: LabelMap) -> np.ndarray:
    """Return the Dice of each structure of a case, NaN where absent from both."""
    assert case.label is not None
    image = torch.from_numpy(np.array(case.image, dtype=np.float32))
    classes = predictor.classes(image)
    matrix = confusion_matrix(classes, np.asarray(case.label), labels.num_classes)
    if case.outside:
        matrix[:, 0] += case.outside  # there all is called background
    members = [labels.classes_of(structure) for structure in labels.structures]
    return dice_and_iou(of_structures(matrix, members))[0]
