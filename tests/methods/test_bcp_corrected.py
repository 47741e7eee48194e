"""BCP's preset `corrected` against a second, literal writing: mixes, sources of labels, losses."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from literal_steps import dice_ce, draw, follow, make, tiny
from scipy import ndimage
from torch import Tensor

from medssl.methods.base import Batch, Progress
from medssl.methods.bcp import source_loss

SHAPE = (9, 7, 6)


def four(seed: int, classes: int) -> Batch:
    return draw(seed, classes, labeled=4, unlabeled=4, shape=SHAPE)


def literal_boxes(rng: np.random.RandomState, count: int) -> Tensor:
    """True outside a box of two thirds of every side, drawn for each sample, at any place."""
    masks = torch.ones(count, *SHAPE, dtype=torch.bool)
    for mask in masks:
        size = [2 * n // 3 for n in SHAPE]
        start = [rng.randint(0, n - s + 1) for n, s in zip(SHAPE, size, strict=True)]
        mask[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))] = False
    return masks


def largest_pieces(label: Tensor, classes: int) -> Tensor:
    out = torch.zeros_like(label)
    for sample, target in zip(label.numpy(), out.numpy(), strict=True):
        for c in range(1, classes):
            pieces, count = ndimage.label(sample == c, np.ones((3, 3, 3)))
            if count:
                sizes = np.bincount(pieces.ravel())[1:]
                target[pieces == 1 + sizes.argmax()] = c
    return out


def literal_part(logits: Tensor, target: Tensor, where: Tensor) -> Tensor:
    """Foreground Dice loss and cross-entropy over some voxels."""
    p, ce, dice = logits.softmax(1), F.cross_entropy(logits, target, reduction="none"), []
    for c in range(1, logits.shape[1]):
        pc, yc = p[:, c][where], (target == c)[where].float()
        dice.append((2 * (pc * yc).sum() + 1e-5) / ((pc**2).sum() + yc.sum() + 1e-5))
    return ce[where].mean() + 1 - sum(dice) / len(dice)


def literal_self_training(twin: Any, batch: Batch, progress: Progress) -> Tensor:
    """Ground truth at weight 1 and pseudo-labels at 0.5, wherever they lie in the two mixes."""
    x, y, u = batch.labeled.image, batch.labeled.label, batch.unlabeled.image
    with torch.no_grad():
        guess = largest_pieces(twin.teacher.eval()(u).argmax(1), 3)
    rng = progress.rng("box")
    first, second = literal_boxes(rng, 2), literal_boxes(rng, 2)

    def mixed(of_labeled: Tensor, of_unlabeled: Tensor) -> Tensor:
        masks = [m if of_labeled.ndim == 4 else m[:, None] for m in (first, second)]
        one = torch.where(masks[0], of_unlabeled[:2], of_labeled[:2])
        two = torch.where(masks[1], of_labeled[2:], of_unlabeled[2:])
        return torch.cat([one, two])

    logits, target = twin.student.train()(mixed(x, u)), mixed(y, guess)
    truth = torch.cat([~first, second])
    return literal_part(logits, target, truth) + 0.5 * literal_part(logits, target, ~truth)


def literal_pretraining(twin: Any, batch: Batch, progress: Progress) -> Tensor:
    """Into each image a box of the next one, and its labels into the same box."""
    x, y = batch.labeled.image, batch.labeled.label
    mask = literal_boxes(progress.rng("box"), 4)
    mixed = torch.where(mask[:, None], x, x.roll(-1, 0))
    return dice_ce(twin.student.train()(mixed), torch.where(mask, y, y.roll(-1, 0)))


def test_self_training() -> None:
    method = make("bcp", 3, tiny(3))
    method.start_stage("self_train")
    follow(method, literal_self_training, classes=3, stage="self_train", batch_of=four)
    assert method.predictor() is method.teacher
    assert not method.teacher.training


def test_pretraining() -> None:
    method = make("bcp", 3, tiny(3))
    follow(method, literal_pretraining, classes=3, averaged=False, stage="pretrain", batch_of=four)
    assert method.predictor() is method.student


def test_the_weights_of_the_sources_are_not_exchanged() -> None:
    """By hand: even logits of three classes cost log 3 per voxel, whatever the label."""
    method: Any = make("bcp", 3, tiny(3), weight_gt=3.0, weight_pseudo=0.25)
    logits = torch.zeros(1, 3, 2, 2, 2)
    target = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    is_truth = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    is_truth[..., 0] = True
    truth, guess = source_loss([logits], target, is_truth, method.settings)
    # No foreground: Dice is 1e-5 / (4 voxels / 9 + 1e-5) of each of two classes.
    part = float(np.log(3)) + 1 - 1e-5 / (4 / 9 + 1e-5)
    assert truth.item() == pytest.approx(3 * part, rel=1e-5)
    assert guess.item() == pytest.approx(0.25 * part, rel=1e-5)


def test_pseudo_labels_depend_on_no_other_patch_and_leave_the_teacher_as_it_is() -> None:
    method: Any = make("bcp", 3, tiny(3))
    method.start_stage("self_train")
    before = copy.deepcopy(method.teacher.state_dict())
    image = four(0, 3).unlabeled.image
    method.train()  # as the engine says
    together, _ = method.begin_pseudo_labels(image)()
    alone, _ = method.begin_pseudo_labels(image[1:2])()
    assert torch.equal(together[1:2], alone)
    assert all(torch.equal(v, before[k]) for k, v in method.teacher.state_dict().items())
    assert not any(m.training for m in method.teacher.modules())
