"""Formulas that published codes share, against numbers of codes whose methods are not here.

AD-MT, UniMatch and a masked autoencoder: Dice, cross-entropy, ramps, mixing and masked means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medssl.methods.fixmatch import confident_labels, strong_view_loss
from medssl.ops.losses import dice_and_ce, half_dice_half_ce, weighted_mean
from medssl.ops.mixing import box_mask, mix
from medssl.ops.ramps import sigmoid_ramp
from medssl.ops.variants import WHOLE

Golden = Callable[[str], dict[str, Any]]
EXACT = 1e-6


def normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    return torch.from_numpy((scale * rng.standard_normal(shape)).astype(np.float32))


def labels(rng: np.random.Generator, shape: tuple[int, ...], classes: int) -> Tensor:
    return torch.from_numpy(rng.integers(0, classes, shape))


def test_losses_of_ad_mt(golden: Golden) -> None:
    truth = golden("ad_mt")["checks"]["04_losses"]
    rng = np.random.default_rng(4)
    x, u = normal(rng, (2, 3, 4, 5, 6), 2), normal(rng, (2, 3, 4, 5, 6), 2)
    y_x, y_u = labels(rng, (2, 4, 5, 6), 3), labels(rng, (2, 4, 5, 6), 3)
    sure = torch.from_numpy(rng.uniform(0.4, 1, (2, 4, 5, 6)).astype(np.float32))
    half = half_dice_half_ce(x, y_x, dice=WHOLE)
    assert half.item() == pytest.approx(truth["supervised"], rel=EXACT)
    kept = [torch.where(sure >= t, y_u, 255) for t in (0.8, 0.95)]
    assert [int((k != 255).sum()) for k in kept] == [truth["kept_080"], truth["kept_095"]]
    ce, dice = dice_and_ce(u, kept[0], dice=WHOLE)[1], dice_and_ce(u, kept[1], dice=WHOLE)[0]
    assert ce.item() == pytest.approx(truth["ce_080"], rel=EXACT)
    assert dice.item() == pytest.approx(truth["dice_095"], rel=EXACT)
    nothing = dice_and_ce(u, torch.full_like(y_u, 255), dice=WHOLE)
    assert [part.item() for part in nothing] == [truth["nothing_kept"]["corrected"]] * 2


def test_ramps_of_ad_mt(golden: Golden) -> None:
    truth = golden("ad_mt")["checks"]["05_schedules"]
    for steps in (40, 50):
        for it, value in truth[f"weight_rampup{steps}"].items():
            found = 2 * sigmoid_ramp(int(it), steps * 150, every=150)
            assert found == pytest.approx(value, rel=EXACT)


def test_losses_of_unimatch(golden: Golden) -> None:
    """Targets inside boxes come from the images pasted there; half of Dice and cross-entropy."""
    checks = golden("unimatch")["checks"]
    rng, shape = np.random.default_rng(7), (3, 4, 6, 8)
    x, u_w, m_w, u_1, u_2, fp = (normal(rng, shape, scale) for scale in (2, 4, 4, 2, 2, 2))
    y = labels(rng, (3, 6, 8), 4)
    boxes = torch.ones(2, 3, 6, 8, dtype=torch.bool)
    for view, sample, box in (
        (0, 0, ((1, 4), (2, 7))),
        (0, 2, ((0, 5), (0, 3))),
        (1, 1, ((2, 6), (1, 8))),
    ):
        boxes[view, sample] = box_mask((6, 8), box)
    own, _ = confident_labels(u_w, 0.95)

    def targets(partner: Tensor) -> list[Tensor]:
        return [mix(own, confident_labels(partner, 0.95)[0], mask) for mask in boxes]

    truth = checks["02_v1_loss"]
    dice, ce = dice_and_ce(x, y, dice=WHOLE)
    assert ((dice + ce) / 2).item() == pytest.approx(truth["l_x"], rel=EXACT)
    one, two = targets(m_w)
    for logits, target, name in ((u_1, one, "1"), (u_2, two, "2"), (fp, own, "fp")):
        assert int((target != 255).sum()) == truth[f"kept_{name}"]
        found = dice_and_ce(logits, target, dice=WHOLE)[0]
        assert found.item() == pytest.approx(truth[f"l_{name}"], rel=EXACT)
    truth = checks["03_v2_loss"]
    assert ce.item() == pytest.approx(truth["l_x"], rel=EXACT)
    one, two = targets(u_w.flip(0))
    for logits, target, name in ((u_1, one, "1"), (u_2, two, "2")):
        assert int((target != 255).sum()) == truth[f"kept_{name}"]
        found = strong_view_loss(logits, target, loss="ce", normalize="all")
        assert found.item() == pytest.approx(truth[f"l_{name}"], rel=EXACT)


def test_masked_mean_of_an_autoencoder(golden: Golden) -> None:
    truth = golden("pretraining")["checks"]["02_mae_loss"]
    rng = np.random.default_rng(3)
    x, output = normal(rng, (2, 1, 8, 8, 8)), normal(rng, (2, 1, 8, 8, 8))
    hidden = torch.zeros(2, 1, 8, 8, 8)
    hidden[0, :, :4] = 1
    hidden[1, :, :, 4:, 4:] = 1
    assert int(hidden.sum()) == truth["masked_voxels"]
    for changed in (output, torch.where(hidden == 1, output, output + 1)):
        found = weighted_mean((x - changed).square(), hidden)
        assert found.item() == pytest.approx(truth["loss"], rel=EXACT)
