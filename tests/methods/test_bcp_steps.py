"""Whole BCP steps against a second, literal writing of the published algorithm."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.bcp import BCP
from medssl.methods.bcp_mixing import draw_masks, mix_images, pair_up
from medssl.methods.bcp_settings import BCPSettings
from medssl.ops.ema import ema_decay

CASES = [("acdc", 2, 4), ("la", 3, 2), ("pancreas", 3, 2)]
SHAPES = {2: (18, 15), 3: (12, 9, 10)}
DECAY = 0.99


class TinyNet(nn.Module):
    """Two convolutions with BatchNorm and dropout: enough to notice every mode and buffer."""

    def __init__(self, dims: int, classes: int, dropout: float) -> None:
        super().__init__()
        conv, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[dims - 2]
        self.body = nn.Sequential(
            conv(1, 6, 3, padding=1), norm(6), nn.ReLU(), nn.Dropout(dropout), conv(6, classes, 1)
        )

    def forward(self, x):
        return self.body(x)


def make(variant, dims, classes, *, dropout=0.3, seed=0, preset="official", **settings):
    torch.manual_seed(seed)
    method = BCP(
        BCPSettings(preset=preset, variant=variant, **settings),
        lambda **_: TinyNet(dims, classes, dropout),
        num_classes=classes,
        spatial_dims=dims,
    )
    return method.train()


def data(dims, classes, labeled=4, unlabeled=4, seed=0):
    rng = np.random.default_rng(seed)
    shape = SHAPES[dims]
    image = torch.from_numpy(rng.standard_normal((labeled, 1, *shape)).astype(np.float32))
    label = torch.from_numpy(rng.integers(0, classes, (labeled, *shape)))
    more = torch.from_numpy(rng.standard_normal((unlabeled, 1, *shape)).astype(np.float32))
    return Batch(LabeledBatch(image, label), UnlabeledBatch(more))


# ----------------------------------------------------------- the algorithm, written once more


def literal_box(shape, seed_rng):
    mask = torch.ones(shape)
    size = [int(n * 2 / 3) for n in shape]
    start = [seed_rng.randint(0, n - s) for n, s in zip(shape, size, strict=True)]
    mask[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))] = 0
    return mask


def literal_dice(p, y, m, variant):
    total, count = 0.0, 0
    samples = range(len(p)) if variant != "acdc" else [slice(None)]
    for i in samples:
        for c in range(p.shape[1]):
            pc, yc, mc = p[i, c] if variant != "acdc" else p[:, c], (y[i] == c).float(), m[i]
            if variant == "acdc":
                d = (2 * (pc * yc * mc).sum() + 1e-10) / (
                    (pc**2 * mc).sum() + (yc**2 * mc).sum() + 1e-10
                )
            else:
                d = (2 * (pc * yc * mc).sum() + 1e-5) / ((pc * mc).sum() + (yc * mc).sum() + 1e-5)
            total, count = total + d, count + 1
    return 1 - total / count


def literal_mixed_loss(logits, outside, inside, mask, w_out, w_in, variant):
    p, m = torch.softmax(logits, 1), mask.expand(len(logits), *mask.shape)
    loss = 0.0
    for y, region, w in ((outside, m, w_out), (inside, 1 - m, w_in)):
        ce = F.cross_entropy(logits, y, reduction="none")
        ce = (ce * region).sum() / (region.sum() + 1e-16)
        loss = loss + w * (literal_dice(p, y, region, variant) + ce)
    return loss / 2


def literal_labels(logits, variant):
    p = torch.softmax(logits, 1)
    seg = (p.argmax(1) if variant == "acdc" else (p[:, 1] >= 0.5).long()).numpy()
    out = np.zeros_like(seg)
    degree = {"acdc": 2, "la": 3, "pancreas": 2}[variant]
    structure = ndimage.generate_binary_structure(seg.ndim - 1, degree)
    for i in range(len(seg)):
        for c in range(1, p.shape[1]):
            pieces, n = ndimage.label(seg[i] == c, structure)
            if n:
                sizes = [(pieces == k).sum() for k in range(1, n + 1)]
                out[i][pieces == 1 + int(np.argmax(sizes))] = c
    return torch.from_numpy(out)


def literal_step(student, teacher, optimizer, batch, progress, variant):
    x, y, u = batch.labeled.image, batch.labeled.label, batch.unlabeled.image
    h = len(x) // 2
    la, lb, ya, yb, ua, ub = x[:h], x[h:], y[:h], y[h:], u[:h], u[h:]
    with torch.no_grad():
        pa, pb = literal_labels(teacher(ua), variant), literal_labels(teacher(ub), variant)
    m = literal_box(x.shape[2:], progress.rng("box"))

    def mixed(canvas, box):
        return canvas * m + box * (1 - m)

    if variant == "acdc":
        one, two = ((ua, la, pa, ya, 0.5, 1), (lb, ub, yb, pb, 1, 0.5))
    elif variant == "la":
        one, two = ((la, ua, ya, pa, 1, 0.5), (ub, lb, pb, yb, 0.5, 1))
    else:
        one, two = ((ua, lb, pa, yb, 0.5, 1), (la, ub, ya, pb, 1, 0.5))
    logits = [student(mixed(one[0], one[1])), student(mixed(two[0], two[1]))]
    loss = sum(
        literal_mixed_loss(z, k[2], k[3], m, k[4], k[5], variant)
        for z, k in zip(logits, (one, two), strict=True)
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        if variant == "acdc":
            s = student.state_dict()
            teacher.load_state_dict(
                {k: v * DECAY + s[k] * (1 - DECAY) for k, v in teacher.state_dict().items()}
            )
        else:
            for t, p in zip(teacher.parameters(), student.parameters(), strict=True):
                t.mul_(DECAY).add_(p, alpha=1 - DECAY)
    return loss.detach()


def literal_pretrain_loss(student, batch, progress, variant):
    x, y = batch.labeled.image, batch.labeled.label
    h = len(x) // 2
    m = literal_box(x.shape[2:], progress.rng("box"))
    logits = student(x[:h] * m + x[h:] * (1 - m))
    if variant == "acdc":
        return literal_mixed_loss(logits, y[:h], y[h:], m, 1, 1, variant)
    mixed = (y[:h] * m + y[h:] * (1 - m)).long()
    everywhere = torch.ones(h, *x.shape[2:])
    dice = literal_dice(torch.softmax(logits, 1), mixed, everywhere, variant)
    return (F.cross_entropy(logits, mixed) + dice) / 2


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)


def assert_same_state(ours, theirs):
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize(("variant", "dims", "classes"), CASES)
def test_three_official_steps(variant, dims, classes):
    method = make(variant, dims, classes)
    method.start_stage("self_train")
    student, teacher = copy.deepcopy(method.student), copy.deepcopy(method.teacher)
    student.train(), teacher.train()
    ours, theirs = sgd(method.student), sgd(student)
    for i in range(3):
        batch, progress = data(dims, classes, seed=i), Progress("self_train", i, 10, seed=5)
        torch.manual_seed(i)
        out = method.training_step(batch, progress)
        ours.zero_grad()
        out.loss.backward()
        ours.step()
        method.after_step(progress)
        torch.manual_seed(i)
        loss = literal_step(student, teacher, theirs, batch, progress, variant)
        torch.testing.assert_close(out.loss.detach(), loss, rtol=1e-5, atol=0)
        parts = out.terms["loss/labeled"] + out.terms["loss/unlabeled"]
        torch.testing.assert_close(parts, loss, rtol=1e-5, atol=0)
    assert_same_state(method.student, student)
    assert_same_state(method.teacher, teacher)


@pytest.mark.parametrize(("variant", "dims", "classes"), CASES)
def test_official_pretraining_steps(variant, dims, classes):
    method = make(variant, dims, classes)
    student = copy.deepcopy(method.student).train()
    ours, theirs = sgd(method.student), sgd(student)
    for i in range(3):
        batch, progress = data(dims, classes, seed=i), Progress("pretrain", i, 10, seed=5)
        torch.manual_seed(i)
        loss = method.training_step(Batch(batch.labeled, None), progress).loss
        torch.manual_seed(i)
        expected = literal_pretrain_loss(student, batch, progress, variant)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        for optimizer, value in ((ours, loss), (theirs, expected)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        method.after_step(progress)
        assert_same_state(method.student, student)


# ----------------------------------------------------------------------------- the rest of it


def test_stage_lengths_are_the_published_ones():
    for variant, iterations, first in (("acdc", 40_000, 10_000), ("la", 17_000, 2_000)):
        stages = make(variant, 2, 2).stages(iterations)
        assert [s.iterations for s in stages] == [first, iterations - first]
    assert [s.iterations for s in make("pancreas", 3, 2).stages(6_800)] == [1_800, 5_000]
    carried = {v: make(v, 2, 2).stages(100)[1].carry_optimizer for v in ("acdc", "la", "pancreas")}
    assert carried == {"acdc": True, "la": False, "pancreas": True}


def test_no_pretraining_is_one_stage():
    (stage,) = make(None, 2, 2, preset="corrected", pretrain_fraction=0.0).stages(50)
    assert (stage.name, stage.iterations, stage.start_from_best) == ("self_train", 50, False)


def test_every_switch_of_a_variant_can_be_set():
    method = make("la", 3, 2, threshold="argmax", weight_pseudo=0.25, share_mask=False)
    assert method.settings.threshold == "argmax"
    assert method.settings.weight_pseudo == 0.25
    assert method.settings.share_mask is False
    assert method.settings.dice_per_sample is True


def test_teacher_starts_as_the_student_and_predicts_only_in_stage_two():
    method = make(None, 2, 3, preset="corrected")
    with torch.no_grad():
        method.student.body[0].weight.add_(1)
    assert method.predictor() is method.student
    method.start_stage("pretrain")
    assert method.predictor() is method.student
    method.start_stage("self_train")
    assert method.predictor() is method.teacher
    assert torch.equal(method.teacher.body[0].weight, method.student.body[0].weight)
    restored = make(None, 2, 3, preset="corrected", seed=1)
    restored.load_state_dict(method.state_dict())
    assert restored.predictor() is restored.teacher
    assert make("la", 2, 2).predictor() is not None


def test_the_pretraining_stage_leaves_the_teacher_alone():
    method = make(None, 2, 3, preset="corrected")
    before = copy.deepcopy(method.teacher.state_dict())
    progress = Progress("pretrain", 0, 10)
    out = method.training_step(Batch(data(2, 3).labeled, None), progress)
    out.loss.backward()
    method.after_step(progress)
    for key, value in method.teacher.state_dict().items():
        assert torch.equal(value, before[key])


def test_mixed_images_and_their_labels_come_from_the_same_places():
    """Every voxel of a mixed image carries its own label: encode the sample in the intensity."""
    method = make(None, 2, 3, preset="corrected")
    shape = SHAPES[2]
    labels = torch.stack([torch.full(shape, k) for k in (10, 11, 12)])
    guesses = torch.stack([torch.full(shape, k) for k in (20, 21, 22, 23, 24)])
    rng = Progress("self_train", 0, 9).rng("box")
    scans = labels.unsqueeze(1).float(), guesses.unsqueeze(1).float()
    images = mix_images(*scans, method.settings, rng)
    pairs = pair_up(labels, guesses, method.settings)
    seen = set()
    for m, (outside, inside) in zip(images, pairs, strict=True):
        mixed = torch.where(m.mask, outside, inside)
        assert torch.equal(m.image[:, 0].long(), mixed)
        assert torch.equal(m.is_truth, mixed < 20)
        seen |= set(mixed.unique().tolist())
    assert seen == {10, 11, 12, 20, 21, 22, 23, 24}
    assert sorted(m.labeled_outside for m in images) == [False, True]


def test_corrected_draws_a_box_per_sample_and_image_and_official_one():
    shape, progress, device = (
        torch.Size([60, 60]),
        Progress("self_train", 0, 9),
        torch.device("cpu"),
    )
    rules = make("la", 2, 2).settings
    one = draw_masks(shape, 3, rules, progress.rng("box"), device)
    assert [m.shape[0] for m in one] == [1, 1]
    assert torch.equal(one[0], one[1])
    rules = make(None, 2, 2, preset="corrected").settings
    many = torch.cat(draw_masks(shape, 3, rules, progress.rng("box"), device))
    assert len({tuple(m.flatten().tolist()) for m in many}) == 6


def test_source_normalization_weighs_a_voxel_alike_in_and_out_of_the_box():
    method = make(None, 2, 2, preset="corrected", dropout=0.0)
    method.start_stage("self_train")
    batch = data(2, 2)
    pseudo = torch.zeros(4, *SHAPES[2], dtype=torch.int64)
    rng = Progress("self_train", 0, 9).rng("box")
    images = mix_images(batch.labeled.image, batch.unlabeled.image, method.settings, rng)
    pairs = pair_up(batch.labeled.label, pseudo, method.settings)
    from medssl.methods.bcp import source_loss

    target = torch.cat([torch.where(m.mask, *p) for m, p in zip(images, pairs, strict=True)])
    truth = torch.cat([m.is_truth for m in images])
    logits = torch.zeros(4, 2, *SHAPES[2], requires_grad=True)
    labeled, unlabeled = source_loss([logits], target, truth, method.settings)
    (grad,) = torch.autograd.grad(labeled, logits, retain_graph=True)
    assert (grad.abs().sum(1)[~truth] == 0).all()
    size = grad[:, 0].abs()[truth & (target == 0)]
    torch.testing.assert_close(size, size[:1].expand_as(size))
    (grad,) = torch.autograd.grad(unlabeled, logits)
    assert (grad.abs().sum(1)[truth] == 0).all()


def test_pseudo_labels_never_take_the_ignore_index_and_are_cleaned():
    method = make(None, 2, 5, preset="corrected")
    method.start_stage("self_train")
    label, terms = method.begin_pseudo_labels(data(2, 5).unlabeled.image)()
    assert set(label.unique().tolist()) <= set(range(5))
    for sample in label.numpy():
        for c in range(1, 5):
            assert ndimage.label(sample == c, np.ones((3, 3)))[1] <= 1
    assert 0 < terms["pseudo/kept"] <= 1
    assert terms["pseudo/confidence"] >= 1 / 5
    assert 0 <= terms["pseudo/foreground"] <= 1


def test_corrected_teacher_averages_buffers_with_warmup():
    method = make(None, 2, 3, preset="corrected")
    method.start_stage("self_train")
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(1)
        method.student.body[1].running_mean.add_(1)
    for iteration in (0, 3, 400):
        before = copy.deepcopy(method.teacher.state_dict())
        method.after_step(Progress("self_train", iteration, 500))
        d = min(1 - 1 / (iteration + 1), DECAY)
        assert d == method.decay(iteration) == ema_decay(iteration, DECAY)
        for key, value in method.teacher.state_dict().items():
            expected = d * before[key].float() + (1 - d) * method.student.state_dict()[key].float()
            torch.testing.assert_close(value, expected.to(value.dtype), msg=key)


def test_pseudo_labels_keep_as_many_pieces_as_the_data_have(monkeypatch):
    """Of three bars, long to short, one stays; with two pieces the two longest."""
    logits = torch.zeros(1, 2, 16, 16)
    for row, length in ((2, 12), (6, 8), (10, 4)):
        logits[0, 1, row, :length] = 5
    logits[0, 0] = 1
    kept = {}
    for preset, pieces in (("corrected", {}), ("corrected", {1: 2}), ("official", {1: 2})):
        method = make(None, 2, 2, preset=preset)
        method.pieces = pieces
        monkeypatch.setattr("medssl.methods.bcp.forward_each", lambda *_: [logits])
        label, _ = method.begin_pseudo_labels(torch.zeros(1, 1, 16, 16))()
        kept[preset, len(pieces)] = label.sum().item()
    assert kept == {("corrected", 0): 12, ("corrected", 1): 20, ("official", 1): 12}


# ----------------------------------------------------------------------- recipe contradictions


class FakeRecipe:
    """The parts of a recipe that a method looks at."""

    def __init__(self, labeled=4, unlabeled=4, patch=(48, 48, 32), one_piece=True, pieces=None):
        from medssl.settings.recipe import Recipe

        recipe = Recipe.model_validate(
            {
                "spec": {"largest_component": one_piece, "pieces": pieces or {}},
                "training": {
                    "labeled_batch": labeled,
                    "unlabeled_batch": unlabeled,
                    "patch": list(patch),
                },
            }
        )
        self.training, self.spec = recipe.training, recipe.spec


@pytest.mark.parametrize(
    ("settings", "recipe", "words"),
    [
        ({"preset": "official", "variant": "la"}, {"labeled": 3, "unlabeled": 3}, "must be even"),
        ({"preset": "official", "variant": "la"}, {"labeled": 4, "unlabeled": 2}, "must be equal"),
        ({"preset": "official"}, {}, "method.variant"),
        ({}, {"labeled": 1}, "at least 2, not 1"),
        ({"mask_ratio": 0.01}, {}, "mask_ratio"),
    ],
)
def test_contradictions_are_named(settings, recipe, words):
    problems = list(BCPSettings(**settings).check_recipe(FakeRecipe(**recipe)))
    assert any(words in p for p in problems), problems


def test_sound_recipes_pass():
    for settings, recipe in (
        ({}, FakeRecipe(3, 5)),
        ({"preset": "official", "variant": "la"}, FakeRecipe(4, 4)),
        ({"pretrain_fraction": 0.0}, FakeRecipe(1, 1)),
    ):
        assert list(BCPSettings(**settings).check_recipe(recipe)) == []


def test_idle_settings_warn():
    def warn(recipe: FakeRecipe, **settings) -> list[str]:
        return list(BCPSettings(**settings).warn_recipe(recipe, settings))

    assert warn(FakeRecipe()) == []
    assert "largest piece" in warn(FakeRecipe(one_piece=False))[0]
    assert warn(FakeRecipe(one_piece=False, pieces={1: 2})) == []
    pieces = warn(FakeRecipe(pieces={1: 2}), preset="official", variant="la")
    assert "one piece of each" in pieces[0]
    assert "weight_pseudo is 0" in warn(FakeRecipe(), weight_pseudo=0)[0]
    idle = warn(FakeRecipe(), largest_component="off", connectivity=1)
    assert "connectivity does nothing" in idle[0]
    assert warn(FakeRecipe(), largest_component="off") == []
    assert "legacy_background_bug does" in warn(FakeRecipe(), legacy_background_bug=True)[0]
