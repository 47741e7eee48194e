"""Sites without labels, pseudo-labels of the common model, and FedProx."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import crash_after, same_bits, small_recipe, write_dataset, write_recipe
from torch import Tensor

import medssl
from medssl.errors import MedSSLError
from medssl.methods.registry import get_method
from medssl.methods.self_training import SelfTraining
from medssl.methods.self_training_teachers import guess_of
from medssl.runs.checkpoint import load_checkpoint
from medssl.runs.folder import RunFolder
from medssl.testing.subject import BUDGET, Subject, progress_of
from medssl.training.exchange import PARTS, Part, Update
from medssl.training.exchanger import Exchanger


@dataclass
class Echo:
    """An exchange whose others answer with a share of what they are sent."""

    every: int = 3
    share: float = 1.0
    proximal: float = 0.0
    parts: tuple[Part, ...] = PARTS
    name: str = "echo"
    norms: Any = "shared"
    updates: list[Update] = field(default_factory=list)

    def open(self, run: Path, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        return None

    def swap(self, update: Update, stopped: Callable[[], bool]) -> Mapping[str, Tensor] | None:
        self.updates.append(update)
        return {name: self.share * tensor for name, tensor in update.tensors.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("rules")
    return write_dataset(folder / "data"), folder / "cache"


def recipe_file(world: tuple[Path, Path], folder: Path, method: dict[str, Any]) -> Path:
    plain = {"method": method, "evaluation": {"splits": []}, "network": {"norm": "batch"}}
    return write_recipe(folder / "mine.yaml", small_recipe(*world, **plain))


def last(run: Path) -> dict[str, Any]:
    content = load_checkpoint(run / "checkpoints" / "last.pt")
    content["state"].pop("exchanged")
    return content


def test_a_site_without_labels_learns_from_the_common_model(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = recipe_file(world, tmp_path, {"name": "self_training", "preset": "fedlabel"})
    none = ["data.labeled=0", "method.threshold=0.2", "method.ramp_fraction=1.0"]
    bare = write_dataset(tmp_path / "bare", cases=0, unlabeled=4)
    own = [*none[1:], f"data.root={bare}", "data.labeled=null", "data.test=0"]
    echo = Echo()
    run = medssl.train(recipe, output=tmp_path / "run", overrides=own, exchange=echo).path
    assert {u.labeled_patients for u in echo.updates} == {0}
    # exp(-5 (1 - i / 8)^2), summed over iterations 0 to 2, 3 to 5, 6 and 7: 0.09, 0.92, 1.66
    assert [u.iterations for u in echo.updates] == [1, 1, 2]
    first, *_, final = [u.tensors for u in echo.updates]
    assert any(not torch.equal(first[n], final[n]) for n in first if n.startswith("student."))
    assert not any(name.startswith("second") for u in echo.updates for name in u.tensors)
    state = last(run)["method_state"]
    for name, tensor in final.items():  # the common model, kept to label with
        if name.startswith("teacher."):
            assert torch.equal(state[name.replace("teacher.", "second.", 1)], tensor), name
    supervised = [*none[:1], "method=supervised", "method.preset=null"]
    for exchange, overrides, why in (
        (None, [*none, "method.teacher=ema"], "no labeled case is left"),
        (Echo(), supervised, "no labeled case is left"),
        (None, [], "last common model of a federation"),
    ):
        with pytest.raises(MedSSLError, match=why):
            medssl.train(recipe, output=tmp_path / "alone", overrides=overrides, exchange=exchange)
    assert not (tmp_path / "alone").exists()


def test_the_common_model_is_kept_as_it_came() -> None:
    method = Subject("self_training", SelfTraining, {"preset": "fedlabel"}).make()
    method.teacher.requires_grad_(False)
    for number, part in enumerate((method.student, method.teacher)):
        for parameter in part.parameters():
            torch.nn.init.constant_(parameter, float(number))
    method.received(["student.a", "teacher.a"])
    same_bits(dict(method.second.state_dict()), dict(method.teacher.state_dict()))
    method.received(["student.a"])
    same_bits(dict(method.second.state_dict()), dict(method.student.state_dict()))
    assert method.predictor() is method.teacher, "what is kept labels, and predicts nothing"
    assert set(method.averages(progress_of(method.stages(BUDGET)[0], 1))) == {"teacher"}


def test_the_surer_of_two_labels_and_both_where_they_agree() -> None:
    class Says(torch.nn.Module):
        def __init__(self, *probs: tuple[float, float]) -> None:
            super().__init__()
            self.said = torch.tensor(probs).T[None, :, :, None]

        def forward(self, image: Tensor) -> Tensor:
            return self.said.log()

    here = Says((0.9, 0.1), (0.6, 0.4), (0.2, 0.8))
    common = Says((0.7, 0.3), (0.1, 0.9), (0.55, 0.45))
    settings = SelfTraining.Settings(preset="fedlabel")
    guess = guess_of(torch.zeros(1, 1, 3, 1), [here, common], settings)
    assert guess.label.flatten().tolist() == [0, 1, 1]
    assert guess.confidence.flatten().tolist() == pytest.approx([0.8, 0.9, 0.8])
    assert guess.conflict is not None
    assert guess.conflict.flatten().tolist() == [False, True, True]


def test_the_proximal_term_has_its_gradient(tmp_path: Path) -> None:
    method = Subject("mean_teacher", get_method("mean_teacher")).make()
    run = RunFolder(tmp_path)
    exchanger = Exchanger(Echo(proximal=0.5), method, method.stages(BUDGET), run, 1)
    exchanger.open(None)
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter += 3.0
    first, *others = method.student.parameters()
    first.grad = torch.ones_like(first)
    exchanger.pull(2.0)
    assert torch.allclose(first.grad, torch.full_like(first, 1 + 2.0 * 0.5 * 3.0))
    assert all(p.grad is None for p in (*others, *method.teacher.parameters()))


def test_fedprox_holds_near_and_resumes_bit_for_bit(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(world, tmp_path, {"name": "mean_teacher"})
    moved = {}
    for mu in (0.0, 20.0):
        echo = Echo(every=4, share=0.75, proximal=mu)
        run = medssl.train(recipe, output=tmp_path / f"whole{mu:g}", exchange=echo).path
        one, two = [{n: t for n, t in u.tensors.items() if "student" in n} for u in echo.updates]
        moved[mu] = sum((two[n] - 0.75 * one[n]).square().sum() for n in one if "running" not in n)
    assert moved[20.0] < 0.8 * moved[0.0]
    with monkeypatch.context() as patch:
        crash_after(patch, 6)
        with pytest.raises(RuntimeError, match="power cut"):
            medssl.train(recipe, output=tmp_path / "run", exchange=Echo(4, 0.75, 20.0))
    medssl.train(recipe, output=tmp_path / "run", exchange=Echo(4, 0.75, 20.0), resume=True)
    same_bits(last(run), last(tmp_path / "run"))
