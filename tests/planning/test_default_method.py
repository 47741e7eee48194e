"""What a plan chooses where the user does not: the method, and a CPU's precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import write_dataset
from planned import ATRIUM, COUNTS, SMALL_STEP, order

from medssl.data.datasets.decathlon import read_dataset
from medssl.planning.default_method import (
    best_method,
    chosen,
    method_for,
    short_of,
    with_cost,
)
from medssl.planning.draft import make_draft
from medssl.planning.fit import make_plan
from medssl.planning.measuring import QUICKER, Measuring, Timed
from medssl.planning.spec_guess import SpecGuess
from medssl.progress import Display

GUESS = SpecGuess("mr", "the test")


def test_unlabeled_scans_decide_between_copy_paste_and_labels_alone(tmp_path):
    labeled_only = read_dataset(write_dataset(tmp_path / "d", cases=4))
    assert method_for(labeled_only, None).method == "supervised"
    assert method_for(labeled_only, 4).method == "supervised"
    hidden = method_for(labeled_only, 3)  # the fourth label is hidden: its scan is unlabeled
    assert hidden.method == "bcp"
    assert "measured best" in hidden.reason


def test_a_training_too_short_for_copy_paste_gets_labels_alone():
    assert short_of(1000) is None
    short = short_of(990)
    assert short is not None
    assert short.method == "supervised"
    assert "990 iterations" in short.reason


def test_the_recipe_says_why_and_at_what_cost():
    own = chosen(order(), method_for_hidden())
    seconds = {"bcp": 3.0, "supervised": 2.0}
    priced = with_cost(
        own,
        lambda o: make_draft(ATRIUM, COUNTS, o, GUESS),
        lambda loaded: seconds[loaded.recipe.method.name],
    )
    made = make_plan(ATRIUM, COUNTS, priced, GUESS, measure=lambda _: SMALL_STEP)
    assert "  # measured best" in made.text
    assert "here 1.5 times as long an iteration" in made.text
    assert made.method_reason == priced.method_reason
    elsewhere = with_cost(own, lambda o: make_draft(ATRIUM, COUNTS, o, GUESS), None)
    assert f"where it was measured {best_method()[1].cost} times" in elsewhere.method_reason


def method_for_hidden():
    class Scans:
        training = ()
        unlabeled = ("one",)

    return method_for(Scans(), None)


@pytest.mark.parametrize("measured", [Timed("bf16", "twice as fast", 0.25), None])
def test_a_cpu_trains_in_the_precision_that_was_quicker(measured):
    made = make_plan(
        ATRIUM,
        COUNTS,
        order(),
        GUESS,
        measure=lambda _: replace(SMALL_STEP, seconds_per_voxel=1.0),
        timing=lambda _: measured,
    )
    training = made.loaded.recipe.training
    assert training.precision == (measured.precision if measured else "fp32")
    assert ("twice as fast" in made.text) is (measured is not None)
    voxels = training.patch[0] * training.patch[1] * training.patch[2]
    assert made.seconds == (measured.seconds if measured else voxels)


@pytest.mark.parametrize(("ratio", "expected"), [(QUICKER + 0.1, "bf16"), (QUICKER - 0.1, "fp32")])
def test_half_precision_must_be_clearly_quicker(monkeypatch, ratio, expected):
    monkeypatch.setattr("medssl.device.cpu_computes_bf16", lambda: True)
    seconds = {"fp32": ratio, "bf16": 1.0}
    monkeypatch.setattr(Measuring, "_seconds", lambda self, loaded, how: seconds[how])
    here = Measuring(2, 1, "cpu", "cpu", Display(quiet=True))
    timed = here.precision(recipe())
    assert timed is not None
    assert (timed.precision, timed.seconds) == (expected, seconds[expected])


def test_steps_of_a_recipe_are_timed_once(monkeypatch):
    asked = []
    timer = "medssl.planning.pace.seconds_per_iteration"
    monkeypatch.setattr(timer, lambda loaded, **how: asked.append(how["precision"]) or 1.0)
    monkeypatch.setattr("medssl.device.cpu_computes_bf16", lambda: True)
    here = Measuring(2, 1, "cpu", "cpu", Display(quiet=True))
    here.seconds(recipe())
    here.precision(recipe())
    assert asked == ["fp32", "bf16"]


def test_a_cpu_without_half_precision_is_not_timed(monkeypatch):
    monkeypatch.setattr("medssl.device.cpu_computes_bf16", lambda: False)
    assert Measuring(2, 1, "cpu", "cpu", Display(quiet=True)).precision(recipe()) is None


def recipe():
    return make_draft(ATRIUM, COUNTS, order(), GUESS).loaded
