"""Losses of regions: Dice and cross-entropy of summed probabilities, by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from medssl.ops.deep_supervision import Outputs
from medssl.ops.label_unions import in_unions, union_cross_entropy
from medssl.ops.losses import (
    copy_paste_loss,
    dice_and_ce,
    half_dice_half_ce,
    one_hot,
    region_terms,
    supervised_loss,
)
from medssl.ops.variants import FOREGROUND, WHOLE, DiceVariant

BRATS = ((1, 2, 3), (2, 3), (3,))
SPLIT = ((1,), (2,), (3,))
PLAIN = DiceVariant(squared=False, smooth=0.0, background=False)


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return probabilities of four classes at three voxels, their logits, and the labels."""
    probs = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]])
    probs = probs.T.reshape(1, 4, 3, 1)
    return probs, probs.log() + 5, torch.tensor([1, 3, 0]).reshape(1, 3, 1)


def test_dice_and_cross_entropy_by_hand() -> None:
    """Whole .6 .9 .3 of 1 1 0; core .3 .7 .2 of 0 1 0; enhancing .1 .4 .1 of 0 1 0."""
    _, logits, label = example()
    dice, ce = dice_and_ce(logits, label, dice=PLAIN, unions=BRATS)
    scores = [2 * 1.5 / (1.8 + 2), 2 * 0.7 / (1.2 + 1), 2 * 0.4 / (0.6 + 1)]
    assert dice.item() == pytest.approx(1 - sum(scores) / 3)
    right = [[0.6, 0.9, 0.7], [0.7, 0.7, 0.8], [0.9, 0.4, 0.9]]  # of what is so
    expected = -sum(math.log(p) for voxels in right for p in voxels) / 9
    assert ce.item() == pytest.approx(expected, rel=1e-5)


def test_the_squared_form_squares_sums() -> None:
    _, logits, label = example()
    variant = DiceVariant(squared=True, smooth=0.0, background=False)
    dice, _ = dice_and_ce(logits, label, dice=variant, unions=BRATS[:1])
    assert dice.item() == pytest.approx(1 - 2 * 1.5 / (0.36 + 0.81 + 0.09 + 2), rel=1e-5)
    both, _ = dice_and_ce(logits, label, dice=DiceVariant(smooth=0.0), unions=BRATS[:1])
    background = 2 * 0.7 / (0.16 + 0.01 + 0.49 + 1)
    assert both.item() == pytest.approx(1 - (1 - dice.item() + background) / 2, rel=1e-5)


def test_regions_of_one_label_each_have_the_ordinary_dice() -> None:
    """Cross-entropy is another: each structure against all else, instead of all at once."""
    _, logits, label = example()
    for variant in (FOREGROUND, WHOLE, PLAIN):
        own = dice_and_ce(logits, label, dice=variant)
        of_regions = dice_and_ce(logits, label, dice=variant, unions=SPLIT)
        torch.testing.assert_close(of_regions[0], own[0])
        assert of_regions[1] != pytest.approx(own[1].item(), rel=0.01)


def test_of_one_structure_both_are_the_ordinary_loss() -> None:
    logits = torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    label = (logits[:, 1] > 0.3).long()
    label[0, 0] = 255
    own, of_regions = (supervised_loss(logits, label, unions=u) for u in ((), ((1,),)))
    torch.testing.assert_close(of_regions, own)


def test_ignored_voxels_change_neither_loss_nor_gradient() -> None:
    logits = torch.randn(1, 4, 6, 1, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 1, 2, 3, 255, 255]).reshape(1, 6, 1)
    logits.requires_grad_()
    loss = supervised_loss(logits, label, unions=BRATS)
    (gradient,) = torch.autograd.grad(loss, logits)
    cut = supervised_loss(logits[:, :, :4], label[:, :4], unions=BRATS)
    torch.testing.assert_close(loss, cut)
    assert (gradient[:, :, 4:] == 0).all()
    nothing = supervised_loss(logits, torch.full_like(label, 255), unions=BRATS)
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert (gradient == 0).all()


def test_an_inner_region_is_never_more_probable() -> None:
    probs = torch.softmax(torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(2)), 1)
    _, whole, core, inner = in_unions(probs, BRATS).unbind(1)
    assert (whole >= core).all()
    assert (core >= inner).all()
    torch.testing.assert_close(whole, 1 - probs[:, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_certain_and_wrong_is_finite_and_still_teaches(dtype: torch.dtype) -> None:
    """1 - q comes from the other classes: taken from q it would be 0, and its logarithm not."""
    logits = torch.tensor([[0.0, 100.0, 100.0, 0.0]], dtype=dtype).reshape(1, 4, 1, 1)
    logits.requires_grad_()
    loss = supervised_loss(logits, torch.zeros(1, 1, 1, dtype=torch.long), loss="ce", unions=BRATS)
    # Whole and not: 100 + ln 2; core and not: ln 2; enhancing: not.
    assert loss.item() == pytest.approx((100 + 2 * math.log(2)) / 3, rel=1e-3)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0, 0].item() < -0.3
    assert torch.isfinite(gradient).all()


def test_weights_scales_and_soft_labels_go_the_same_way() -> None:
    _, logits, label = example()
    left = torch.tensor([True, False, False]).reshape(1, 3, 1)
    parts = region_terms(logits, label, [left, ~left], dice=PLAIN, unions=BRATS)
    for (dice, ce), kept in zip(parts, (slice(0, 1), slice(1, 3)), strict=True):
        alone = dice_and_ce(logits[:, :, kept], label[:, kept], dice=PLAIN, unions=BRATS)
        torch.testing.assert_close((dice, ce), alone)
    out, box = copy_paste_loss(logits, label, label, left, weights=(2, 0), dice=PLAIN, unions=BRATS)
    torch.testing.assert_close(out, sum(parts[0]))
    assert box == 0
    one = half_dice_half_ce(logits, label, dice=FOREGROUND, unions=BRATS)
    soft = half_dice_half_ce(logits, one_hot(label, 4), dice=FOREGROUND, unions=BRATS)
    torch.testing.assert_close(soft, one)
    scales = Outputs((logits, logits))
    torch.testing.assert_close(half_dice_half_ce(scales, label, dice=FOREGROUND, unions=BRATS), one)
    torch.testing.assert_close(
        supervised_loss(scales, label, unions=BRATS), supervised_loss(logits, label, unions=BRATS)
    )


def test_gradients_are_those_of_the_formula() -> None:
    logits = torch.randn(1, 4, 3, 1, dtype=torch.float64, requires_grad=True)
    hot = F.one_hot(torch.tensor([[[1], [3], [0]]]), 4).movedim(-1, 1).double()
    assert torch.autograd.gradcheck(
        lambda x: union_cross_entropy(x.log_softmax(1), hot, BRATS), logits
    )
