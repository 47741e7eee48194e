"""Channels-last networks: where they are used, and that nothing but their layout changes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from helpers import small_recipe, write_dataset, write_recipe
from method_steps import ALL, DIMS
from torch import nn

from medssl.methods.base import Method, Progress
from medssl.methods.registry import get_method
from medssl.networks.build import build_network
from medssl.networks.registry import NETWORKS, list_networks
from medssl.testing.subject import BUDGET, make_batch, small_network
from medssl.training.memory_format import (
    CHANNELS_LAST,
    follow_layout,
    use_channels_last,
    why_not_channels_last,
)
from medssl.workflows.train import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LAYOUT = {
    "ahnet_r18": True,
    "dynunet": False,
    "resvnet": False,
    "segresnet": True,
    "unet": False,
    "unet2d": True,
    "vnet": True,
}
"""Whether a network with its default settings has no InstanceNorm."""


def test_every_network_is_listed_here() -> None:
    assert set(LAYOUT) == set(list_networks())


@pytest.mark.parametrize("name", LAYOUT)
def test_the_layout_of_every_network(name: str) -> None:
    for dims in NETWORKS[name].spatial_dims:
        network = build_network(name, spatial_dims=dims, in_channels=1, num_classes=2)
        reason = why_not_channels_last(network, CUDA, "bf16")
        assert (reason is None) is LAYOUT[name]
        if reason is not None:
            assert "InstanceNorm" in reason


def test_options_decide_and_not_names() -> None:
    for norm, expected in (("batch", True), ("instance", False)):
        reason = why_not_channels_last(small_network(3, 2, norm=norm), CUDA, "fp16")
        assert (reason is None) is expected


def test_where_the_layout_would_not_pay() -> None:
    network = small_network(3, 2)
    assert "CUDA" in str(why_not_channels_last(network, CPU, "bf16"))
    assert "fp32" in str(why_not_channels_last(network, CUDA, "fp32"))
    assert "convolution" in str(why_not_channels_last(nn.Linear(2, 2), CUDA, "bf16"))
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert "SyncBatchNorm" in str(why_not_channels_last(synchronized, CUDA, "bf16"))


def make(name: str, settings: dict[str, str], dims: int) -> Method:
    torch.manual_seed(0)
    cls = get_method(name)

    def build(*, in_channels: int = 1, num_classes: int = 3, **_: object) -> nn.Module:
        return build_network(
            "unet",
            spatial_dims=dims,
            in_channels=in_channels,
            num_classes=num_classes,
            settings={"channels": [4, 8], "strides": [2], "norm": "batch", "dropout": 0.1},
        )

    return cls(cls.Settings(**settings), build, num_classes=3, spatial_dims=dims).train()


@ALL
@DIMS
def test_a_step_is_the_same_channels_last(name: str, settings: dict[str, str], dims: int) -> None:
    """Above all, no method may rely on the layout of what a network returns."""
    results = []
    for last in (False, True):
        method = make(name, settings, dims)
        stages = method.stages(BUDGET)
        for stage in stages:
            method.start_stage(stage.name)
        for network in method.modules():
            if isinstance(network, nn.Dropout | nn.Dropout2d | nn.Dropout3d) and name != "umct":
                network.p = 0.0  # random numbers follow the layout
        assert use_channels_last(method, last, device=CPU, precision="fp32") is last
        stage = stages[-1]
        batch, progress = make_batch(method, stage), Progress(stage.name, 1, stage.iterations, 7)
        torch.manual_seed(1)
        total = torch.zeros(())
        for loss in method.training_step(batch, progress).losses():
            loss.backward()
            total = total + loss.detach()
        method.after_step(progress)
        results.append(total)
    assert torch.isfinite(results[1])
    if name != "umct":  # which needs its dropout
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("dims", [2, 3])
def test_state_of_an_optimizer_follows_its_parameters(
    kind: type[torch.optim.Optimizer], dims: int
) -> None:
    options = {"lr": 0.1, "foreach": True}
    if kind is torch.optim.SGD:
        options["momentum"] = 0.9
    first = nn.Parameter(torch.randn(4, 4, *[3] * dims))
    optimizer = kind([first], **options)
    first.grad = torch.randn(first.shape)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    ends = []
    for layout in (torch.contiguous_format, CHANNELS_LAST[dims]):
        parameter = nn.Parameter(first.detach().clone().to(memory_format=layout))
        again = kind([parameter], **options)
        again.load_state_dict(copy.deepcopy(saved))
        follow_layout([again])
        for value in again.state[parameter].values():
            assert value.ndim == 0 or value.stride() == parameter.stride()
        parameter.grad = torch.ones_like(parameter)
        again.step()
        ends.append(parameter.detach())
    torch.testing.assert_close(*ends)


def test_a_run_resumes_in_the_other_layout(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    for iterations, last in ((2, False), (4, True), (6, False)):
        recipe = small_recipe(tmp_path / "data", tmp_path / "cache")
        recipe["network"]["norm"] = "batch"
        recipe["training"] |= {"iterations": iterations, "channels_last": last}
        recipe["training"]["optimizer"] = {"name": "adamw", "lr": 0.001}
        recipe["method"] = {"name": "mean_teacher"}
        recipe["evaluation"] = {"splits": []}
        path = write_recipe(tmp_path / "r.yaml", recipe)
        train(path, output=tmp_path / "run", resume=(tmp_path / "run").exists())
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert saved["state"]["step"] == 6
