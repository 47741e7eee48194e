"""The training loop one writes in an afternoon: what medssl's is compared with.

Same networks, patches, batch, loss and optimizer as the shipped literature recipes, and nothing
that makes it fast: crops and augmentation with NumPy in the training process, float32 without
TF32, one pass per half batch, pseudo-labels cleaned image by image on the host, every loss read
with ``.item()`` in every step, a teacher that follows tensor by tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from medssl.data.datasets.case import CachedCase
from medssl.methods.bcp import BCP
from medssl.methods.bcp_mixing import PAIRING
from medssl.methods.supervised import Supervised
from medssl.ops.losses import copy_paste_loss, dice_and_ce
from medssl.settings.recipe import Recipe

Sample = dict[str, Tensor]


class Crops(Dataset[Sample]):
    """Random crops of cases that lie in memory, or of their slices, mirrored and turned."""

    def __init__(self, cases: Sequence[CachedCase], recipe: Recipe, seed: int = 0) -> None:
        self.patch, self.augment = recipe.training.patch, recipe.training.augment
        self.rng = np.random.default_rng(seed)
        self.pairs = []
        for case in cases:
            image = np.asarray(case.image[0], np.float32)
            label = np.zeros(image.shape, np.uint8) if case.label is None else np.array(case.label)
            if len(self.patch) == 2:
                slices = range(image.shape[2])
                self.pairs += [(image[..., k].copy(), label[..., k].copy()) for k in slices]
            else:
                self.pairs.append((image, label))

    def __len__(self) -> int:
        """Return how many volumes or slices there are."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Return ``image (1, *patch)`` and ``label (*patch)``."""
        image, label = self.pairs[index]
        short = [max(p - n, 0) for p, n in zip(self.patch, image.shape, strict=True)]
        if any(short):
            margins = [(n // 2, n - n // 2) for n in short]
            image, label = (np.pad(x, margins) for x in (image, label))
        starts = [
            self.rng.integers(n - p + 1) for n, p in zip(image.shape, self.patch, strict=True)
        ]
        where = tuple(slice(s, s + p) for s, p in zip(starts, self.patch, strict=True))
        image, label = image[where], label[where]
        if self.augment.rotate_degrees and self.rng.random() < self.augment.rotate_probability:
            angle = self.rng.uniform(-self.augment.rotate_degrees, self.augment.rotate_degrees)
            image = ndimage.rotate(image, angle, order=1, reshape=False)
            label = ndimage.rotate(label, angle, order=0, reshape=False)
        turns, axis = self.rng.integers(4), self.rng.integers(2)
        image, label = (np.flip(np.rot90(x, turns), axis).copy() for x in (image, label))
        return {"image": torch.from_numpy(image)[None], "label": torch.from_numpy(label).long()}


def endless(cases: Sequence[CachedCase], recipe: Recipe, rows: int) -> Iterator[Sample]:
    """Yield batches for ever."""
    loader = DataLoader(
        Crops(cases, recipe), batch_size=rows, shuffle=True, num_workers=0, drop_last=True
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


def largest_piece(label: Tensor, num_classes: int, connectivity: int) -> Tensor:
    """Keep the largest connected piece of each class of each image."""
    out = np.zeros(label.shape, np.int64)
    structure = ndimage.generate_binary_structure(label.ndim - 1, min(connectivity, label.ndim - 1))
    for number, image in enumerate(label.cpu().numpy()):
        for value in range(1, num_classes):
            pieces, count = ndimage.label(image == value, structure)
            if count:
                sizes = np.bincount(pieces.ravel())[1:]
                out[number][pieces == sizes.argmax() + 1] = value
    return torch.from_numpy(out).to(label.device)


def bcp_losses(method: BCP, labeled: Sample, unlabeled: Sample, mask: Tensor) -> list[Tensor]:
    """Return the losses of the two mixed images of a published BCP step, stage 2.

    Args:
        method: official preset; its networks, switches and nothing else are used.
        labeled, unlabeled: batches of equal, even size.
        mask: boolean ``(1, *spatial)``, True outside the box.
    """
    rules, half = method.settings, len(unlabeled["image"]) // 2
    guesses = []
    with torch.no_grad():
        for part in unlabeled["image"].split(half):
            probs = torch.softmax(method.teacher(part), dim=1)
            if rules.threshold == "argmax":
                label = probs.argmax(1)
            else:
                label = (probs[:, 1] >= rules.threshold).long()
            guesses.append(largest_piece(label, method.num_classes, rules.connectivity))
    losses = []
    for k, (which, labeled_outside) in enumerate(PAIRING[rules.pairing]):
        truth = labeled["image"].split(half)[which], labeled["label"].split(half)[which]
        guess = unlabeled["image"].split(half)[k], guesses[k]
        (canvas, canvas_label), (box, box_label) = (
            (truth, guess) if labeled_outside else (guess, truth)
        )
        keep = mask.unsqueeze(1).float()
        logits = method.student(canvas * keep + box * (1 - keep))
        weights = (rules.weight_gt, rules.weight_pseudo)
        outside, inside = copy_paste_loss(
            logits,
            canvas_label,
            box_label,
            mask,
            weights=(weights[not labeled_outside], weights[labeled_outside]),
            dice=rules.dice,
        )
        losses.append(outside + inside)
    return losses


def draw_mask(patch: Sequence[int], rng: np.random.Generator, device: torch.device) -> Tensor:
    """Return a mask with one box of two thirds of every side at a random place."""
    mask = torch.ones((1, *patch), dtype=torch.bool)
    sizes = [int(n * 2 / 3) for n in patch]
    starts = [rng.integers(n - size) for n, size in zip(patch, sizes, strict=True)]
    mask[(0, *(slice(s, s + size) for s, size in zip(starts, sizes, strict=True)))] = False
    return mask.to(device)


class PlainLoop:
    """Steps of ``supervised`` or of the official ``bcp`` (stage 2), the plain way.

    Args:
        method: freshly built, on the device.
        recipe: patch, batch sizes and optimizer.
        labeled, unlabeled: preprocessed cases.
        device: where the networks are.
    """

    def __init__(
        self,
        method: Supervised | BCP,
        recipe: Recipe,
        *,
        labeled: Sequence[CachedCase],
        unlabeled: Sequence[CachedCase],
        device: torch.device,
    ) -> None:
        training = recipe.training
        self.method, self.device, self.patch = method, device, training.patch
        self.labeled = endless(labeled, recipe, training.labeled_batch)
        self.unlabeled = None
        if isinstance(method, BCP):
            self.unlabeled = endless(unlabeled, recipe, training.unlabeled_batch)
        settings = training.optimizer
        self.optimizer = torch.optim.SGD(
            method.student.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self.rng = np.random.default_rng(0)
        self.history: list[list[float]] = []
        method.train()

    def step(self) -> None:
        """Take one step."""
        labeled = self._next(self.labeled)
        if isinstance(self.method, BCP):
            assert self.unlabeled is not None
            mask = draw_mask(self.patch, self.rng, self.device)
            losses = bcp_losses(self.method, labeled, self._next(self.unlabeled), mask)
        else:
            logits = self.method.student(labeled["image"])
            dice, ce = dice_and_ce(logits, labeled["label"], dice=self.method.settings.dice)
            losses = [dice + ce]
        loss = sum(losses[1:], losses[0])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if isinstance(self.method, BCP):
            follow(self.method.teacher, self.method.student, self.method.settings.ema_decay)
        self.history.append([loss.item(), *(part.item() for part in losses)])

    def _next(self, batches: Iterator[Sample]) -> Sample:
        return {name: tensor.to(self.device) for name, tensor in next(batches).items()}


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move the teacher's weights, one after another."""
    for target, source in zip(teacher.parameters(), student.parameters(), strict=True):
        target.mul_(decay).add_(source, alpha=1 - decay)


@contextmanager
def untuned() -> Iterator[None]:
    """Compute in full float32, with cuDNN's first choice of algorithm, while inside."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32
    cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32 = False, False, False
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, matmul.allow_tf32 = before
