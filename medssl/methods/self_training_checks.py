"""What ``self_training`` refuses of a recipe and of networks, and what it warns of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from medssl.methods.self_training_slots import Slots
from medssl.methods.settings import Sections

if TYPE_CHECKING:
    from torch import nn

SMALLEST = 32
"""Least side of a patch in voxels whose halves are worth changing places."""
FEW = 5
"""Classes from which on some are left when those that are confused are gone."""


def refused(chosen: Slots, recipe: Sections) -> Iterator[str]:
    """Say what no code was read for, and which parts need another one."""
    promised = [key.partition("/")[0] for key in chosen.presets if "/" in key]
    kinds, by, alone = chosen.kinds, f"teacher {chosen.teacher}", chosen.teachers == 1
    named, view = f"preset {chosen.preset} of self_training", chosen.view
    if chosen.variant == "official" and chosen.preset not in promised:
        yield (
            f"{named} has no variant official: only {' and '.join(promised)} have one; set "
            "method.variant to corrected"
        )
    if chosen.selection == "agreement" and alone:
        yield f"method.selection agreement compares two teachers, {by} is one: take slow or dual"
    if chosen.arbiter == "student" and alone:
        yield f"method.arbiter decides between two teachers, {by} is one: take slow or dual"
    if "case" in chosen.weight and chosen.teacher == "student":
        yield f"method.weight case compares the student with its teacher, not {by}: take ema"
    if view == "by_turn" and chosen.teacher != "dual":
        yield f"method.view by_turn needs teachers that take turns: {by} does not"
    if chosen.views == 2 and view != "strong":
        yield f"method.views 2 needs method.view strong, not {view}"
    if chosen.adapt == "otsu" and (view != "strong" or chosen.views == 2 or "paste" in kinds):
        yield (
            "method.adapt otsu shows a scan one strong view, or two joined ones: set method.view "
            "to strong, method.views to 1 and method.mixing to none or cutmix"
        )
    if chosen.box == "rectangle" and len(recipe.training.patch) != 2:
        yield "method.box rectangle is one of two axes: training.patch has three"
    if len(set(kinds)) < len(kinds) or "paste" in kinds[:-1]:
        yield "method.mixing takes each kind once, and paste at the end"


def unfit(chosen: Slots, classes: int, network: nn.Module) -> Iterator[str]:
    """Say what so many classes, background included, are too few for; refuse a network without taps
    where its features are dropped.
    """
    if chosen.shrink_weight > 0 and classes < FEW:
        yield f"method.shrink_weight takes {FEW} classes, of {classes} too few stay: set it to 0"
    if chosen.feature_drop > 0:
        from medssl.networks.taps import taps_of

        taps_of(network)


def warned(chosen: Slots, recipe: Sections) -> Iterator[str]:
    """Say which parts do nothing with this recipe, or hardly any good."""
    training, kinds = recipe.training, set(chosen.kinds)
    if training.unlabeled_batch == 1 and kinds & {"cutmix", "cube"}:
        yield (
            "method.mixing cutmix and cube do nothing with training.unlabeled_batch 1: what is "
            "mixed in comes from another patch of the batch"
        )
    blocks = kinds & {"shuffle", "cube"}
    if blocks and min(training.patch) < SMALLEST:
        yield (
            f"method.mixing {blocks.pop()} on a patch of {'x'.join(map(str, training.patch))}: "
            f"blocks of sides below {SMALLEST // 2} voxels are hardly of any use"
        )
    for key in ("elr_weight", "shrink_weight"):
        if "case" in chosen.weight and getattr(chosen, key) > 0:
            yield f"method.{key} asks no scan's trust: method.weight case does not reach its term"
    total = training.iterations
    if chosen.teacher == "dual" and chosen.longest_turn(total) > total:
        yield "method.turn is longer than the run: the second teacher may never have a turn"
    if chosen.teacher == "future":
        yield f"method.teacher future is experimental and costs {chosen.peeks + 1} times as much"
