"""Networks by name: shapes, settings, patch checks, and outputs of the published ones."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

from medssl.errors import MedSSLError
from medssl.networks.build import build_network
from medssl.networks.registry import check_patch, list_networks

SMALL = {
    "vnet": {"filters": 2},
    "unet2d": {"channels": [2, 4, 4, 8, 8]},
    "unet": {"channels": [4, 8, 8], "strides": [2, 2]},
    "dynunet": {"filters": [4, 8, 8]},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
}
PLACES = [(n, d) for n in SMALL for d in (2, 3) if (n, d) != ("unet2d", 3)]


def build(name, *, dims=3, channels=1, classes=2, settings=None):
    return build_network(
        name, spatial_dims=dims, in_channels=channels, num_classes=classes, settings=settings or {}
    )


def message(call) -> str:
    with pytest.raises(MedSSLError) as caught:
        call()
    text = str(caught.value)
    assert len(text.splitlines()) <= 6
    return text


def test_every_network_is_described_and_covered_here():
    listed = list_networks()
    assert set(SMALL) <= set(listed)
    assert all(listed.values())


@pytest.mark.parametrize(("name", "dims"), PLACES)
def test_logits_have_the_image_size_and_every_parameter_learns(name, dims):
    torch.manual_seed(0)
    net = build(name, dims=dims, channels=2, classes=5, settings=SMALL[name])
    shape = (32, 48, 16)[:dims]
    check_patch(name, shape, SMALL[name])
    out = net(torch.randn(2, 2, *shape))
    assert isinstance(out, torch.Tensor)
    assert out.shape == (2, 5, *shape)
    out.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    with torch.no_grad():
        assert torch.isfinite(net.eval()(torch.randn(1, 2, *shape))).all()


@pytest.mark.parametrize("name", ["vnet", "unet2d"])
def test_the_literatures_networks_take_any_multiple_of_16(name):
    # The published V-Net fails below 48 voxels per axis, in a feature nobody uses.
    dims = 2 if name == "unet2d" else 3
    net = build(name, dims=dims, settings=SMALL[name])
    shape = (32, 16, 48)[:dims]
    assert net(torch.randn(2, 1, *shape)).shape == (2, 2, *shape)


def test_initialization_options():
    torch.manual_seed(0)
    net = build("vnet", settings={"init": "kaiming"})
    weight = net.block_five.conv[3].weight
    assert weight.std().item() == pytest.approx((2 / (256 * 27)) ** 0.5, rel=0.02)
    default = build("vnet").block_five.conv[3].weight
    assert default.abs().max().item() <= (1 / (256 * 27)) ** 0.5


def test_vnet_dropout_acts_in_training_only():
    net = build("vnet", settings=SMALL["vnet"])
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert not torch.equal(net(x), net(x))
        net.eval()
        assert torch.equal(net(x), net(x))


def test_anisotropic_strides():
    settings = {"channels": [4, 8, 8], "strides": [[2, 2, 1], [2, 2, 2]]}
    check_patch("unet", [16, 16, 6], settings)
    assert build("unet", settings=settings)(torch.randn(1, 1, 16, 16, 6)).shape[2:] == (16, 16, 6)
    assert "axis 2 has 5 voxels and must be a multiple of 2" in message(
        lambda: check_patch("unet", [16, 16, 5], settings)
    )


def test_check_patch_names_the_nearest_sizes():
    text = message(lambda: check_patch("vnet", [50, 48, 32], {}))
    assert "50x48x32" in text
    assert "48 or 64" in text
    assert "set training.patch to [64, 48, 32]" in text
    assert "for instance 16" in message(lambda: check_patch("unet2d", [8, 32]))


def test_check_patch_refuses_what_ends_in_one_voxel():
    assert "single voxel" in message(lambda: check_patch("vnet", [16, 16, 16]))
    check_patch("vnet", [32, 16, 16])


def test_dimensions_are_checked():
    assert "'unet2d' is 2D" in message(lambda: check_patch("unet2d", [48, 48, 48]))
    assert "'unet2d' is 2D" in message(lambda: build("unet2d", dims=3))


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("vnett", {}, "did you mean 'vnet'"),
        ("vnet", {"filter": 8}, "did you mean 'filters'"),
        ("vnet", {"dropout": 1.5}, "`dropout`: Input should be less than 1 (got 1.5)"),
        ("vnet", {"norm": "group"}, "`norm`: Input should be 'batch' or 'instance'"),
        ("unet", {"strides": [2]}, "4 channels need 3 strides, not 1"),
        ("unet", {"strides": [2, [2, 2], 2]}, "needs 3 numbers"),
        ("dynunet", {"strides": [1, 2]}, "4 filters need 4 strides, not 2"),
        ("segresnet", {"init_filters": 12}, "`init_filters`: Input should be a multiple of 8"),
        ("unet2d", {"dropout": [2, 0, 0, 0, 0]}, "at least 0 and below 1"),
    ],
)
def test_mistakes_are_named(name, settings, expected):
    assert expected in message(
        lambda: check_patch(name, [48] * (2 if name == "unet2d" else 3), settings)
    )


def test_vnet_reproduces_the_published_network(golden):
    truth = golden("rail")["8_networks"]["outputs"]["VNet"]
    net = build("vnet")
    state = net.state_dict()
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        r = rng.standard_normal(tuple(value.shape)).astype(np.float32)
        if name.endswith("running_var"):
            r = 1 + 0.1 * np.abs(r)
        elif r.ndim == 1:
            r = (1 if name.endswith("weight") else 0) + 0.05 * r
        else:
            r = r * np.sqrt(2 / np.prod(r.shape[1:]))
        state[name] = torch.from_numpy(r.astype(np.float32))
    net.load_state_dict(state)
    image = np.random.default_rng(5).random((1, 1, 32, 32, 16)).astype(np.float32)
    with torch.no_grad():
        out = net.eval()(torch.from_numpy(image))
    assert sum(p.numel() for p in net.parameters()) == truth["params_total"]
    assert out.numel() == truth["eval_output"]["shape_numel"]
    assert out.sum().item() == pytest.approx(truth["eval_output"]["sum"], rel=1e-3)
    assert out.flatten()[:3].tolist() == pytest.approx(truth["eval_output"]["first3"], rel=1e-3)
    assert out[0, 1, 16, 16, 8].item() == pytest.approx(truth["out_at_0_1_16_16_8"], rel=1e-3)
    assert int((out[:, 1] > out[:, 0]).sum()) == truth["fg_voxels"]
