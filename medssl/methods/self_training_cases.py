"""What ``self_training`` remembers of each unlabeled scan, and how far it trusts it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, Progress
from medssl.methods.self_training_teachers import Guess
from medssl.networks.taps import Features, taps
from medssl.ops.case_trust import (
    FIXED,
    familiarity,
    figures,
    pooled,
    prior_shift,
    prior_step,
    remembered_cases,
    tally,
)
from medssl.ops.deep_supervision import finest
from medssl.ops.modes import eval_mode
from medssl.ops.pseudo_labels import hard_labels

EVERY = 4
"""Iterations from one look at the student's own labels to the next, which cost a pass."""
DECAY = 0.9
"""What a scan keeps of its past with each patch that is looked at."""
PRIOR_DECAY = 0.99
"""What frequencies of classes keep of their past."""


class Cases(nn.Module):
    """A row of figures for each scan, and how frequent classes are.

    Args:
        classes: K, background included.
        channels: of all levels at which the student is tapped; 0 where nobody said where it can
            be: then what is familiar is not asked.

    Buffers:
        table: ``(U, 5 + K)``, see :func:`medssl.ops.case_trust.tally`.
        unlabeled, labeled: ``(U or L, 2 + 2 channels)``, see :func:`medssl.ops.case_trust.pooled`.
        prior: ``(2, K)``, of labels and of unlabeled patches.
    """

    table: Tensor
    unlabeled: Tensor
    labeled: Tensor
    prior: Tensor

    def __init__(self, classes: int, channels: int = 0) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("table", torch.zeros(1, FIXED + classes - 1))
        for name in ("unlabeled", "labeled"):
            self.register_buffer(name, torch.zeros(1, 2 + 2 * channels))
        self.register_buffer("prior", torch.full((2, classes), 1 / classes))

    def make_room(self, unlabeled: int, labeled: int) -> None:
        """Remember so many scans; what was known is forgotten."""
        self._sized({"table": unlabeled, "unlabeled": unlabeled, "labeled": labeled})

    def _sized(self, rows: Mapping[str, int]) -> None:
        for name, count in rows.items():
            old = getattr(self, name)
            setattr(self, name, old.new_zeros(max(count, 1), old.shape[1]))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Have as many scans as were saved."""
        names = ("table", "unlabeled", "labeled")
        saved = {name: state[f"{prefix}{name}"] for name in names if f"{prefix}{name}" in state}
        self._sized({name: len(rows) for name, rows in saved.items()})
        super()._load_from_state_dict(state, prefix, *rest)

    def figures(self) -> dict[str, Tensor]:
        """Return what is known of each scan, see :func:`medssl.ops.case_trust.figures`."""
        near = familiarity(self.unlabeled, self.labeled) if self.channels else None
        return figures(self.table, near)

    def _look(self, weight: Tensor, guess: Guess, batch: Batch, student: nn.Module) -> None:
        """Remember what the student says of the patches: its labels, and its features."""
        assert batch.unlabeled is not None
        first, case = batch.unlabeled.image, batch.unlabeled.case % len(self.table)
        both = self.channels and batch.labeled is not None
        images = torch.cat([first, batch.labeled.image]) if both and batch.labeled else first
        found = Features()
        with eval_mode(student), taps(student) if both else nullcontext(found) as found:
            second = hard_labels(finest(student(images)))[: len(first)]
        new = tally(guess.label, second, weight > 0, self.prior.shape[1])
        self.table.copy_(remembered_cases(self.table, new, case, DECAY))
        if not both or batch.labeled is None:
            return
        ours, theirs = pooled([*found.levels, found.penultimate]).split(
            [len(first), len(images) - len(first)]
        )
        self.unlabeled.copy_(remembered_cases(self.unlabeled, ours, case, DECAY))
        case = batch.labeled.case % len(self.labeled)
        self.labeled.copy_(remembered_cases(self.labeled, theirs, case, DECAY))

    @torch.no_grad()
    def weigh(
        self, weight: Tensor, guess: Guess, batch: Batch, student: nn.Module, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weigh voxels by how far their scans are trusted, and remember what is said of these.

        Args:
            weight: of unlabeled patches, ``(B, *spatial)``.
            guess: of the same.
            batch: they, and labeled ones, if there are any.
            student: says what it finds in them, in eval mode.
            progress: where training stands.

        Returns:
            The weight, and what to log.
        """
        unlabeled = batch.unlabeled
        assert unlabeled is not None
        case = unlabeled.case % len(self.table)
        if progress.iteration % EVERY == 0:
            self._look(weight, guess, batch, student)
        labels = guess.label.new_empty(0) if batch.labeled is None else batch.labeled.label
        self.prior.copy_(prior_step(self.prior, guess.probs, labels, PRIOR_DECAY))
        trust = self.figures()["trust"]
        told = {
            "cases/trust": trust.mean(),
            "cases/left_out": (trust == 0).float().mean(),
            "prior/shift": prior_shift(self.prior),
        }
        return weight * trust[case].view(-1, *[1] * (weight.ndim - 1)), told
