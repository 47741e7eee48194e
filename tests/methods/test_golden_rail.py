"""RAIL against numbers computed with the published code (``golden/rail.json``)."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medssl.methods.rail import Rail
from medssl.methods.rail_losses import Truth, Weights, predict, student_loss
from medssl.methods.rail_schedule import (
    buffered_iterations,
    buffered_position,
    buffered_turns,
)
from medssl.methods.rail_settings import RailSettings
from medssl.networks.build import build_network
from medssl.ops.disagreement import axis_kl, squared_error, voxel_kl
from medssl.ops.ema import ema_decay
from medssl.settings.training import ScheduleSettings
from medssl.training.optimization import learning_rate


@pytest.fixture(scope="module")
def checks(golden: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    return golden("rail")


def ellipsoid(center: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    grid = np.indices((12, 10, 8)).astype(float)
    c, r = (np.array(v).reshape(3, 1, 1, 1) for v in (center, radii))
    return ((((grid - c) / r) ** 2).sum(0) <= 1).astype(np.int64)


LABELED = ellipsoid((4.8, 4.5, 3.5), (4.3, 3.5, 3.0))
UNLABELED = ellipsoid((6.5, 5.0, 4.0), (3.5, 3.5, 2.5))
NOISE = 2 * np.random.default_rng(20250503).standard_normal((6, 2, 2, 12, 10, 8))


def logits(k: int, strength: float) -> torch.Tensor:
    """Return the logits ``(2, 2, 12, 10, 8)`` of network ``k``, the labeled patch first."""
    z = NOISE[k].astype(np.float32)
    for b, y in enumerate((LABELED, UNLABELED)):
        z[b, 1] += np.float32(strength) * (2 * y - 1).astype(np.float32)
    return torch.from_numpy(z)


# --------------------------------------------------------------------------- 1: losses


def test_1_loss_primitives(checks: dict[str, Any]) -> None:
    expected = checks["1_loss_primitives"]["outputs"]
    truth = Truth.of(torch.from_numpy(LABELED)[None], 2)
    student = predict(logits(0, 1.5), truth)
    probs, log_probs = student.labeled.probs, student.labeled.log_probs
    assert student.dice.item() == pytest.approx(expected["dice_loss"], rel=1e-5)
    total = expected["dice_loss"] + expected["cross_entropy"]
    loss, _ = student_loss(
        student,
        truth,
        student.unlabeled.probs,
        official().settings,
        index=0,
        best=None,
        weights=Weights(consistency=20, teacher=10),
    )
    assert loss.item() == pytest.approx(total, rel=1e-5)
    mse = squared_error(probs, truth.hot).mean().item()
    assert mse == pytest.approx(expected["mse_mean"], rel=1e-5)
    kl = axis_kl(probs, truth.hot)
    assert kl.mean().item() == pytest.approx(expected["kl_W_axis_mean"], rel=1e-5)
    assert kl.max().item() == pytest.approx(expected["kl_W_axis_max"], rel=1e-5)
    assert kl.min().item() == pytest.approx(expected["kl_W_axis_min"], rel=1e-5)
    sums = expected["kl_checksum"]
    assert kl.numel() == sums["shape_numel"]
    assert kl.double().sum().item() == pytest.approx(sums["sum"], rel=1e-5)
    assert kl.double().abs().sum().item() == pytest.approx(sums["abs_sum"], rel=1e-5)
    assert kl.flatten()[:3].tolist() == pytest.approx(sums["first3"], rel=1e-5)
    reference = expected["reference_voxel_kl_onehot_mean"]
    assert voxel_kl(log_probs, truth.hot).mean().item() == pytest.approx(reference, rel=1e-5)


# --------------------------------------------------------------------------- 4: schedules


def official(**settings: Any) -> Rail:
    def build(**_: Any) -> nn.Module:
        return nn.Conv3d(1, 2, 1)

    return Rail(RailSettings(preset="official", **settings), build, num_classes=2, spatial_dims=3)


RATES = ScheduleSettings(name="warmup_constant_cosine", warmup=1000, min_lr=1e-5, decay_start=0.5)


def test_4_schedules(checks: dict[str, Any]) -> None:
    entry, method = checks["4_schedules"], official()
    for iteration, value in entry["consistency_weight"].items():
        weight = method.settings.consistency_weight * method.settings.ramp(int(iteration), 8000)
        assert weight == pytest.approx(value, rel=1e-9)
    for iteration, value in entry["teacher_weight"].items():
        weight = method.settings.teacher_weight * method.settings.ramp(int(iteration), 8000)
        assert weight == pytest.approx(value, rel=1e-9)
    for iteration, value in entry["lr"].items():
        rate = learning_rate(int(iteration), 8000, 0.01, RATES)
        assert rate == pytest.approx(value, rel=1e-9)
    for iteration, value in entry["ema_alpha"].items():
        assert ema_decay(int(iteration), 0.999) == pytest.approx(value, rel=1e-9)
        assert method.decay(int(iteration)) == pytest.approx(value, rel=1e-9)


# --------------------------------------------------------------------------- 5: alternation

LOADED = {"L195": 8000, "L105": 8000, "small": 23}


def described(turn: Any) -> dict[str, Any]:
    return {
        "group": turn.group,
        "first_term": turn.first_term,
        "n_batches": turn.batches,
        "first_batch": turn.first_batch,
        "last_batch": turn.last_batch,
        "group_iter_before": turn.group_iteration,
        "group_iter_after": turn.group_iteration + turn.batches,
    }


@pytest.mark.parametrize("name", sorted(LOADED))
def test_5_alternation_schedule(checks: dict[str, Any], name: str) -> None:
    entry = checks["5_alternation_schedule"][name]
    turns = buffered_turns(entry["loader_len"], LOADED[name])
    assert len(turns) == entry["n_turns"]
    first, last = entry["first_turns"], entry["last_turns"]
    for turn, expected in [
        *zip(turns, first, strict=False),
        *zip(turns[-len(last) :], last, strict=True),
    ]:
        rate = learning_rate(turn.last_batch, 8000, 0.01, RATES)
        assert rate == pytest.approx(expected["lr"], rel=1e-9)
        assert described(turn) == {k: v for k, v in expected.items() if k != "lr"}
    totals = {str(g): sum(t.batches for t in turns if t.group == g) for g in (0, 1)}
    assert totals == entry["total_iterations_per_group"]


@pytest.mark.parametrize("name", sorted(LOADED))
def test_5_the_method_walks_through_the_turns(checks: dict[str, Any], name: str) -> None:
    """Every iteration of the engine is the one the published loop would take."""
    length, loaded = checks["5_alternation_schedule"][name]["loader_len"], LOADED[name]
    method = official(turn_length=length, loaded_batches=loaded)
    total = buffered_iterations(length, loaded)
    (stage,) = method.stages(total)
    iteration = 0
    for turn in buffered_turns(length, loaded):
        for offset in range(turn.batches):
            position = method.settings.position(iteration, total)
            assert position == buffered_position(iteration, length, loaded)
            assert position.group == turn.group
            assert position.first_term == turn.first_term
            assert position.group_iteration == turn.group_iteration + offset
            assert method.batch_address("train", iteration) == turn.first_batch + offset
            assert method.learning_rate_position(stage, iteration) == (turn.last_batch, loaded)
            iteration += 1
    assert iteration == total


# --------------------------------------------------------------------------- 8: networks


def fill(net: nn.Module) -> nn.Module:
    """Fill a network by the names of its tensors."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            r = torch.from_numpy(rng.standard_normal(tuple(tensor.shape)).astype(np.float32))
            if name.endswith("running_var"):
                r = 1 + 0.1 * r.abs()
            elif r.ndim == 1:
                scale = name.endswith(".weight")
                r = scale + 0.05 * r
            else:
                r = r * (2 / np.prod(r.shape[1:])) ** 0.5
            tensor.copy_(r)
    return net


