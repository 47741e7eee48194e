"""Which unlabeled scans have become easy for the student of ``self_training``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl.methods.base import Progress
from medssl.methods.scan_trust import DECAY, Scans
from medssl.methods.self_training_views import Shown
from medssl.ops.case_trust import remembered_cases
from medssl.ops.selection import otsu

FIRST = 0.2
"""Share of all iterations after which scans may count as easy."""


class Hardness(Scans):
    """How hard each scan's views are for the student; a row is patches, and a mean over them that
    forgets: of one, and of the loss.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(1, 3))

    def naive(self, case: Tensor, progress: Progress) -> Tensor:
        """Return which patches are of scans that have become easy, boolean ``(B,)``."""
        patches, each, loss = self.table.unbind(1)
        mean = loss / each
        easy = (mean <= otsu(mean, (patches > 0).float())) & (progress.ramp(FIRST) == 1)
        return easy[case % len(self.table)]

    @torch.no_grad()
    def remember(self, case: Tensor, logits: Tensor, shown: Shown) -> None:
        """Take in how the student does on what it was shown of scans ``(B,)``."""
        rows = shown.guessed[0]
        ce = F.cross_entropy(logits[rows].float(), shown.view.label[rows], reduction="none")
        one = torch.ones_like(case, dtype=torch.float32)
        new = torch.stack([one, one, ce.flatten(1).mean(1)], dim=1)
        self.table.copy_(remembered_cases(self.table, new, case % len(self.table), DECAY))
