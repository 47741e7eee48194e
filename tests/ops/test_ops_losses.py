"""Losses against hand-made truths: masks, ignored voxels, half precision, variants."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from weighted_loss import dice_ce_loss

from medssl.ops.losses import (
    DiceVariant,
    copy_paste_loss,
    dice_loss,
    one_hot,
    region_terms,
    softmax_mse,
    weighted_mean,
)

VARIANTS = [
    DiceVariant(*flags) for flags in itertools.product([0, 1], [0, 1], [1e-5, 1e-10], [0, 1])
]


def example(shape=(6, 5), classes=3, batch=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, *shape, generator=g)
    return logits, torch.randint(0, classes, (batch, *shape), generator=g)


def test_one_hot_marks_classes_and_leaves_ignored_voxels_empty():
    hot = one_hot(torch.tensor([[0, 2, 255]]), 3)
    assert hot.tolist() == [[[1, 0, 0], [0, 0, 0], [0, 1, 0]]]


def test_dice_of_a_hand_made_overlap():
    # 4 voxels predicted, 2 of them right, 3 in the reference: Dice = 2*2 / (4+3).
    p = torch.tensor([1.0, 1, 1, 1, 0, 0]).view(1, 1, 6)
    y = torch.tensor([1.0, 1, 0, 0, 1, 0]).view(1, 1, 6)
    for squared in (False, True):
        loss = dice_loss(p, y, variant=DiceVariant(squared=squared))
        assert loss.item() == pytest.approx(1 - 4 / 7, abs=1e-5)


def test_squared_and_plain_denominators_by_hand():
    p, y = torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[1.0, 0.0]]])
    plain = dice_loss(p, y, variant=DiceVariant(squared=False, smooth=1e-10))
    squared = dice_loss(p, y, variant=DiceVariant(squared=True, smooth=1e-10))
    assert plain.item() == pytest.approx(1 - 1 / 2)
    assert squared.item() == pytest.approx(1 - 1 / 1.5)


def test_batch_and_sample_sums_by_hand():
    p = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]]])
    y = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    batch = dice_loss(p, y, variant=DiceVariant(smooth=1e-10))
    sample = dice_loss(p, y, variant=DiceVariant(per_sample=True, smooth=1e-10))
    assert batch.item() == pytest.approx(1 - 2 / 5)
    assert sample.item() == pytest.approx(1 - (2 / 3 + 0) / 2)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5)])
def test_a_masked_loss_equals_the_loss_of_the_kept_part(variant, shape):
    logits, target = example(shape)
    weight = torch.zeros(2, *shape)
    weight[:, :3] = 1
    masked = dice_ce_loss(logits, target, weight=weight, dice=variant)
    kept = dice_ce_loss(logits[:, :, :3], target[:, :3], dice=variant)
    torch.testing.assert_close(masked, kept)


@pytest.mark.parametrize("variant", VARIANTS)
def test_ignored_voxels_change_neither_loss_nor_gradient(variant):
    logits, target = example()
    target[0, 2:] = 255
    target[1, :, 0] = 255
    logits.requires_grad_()
    loss = dice_ce_loss(logits, target, dice=variant)
    (grad,) = torch.autograd.grad(loss, logits)
    ignored = (target == 255).unsqueeze(1).expand_as(grad)
    assert torch.equal(grad[ignored], torch.zeros_like(grad[ignored]))
    assert grad[~ignored].abs().min() > 0
    changed = torch.where(ignored, torch.full_like(logits, 7.0), logits)
    torch.testing.assert_close(dice_ce_loss(changed, target, dice=variant), loss)


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_ignored_is_zero_with_a_zero_gradient(variant):
    logits, target = example()
    logits.requires_grad_()
    loss = dice_ce_loss(logits, torch.full_like(target, 255), dice=variant)
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert torch.equal(grad, torch.zeros_like(grad))


def test_cross_entropy_is_torchs_where_nothing_is_masked():
    logits, target = example()
    ((_, ce),) = region_terms(logits, target, [None])
    torch.testing.assert_close(ce, F.cross_entropy(logits, target))
    target[0, 0] = 255
    ((_, ce),) = region_terms(logits, target, [None])
    torch.testing.assert_close(ce, F.cross_entropy(logits, target, ignore_index=255))


def test_soft_weights_count_as_repetition():
    logits, target = example()
    double = torch.cat([logits, logits[:1]]), torch.cat([target, target[:1]])
    weight = torch.ones(2, 6, 5)
    weight[0] = 2
    torch.testing.assert_close(dice_ce_loss(logits, target, weight=weight), dice_ce_loss(*double))


def test_weights_of_the_two_parts():
    logits, target = example()
    dice = dice_ce_loss(logits, target, ce_weight=0)
    ce = dice_ce_loss(logits, target, dice_weight=0)
    both = dice_ce_loss(logits, target, dice_weight=0.3, ce_weight=0.7)
    torch.testing.assert_close(both, 0.3 * dice + 0.7 * ce)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_do_not_overflow(dtype):
    logits = torch.zeros(1, 2, 72, 72, 72, dtype=dtype)
    target = torch.zeros(1, 72, 72, 72, dtype=torch.int64)
    target[:, :36] = 1
    with torch.autocast("cpu", dtype=dtype):
        loss = dice_ce_loss(logits, target, dice=DiceVariant(squared=False))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.5 + math.log(2), abs=1e-4)


def test_regions_share_a_pass_and_equal_separate_calls():
    logits, target = example((8, 8))
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 2:5, 1:6] = True
    both = region_terms(logits, target, [mask, ~mask])
    for region, (dice, ce) in zip([mask, ~mask], both, strict=True):
        torch.testing.assert_close(
            dice + ce, dice_ce_loss(logits, target, weight=region.float().expand(2, 8, 8))
        )


@pytest.mark.parametrize("legacy", [False, True])
def test_copy_paste_loss_ignores_labels_of_the_other_region_unless_legacy(legacy):
    logits, outside = example((8, 8))
    _, inside = example((8, 8), seed=1)
    mask = torch.ones(1, 8, 8, dtype=torch.bool)
    mask[:, 2:5, 1:6] = False
    dice = DiceVariant(legacy_background=legacy)
    weights = {"weights": (1.0, 0.5), "dice": dice}
    first = copy_paste_loss(logits, outside, inside, mask, **weights)
    other = torch.where(mask, outside, (outside + 1) % 3)
    second = copy_paste_loss(logits, other, inside, mask, **weights)
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[0], second[0]) is not legacy


def test_softmax_mse_by_hand_and_without_teacher_gradient():
    student = torch.zeros(1, 2, 2, requires_grad=True)
    teacher = torch.tensor([[[math.log(3.0), 0.0], [0.0, 0.0]]], requires_grad=True)
    loss = softmax_mse(student, teacher)
    assert loss.item() == pytest.approx(2 * 0.25**2 / 4)
    loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    weight = torch.tensor([[1.0, 0.0]])
    assert softmax_mse(student, teacher, weight).item() == pytest.approx(0.25**2)
    assert softmax_mse(student, teacher, torch.zeros(1, 2)).item() == 0


def test_weighted_mean_counts_broadcast_weights():
    values = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    weight = torch.tensor([[[1.0, 3.0]]])
    assert weighted_mean(values, weight).item() == pytest.approx((1 + 6 + 3 + 12) / 8)


def test_losses_reproduce_the_dice_of_the_anatomical_code(golden):
    import numpy as np

    (entry,) = [c for c in golden("anatomical")["checks"] if c["id"] == "losses"]
    truth = entry["outputs"]
    rng = np.random.default_rng(101)
    score = torch.from_numpy(rng.uniform(0, 1, (2, 4, 3, 4, 5)))
    target = torch.from_numpy(rng.integers(0, 4, (2, 3, 4, 5)))
    fg = DiceVariant(background=False)
    loss = dice_loss(score, one_hot(target, 4), variant=fg)
    assert loss.item() == pytest.approx(truth["a_dice_loss"], rel=1e-6)
    for seed, classes, key in ((102, 4, "c"), (103, 2, "d")):
        rng = np.random.default_rng(seed)
        logits = torch.from_numpy(rng.standard_normal((4, classes, 3, 4, 5)))[:2]
        label = torch.from_numpy(rng.integers(0, classes, (4, 3, 4, 5)))[:2]
        ((dice, ce),) = region_terms(logits, label, [None], dice=fg)
        assert dice.item() == pytest.approx(truth[f"{key}_dice_loss"], rel=1e-5)
        assert ce.item() == pytest.approx(truth[f"{key}_ce"], rel=1e-5)
        half = dice_ce_loss(logits, label, dice=fg, dice_weight=0.5, ce_weight=0.5)
        assert half.item() == pytest.approx(truth[f"{key}_supervised"], rel=1e-5)
