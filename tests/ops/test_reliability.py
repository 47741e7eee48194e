"""Boundaries, agreement, an arbiter, entropy weights and early learning: by hand and golden."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from medssl.ops.fusion import entropy_weights, fuse_by_entropy, fuse_others
from medssl.ops.reliability import (
    agreement,
    boundary,
    boundary_factor,
    elr,
    overruled,
    shrunk_ce,
    soft_background,
    soft_ce,
)

Golden = Callable[[str], dict[str, Any]]


def test_the_boundary_of_a_square_is_its_surround() -> None:
    """A 2 x 2 square in 6 x 6: the 4 x 4 around it; the rim of the patch is none."""
    label = torch.zeros(1, 6, 6, dtype=torch.long)
    label[0, 2:4, 2:4] = 3
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[1:5, 1:5] = True
    assert torch.equal(boundary(label)[0], expected)
    assert boundary(label, (0, 1))[0].sum() == 8
    assert not boundary(torch.full((2, 5, 4, 3), 2)).any()
    assert boundary_factor(label, 0.5)[0].unique().tolist() == [1.0, 1.5]


def test_a_boundary_in_three_dimensions_is_two_slices_thick() -> None:
    label = torch.zeros(1, 6, 5, 4, dtype=torch.long)
    label[:, 3:] = 1
    found = boundary(label)[0]
    assert found[2:4].all()
    assert not found[:2].any()
    assert not found[4:].any()


def test_where_two_disagree_there_is_no_label() -> None:
    found = agreement(torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 1, 0, 0]]))
    assert found.tolist() == [[0, 1, 255, 0]]


def test_background_counts_as_it_is_probable() -> None:
    probs = torch.tensor([[[0.5, 0.2], [0.5, 0.8]]])
    found = soft_background(torch.tensor([[0, 1]]), probs)
    assert found.tolist() == [[0.5, 1.0]]


def test_the_arbiter_overrules_where_teachers_conflict(golden: Golden) -> None:
    t = golden("ad_mt")["checks"]["03_compromise"]
    label, confidence = overruled(
        torch.tensor(t["teacher_label"]),
        torch.tensor(t["teacher_confidence"]),
        torch.tensor(t["student_label"]),
        torch.tensor(t["student_confidence"]),
        torch.tensor(t["conflict"], dtype=torch.bool),
    )
    assert label.tolist() == t["label"]
    assert confidence.tolist() == pytest.approx(t["confidence"])
    same = torch.tensor([0.6])
    tie, _ = overruled(torch.tensor([0]), same, torch.tensor([1]), same, torch.tensor([True]))
    assert tie.tolist() == [0], "a tie keeps the teachers' label"


def test_two_teachers_fused_by_entropy(golden: Golden) -> None:
    t = golden("ad_mt")["checks"]["01_fuse"]
    rng = np.random.default_rng(0)
    shape = (2, 3, 4, 5, 6)
    probs = [
        torch.from_numpy((3 * rng.standard_normal(shape)).astype(np.float32)).softmax(1)
        for _ in range(2)
    ]
    first = entropy_weights(probs)[0]
    assert first.flatten()[:6].tolist() == pytest.approx(t["w1_first6"], rel=1e-5)
    assert first.mean().item() == pytest.approx(t["w1_mean"], rel=1e-5)
    fused = fuse_by_entropy(probs)
    assert fused.flatten()[:6].tolist() == pytest.approx(t["fused_first6"], rel=1e-5)
    confidence, label = fused.max(1)
    assert confidence.mean().item() == pytest.approx(t["confidence_mean"], rel=1e-5)
    assert label.flatten().bincount().tolist() == t["label_counts"]
    own = [p.argmax(1) for p in probs]
    assert int((own[0] != own[1]).sum()) == t["conflicts"]
    assert int((agreement(*own) == 255).sum()) == t["conflicts"]
    plain, before = torch.stack(probs).mean(0).argmax(1), t["first_upload_2d"]
    assert plain.flatten().bincount().tolist() == before["label_counts"]
    assert int((plain != label).sum()) == before["labels_that_differ"]


def test_entropy_weights_by_hand(golden: Golden) -> None:
    t = golden("ad_mt")["checks"]["01_fuse"]["by_hand"]
    probs = [torch.tensor(t[q]).view(1, 2, 1, 1) for q in ("q1", "q2")]
    assert entropy_weights(probs)[0].item() == pytest.approx(t["w1"], rel=1e-5)
    assert fuse_by_entropy(probs)[0, 0].item() == pytest.approx(t["fused0"], rel=1e-5)


@pytest.mark.parametrize(("classes", "weight"), [(2, 0.731), (3, 0.830), (4, 0.881)])
def test_a_sure_teacher_against_one_that_knows_nothing(classes: int, weight: float) -> None:
    sure = torch.eye(classes)[0].view(1, classes, 1, 1)
    nothing = torch.full_like(sure, 1 / classes)
    first, second = entropy_weights([sure, nothing])
    assert first.item() == pytest.approx(1 / (1 + math.exp(-math.log2(classes))), rel=1e-5)
    assert first.item() == pytest.approx(weight, abs=1e-3)
    assert (first + second).item() == pytest.approx(1)
    alike = fuse_by_entropy([nothing, nothing])
    torch.testing.assert_close(alike, nothing)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fusion_of_half_precision_is_finite(dtype: torch.dtype) -> None:
    sure = torch.tensor([1.0, 0.0], dtype=dtype).view(1, 2, 1)
    unsure = torch.tensor([0.5, 0.5], dtype=dtype).view(1, 2, 1)
    weight = 1 / (1 + math.exp(-1))  # of 0 bits against 1
    fused = fuse_by_entropy([sure, unsure]).flatten()
    expected = torch.tensor([weight + (1 - weight) / 2, (1 - weight) / 2])
    torch.testing.assert_close(fused, expected)
    none, some = torch.zeros_like(sure[:, :1]), torch.ones_like(sure[:, :1])
    fused = fuse_others([sure, unsure], [none, none]).flatten()
    torch.testing.assert_close(fused, torch.tensor([0.75, 0.25]))
    fused = fuse_others([sure, unsure], [none, some]).flatten()
    torch.testing.assert_close(fused, torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)


def test_early_learning_by_hand() -> None:
    p, q = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.6, 0.3, 0.1], [0.7, 0.2, 0.1]))
    assert elr(p.log(), q).item() == pytest.approx(-0.67334, abs=1e-5)
    logits = torch.tensor([60.0, 0, 0]).view(1, 3, 1, 1).requires_grad_()
    value = elr(logits, torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1))
    assert -9 <= value.item() < -8
    value.backward()
    assert bool(logits.grad.isfinite().all())
    two = torch.cat([p, p], dim=2).log()
    known = elr(two, torch.cat([q, 1 - q], dim=2), torch.tensor([[[1.0], [0.0]]]))
    assert known.item() == pytest.approx(-0.67334, abs=1e-5)
    assert elr(p.log(), q, torch.zeros(1, 1, 1)).item() == 0


def test_soft_cross_entropy_by_hand() -> None:
    p, q = (torch.tensor(v).view(1, 2, 1, 2) for v in ([0.8, 0.5, 0.2, 0.5], [0.9, 1, 0.1, 0]))
    found = soft_ce(p.log(), q, torch.tensor([[[1.0, 0.5]]]))
    first = -(0.9 * math.log(0.8) + 0.1 * math.log(0.2))
    assert found.item() == pytest.approx((first + 0.5 * math.log(2)) / 1.5, rel=1e-5)
    assert soft_ce(p.log(), q, torch.zeros(1, 1, 2)).item() == 0


def one_voxel(*probs: float) -> torch.Tensor:
    """Return probabilities ``(1, K, 1, 1)``."""
    return torch.tensor(probs).view(1, -1, 1, 1)


def test_shrunk_classes_by_hand() -> None:
    """.5 of .5 + .2 is below .75 and .5 of .5 + .05 above: the two ends stay, ``0.5 log 2``."""
    q = one_voxel(0.15, 0.5, 0.05, 0.3)
    logits = torch.zeros(1, 4, 1, 1, requires_grad=True)
    loss, share = shrunk_ce(logits, q, 0.75)
    assert loss.item() == pytest.approx(0.34657, abs=1e-5)
    assert share.item() == 0
    loss.backward()
    assert logits.grad.flatten().tolist() == pytest.approx([0, -0.25, 0.25, 0])
    order = torch.tensor([2, 3, 1, 0])
    moved = torch.zeros(1, 4, 1, 1, requires_grad=True)
    shrunk_ce(moved, q[:, order], 0.75)[0].backward()
    assert torch.equal(moved.grad, logits.grad[:, order])
    # A looser threshold keeps rank 2, too; of three classes that stay, the likeliest is one.
    loss, _ = shrunk_ce(torch.zeros(1, 4, 1, 1), q, 0.7)
    assert loss.item() == pytest.approx(0.5 * math.log(3))


@pytest.mark.parametrize(
    "q",
    [(0.4, 0.6), (0.3, 0.36, 0.34), (0.6, 0.3, 0.1), (0.05, 0.9, 0.05), (0.0, 0.0, 0.0)],
    ids=["two classes", "never sure", "background", "sure", "no guess"],
)
def test_other_voxels_have_nothing_to_shrink(q: tuple[float, ...]) -> None:
    logits = torch.randn(1, len(q), 1, 1, requires_grad=True)
    loss, _ = shrunk_ce(logits, one_voxel(*q), 0.7)
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()


def test_the_least_sure_voxels_are_looked_at_and_sure_ones_counted() -> None:
    q = torch.cat([one_voxel(0.1, p, 0.1, 0.8 - p) for p in (0.9, 0.7, 0.5, 0.6)], dim=2)
    q = torch.cat([q, one_voxel(0.9, 0.1, 0, 0)], dim=2)
    logits = torch.zeros(1, 4, 5, 1, requires_grad=True)
    loss, share = shrunk_ce(logits, q, 0.72, budget=2)
    assert share.item() == 0.25, "one of four voxels of a structure"
    loss.backward()
    assert logits.grad.abs().sum(1).flatten().gt(0).tolist() == [False, False, True, True, False]
