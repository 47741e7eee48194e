"""Golden numbers of UMCT: Monte-Carlo variance, two-view fusion, permutations, kernels, sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import AHNet
from torch import nn

from medssl.networks.ahnet_resnet18 import inflate_kernel
from medssl.networks.build import build_network
from medssl.ops.fusion import fuse_others
from medssl.ops.orientations import (
    inverse_orientation,
    permute_axes,
    restore_axes,
    standard_orientations,
)
from medssl.ops.uncertainty import mc_statistics, reduce_uncertainty

RTOL = 1e-6
DTYPES = [(torch.float64, 1e-6), (torch.float32, 2e-4)]


@pytest.fixture
def entries(golden):
    return golden("umct")


def close(value, expected, rtol=RTOL):
    assert float(value) == pytest.approx(expected, rel=rtol)


def softmax(logits, axis):
    e = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return torch.from_numpy(e / e.sum(axis=axis, keepdims=True))


# --------------------------------------------------------------------------- A: MC variance


@pytest.mark.parametrize(("dtype", "rtol"), DTYPES)
def test_a_mean_and_variance_over_passes(entries, dtype, rtol):
    truth = entries["A_mc_uncertainty"]
    rng = np.random.default_rng(0)
    passes = softmax(2.0 * rng.standard_normal((10, 2, 3, 4, 5, 6)), axis=2).to(dtype)
    mean, variance = mc_statistics(passes)
    assert mean.dtype == variance.dtype == dtype
    close(mean.sum(), truth["mean_prob_sum"], rtol)
    close(mean[1, 2, 3, 4, 5], truth["mean_prob[1,2,3,4,5]"], rtol)
    close(variance.sum(), truth["var_sum"], rtol)
    close(variance.min(), truth["var_min"], rtol)
    close(variance.max(), truth["var_max"], rtol)
    close(variance[0, 1, 2, 3, 4], truth["var[0,1,2,3,4]"], rtol)
    voxel = reduce_uncertainty(variance, "voxel")
    assert voxel.shape == (2, 1, 4, 5, 6)
    close(voxel.sum(), truth["U_voxel_sum"], rtol)
    close(voxel[1, 0, 0, 0, 0], truth["U_voxel[1,0,0,0,0]"], rtol)
    sample = reduce_uncertainty(variance, "sample")
    assert sample.shape == (2, 1, 1, 1, 1)
    np.testing.assert_allclose(sample.flatten(), truth["U_sample"], rtol=rtol)
    assert torch.equal(reduce_uncertainty(variance, "class"), variance)


# --------------------------------------------------------------------------- C: two views


def test_c_two_views_make_fusion_inert(entries):
    truth = entries["C_two_views"]
    rng = np.random.default_rng(2)
    p1 = softmax(rng.standard_normal((2, 2, 3, 3, 3)), axis=1)
    p2 = softmax(rng.standard_normal((2, 2, 3, 3, 3)), axis=1)
    u1 = torch.from_numpy(0.25 * rng.random((2, 1, 3, 3, 3)))
    u2 = torch.from_numpy(0.25 * rng.random((2, 1, 3, 3, 3)))
    close(p1.square().sum(), truth["p1_sum_sq"])
    close(p2.square().sum(), truth["p2_sum_sq"])
    close(u1.sum(), truth["U1_sum"])
    torch.testing.assert_close(fuse_others([p1, p2], [u1, u2], exclude=0), p2, rtol=0, atol=1e-12)
    torch.testing.assert_close(fuse_others([p1, p2], [u1, u2], exclude=1), p1, rtol=0, atol=1e-12)
    # Equal uncertainty over three views: the plain mean of the two others.
    p3 = softmax(rng.standard_normal((2, 2, 3, 3, 3)), axis=1)
    for i, (a, b) in enumerate([(p2, p3), (p1, p3), (p1, p2)]):
        fused = fuse_others([p1, p2, p3], [u1, u1, u1], exclude=i)
        torch.testing.assert_close(fused, (a + b) / 2, rtol=0, atol=1e-12)


# --------------------------------------------------------------------------- D: permutations


def test_d_permutations(entries):
    truth = entries["D_view_permutations"]["views"]
    x = torch.from_numpy(np.random.default_rng(3).integers(0, 1000, (1, 1, 3, 4, 5)))
    assert {"".join(map(str, v)) for v in standard_orientations(6, 3)} == set(truth)
    for name, entry in truth.items():
        view = tuple(map(int, name))
        assert "".join(map(str, inverse_orientation(view))) == entry["inverse"]
        seen = permute_axes(x, view)
        assert list(seen.shape[2:]) == entry["shape"]
        assert seen[0, 0, 1, 2, 1] == entry["at[0,0,1,2,1]"]
        assert (seen.flatten() * torch.arange(60)).sum() == entry["weighted_checksum"]
        assert view[2] == entry["kernel1_axis_is_input_axis"]
        assert torch.equal(restore_axes(seen, view), x)


# --------------------------------------------------------------------------- F: inflated kernels


def test_f_an_inflated_kernel_is_the_2d_convolution_of_each_slice(entries):
    truth = entries["F_kernel_inflation"]
    rng = np.random.default_rng(5)
    weight = torch.from_numpy(rng.standard_normal((3, 2, 3, 3)))
    x = torch.from_numpy(rng.standard_normal((1, 2, 5, 6, 4)))
    out = F.conv3d(x, inflate_kernel(weight), padding=(1, 1, 0))
    slices = [F.conv2d(x[..., z], weight, padding=1) for z in range(4)]
    torch.testing.assert_close(out, torch.stack(slices, dim=-1), rtol=0, atol=1e-12)
    close(out.sum(), truth["out_sum"])
    close(out.square().sum(), truth["out_sum_sq"])
    close(out[0, 2, 4, 5, 3], truth["out[0,2,4,5,3]"])


# --------------------------------------------------------------------------- H: sizes


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_h_parameter_counts(entries):
    truth = entries["H_architecture_parameter_counts"]
    (r18,) = [v for k, v in truth.items() if "ResNet-18 basic blocks" in k]
    net = build_network("ahnet_r18", spatial_dims=3, in_channels=1, num_classes=2)
    assert count(net) == r18["params"] == 11_790_840
    children = dict(net.named_children())
    assert {k: count(v) for k, v in children.items()} == r18["by_child_module"]
    encoder = itertools.takewhile(lambda name: name != "up0", children)
    assert sum(count(children[name]) for name in encoder) == r18["encoder_params"]
    net.conv1 = nn.Conv3d(1, 64, (7, 7, 1), bias=False)
    assert count(net) == truth["with a 7x7x1 stem instead"]["params"]


def test_h_parameter_count_of_monais_ahnet(entries):
    truth = entries["H_architecture_parameter_counts"]
    (r50,) = [v for k, v in truth.items() if k.startswith("monai AHNet")]
    with torch.device("meta"):
        net = AHNet(
            layers=(3, 4, 6, 3),
            spatial_dims=3,
            in_channels=1,
            out_channels=2,
            psp_block_num=0,
            upsample_mode="trilinear",
        )
    assert count(net) == r50["params"]
