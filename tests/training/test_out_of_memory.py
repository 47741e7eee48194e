"""When memory runs out, the user hears which setting to lower and by how much."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import small_recipe, write_dataset, write_recipe

from medssl.device import bytes_asked, is_out_of_memory
from medssl.errors import MedSSLError
from medssl.inference.forward import forward_logits
from medssl.methods.supervised import Supervised
from medssl.planning.footprint import Footprint
from medssl.planning.smaller import Shortage, explain, smaller_patch, split_batch
from medssl.recipe.load import LoadedRecipe, load_recipe
from medssl.workflows.train import train

GIB = 2**30
CARD = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 11.77 GiB"
)


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (CARD, int(2.5 * GIB)),
        (RuntimeError("CUDA error: out of memory"), 0),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), 0),
        (
            RuntimeError("MPS backend out of memory (...). Tried to allocate 64.00 MB on pool"),
            2**26,
        ),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 24 bytes."),
            24,
        ),
    ],
)
def test_words_of_all_devices(error: RuntimeError, asked: int) -> None:
    assert is_out_of_memory(error)
    assert bytes_asked(error) == asked


def test_the_words_of_this_pytorch() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    assert bytes_asked(caught.value) == 4 * 10**15


def test_other_errors_are_others() -> None:
    assert not is_out_of_memory(RuntimeError("The size of tensor a (3) must match"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(None)


def recipe(tmp_path: Path, method: str = "mean_teacher", **training: Any) -> LoadedRecipe:
    content = small_recipe(tmp_path, tmp_path)
    content["method"] = {"name": method}
    content["training"] |= {
        "patch": [96, 96, 64],
        "labeled_batch": 4,
        "unlabeled_batch": 4,
        **training,
    }
    return load_recipe(write_recipe(tmp_path / "r.yaml", content))


def footprint(gib: float, patch: tuple[int, ...] = (96, 96, 64)) -> Footprint:
    """Weights of 0.5 GiB, and a step that takes ``gib`` with the slack of the model."""
    voxels = 1
    for n in patch:
        voxels *= n
    return Footprint(0.5 * GIB, 0.0, gib * GIB / 1.15 / voxels)


def test_the_batch_is_split_before_the_patch_is_cut(tmp_path: Path) -> None:
    loaded = recipe(tmp_path)
    short = Shortage(int(12 * GIB), int(11 * GIB), int(2.5 * GIB))
    error = explain(loaded, short, footprint(14), None, kind="cuda", device=torch.device("cuda"))
    assert "training.patch=[96, 96, 64] with training.labeled_batch=4" in error.what
    assert "needs about 15.2 GiB" in error.what  # 14, the weights and CUDA's own
    assert "11.0 GiB were in use and 2.5 GiB more asked for, of 12.0 GiB" in error.what
    first, second = str(error.fix).split(", or ")
    assert first.startswith(
        "set training.labeled_batch=2 training.unlabeled_batch=2 training.accumulate=2 (about 8.2"
    )
    assert re.match(r"training\.patch=\[\d+,\d+,\d+\] \(about 1[01]\.\d GiB\)", second)
    assert len(str(error).splitlines()) <= 6


def test_half_precision_comes_first_where_it_helps(tmp_path: Path) -> None:
    loaded = recipe(tmp_path, method="supervised", labeled_batch=1)
    short, where = Shortage(12 * GIB, 11 * GIB, GIB), torch.device("cuda")
    error = explain(loaded, short, footprint(14), footprint(8), kind="cuda", device=where)
    assert str(error.fix).startswith("set --precision bf16 (about 9.2 GiB), or training.patch=")
    assert "unlabeled" not in str(error)


def test_more_memory_than_the_model_thought_raises_all_it_says(tmp_path: Path) -> None:
    loaded = recipe(tmp_path)
    short = Shortage(12 * GIB, 11 * GIB, 2 * GIB)
    error = explain(loaded, short, footprint(7), None, kind="cuda", device=torch.device("cuda"))
    assert "needs about 13.0 GiB" in error.what
    assert "training.accumulate=2 (about" in str(error.fix)


def test_without_a_model_the_settings_are_still_named(tmp_path: Path) -> None:
    short = Shortage(12 * GIB, 11 * GIB, 0)
    error = explain(recipe(tmp_path), short, None, None, kind="cpu", device=torch.device("cpu"))
    assert "training.patch=[96, 96, 64]" in error.what
    assert "lower training.labeled_batch" in str(error.fix)


def test_nothing_fits(tmp_path: Path) -> None:
    loaded = recipe(tmp_path)
    error = explain(
        loaded,
        Shortage(GIB, GIB, GIB),
        Footprint(3.0 * GIB, 0.0, 1.0),
        None,
        kind="cuda",
        device=torch.device("cuda"),
    )
    assert "smaller network" in str(error.fix)


def test_a_split_that_the_method_refuses_is_not_proposed(tmp_path: Path) -> None:
    """pseudo_supervisor holds labeled patches out, so that a single one cannot be trained on."""
    loaded = recipe(tmp_path, method="pseudo_supervisor", labeled_batch=2, unlabeled_batch=2)
    assert split_batch(loaded, footprint(14), kind="cuda", room=100 * GIB) is None
    assert split_batch(recipe(tmp_path), footprint(14), kind="cuda", room=100 * GIB) is not None
    odd = recipe(tmp_path, labeled_batch=2, unlabeled_batch=3)
    assert split_batch(odd, footprint(14), kind="cuda", room=100 * GIB) is None


def test_the_proposed_patch_fits_and_suits_the_network(tmp_path: Path) -> None:
    loaded, now = recipe(tmp_path), footprint(14)
    for room in (12, 8, 4):
        change = smaller_patch(loaded, now, kind="cuda", room=room * GIB)
        assert change is not None
        assert change.needed <= room * GIB
        patch = yaml.safe_load(change.settings.split("=")[1])
        assert all(n % 8 == 0 and n <= m for n, m in zip(patch, (96, 96, 64), strict=True))
        assert now.bytes(patch, "cuda") > 0.9 * change.needed


def test_training_that_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data")
    content = small_recipe(tmp_path / "data", tmp_path / "cache")
    content["method"] = {"name": "supervised"}
    path = write_recipe(tmp_path / "r.yaml", content)

    def fail(self: Any, *_: Any) -> None:
        if len(fail.calls) == 1:  # the first step is good, and measuring asks for more
            fail.calls.append(1)
            raise RuntimeError("not enough memory: you tried to allocate 1073741824 bytes")
        fail.calls.append(1)
        return step(self, *_)

    fail.calls = []
    step = Supervised.training_step
    monkeypatch.setattr(Supervised, "training_step", fail)
    monkeypatch.setattr(
        "medssl.planning.smaller.shortage", lambda *_: Shortage(2 * GIB, 2 * GIB, GIB)
    )
    with pytest.raises(MedSSLError) as caught:
        train(path, output=tmp_path / "run")
    assert "memory ran out on cpu (2.0 GiB were in use and 1.0 GiB more asked for" in str(
        caught.value
    )
    assert "needs about 3.0 GiB" in caught.value.what
    assert str(path) == str(caught.value.where)
    manifest = (tmp_path / "run" / "manifest.json").read_text()
    assert "memory ran out" in manifest


@pytest.mark.parametrize("error", [CARD, RuntimeError("can't allocate memory: you tried")])
def test_predicting_that_runs_out(error: RuntimeError) -> None:
    def network(_: torch.Tensor) -> torch.Tensor:
        raise error

    def message(count: int) -> str:
        with pytest.raises(MedSSLError) as caught:
            forward_logits(
                torch.zeros(count, 1, 8, 8),
                model=network,
                classes=2,
                device=torch.device("cpu"),
                precision="fp32",
            )
        return str(caught.value)

    assert "set inference.window_batch to 2" in message(4)
    assert "4 windows of (8, 8) voxels" in message(4)
    assert "1 window of" in message(1)
    assert "window_batch" not in message(1)
