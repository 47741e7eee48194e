"""Batches that go through a network together where that changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from method_steps import make
from torch import Tensor, nn

from medssl.methods.base import Progress
from medssl.networks.passes import forward_each, treats_samples_apart
from medssl.testing.subject import BUDGET, make_batch, small_network


def counted(network: nn.Module) -> list[int]:
    """Return a list that will hold the batch size of every pass."""
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("training", [True, False])
def test_a_joint_pass_is_made_where_it_is_exact(
    dims: int, norm: str, dropout: float, training: bool
) -> None:
    network = small_network(dims, 3, norm=norm, dropout=dropout).train(training)
    parts = [torch.randn(n, 1, *[16] * dims) for n in (2, 1)]
    joint = not training or (norm != "batch" and dropout == 0)
    assert treats_samples_apart(network) is joint
    sizes = counted(network)
    torch.manual_seed(0)
    together = forward_each(network, parts)
    assert sizes == ([3] if joint else [2, 1])
    torch.manual_seed(0)
    for one, part in zip(together, parts, strict=True):
        if not (training and norm == "batch"):
            torch.testing.assert_close(one, network(part), rtol=1e-4, atol=1e-5)


def test_statistics_of_the_batch_alone_couple_samples() -> None:
    network = nn.BatchNorm2d(1, track_running_stats=False).eval()
    assert not treats_samples_apart(network)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bcp", {"preset": "official", "variant": "la"}),
        ("cps", {"preset": "official", "variant": "paper"}),
    ],
)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_published_separate_passes_stay_where_they_matter(
    name: str, settings: dict[str, str], norm: str
) -> None:
    def network(dims: int, classes: int, **overrides: Any) -> nn.Module:
        return small_network(dims, classes, **{**overrides, "norm": norm, "dropout": 0.0})

    method = make(name, settings, network=network)
    stage = method.stages(BUDGET)[-1]
    student = method.student if name == "bcp" else method.first
    sizes = counted(student)
    output = method.training_step(make_batch(method, stage), Progress(stage.name, 1, 20))
    for loss in output.losses():
        assert torch.isfinite(loss)
    assert len(sizes) == (1 if norm == "instance" else 2)


def test_gradients_reach_every_part() -> None:
    network = small_network(2, 3, norm="instance", dropout=0.0)
    parts = [torch.randn(2, 1, 16, 16, requires_grad=True) for _ in range(2)]
    first, _ = forward_each(network, parts)
    grads: list[Tensor | None] = [
        *torch.autograd.grad(first.square().sum(), parts, allow_unused=True)
    ]
    assert grads[0] is not None
    assert grads[0].any()
    assert grads[1] is not None
    assert not grads[1].any()  # of the same pass, and untouched by the other's loss
