"""Whole training steps of the presets `corrected` against a second, literal writing of each.

As in `test_official_steps.py`; mean teacher's official preset is here too. Steps are taken at the
start, on the ramp and after it. The twin of a method lends its networks, nothing else of it is
used. BCP's steps are in `test_bcp_steps.py`.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from literal_steps import (
    TOTAL,
    boxes_of_the_next,
    clipped_noise,
    dice_ce,
    draw,
    exp_ramp,
    follow,
    make,
    ramp,
    tiny,
)
from torch import Tensor

from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.ops.policy import keep_confident

MIXED = pytest.mark.parametrize("mixing", ["none", "cutmix"])


def mixing_in(twin: Any, batch: Batch, progress: Progress) -> Any:
    return boxes_of_the_next(twin.settings.mixing, progress, batch.unlabeled.image)


# ------------------------------------------------------------------------------------ mean teacher


def literal_mean_teacher(twin: Any, batch: Batch, progress: Progress) -> Tensor:
    """The teacher, without dropout and with averaged statistics, sees noisy unlabeled ones."""
    x_l, y, x_u = batch.labeled.image, batch.labeled.label, batch.unlabeled.image
    noisy, mixed = x_u + clipped_noise(x_u), mixing_in(twin, batch, progress)
    logits = twin.student.train()(torch.cat([x_l, mixed(x_u)]))
    with torch.no_grad():
        target = mixed(twin.teacher.eval()(noisy).softmax(1))
    consistency = ((logits[2:].softmax(1) - target) ** 2).mean()
    return dice_ce(logits[:2], y) + 5 * ramp(progress.iteration) * consistency


def literal_official_mean_teacher(twin: Any, batch: Batch, progress: Progress) -> Tensor:
    """All patches; the teacher in train mode; half the labels' loss; 40 plateaus up to 0.1."""
    x, y = torch.cat([batch.labeled.image, batch.unlabeled.image]), batch.labeled.label
    noisy = x + clipped_noise(x)
    logits = twin.student.train()(x)
    with torch.no_grad():
        target = twin.teacher.train()(noisy).softmax(1)
    consistency = ((logits.softmax(1) - target) ** 2).mean()
    weight = 0.1 * exp_ramp(progress.iteration // 150, 40)
    return 0.5 * dice_ce(logits[:2], y) + weight * consistency


@MIXED
def test_mean_teacher(mixing: str) -> None:
    method = make("mean_teacher", 3, tiny(3), mixing=mixing)
    follow(method, literal_mean_teacher, classes=3)
    assert method.predictor() is method.teacher


def test_official_mean_teacher() -> None:
    method = make("mean_teacher", 3, tiny(3), preset="official")
    places = (0, 1, 160, 3000, 5999)
    follow(
        method,
        literal_official_mean_teacher,
        classes=3,
        buffers=False,
        places=places,
        total=6000,
    )
    assert method.predictor() is method.student


# ------------------------------------------------------------------------------------ UA-MT


def literal_uamt(twin: Any, batch: Batch, progress: Progress) -> Tensor:
    """Eight passes with dropout alone switched on, four times two copies; ln C; a mean over C."""
    x_l, y, x_u = batch.labeled.image, batch.labeled.label, batch.unlabeled.image
    mixed = mixing_in(twin, batch, progress)
    logits = twin.student.train()(torch.cat([x_l, mixed(x_u)]))
    with torch.no_grad():
        target = twin.teacher.eval()(x_u + clipped_noise(x_u)).softmax(1)
        twin.teacher.body[3].train()
        rows = []
        for _ in range(4):
            twice = x_u.repeat(2, 1, 1, 1, 1)
            rows.append(twin.teacher(twice + clipped_noise(twice)))
        mean = torch.cat(rows).reshape(8, *target.shape).softmax(2).mean(0)
        entropy = -(mean * torch.log(mean + 1e-6)).sum(1, keepdim=True)
    classes = target.shape[1]
    rise = math.exp(-5 * (1 - progress.iteration / TOTAL) ** 2)
    mask = (entropy < (0.75 + 0.25 * rise) * math.log(classes)).float()
    assert 0 < mask.mean() < 1
    mask = mixed(mask)
    distance = (logits[2:].softmax(1) - mixed(target)) ** 2
    consistency = (mask * distance).sum() / (classes * mask.sum())
    return dice_ce(logits[:2], y) + 5 * ramp(progress.iteration) * consistency


@MIXED
def test_uamt(mixing: str) -> None:
    method = make("uamt", 3, tiny(3), mixing=mixing)
    follow(method, literal_uamt, classes=3)
    assert method.predictor() is method.teacher
    assert make("uamt", 3, tiny(3), preset="official").predictor().body is not method.teacher.body


# ------------------------------------------------------------------------------------ anatomical


def anatomical(**settings: Any) -> Any:
    return make("anatomical", 3, tiny(3), filters=2, embedding=4, **settings)


def cubes(seed: int, classes: int) -> Batch:
    return draw(seed, classes, shape=(8, 8, 8))


def one_hot(label: Tensor, classes: int = 3) -> Tensor:
    return F.one_hot(label, classes).movedim(-1, 1).float()


@pytest.mark.parametrize("dae_input", ["onehot", "soft"])
def test_anatomical_guided(dae_input: str) -> None:
    """U adds up the distances of the hard segmentation from q and from p, over the classes."""

    def literal(twin: Any, batch: Batch, progress: Progress) -> Tensor:
        x_l, y, x_u = batch.labeled.image, batch.labeled.label, batch.unlabeled.image
        logits = twin.student.train()(torch.cat([x_l, x_u]))
        with torch.no_grad():
            p = twin.teacher.eval()(x_u + clipped_noise(x_u)).softmax(1)
            hard = one_hot(p.argmax(1))
            given = hard if dae_input == "onehot" else p
            q = twin.autoencoder.eval()(given).softmax(1)
            u = ((q - hard) ** 2 + (hard - p) ** 2).sum(1, keepdim=True)
            w = torch.exp(-u) if ramp(progress.iteration) >= 0.03 else torch.ones_like(u)
        d = (logits[2:].softmax(1) - p) ** 2
        consistency = (w * d).sum() / (3 * w.sum())
        return dice_ce(logits[:2], y) + 5 * ramp(progress.iteration) * consistency

    method = anatomical(dae_input=dae_input)
    method.start_stage("guided")
    follow(method, literal, classes=3, stage="guided", batch_of=cubes)
    assert method.predictor() is method.teacher


def test_anatomical_autoencoder() -> None:
    """Half of Dice and cross-entropy of what it makes of one-hot corrupted masks, without noise."""
    method = anatomical()
    method.start_stage("autoencoder")
    seen = []
    for it in range(3):
        masks = draw(it, 3, labeled=4, shape=(4, 4, 4)).labeled.label
        for axis in (1, 2, 3):
            masks = masks.repeat_interleave(4, axis)
        progress = Progress("autoencoder", it, TOTAL)
        corrupted = method.corrupt(masks, progress)
        expected = 0.5 * dice_ce(copy.deepcopy(method.autoencoder)(one_hot(corrupted)), masks)
        output = method.training_step(Batch(None, None, masks), progress)
        torch.testing.assert_close(output.loss, expected)
        seen.append(float((corrupted != masks).float().mean()))
    assert min(seen) > 0


def test_the_official_code_is_noisy_where_it_guides_alone() -> None:
    """Noise of 0.1, cut at 0.2, on the code; none in its own training, none in `corrected`."""
    codes: list[Tensor] = []
    probs = torch.rand(2, 3, 8, 8, 8).softmax(1)
    masks = draw(0, 3, labeled=2, shape=(8, 8, 8)).labeled.label
    for preset in ("official", "corrected"):
        method = anatomical(preset=preset)
        method.autoencoder.fc_rec.register_forward_pre_hook(lambda _, given: codes.append(*given))
        method.start_stage("autoencoder")
        method.training_step(Batch(None, None, masks), Progress("autoencoder", 0, 9))
        method.start_stage("guided")
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            method.plausible(probs)
    noisy, plain = codes[1:4], codes[5:8]
    assert torch.equal(plain[0], plain[1])
    assert torch.equal(plain[0], plain[2])
    assert torch.equal(noisy[0], noisy[1])
    difference = noisy[0] - noisy[2]
    torch.manual_seed(0)
    first = clipped_noise(noisy[0])
    torch.manual_seed(1)
    torch.testing.assert_close(difference, first - clipped_noise(noisy[0]))


def test_corruption_is_a_function_of_seed_and_iteration() -> None:
    method = anatomical()
    masks = torch.zeros(1, 24, 24, 24, dtype=torch.long)
    masks[:, 6:18, 6:18, 6:18] = 1
    places = [Progress("autoencoder", it, 9, seed=seed) for it in range(3) for seed in range(3)]
    made = [method.corrupt(masks, place) for place in places]
    assert len({tuple(m.flatten().tolist()) for m in made}) == 9
    again = [method.corrupt(masks, place) for place in places]
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))