@pytest.mark.parametrize(("name", "key"), [("vnet", "VNet"), ("resvnet", "ResVNet")])
def test_8_networks(checks: dict[str, Any], name: str, key: str) -> None:
    expected = checks["8_networks"]["outputs"][key]
    net = build_network(name, spatial_dims=3, in_channels=1, num_classes=2)
    assert sum(p.numel() for p in net.parameters()) == expected["params_live"]
    names = {n.split(".")[0] for n in net.state_dict()}
    dead = set(expected["dead_modules"])
    assert not names & dead
    # What the published network carries along without use: a V-Net's encoder, and another head.
    vnet = build_network("vnet", spatial_dims=3, in_channels=1, num_classes=2)
    parts = {k: sum(p.numel() for p in m.parameters()) for k, m in vnet.named_children()}
    idle = sum(parts[k] for k in dead if k in parts)
    heads = parts["block_nine"] + parts["out_conv"] if "branchs" in dead else 0
    assert expected["params_total"] == expected["params_live"] + idle + heads
    image = np.random.default_rng(5).random((1, 1, 32, 32, 16)).astype(np.float32)
    with torch.no_grad():
        out = fill(net).eval()(torch.from_numpy(image))
    sums = expected["eval_output"]
    assert out.numel() == sums["shape_numel"]
    assert out.double().sum().item() == pytest.approx(sums["sum"], rel=1e-3)
    assert out.double().abs().sum().item() == pytest.approx(sums["abs_sum"], rel=1e-3)
    assert out.flatten()[:3].tolist() == pytest.approx(sums["first3"], rel=1e-3)
    assert out[0, 1, 16, 16, 8].item() == pytest.approx(expected["out_at_0_1_16_16_8"], rel=1e-3)
    assert int((out.max(1).indices == 1).sum()) == expected["fg_voxels"]
