"""Neither the engine nor what it is given makes the host wait; methods: the contract's check.

See :mod:`medssl.testing.waits` for how the ``meta`` device shows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import small_recipe
from method_steps import ALL, make
from patch_samplers import make_sampler

from medssl.data.patches.device_cases import DeviceCases
from medssl.methods.registry import get_method, list_methods
from medssl.progress import Display
from medssl.runs.folder import RunFolder
from medssl.settings.recipe import Recipe
from medssl.testing.subject import Subject, make_batch
from medssl.testing.waits import META, meta_device, never_waiting, steps_on, take_step, to_device
from medssl.training.batches import to_batch
from medssl.training.compute import Compute
from medssl.training.engine import Engine
from medssl.training.nonfinite import Guard
from medssl.training.setup import Feed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@ALL
def test_no_step_waits_on_a_card(name: str, settings: dict[str, str]) -> None:
    card = torch.device("cuda")
    subject = Subject(name, get_method(name), settings, dims=3)
    for method, stage, progress in steps_on(subject, card):
        if (name, stage.name) == ("anatomical", "autoencoder"):
            continue
        batch = to_device(make_batch(method, stage), card)
        take_step(method, batch, stage, progress)  # what is set up once may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            take_step(method, batch, stage, progress)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", list_methods())
def test_the_engine_never_waits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop itself, from the loader to the teacher, as on a card: flags are read later.

    The fused optimizers alone are left out, which the meta device has not.
    """
    monkeypatch.setattr("torch.manual_seed", lambda _: None)  # of the host's generator
    with meta_device(get_method(name)):
        _engine_steps(name, tmp_path, monkeypatch)


def _engine_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = small_recipe(tmp_path, tmp_path)
    content["method"] = {"name": name}
    content["training"] |= {"gradient_clip": 1.0, "iterations": 20, "patch": [16] * 3}
    recipe = Recipe.model_validate(content)
    method = make(name, {}, dims=3)
    streams: dict[str, dict[str, Any]] = {
        "labeled": {},
        "unlabeled": {"labeled": False, "views": method.settings.unlabeled_views},
        "masks": {"labels_only": True},
    }
    options = {"patch": (16, 16, 16), "batch_size": 2, "deliver": "places", "channels": 1}
    samplers = {k: make_sampler(stream=k, **v, **options) for k, v in streams.items()}
    resident = DeviceCases(
        {k: sampler.cases for k, sampler in samplers.items()},
        META,
        slice_axis=None,
        swapped=np.arange(256, dtype=np.uint8),
    )
    engine = Engine(
        method,
        recipe,
        Feed(lambda stage: {k: samplers[k] for k in stage.streams}, resident=resident),
        validation=None,
        run=RunFolder(tmp_path / "run"),
        compute=Compute(META),
        display=Display(quiet=True),
    )
    stepper = engine.stepper
    stepper.guard = Guard(method, stepper.scaler, deferred=True)
    engine.watch.deferred = True
    monkeypatch.setattr(stepper.scaler, "step", lambda _: None)
    for index, stage in enumerate(engine.stages):
        engine._start_stage(index, None)
        chosen = engine.feed.samplers(stage)
        engine.batch_sizes = {k: sampler.batch_size for k, sampler in chosen.items()}
        engine.watch.start(stage.name, lambda _: [], engine.state)
        batches = iter(engine._loader(stage, chosen))
        engine.state.iteration = 1  # the first one may check what later ones rely on
        with never_waiting():
            engine._step(stage, batches)


def test_the_policy_is_updated_without_waiting() -> None:
    """Once in so many steps; of the step itself the contract above sees nothing of it."""
    method = make("pseudo_supervisor", {})
    method.to(META)
    with meta_device(type(method)), never_waiting():
        method.update_policy()


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum()),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.cpu().numpy(),
        lambda x: x.tolist(),
        lambda x: x + torch.ones(3),
        lambda x: x + torch.tensor([1.0, 2.0, 3.0], device="meta"),
    ],
    ids=["item", "bool", "nonzero", "mask", "numpy", "tolist", "mixed", "copied"],
)
def test_the_contract_would_notice(look: Any) -> None:
    with pytest.raises((NotImplementedError, RuntimeError)), never_waiting():
        look(torch.zeros(3, device=META))


@pytest.mark.parametrize("deliver", ["finished", "plain", "places"])
@pytest.mark.parametrize("patch", [(30, 8, 6), (16, 12)])
def test_no_batch_makes_the_host_wait(deliver: Any, patch: tuple[int, ...]) -> None:
    streams = {
        "labeled": make_sampler(patch=patch, deliver=deliver),
        "unlabeled": make_sampler(patch=patch, deliver=deliver, views=("strong",), labeled=False),
    }
    arrays = {name: sampler.batch(0) for name, sampler in streams.items()}
    cases = {name: sampler.cases for name, sampler in streams.items()}
    resident = None
    if deliver == "places":
        swapped = np.arange(256, dtype=np.uint8)
        axis = streams["labeled"].slice_axis
        resident = DeviceCases(cases, META, slice_axis=axis, swapped=swapped)
    with never_waiting():
        batch = to_batch(arrays, META, resident)
    assert batch.labeled is not None
    assert batch.unlabeled is not None
    assert batch.labeled.label.shape == (4, *patch)
    assert batch.unlabeled.views[0].device == META
    assert batch.unlabeled.case.device == batch.labeled.case.device == META
