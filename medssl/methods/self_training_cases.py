"""What ``self_training`` remembers of each unlabeled scan, and how far it trusts it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, Progress
from medssl.methods.self_training_teachers import Guess
from medssl.ops.case_trust import FIXED, figures, prior_shift, prior_step, remembered_cases, tally
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

    Buffers:
        table: ``(U, 5 + K)``, see :func:`medssl.ops.case_trust.tally`.
        prior: ``(2, K)``, of labels and of unlabeled patches.
    """

    table: Tensor
    prior: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(1, FIXED + classes - 1))
        self.register_buffer("prior", torch.full((2, classes), 1 / classes))

    def make_room(self, count: int) -> None:
        """Remember so many scans; what was known is forgotten."""
        self.table = self.table.new_zeros(max(count, 1), self.table.shape[1])

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Have as many scans as were saved."""
        saved = state.get(f"{prefix}table")
        if saved is not None:
            self.make_room(len(saved))
        super()._load_from_state_dict(state, prefix, *rest)

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
            with eval_mode(student):
                second = hard_labels(finest(student(unlabeled.image)))
            new = tally(guess.label, second, weight > 0, self.prior.shape[1])
            self.table.copy_(remembered_cases(self.table, new, case, DECAY))
        labels = guess.label.new_empty(0) if batch.labeled is None else batch.labeled.label
        self.prior.copy_(prior_step(self.prior, guess.probs, labels, PRIOR_DECAY))
        trust = figures(self.table)["trust"]
        told = {
            "cases/trust": trust.mean(),
            "cases/left_out": (trust == 0).float().mean(),
            "prior/shift": prior_shift(self.prior),
        }
        return weight * trust[case].view(-1, *[1] * (weight.ndim - 1)), told