# ------------------------------------------------------------------------------------ FixMatch


def strong_views(seed: int, classes: int) -> Batch:
    """Unlabeled patches with a strong view that is plainly another image."""
    batch = draw(seed, classes)
    image = batch.unlabeled.image
    return Batch(batch.labeled, UnlabeledBatch(image, (0.5 * image.flip(0) - 1,)))


def literal_fixmatch(twin: Any, batch: Batch, progress: Progress) -> Tensor:
    x_l, y, x_u = batch.labeled.image, batch.labeled.label, batch.unlabeled.image
    with torch.no_grad():
        sure, label = twin.teacher.eval()(x_u).softmax(1).max(1)
    mixed = mixing_in(twin, batch, progress)
    target = mixed(torch.where(sure >= 0.7, label, 255))
    kept = (target != 255).float()
    assert 0 < kept.mean() < 1
    logits = twin.student.train()(torch.cat([x_l, mixed(*batch.unlabeled.views)]))
    p, strong = logits[2:].softmax(1), logits[2:]
    dice = []
    for c in range(1, p.shape[1]):
        pc, yc = p[:, c] * kept, (target == c).float()
        dice.append((2 * (pc * yc).sum() + 1e-5) / ((pc**2).sum() + yc.sum() + 1e-5))
    ce = F.cross_entropy(strong, target, ignore_index=255)
    unlabeled = kept.mean() * (ce + 1 - sum(dice) / len(dice))
    return dice_ce(logits[:2], y) + ramp(progress.iteration) * unlabeled


