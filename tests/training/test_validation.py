"""What is measured at a validation, and which streams a stage is fed with."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from patch_samplers import make_case
from torch import Tensor, nn

from medssl.data.datasets.case import CachedCase, LabelMap
from medssl.data.patches.sampling import PatchSettings
from medssl.methods.base import Method, Progress
from medssl.methods.settings import MethodSettings, Stage
from medssl.settings.recipe import Recipe
from medssl.training import validation
from medssl.training.compute import Compute
from medssl.training.prepare import TrainingData
from medssl.training.setup import make_samplers

LABELS = LabelMap((0, 1, 2), ("background", "one", "two"))
CPU = Compute(torch.device("cpu"))


class Says:
    """A predictor that says the same of every image."""

    def __init__(self, classes: np.ndarray) -> None:
        self.says = classes

    def classes(self, image: Tensor) -> np.ndarray:
        return self.says


def case(label: np.ndarray, name: str = "a") -> CachedCase:
    return CachedCase(name, name, np.zeros((1, *label.shape), np.float16), label, {})


def line(*classes: int) -> np.ndarray:
    return np.array(classes, np.uint8).reshape(1, 1, -1)


def test_the_dice_of_a_case_by_hand() -> None:
    """Of class 1 two of three are found and one too many; class 2 is nowhere, 255 not asked."""
    truth, says = line(0, 1, 1, 1, 0, 255), line(0, 1, 1, 0, 1, 2)
    found = validation.case_dice(Says(says), case(truth), LABELS)  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx([2 * 2 / (3 + 3), np.nan], nan_ok=True)
    cut = replace(case(truth), outside=(5, 2, 0))
    found = validation.case_dice(Says(says), cut, LABELS)  # type: ignore[arg-type]
    assert found.tolist() == pytest.approx([2 * 2 / (5 + 3), np.nan], nan_ok=True), "two more of it"


def test_the_mean_is_over_structures_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    says = iter([line(1, 1, 0), line(1, 0, 2)])
    given = []

    def predictor(model: nn.Module, *_: Any, **__: Any) -> Any:
        given.append(model)
        return SimpleNamespace(classes=lambda image: next(says))

    monkeypatch.setattr(validation, "Predictor", predictor)
    plan = SimpleNamespace(dataset=SimpleNamespace(labels=LABELS), sizes={"channels": 1})
    cases = (case(line(1, 1, 0)), case(line(1, 1, 2), "b"))
    data: Any = SimpleNamespace(plan=plan, validation=cases)
    model = nn.Identity()
    dice = validation.make_dice(Recipe(), data, CPU)(model)
    assert dice == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert given == [model]


class Asked(Method):
    """Notes its mode and what is drawn while it is diagnosed."""

    def make_networks(self, build: Any) -> None:
        self.net = nn.Dropout()
        self.seen: list[tuple[bool, bool, float]] = []

    def diagnose(self, image: Tensor, label: Tensor, progress: Progress) -> dict[str, Tensor]:
        self.seen.append((self.training, self.net.training, float(torch.rand(()))))
        return {"mean": torch.tensor(float("nan") if len(self.seen) == 2 else len(self.seen))}


def test_a_diagnosis_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "get_method", lambda name: Asked)
    cases = tuple(make_case(n, channels=1) for n in ("a", "bb", "ccc"))
    recipe = Recipe.model_validate({"training": {"patch": [6, 6, 6]}})
    data: Any = SimpleNamespace(validation=cases)
    diagnose = validation.make_diagnosis(recipe, data, CPU)
    assert diagnose is not None
    method = Asked(MethodSettings(), lambda **_: nn.Identity(), num_classes=3, spatial_dims=3)
    method.train()
    method.net.eval()  # a part that rests stays so
    torch.manual_seed(5)
    before = torch.get_rng_state()
    terms = diagnose(method, Progress("train", 0, 9))
    assert torch.equal(torch.get_rng_state(), before)
    assert [modes[:2] for modes in method.seen] == [(False, False)] * 3
    assert len({drawn for *_, drawn in method.seen}) == 3
    assert (method.training, method.net.training) == (True, False)
    assert terms == {"mean": 2.0}, "the mean of 1 and 3; what is not known does not count"


def test_the_streams_of_a_stage() -> None:
    """Who is drawn from where, how often around a structure, with which views and seed."""
    recipe = Recipe.model_validate(
        {
            "seed": 11,
            "training": {
                "patch": [6, 6, 6],
                "labeled_batch": 2,
                "unlabeled_batch": 3,
                "foreground_fraction": 0.75,
            },
        }
    )
    labeled, unlabeled = (make_case("a"),), (make_case("bb", labeled=False),)
    data = TrainingData(SimpleNamespace(), labeled, unlabeled, ())  # type: ignore[arg-type]
    make = make_samplers(recipe, data, PatchSettings([6, 6, 6]), views=())
    stage = Stage("one", 5, streams=("labeled", "unlabeled", "masks"), batch_sizes={"masks": 4})
    streams = {name: (s.stream, s.cases[0].id) for name, s in make(stage).items()}
    assert {k: id_ for k, (_, id_) in streams.items()} == {
        "labeled": "a",
        "unlabeled": "bb",
        "masks": "a",
    }
    found = {k: (s.name, s.seed, s.batch_size, s.labels_only) for k, (s, _) in streams.items()}
    assert found == {
        "labeled": ("one/labeled", 11, 2, False),
        "unlabeled": ("one/unlabeled", 11, 3, False),
        "masks": ("one/masks", 11, 4, True),
    }
    shares = {k: s.foreground_fraction for k, (s, _) in streams.items()}
    assert shares == {"labeled": 0.75, "unlabeled": 0.0, "masks": 0.75}
    assert set(make(Stage("two", 5, streams=("labeled",)))) == {"labeled"}
    asked: dict[str, Any] = {}

    def noted(cases: Any, stream: Any, settings: Any) -> Any:
        asked[stream.name] = stream.views

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medssl.training.setup.PatchSampler", noted)
        make_samplers(recipe, data, PatchSettings([6, 6, 6]), views=("strong",))(stage)
    assert asked == {"one/labeled": (), "one/unlabeled": ("strong",), "one/masks": ()}
