"""What second, literal writings of training steps need: a network, batches, formulas, comparisons.

Plain PyTorch, written from the published formulas. Both sides draw from torch's generator after the
same seed, in the order of the algorithm.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.methods.base import Batch, LabeledBatch, Method, Progress, UnlabeledBatch
from medssl.methods.registry import get_method

SHAPE = (6, 5, 4)


class TinyNet(nn.Module):
    """Two convolutions with BatchNorm and dropout: enough to notice every mode and buffer."""

    def __init__(self, classes: int, *, width: int = 5, dropout: float = 0.3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, width, (3, 3, 1), padding=(1, 1, 0)),
            nn.BatchNorm3d(width),
            nn.ReLU(),
            nn.Dropout3d(dropout),
            nn.Conv3d(width, classes, 1),
        )
        with torch.no_grad():
            self.body[-1].weight.mul_(4)  # confident in some places, unsure in others

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def make(name: str, classes: int, build: Callable[..., nn.Module], **settings: Any) -> Method:
    torch.manual_seed(0)
    cls = get_method(name)
    return cls(cls.Settings(**settings), build, num_classes=classes, spatial_dims=3).train()


def draw(
    seed: int, classes: int, *, labeled: int = 2, unlabeled: int = 2, shape: tuple = SHAPE
) -> Batch:
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (labeled, *shape), generator=g)
    image = torch.randn(labeled + unlabeled, 1, *shape, generator=g)
    image[:labeled, 0] += label
    return Batch(LabeledBatch(image[:labeled], label), UnlabeledBatch(image[labeled:]))


def sgd(module: nn.Module, lr: float, decay: float = 1e-4) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9, weight_decay=decay)


def same_state(ours: nn.Module, theirs: nn.Module, where: str = "") -> None:
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(
            ours.state_dict()[key],
            value,
            rtol=1e-5,
            atol=1e-6,
            msg=lambda text, key=key: f"{where} {key}: {text}",
        )


def same_gradients(ours: nn.Module, theirs: nn.Module) -> None:
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ formulas, written once more


def foreground_dice(p: Tensor, y: Tensor) -> Tensor:
    """Mean Dice of the foreground classes: squares below, sums over the batch."""
    scores = []
    for c in range(1, p.shape[1]):
        pc, yc = p[:, c], (y == c).float()
        scores.append((2 * (pc * yc).sum() + 1e-5) / ((pc**2).sum() + (yc**2).sum() + 1e-5))
    return sum(scores) / len(scores)


def clipped_noise(x: Tensor) -> Tensor:
    return torch.clamp(torch.randn_like(x) * 0.1, -0.2, 0.2)


def boxes_of_the_next(mixing: str, progress: Progress, x: Tensor) -> Callable[[Tensor], Tensor]:
    """CutMix as the iteration draws it: in each patch a box of the next, its sides 1/4 to 3/4."""
    if mixing == "none":
        return lambda y: y
    rng, inside = progress.rng("mixing"), torch.zeros(len(x), *x.shape[2:], dtype=torch.bool)
    for i in range(len(x)):
        share = rng.uniform(0.25, 0.75)
        sides = [int(n * share) for n in x.shape[2:]]
        starts = [rng.randint(n - side + 1) for n, side in zip(x.shape[2:], sides, strict=True)]
        for voxel in np.ndindex(*sides):
            inside[(i, *[a + b for a, b in zip(starts, voxel, strict=True)])] = True

    def mixed(y: Tensor) -> Tensor:
        others = torch.stack([y[(i + 1) % len(y)] for i in range(len(y))])
        box = inside if y.ndim == inside.ndim else inside[:, None].expand_as(y)
        out = y.clone()
        out[box] = others[box]
        return out

    return mixed


def exp_ramp(step: int, steps: int) -> float:
    return math.exp(-5 * (1 - min(step, steps) / steps) ** 2)


def dice_ce(logits: Tensor, y: Tensor) -> Tensor:
    """Foreground Dice loss plus cross-entropy, no voxel without a label."""
    return F.cross_entropy(logits, y) + 1 - foreground_dice(logits.softmax(1), y)


@torch.no_grad()
def average(teacher: nn.Module, student: nn.Module, alpha: float, *, buffers: bool = False) -> None:
    for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
        t.copy_(alpha * t + (1 - alpha) * s)
    if buffers:
        for t, s in zip(teacher.buffers(), student.buffers(), strict=True):
            t.copy_(alpha * t.float() + (1 - alpha) * s.float())


# ------------------------------------------------------------------ steps of a method and its twin

TOTAL = 250
"""Iterations of the stage that is followed; ramps end with the 100th."""
PLACES = (0, 1, 60, 200)
"""At the start, on the ramp, and where the moving average is as slow as it gets."""


def tiny(classes: int, **options: Any) -> Callable[..., nn.Module]:
    return lambda **_: TinyNet(classes, **options)


def ramp(it: int) -> float:
    return exp_ramp(it, 100)


def follow(
    method: Method,
    literal: Callable[[Any, Batch, Progress], Tensor],
    *,
    classes: int,
    trained: Sequence[str] = ("student",),
    averaged: bool = True,
    buffers: bool = True,
    stage: str = "train",
    places: Sequence[int] = PLACES,
    total: int = TOTAL,
    batch_of: Callable[[int, int], Batch] = draw,
) -> None:
    """Take steps with a method and with its twin, whose loss ``literal`` computes.

    Args:
        method: to follow.
        literal: returns the loss of the twin, of which it may use the networks.
        classes: of the batches.
        trained: the networks that are optimized.
        averaged: the teacher follows the student; ``buffers`` too.
        buffers: are averaged as the weights are.
        stage: of the method.
        places: iterations.
        total: iterations of the stage.
        batch_of: makes the batch of an iteration.
    """
    twin: Any = copy.deepcopy(method)
    ours = {name: sgd(getattr(method, name), 0.05) for name in trained}
    theirs = {name: sgd(getattr(twin, name), 0.05) for name in trained}
    for it in places:
        batch, progress = batch_of(it, classes), Progress(stage, it, total, seed=3)
        for optimizer in (*ours.values(), *theirs.values()):
            optimizer.zero_grad()
        torch.manual_seed(it)
        output = method.training_step(batch, progress)
        losses = [loss for loss in output.losses() if loss.backward() is None]
        torch.manual_seed(it)
        expected = literal(twin, batch, progress)
        expected.backward()
        torch.testing.assert_close(sum(losses), expected, rtol=1e-5, atol=1e-6)
        for name in trained:
            same_gradients(getattr(method, name), getattr(twin, name))
        for optimizer in (*ours.values(), *theirs.values()):
            optimizer.step()
        method.after_step(progress)
        if averaged:
            alpha = min(1 - 1 / (it + 1), 0.99)
            average(twin.teacher, twin.student, alpha, buffers=buffers)
        same_state(method, twin, f"iteration {it},")
