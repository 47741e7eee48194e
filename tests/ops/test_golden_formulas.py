"""Formulas that published codes share, against numbers of codes whose methods are not here.

AD-MT, UniMatch and a masked autoencoder: Dice, cross-entropy, ramps, mixing and masked means.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medssl.methods.self_training_losses import guess_loss
from medssl.methods.self_training_settings import SelfTrainingSettings
from medssl.methods.self_training_views import Shown
from medssl.ops.boxes import area_box, centred_boxes
from medssl.ops.ema import ema_decay, ema_update
from medssl.ops.feature_dropout import complementary_masks
from medssl.ops.losses import dice_and_ce, half_dice_half_ce, weighted_mean
from medssl.ops.mixing import box_mask, mix
from medssl.ops.perturb import View
from medssl.ops.pseudo_labels import confidence, hard_labels
from medssl.ops.ramps import sigmoid_ramp
from medssl.ops.turns import draw_turns, turn_at
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


def sure_labels(logits: Tensor) -> Tensor:
    probs = logits.softmax(1)
    return torch.where(confidence(probs) >= 0.95, hard_labels(probs), 255)


def strong_view_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy over sure voxels, divided by all."""
    guessed, weight = torch.zeros_like(target, dtype=torch.bool), (target != 255).float()
    shown = Shown(View(logits, target, guessed, weight), slice(0, 0), (slice(None),))
    return guess_loss(logits, shown, SelfTrainingSettings(preset="unimatch", loss="ce"))


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
    own = sure_labels(u_w)

    def targets(partner: Tensor) -> list[Tensor]:
        return [mix(own, sure_labels(partner), mask) for mask in boxes]

    truth = checks["02_v1_loss"]
    dice, ce = dice_and_ce(x, y, dice=WHOLE)
    assert ((dice + ce) / 2).item() == pytest.approx(truth["l_x"], rel=EXACT)
    one, two = targets(m_w)
    for logits, target, name in ((u_1, one, "1"), (u_2, two, "2"), (fp, own, "fp")):
        assert int((target != 255).sum()) == truth[f"kept_{name}"]
        found = dice_and_ce(logits, target, dice=WHOLE)[0]
        assert found.item() == pytest.approx(truth[f"l_{name}"], rel=EXACT)
    parts = [dice_and_ce(v, t, dice=WHOLE)[0] for v, t in ((u_1, one), (u_2, two), (fp, own))]
    whole = half_dice_half_ce(x, y, dice=WHOLE) + (parts[0] + parts[1]) / 4 + parts[2] / 2
    assert (whole / 2).item() == pytest.approx(truth["L"], rel=EXACT)
    every = mix(u_w.argmax(1), m_w.argmax(1), boxes[0])
    assert every.flatten().bincount().tolist() == truth["label_1_counts"]
    supervised, truth = ce, checks["03_v2_loss"]
    assert ce.item() == pytest.approx(truth["l_x"], rel=EXACT)
    one, two = targets(u_w.flip(0))
    parts = []
    for logits, target, name in ((u_1, one, "1"), (u_2, two, "2")):
        assert int((target != 255).sum()) == truth[f"kept_{name}"]
        parts.append(strong_view_loss(logits, target))
        assert parts[-1].item() == pytest.approx(truth[f"l_{name}"], rel=EXACT)
    whole = (supervised + (parts[0] + parts[1]) / 2) / 2
    assert whole.item() == pytest.approx(truth["L"], rel=EXACT)


def test_complementary_dropout_of_unimatch(golden: Golden) -> None:
    truth = golden("unimatch")["checks"]["04_complementary_dropout"]
    for seed in range(5):
        first, second = complementary_masks(4, 6, np.random.RandomState(seed))
        assert (first + second).unique().tolist() == [truth["sum_of_masks"]]
        assert set(first.unique().tolist()) <= {0.0, 1.0, 2.0}
        kept = (first == 1).all(1) & (second == 1).all(1)
        assert int(kept.sum()) == truth["undropped_samples_of_4"]
        assert not (first[~kept] == 1).any()
    assert not (complementary_masks(1, 8, np.random.RandomState(0))[0] == 1).any()


