"""Numbers computed with BCP's published code (masks, losses, components, moving average)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from weighted_loss import dice_ce_loss

from medssl.networks.build import build_network
from medssl.ops.boxes import box_size, draw_box
from medssl.ops.components import begin_largest_components
from medssl.ops.ema import ema_update
from medssl.ops.losses import DiceVariant, copy_paste_loss, region_terms
from medssl.ops.mixing import box_mask, mix

ACDC = DiceVariant(smooth=1e-10)
ACDC_BEFORE_FIX = DiceVariant(smooth=1e-10, legacy_background=True)
LA = DiceVariant(per_sample=True, squared=False)
RTOL = 1e-5


@pytest.fixture
def checks(golden):
    return golden("bcp")["checks"]


def draw(shape, seed):
    return draw_box(shape, 2 / 3, np.random.RandomState(seed), inclusive=False)


def as_box(rows):
    return tuple(tuple(row) for row in rows)


# --------------------------------------------------------------------------- 01, 02: boxes


def test_01_boxes_of_acdc(checks):
    entry = checks["01_mask_2d"]
    for row in entry["rows"]:
        box = draw((256, 256), row["legacy_seed"])
        assert box == as_box(row["box"])
        mask = box_mask((256, 256), [box])
        assert int((~mask).sum()) == row["zeros"]
        assert list(mask[0].shape) == row["mask_shape"]
        assert list(mask.expand(6, -1, -1).shape) == row["loss_mask_shape"]
    for row in entry["other_shapes"]:
        box = draw(row["shape"], row["legacy_seed"])
        assert box == as_box(row["box"])
        assert [stop - start for start, stop in box] == row["box_size"]


def test_01_range_of_starts(checks):
    truth = checks["01_mask_2d"]["start_range_over_20000_draws"]
    rng = np.random.RandomState(0)
    starts = np.array(
        [[s for s, _ in draw_box((256, 256), 2 / 3, rng, inclusive=False)] for _ in range(20_000)]
    )
    assert starts.min(0).tolist() == truth["min"]
    assert starts.max(0).tolist() == truth["max"]


@pytest.mark.parametrize(("key", "shape"), [("la", (112, 112, 80)), ("pancreas", (96, 96, 96))])
def test_02_boxes_of_la_and_pancreas(checks, key, shape):
    for row in checks["02_mask_3d"][key]:
        box = draw(shape, row["legacy_seed"])
        assert box == as_box(row["box"])
        assert int((~box_mask(shape, box)).sum()) == row["zeros"]


def test_02_other_patches_get_the_whole_box_that_the_published_code_loses(checks):
    for row in checks["02_mask_3d"]["la_bug_patch_48_48_32"]:
        mask = box_mask((48, 48, 32), draw((48, 48, 32), row["legacy_seed"]))
        assert int((~mask).sum()) == row["zeros_expected"] != row["zeros"]


def published_box(rng, patch=(48, 48, 32)):
    """Box of the published code, which places it in 112 x 112 x 80 whatever the patch."""
    box = []
    for n, size, side in zip((112, 112, 80), box_size(patch, 2 / 3), patch, strict=True):
        start = rng.randint(0, n - size)
        box.append((min(start, side), min(start + size, side)))
    return None if any(a == b for a, b in box) else tuple(box)


def test_02_what_the_published_code_does_with_other_patches(checks):
    entry = checks["02_mask_3d"]
    for row in entry["la_bug_patch_48_48_32"]:
        box = published_box(np.random.RandomState(row["legacy_seed"]))
        assert box == (row["box"] and as_box(row["box"]))
        assert (0 if box is None else np.prod([b - a for a, b in box])) == row["zeros"]
    truth = entry["la_bug_summary"]
    rng = np.random.RandomState(truth["legacy_seed"])
    boxes = [published_box(rng) for _ in range(truth["draws"])]
    whole = [b is not None and [y - x for x, y in b] == [32, 32, 21] for b in boxes]
    assert boxes.count(None) / len(boxes) == pytest.approx(truth["empty_box_fraction"])
    assert sum(whole) / len(boxes) == pytest.approx(truth["full_box_fraction"])


# --------------------------------------------------------------------------- 03, 04: losses


def acdc_inputs():
    rng = np.random.default_rng(11)
    logits = (2 * rng.standard_normal((3, 4, 24, 20))).astype(np.float32)
    outside, inside = rng.integers(0, 4, (3, 24, 20)), rng.integers(0, 4, (3, 24, 20))
    mask = torch.ones(3, 24, 20, dtype=torch.bool)
    mask[:, 5:21, 3:16] = False
    return torch.from_numpy(logits), torch.from_numpy(outside), torch.from_numpy(inside), mask


@pytest.mark.parametrize(
    ("key", "out", "box", "dice"),
    [
        ("labelled_outside__u0p5_unlabFalse", 1, 0.5, ACDC),
        ("unlabelled_outside__u0p5_unlabTrue", 0.5, 1, ACDC),
        ("pretrain__u1_unlabTrue", 1, 1, ACDC),
        ("pre_fix_labelled_outside", 1, 0.5, ACDC_BEFORE_FIX),
        ("pre_fix_unlabelled_outside", 0.5, 1, ACDC_BEFORE_FIX),
    ],
)
def test_03_loss_of_acdc(checks, key, out, box, dice):
    truth = checks["03_loss_acdc"][key]
    logits, outside, inside, mask = acdc_inputs()
    logits.requires_grad_()
    loss = sum(copy_paste_loss(logits, outside, inside, mask, weights=(out, box), dice=dice))
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(truth["total"], rel=RTOL)
    assert grad.norm().item() == pytest.approx(truth["grad_l2"], rel=1e-4)
    m = mask.unsqueeze(1)
    assert (grad * m).abs().sum().item() == pytest.approx(truth["grad_abs_sum_outside"], rel=1e-4)
    assert (grad * ~m).abs().sum().item() == pytest.approx(truth["grad_abs_sum_inside"], rel=1e-4)

    ((dice_out, ce_out),) = region_terms(logits, outside, [mask], dice=dice)
    ((dice_in, ce_in),) = region_terms(logits, inside, [~mask], dice=dice)
    assert (out * dice_out + box * dice_in).item() == pytest.approx(truth["dice"], rel=RTOL)
    assert (out * ce_out + box * ce_in).item() == pytest.approx(truth["ce"], rel=RTOL)


def test_03_parts(checks):
    truth = checks["03_loss_acdc"]["parts"]
    logits, outside, inside, mask = acdc_inputs()
    for label, region, key in (
        (outside, mask, "dice_outside_image_l"),
        (inside, ~mask, "dice_inside_patch_l"),
        (outside, None, "dice_unmasked_image_l"),
    ):
        ((dice, _),) = region_terms(logits, label, [region], dice=ACDC)
        assert dice.item() == pytest.approx(truth[key], rel=RTOL)


def la_inputs():
    rng = np.random.default_rng(12)
    logits = (2 * rng.standard_normal((2, 2, 16, 14, 12))).astype(np.float32)
    outside = rng.integers(0, 2, (2, 16, 14, 12))
    inside = rng.integers(0, 2, (2, 16, 14, 12))
    outside[1] = 0
    mask = torch.ones(2, 16, 14, 12, dtype=torch.bool)
    mask[:, 4:14, 2:11, 3:11] = False
    return torch.from_numpy(logits), torch.from_numpy(outside), torch.from_numpy(inside), mask


@pytest.mark.parametrize(
    ("key", "out", "box"),
    [("labelled_outside__u0p5", 1, 0.5), ("unlabelled_outside__u0p5", 0.5, 1)],
)
def test_04_loss_of_la(checks, key, out, box):
    truth = checks["04_loss_la"][key]
    logits, outside, inside, mask = la_inputs()
    logits.requires_grad_()
    loss = sum(copy_paste_loss(logits, outside, inside, mask, weights=(out, box), dice=LA))
    (grad,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(truth["loss"], rel=RTOL)
    assert grad.norm().item() == pytest.approx(truth["grad_l2"], rel=1e-4)


def test_04_parts_and_pretraining(checks):
    entry = checks["04_loss_la"]
    logits, outside, inside, mask = la_inputs()
    (out,) = region_terms(logits, outside, [mask], dice=LA)
    (box,) = region_terms(logits, inside, [~mask], dice=LA)
    ours = {
        "dice_outside": out[0],
        "dice_inside": box[0],
        "ce_outside": out[1],
        "ce_inside": box[1],
    }
    for key, value in entry["parts"].items():
        assert ours[key].item() == pytest.approx(value, rel=RTOL)
    mixed = mix(outside, inside, mask)
    ((dice, ce),) = region_terms(logits, mixed, [None], dice=LA)
    assert dice.item() == pytest.approx(entry["pretrain"]["dice"], rel=RTOL)
    assert ce.item() == pytest.approx(entry["pretrain"]["ce"], rel=RTOL)
    loss = dice_ce_loss(logits, mixed, dice=LA) / 2
    assert loss.item() == pytest.approx(entry["pretrain"]["loss"], rel=RTOL)


# --------------------------------------------------------------------------- 05: components


def test_05_largest_components(checks):
    entry = checks["05_largest_cc_2d"]
    rng = np.random.default_rng(21)
    fields = np.stack([gaussian_filter(rng.standard_normal((48, 40)), 2.0) for _ in range(4)])
    fields /= fields.std(axis=(1, 2), keepdims=True)
    seg = np.digitize(fields, [0.3, 0.9, 1.5])
    seg[3][seg[3] == 3] = 0
    counts = [np.bincount(s.ravel(), minlength=4).tolist() for s in seg]
    assert counts == entry["counts_before"]
    out = begin_largest_components(torch.from_numpy(seg), 4)().numpy()
    counts = [np.bincount(s.ravel(), minlength=4).tolist() for s in out]
    assert counts == entry["counts_after"]
    digest = hashlib.sha256(out.astype(np.int64).tobytes()).hexdigest()
    assert digest[:16] == entry["sha256_16_int64"]


def test_05_crafted_ties(checks):
    entry = checks["05_largest_cc_2d"]
    out = begin_largest_components(torch.tensor([entry["crafted_in"]]), 4)()
    assert out[0].tolist() == entry["crafted_out"]


# --------------------------------------------------------------------------- 07: moving average


def ema_net(seed: int) -> nn.Module:
    rng = np.random.default_rng(seed)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    values = {
        "0.weight": rng.standard_normal((2, 1, 3, 3)),
        "0.bias": rng.standard_normal(2),
        "1.weight": rng.standard_normal(2),
        "1.bias": rng.standard_normal(2),
        "1.running_mean": rng.standard_normal(2),
        "1.running_var": rng.random(2) + 0.5,
        "1.num_batches_tracked": np.array(1000 * seed),
    }
    module.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in values.items()})
    return module


@pytest.mark.parametrize(
    ("key", "buffers"), [("la_params_only", "keep"), ("acdc_full_state", "average")]
)
def test_07_ema(checks, key, buffers):
    student, teacher = ema_net(1), ema_net(2)
    ema_update(teacher, student, 0.99, buffers=buffers)
    state = teacher.state_dict()
    for name, truth in checks["07_ema"][key].items():
        if isinstance(truth, int):
            assert state[name].item() == truth
        else:
            assert state[name].flatten()[:4].tolist() == pytest.approx(truth, rel=1e-6)


# --------------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    ("name", "dims", "classes", "settings", "count"),
    [
        ("unet2d", 2, 4, {}, 1_813_764),
        ("vnet", 3, 2, {}, 9_448_866),
        ("vnet", 3, 2, {"norm": "instance", "dropout": 0.0}, 9_443_266),
        ("vnet", 3, 5, {}, 9_448_917),
    ],
)
def test_parameter_counts_of_the_literature(name, dims, classes, settings, count):
    net = build_network(
        name, spatial_dims=dims, in_channels=1, num_classes=classes, settings=settings
    )
    assert sum(p.numel() for p in net.parameters()) == count