@MIXED
def test_fixmatch(mixing: str) -> None:
    method = make("fixmatch", 3, tiny(3), mixing=mixing)
    follow(method, literal_fixmatch, classes=3, batch_of=strong_views)
    assert method.predictor() is method.teacher


# ------------------------------------------------------------------------------------ CPS


def literal_cps(twin: Any, batch: Batch, progress: Progress) -> Tensor:
    """Each network learns the labels, and on all patches what the other one says."""
    x, y = torch.cat([batch.labeled.image, batch.unlabeled.image]), batch.labeled.label
    one, two = twin.first.train()(x), twin.second.train()(x)
    labels = dice_ce(one[:2], y) + dice_ce(two[:2], y)
    cross = dice_ce(one, two.detach().argmax(1)) + dice_ce(two, one.detach().argmax(1))
    return labels + ramp(progress.iteration) * cross


def literal_mixed_cps(twin: Any, batch: Batch, progress: Progress) -> Tensor:
    """Labels of whole patches, made without dropout, are mixed as the unlabeled patches are."""
    x_l, y, x_u = batch.labeled.image, batch.labeled.label, batch.unlabeled.image
    mixed, guesses = mixing_in(twin, batch, progress), []
    for net in (twin.first, twin.second):
        with torch.no_grad():
            guess = net.eval()(torch.cat([x_l, x_u])).argmax(1)
        guesses.append(torch.cat([guess[:2], mixed(guess[2:])]))
    seen = torch.cat([x_l, mixed(x_u)])
    one, two = twin.first.train()(seen), twin.second.train()(seen)
    labels = dice_ce(one[:2], y) + dice_ce(two[:2], y)
    cross = dice_ce(one, guesses[1]) + dice_ce(two, guesses[0])
    return labels + ramp(progress.iteration) * cross


@pytest.mark.parametrize(("mixing", "lit"), [("none", literal_cps), ("cutmix", literal_mixed_cps)])
def test_cps(mixing: str, lit: Any) -> None:
    method = make("cps", 3, tiny(3), mixing=mixing)
    follow(method, lit, classes=3, trained=["first", "second"], averaged=False)
    assert method.predictor() is method.first