def test_rectangles_of_unimatch(golden: Golden) -> None:
    """None with probability 1/2; area, aspect and place until the rectangle fits."""
    truth = golden("unimatch")["checks"]["01_box"]
    for row in truth["rows"]:
        there = random.Random(row["seed"]).random() <= 0.5
        rng = np.random.RandomState(row["seed"])
        found = [list(span) for span in area_box((64, 64), rng)] if there else None
        assert found == row["box"]
    rng = np.random.RandomState(0)
    shares = [
        (a[1] - a[0]) * (b[1] - b[0]) / 64**2
        for a, b in (area_box((64, 64), rng) for _ in range(2000))
    ]
    assert np.mean(shares) == pytest.approx(truth["mean_area_given_a_box"], abs=0.01)


def test_boxes_of_ad_mt(golden: Golden) -> None:
    """Image, label, confidence and conflicts are cut alike; boxes lie around a random centre."""
    truth = golden("ad_mt")["checks"]["02_cutmix_3d"]
    image = torch.arange(2 * 6 * 7 * 8).view(2, 1, 6, 7, 8)
    flat = image[:, 0]
    known = {
        "image": image,
        "label": flat % 5,
        "confidence": (flat % 11) / 11,
        "conflict": (flat % 3 == 0).long(),
    }
    for row in truth["rows"]:
        boxes = centred_boxes((6, 7, 8), 2, np.random.RandomState(row["seed"]))
        assert [[list(span) for span in box] for box in boxes] == row["boxes"]
        assert row["identity"] == (row["permutation"] == [0, 1])
        mask = box_mask((6, 7, 8), boxes)
        for name, value in known.items():
            mixed = mix(value, value[row["permutation"]], mask)
            sums = mixed.flatten(1).sum(1).tolist()
            assert sums == pytest.approx(row[f"{name}_sums"], rel=1e-6), name
    rng = np.random.RandomState(0)
    for shape, key in (((112, 112, 80), "3d_112x112x80"), ((256, 256), "2d_256")):
        drawn = [centred_boxes(shape, 2, rng) for _ in range(1500)]
        shares = [
            np.prod([(stop - start) / n for (start, stop), n in zip(box, shape, strict=True)])
            for boxes in drawn
            for box in boxes
        ]
        expected = truth["statistics"][f"mean_share_pasted_{key}"]
        assert np.mean(shares) == pytest.approx(expected, abs=0.01)


def test_turns_of_ad_mt(golden: Golden) -> None:
    truth = golden("ad_mt")["checks"]["05_schedules"]
    drawn = draw_turns(20, 19, np.random.RandomState(0))
    assert drawn.tolist() == truth["turns_numpy_seed_0_P19"]
    assert truth["first_turn_updates"].startswith("teacher 1")
    assert turn_at(0, drawn).active == 0
    # The published code's turns that are not random last one iteration, these last P.
    states = [turn_at(i, draw_turns(6, 1, np.random.RandomState(0))).active == 0 for i in range(6)]
    assert states == truth["not_random_fault"]["states"]
    fixed = draw_turns(6, 3, np.random.RandomState(0), random=False)
    assert [turn_at(i, fixed).active for i in range(6)] == [0, 0, 0, 1, 1, 1]


def test_averages_of_ad_mt(golden: Golden) -> None:
    """The warm-up counts pairs of iterations, from as many pairs on as the ramp has steps."""
    checks = golden("ad_mt")["checks"]
    for it, alpha in checks["05_schedules"]["ema_alpha_rampup40"].items():
        since = int(it) // 2 - 40
        found = ema_decay(since, 0.99) if since >= 0 else 0.0
        assert found == pytest.approx(alpha, rel=1e-6)
    truth = checks["06_ema"]
    teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    for network, first, mean, count in ((teacher, None, 1, 2), (student, 1, 3, 7)):
        values = torch.full((4,), -1.0) if first is None else torch.arange(1.0, 5.0)
        nn.utils.vector_to_parameters(values, network.parameters())
        network.running_mean.fill_(mean)
        network.num_batches_tracked.fill_(count)
    ema_update(teacher, student, ema_decay(41 - 40, 0.99))
    found = nn.utils.parameters_to_vector(teacher.parameters()).tolist()
    assert found == truth["parameters"]
    assert teacher.running_mean.tolist() == [truth["running_mean"]] * 2
    assert int(teacher.num_batches_tracked) == int(truth["num_batches_tracked"])


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
