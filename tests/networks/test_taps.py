"""Features of every network by hooks: as many levels as it halves, and what its head sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medssl.errors import MedSSLError
from medssl.networks.build import build_network
from medssl.networks.registry import NETWORKS, list_networks, patch_factors
from medssl.networks.taps import Taps, dropped, tapped_channels, taps, taps_of

SMALL = {
    "dynunet": {"filters": [4, 8, 8]},
    "resvnet": {"filters": 2},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]},
    "unet": {"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 0},
    "vnet": {"filters": 2},
}
CASES = [(name, dims) for name in list_networks() for dims in NETWORKS[name].spatial_dims]


def build(name: str, dims: int) -> nn.Module:
    torch.manual_seed(0)
    return build_network(
        name, spatial_dims=dims, in_channels=1, num_classes=3, settings=SMALL.get(name)
    )


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_levels_get_coarser_and_the_head_makes_the_logits(name: str, dims: int) -> None:
    network = build(name, dims).eval()
    factors = patch_factors(name, dims, SMALL.get(name))
    patch = [2 * f for f in factors]
    x = torch.randn(1, 1, *patch)
    head, seen = network.get_submodule(taps_of(network).head), []
    hook = head.register_forward_hook(lambda _m, _x, out: seen.append(out))
    with torch.no_grad(), taps(network) as features:
        logits = network(x)
        hook.remove()
        sizes = [level.shape[2] for level in features.levels]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) >= 2
        assert sizes[-1] == patch[0] // factors[0], "the last level is the coarsest there is"
        assert all(level.ndim == dims + 2 for level in features.levels)
        assert seen[0].shape[1] == logits.shape[1]
        assert torch.equal(head(features.penultimate), seen[0])
        widths = [each.shape[1] for each in (*features.levels, features.penultimate)]
    plain = network(x)
    assert torch.equal(plain, logits), "hooks change nothing"
    state = torch.get_rng_state()
    assert tapped_channels(lambda: build(name, dims), dims) == sum(widths)
    assert torch.equal(torch.get_rng_state(), state)
    assert tapped_channels(lambda: nn.Conv2d(1, 3, 1), 2) == 0, "nobody said where"


@pytest.mark.parametrize(("name", "dims"), CASES)
def test_features_are_part_of_the_graph_and_hooks_go(name: str, dims: int) -> None:
    network = build(name, dims).train()
    patch = [2 * f for f in patch_factors(name, dims, SMALL.get(name))]
    with taps(network) as features:
        for _ in range(2):
            network(torch.randn(2, 1, *patch))
        count = len(features.levels)
        loss = features.penultimate.square().mean() + sum(f.mean() for f in features.levels)
        loss.backward()
    assert any(p.grad is not None for p in network.parameters())
    network(torch.randn(2, 1, *patch))
    assert len(features.levels) == count, "nothing is kept afterwards"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_the_levels_of_a_unet_by_hand() -> None:
    network = build("unet", 2)
    inner = "model.1.submodule"
    assert taps_of(network).levels == ("model.0", f"{inner}.0", f"{inner}.1.submodule")
    with taps(network) as features:
        network(torch.randn(1, 1, 16, 16))
    assert [tuple(f.shape[1:]) for f in features.levels] == [(4, 8, 8), (8, 4, 4), (16, 4, 4)]
    assert features.penultimate.shape == (1, 8, 8, 8)


class Own(nn.Sequential):
    """A network of a user's own that says where its features are."""

    taps = Taps(levels=("0", "1"), head="2")


def test_a_network_of_ones_own_says_it_itself() -> None:
    network = Own(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 2, stride=2), nn.Conv2d(6, 2, 1))
    with taps(network) as features:
        network(torch.zeros(1, 1, 8, 8))
    assert [f.shape[1] for f in features.levels] == [4, 6]
    assert features.penultimate is features.levels[1]
    with pytest.raises(MedSSLError, match="'Sequential' does not say"), taps(nn.Sequential()):
        pass


def test_channels_of_every_level_are_dropped_and_scaled() -> None:
    network = Own(nn.Conv2d(1, 64, 1), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 2, 1)).eval()
    nn.init.ones_(network[0].weight), nn.init.zeros_(network[0].bias)
    image = torch.ones(3, 1, 4, 4)
    seen: list[torch.Tensor] = []
    network[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        plain = network(image)
        with dropped(network, 0.25), taps(network) as features:
            network(image)
        assert torch.equal(network(image), plain)
    first = seen[1]
    assert first.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(first, first[..., :1, :1].expand_as(first)), "whole channels"
    assert 0.1 < (first == 0).float().mean() < 0.4
    assert (features.penultimate == 0).flatten(2).all(2).any(), "the next level, too"


def test_a_compiled_network_is_tapped_in_every_pass() -> None:
    network = build("unet", 2).eval()
    network.compile(backend="eager")
    compiled = network._compiled_call_impl
    x = torch.randn(1, 1, 16, 16)
    for image in (x, 2 * x):
        with torch.no_grad(), taps(network) as features:
            logits = network(image)
            head = network.get_submodule(taps_of(network).head)
            assert torch.equal(head(features.penultimate), logits)
        with torch.no_grad(), dropped(network, 0.9):
            assert not torch.equal(network(image), logits)
        assert network._compiled_call_impl is compiled


class Peeking(nn.Conv2d):
    """Looks at its weights when it is made."""

    taps = Taps(("",), "")

    def __init__(self) -> None:
        super().__init__(1, 3, 1)
        self.first = float(self.weight.flatten()[0])


def test_deep_networks_are_counted_and_what_cannot_be_is_not() -> None:
    def deep() -> nn.Module:
        settings = {"filters": [4] * 8, "strides": [1] + [2] * 7, "kernel_size": [3] * 8}
        return build_network(
            "dynunet", spatial_dims=2, in_channels=2, num_classes=3, settings=settings
        )

    assert tapped_channels(deep, 2) == 4 * 8 + 4
    assert tapped_channels(Peeking, 2) == 0, "no value is there to be looked at"
