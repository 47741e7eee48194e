"""No step makes the host wait for the device.

The networks, the batch and the step run on PyTorch's ``meta`` device, which has shapes and no
values: whatever wants to see a value (``item``, ``nonzero``, ``numpy``, a Python ``if``) fails, and
so does mixing the tensors of two devices. A card would run the same code; on a CPU neither mistake
would show.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import small_recipe
from method_steps import ALL, BUDGET, make, make_batch
from patch_samplers import make_sampler
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from medssl.data.patches.device_cases import DeviceCases
from medssl.device import make_scaler
from medssl.methods.base import Batch, Progress
from medssl.methods.registry import list_methods
from medssl.methods.settings import Stage
from medssl.progress import Display
from medssl.runs.folder import RunFolder
from medssl.settings.recipe import Recipe
from medssl.training.batches import to_batch
from medssl.training.compute import Compute
from medssl.training.engine import Engine
from medssl.training.nonfinite import Guard, gradient_norm
from medssl.training.setup import Feed
from medssl.training.step_log import StepLog

META = torch.device("meta")
ALLOWED = {
    # scipy finds the components on the host, while a card computes the student's pass.
    "medssl.methods.bcp.begin_largest_components": lambda label, *_, **__: lambda: label,
    # scipy corrupts the masks, which takes longer than their copy; a short stage of its own.
    "medssl.methods.anatomical.corrupt_masks": lambda masks, *_, **__: masks,
}
"""What may look at values, and what stands for it here."""


class NoNumbersToDevice(TorchFunctionMode):
    """Refuse tensors that are made on the device out of numbers of the host."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor) and out.device == META:
            raise RuntimeError("a copy to the device is waited for")
        return out


class NoBlockingCopies(TorchDispatchMode):
    """Refuse copies from the host that a card would finish before the host goes on."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            source, waits = args[0], not (kwargs or {}).get("non_blocking", False)
            if source.device.type == "cpu" and out.device == META and waits:
                raise RuntimeError("a copy to the device is waited for")
        return out


@contextlib.contextmanager
def never_waiting() -> Iterator[None]:
    with NoNumbersToDevice(), NoBlockingCopies():
        yield


@pytest.fixture(autouse=True)
def _meta_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace what is allowed; let autocast be asked for on the meta device, which knows none."""
    for name, stand_in in ALLOWED.items():
        monkeypatch.setattr(name, stand_in)
    real = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        if device_type == "meta":
            return contextlib.nullcontext()
        return real(device_type, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", autocast)


def to_device(part: Any, device: torch.device) -> Any:
    if part is None or isinstance(part, Tensor):
        return None if part is None else part.to(device)
    return replace(part, **{k: to_device(v, device) for k, v in vars(part).items()})


def steps(
    name: str, settings: dict[str, str], dims: int, device: torch.device
) -> Iterator[tuple[Any, Stage, Progress]]:
    """Yield a method at a step of each stage; the first may check what later ones rely on."""
    for stage in make(name, settings, dims=dims).stages(BUDGET):
        method = make(name, settings, dims=dims)
        for earlier in method.stages(BUDGET):
            method.start_stage(earlier.name)
            if earlier.name == stage.name:
                break
        yield method.to(device).train(), stage, Progress(stage.name, 1, stage.iterations, seed=7)


@ALL
def test_no_step_makes_the_host_wait(name: str, settings: dict[str, str]) -> None:
    for method, stage, progress in steps(name, settings, 2, META):
        take_step(method, to_device(make_batch(method, stage), META), stage, progress)


def take_step(method: Any, batch: Batch, stage: Stage, progress: Progress) -> None:
    """Take a step as the engine does, without its optimizers."""
    guard = Guard(method, make_scaler(torch.device("cpu"), "fp32"), deferred=True)
    with never_waiting():
        guard.hold()
        output = method.training_step(batch, progress)
        total = None
        for loss in output.losses():
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        assert total.device.type != "cpu"
        StepLog().add(total, output.terms)
        parameters = [p for group in method.trainable(stage.name).values() for p in group]
        norm = gradient_norm(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        guard.step([], guard.judge(total, norm))
        method.after_step(progress)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@ALL
def test_no_step_waits_on_a_card(
    name: str, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    card = torch.device("cuda")
    for method, stage, progress in steps(name, settings, 3, card):
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
    engine.guard = Guard(method, engine.scaler, deferred=True)
    engine.watch.deferred = True
    monkeypatch.setattr(engine.scaler, "step", lambda _: None)
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
    with never_waiting():
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
