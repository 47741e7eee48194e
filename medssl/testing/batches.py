"""Batches of any size, any number of structures, and a budget that is spent exactly."""

from __future__ import annotations

import torch

from medssl.settings.recipe import Recipe
from medssl.testing.contract import NotApplicable, expect
from medssl.testing.subject import BUDGET, Subject, make_batch, optimizers, step

STREAMS = {"labeled", "unlabeled", "masks"}


def recipe_of(dims: int, labeled: int, unlabeled: int) -> Recipe:
    """Return a recipe with these batch sizes and a small network."""
    training = {
        # Equal sides: methods that turn patches refuse others. The network is small_network's kind.
        "patch": [16] * dims,
        "labeled_batch": labeled,
        "unlabeled_batch": unlabeled,
    }
    network = {"name": "unet", "dropout": 0.1}
    return Recipe.model_validate({"training": training, "network": network})


def check_description(subject: Subject) -> None:
    """The class says what it is and which paper it follows."""
    expect(subject.method.__doc__, "the method's class has a docstring", "none")
    expect(subject.method.Settings.paper, "its settings name the paper (or say there is none)", "")


def check_stages_spend_the_budget(subject: Subject) -> None:
    """Stages have different names, known streams, and as many iterations as the budget."""
    method = subject.make()
    for budget in (2, 3, 7, 100, 6001):
        stages = method.stages(budget)
        lengths = {s.name: s.iterations for s in stages}
        expect(len(lengths) == len(stages), "stages have different names", [s.name for s in stages])
        expect(sum(lengths.values()) == budget, f"the stages have {budget} iterations", lengths)
        expect(min(lengths.values()) >= 1, "each stage has an iteration", lengths)
        for s in stages:
            known = bool(s.streams) and set(s.streams) <= STREAMS
            expect(known, f"stage {s.name!r} draws of {sorted(STREAMS)}", s.streams)
        expect(stages == method.settings.stages(budget), "the settings say the same stages", stages)
    used = any("unlabeled" in s.streams for s in method.stages(BUDGET))
    said = subject.method.Settings.uses_unlabeled
    expect(used == said, f"Settings.uses_unlabeled is {used}, as the stages draw", said)


def check_batches_of_different_size(subject: Subject, *, labeled: int, unlabeled: int) -> None:
    """A step works for unequal and odd batches, unless an official preset refuses them."""
    refused = list(subject.resolved().check_recipe(recipe_of(subject.dims, labeled, unlabeled)))
    if subject.settings.get("preset") == "official" and refused:
        raise NotApplicable(f"refused with a reason: {refused[0]}")
    expect(not refused, f"batches of {labeled} and {unlabeled} are not refused", refused)
    for method, stage in subject.in_stages():
        batch = make_batch(method, stage, labeled=labeled, unlabeled=unlabeled)
        total, _ = step(method, stage, 0, optimizers(method, stage), batch)
        expect(torch.isfinite(total), f"the loss of stage {stage.name!r} is finite", total)


def check_equal_even_batches_are_accepted(subject: Subject) -> None:
    """No method refuses four labeled and four unlabeled patches."""
    # A published code may know one labeled patch only.
    sizes = (4, 1) if subject.settings.get("preset") == "official" else (4,)
    settings = subject.resolved()
    refusals = [list(settings.check_recipe(recipe_of(subject.dims, n, n))) for n in sizes]
    expect([] in refusals, f"equal batches of {sizes[0]} are not refused", refusals)


def check_any_number_of_classes(subject: Subject) -> None:
    """A step works, with a finite loss, for this number of classes."""
    for method, stage in subject.in_stages():
        total, _ = step(method, stage, 0, optimizers(method, stage), make_batch(method, stage))
        expect(torch.isfinite(total), f"the loss of stage {stage.name!r} is finite", total)