# ------------------------------------------------------------------------------------ policy


@pytest.mark.parametrize("selection", ["learned", "always_0.5", "random"])
def test_pseudo_supervisor(selection: str) -> None:
    """Labels without the held patch, then at half weight what the policy has chosen."""
    thresholds = torch.tensor([0.5, 0.7, 0.9, 0.95, math.inf])
    method: Any = make("pseudo_supervisor", 3, tiny(3), selection=selection, buffer=8)
    chosen: list[Tensor] = []
    choose = method.choose

    def noted(*given: Any) -> Tensor:
        """Take what is chosen; the policy is made to drop one class of each patch."""
        actions = choose(*given)
        if selection == "learned":
            actions.copy_(torch.tensor([[4, 0, 0], [0, 0, 4]]))
        chosen.append(actions)
        return actions

    method.choose = noted

    def literal(twin: Any, batch: Batch, progress: Progress) -> Tensor:
        x_l, y, x_u = batch.labeled.image, batch.labeled.label, batch.unlabeled.image
        labels = dice_ce(twin.student.train()(x_l[:2]), y[:2])
        with torch.no_grad():
            p = twin.teacher.eval()(x_u).softmax(1)
        logits = twin.student(x_u)
        actions = chosen.pop()
        target = keep_confident(p, thresholds[actions])
        dropped = (actions == 4).gather(1, logits.argmax(1).flatten(1)).view_as(target)
        assert selection != "learned" or (dropped & (target != 255)).any()
        target = target.masked_fill(dropped, 255)
        kept = (target != 255).float()
        dice = []
        for c in range(1, 3):
            pc, yc = logits.softmax(1)[:, c] * kept, (target == c).float()
            dice.append((2 * (pc * yc).sum() + 1e-5) / ((pc**2).sum() + yc.sum() + 1e-5))
        ce = F.cross_entropy(logits, target, ignore_index=255)
        return labels + 0.5 * ramp(progress.iteration) * (ce + 1 - sum(dice) / 2)

    def batch_of(seed: int, classes: int) -> Batch:
        return draw(seed, classes, labeled=3)

    state = {k for k, _ in method.named_buffers() if "." not in k}

    def without_memory(twin: Any, batch: Batch, progress: Progress) -> Tensor:
        for name in state:  # the policy's memory is no part of the comparison
            getattr(twin, name).copy_(getattr(method, name))
        return literal(twin, batch, progress)

    follow(method, without_memory, classes=3, batch_of=batch_of, places=(1, 60, 200))
    assert method.predictor() is method.teacher


# ------------------------------------------------------------------------------------ supervised


def literal_dice(p: Tensor, y: Tensor, *, per_sample: bool, background: bool) -> Tensor:
    """One Dice at a time, squares below."""
    scores = []
    for rows in [slice(i, i + 1) for i in range(len(p))] if per_sample else [slice(None)]:
        for c in range(0 if background else 1, p.shape[1]):
            pc, yc = p[rows, c], (y[rows] == c).float()
            scores.append((2 * (pc * yc).sum() + 1e-5) / ((pc**2).sum() + yc.sum() + 1e-5))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_supervised(per_sample: bool, background: bool) -> None:
    """Dice over the batch or the samples, with the background or without, and cross-entropy."""
    given = {"dice_per_sample": per_sample, "dice_background": background}
    method = make("supervised", 3, tiny(3), **{k: v for k, v in given.items() if v})

    def literal(twin: Any, batch: Batch, progress: Progress) -> Tensor:
        logits, y = twin.student.train()(batch.labeled.image), batch.labeled.label
        dice = literal_dice(logits.softmax(1), y, per_sample=per_sample, background=background)
        return 1 - dice + F.cross_entropy(logits, y)

    def uneven(seed: int, classes: int) -> Batch:
        """A second patch with few structures, so that a mean over samples is another number."""
        labeled = draw(seed, classes).labeled
        label = labeled.label.clone()
        label[1, 1:] = 0
        return Batch(LabeledBatch(labeled.image, label), None)

    follow(method, literal, classes=3, averaged=False, batch_of=uneven)
    assert method.predictor() is method.student
