"""DynUNet with heads at coarser scales: in training alone, and the same network otherwise."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.networks.nets import DynUNet
from torch import nn

from medssl.errors import MedSSLError
from medssl.networks.build import blueprint_of, build_network
from medssl.networks.deep_dynunet import DeepDynUNet, without_heads
from medssl.networks.taps import taps
from medssl.ops.deep_supervision import Outputs
from medssl.recipe.load import load_recipe


def network(**settings: Any) -> nn.Module:
    """Build a small 2D network of four levels."""
    torch.manual_seed(0)
    given = {"filters": [2, 4, 4, 4], **settings}
    return build_network("dynunet", spatial_dims=2, in_channels=1, num_classes=3, settings=given)


IMAGE = torch.randn(2, 1, 16, 8, generator=torch.Generator().manual_seed(1))


def test_without_deep_supervision_it_is_monais_network() -> None:
    assert type(network()) is DynUNet
    assert type(network(deep_supervision=False)) is DynUNet


def test_full_resolution_is_bit_equal_and_eval_mode_returns_it_alone() -> None:
    plain, deep = network(), network(deep_supervision=True)
    outputs = deep(IMAGE)
    assert torch.equal(plain(IMAGE), outputs.scales[0])
    assert [tuple(x.shape) for x in outputs.scales] == [(2, 3, 16, 8), (2, 3, 8, 4)]
    assert torch.equal(plain.eval()(IMAGE), deep.eval()(IMAGE))


@pytest.mark.parametrize(("asked", "sides"), [(1, [16, 8]), (2, [16, 8, 4])])
def test_so_many_coarser_scales_as_asked_for(asked: int, sides: list[int]) -> None:
    deep = network(deep_supervision=asked)
    assert [x.shape[2] for x in deep(IMAGE).scales] == sides


def test_strides_of_the_network_decide_what_a_scale_is() -> None:
    deep = network(deep_supervision=2, strides=[1, [2, 1], [2, 2], 1])
    sides = [tuple(x.shape[2:]) for x in deep(IMAGE).scales]
    assert sides == [(16, 8), (8, 8), (4, 4)]


def test_every_weight_learns_and_copies_work_after_a_pass() -> None:
    deep = network(deep_supervision=True)
    outputs = deep(IMAGE)
    assert isinstance(outputs, Outputs)
    sum(x.square().mean() for x in outputs.scales).backward()
    assert all(p.grad is not None and p.grad.any() for p in deep.deep_heads.parameters())
    again = copy.deepcopy(deep)(IMAGE)
    assert torch.equal(again.scales[1], outputs.scales[1])


def test_taps_see_the_same_levels() -> None:
    deep = network(deep_supervision=True)
    with taps(deep) as found:
        deep(IMAGE)
    assert [x.shape[2] for x in found.levels] == [16, 8, 4, 2]
    assert found.penultimate.shape[2] == 16


def test_what_predicts_has_no_heads() -> None:
    deep = network(deep_supervision=True).eval()
    before, keys = deep(IMAGE), list(network().state_dict())
    bare = without_heads(deep)
    assert type(bare) is DynUNet
    assert list(bare.state_dict()) == keys
    assert torch.equal(bare(IMAGE), before)
    blueprint = blueprint_of(bare)
    assert blueprint is not None
    assert type(blueprint.build()) is DynUNet


@pytest.mark.parametrize("wrong", [3, -1])
def test_more_scales_than_there_are_are_refused(wrong: int) -> None:
    with pytest.raises(MedSSLError, match="true, false or 1 to 2"):
        network(deep_supervision=wrong)


def test_it_is_built_without_memory_on_the_meta_device() -> None:
    with torch.device("meta"):
        deep = network(deep_supervision=True)
        outputs = deep(torch.empty(2, 1, 16, 8))
    assert isinstance(deep, DeepDynUNet)
    assert outputs.scales[1].shape == (2, 3, 8, 4)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "mean_teacher", "preset": "official"}, "preset official is as published"),
        (
            {"name": "self_training", "preset": "fixmatch", "variant": "official"},
            "variant official is as published",
        ),
        ({"name": "rail"}, "its losses are at full resolution alone"),
    ],
)
def test_a_method_that_does_not_take_scales_is_refused(method: dict[str, str], words: str) -> None:
    overrides = [
        "data.root=phantom",
        "network={name: dynunet, deep_supervision: true}",
        "method={" + ", ".join(f"{k}: {v}" for k, v in method.items()) + "}",
        "training.patch=[16, 16, 16]",
    ]
    with pytest.raises(MedSSLError, match=words) as error:
        load_recipe("hippocampus_supervised", overrides)
    assert "network.deep_supervision" in error.value.what
