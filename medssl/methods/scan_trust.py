"""What a method with a teacher remembers of each unlabeled scan, and how far it trusts it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, Progress
from medssl.networks.taps import taps
from medssl.networks.whole_batch import put_together
from medssl.ops import case_trust as trusts
from medssl.ops.case_trust import FIXED, prior_shift, prior_step, remembered_cases, tally
from medssl.ops.deep_supervision import finest
from medssl.ops.modes import eval_mode
from medssl.ops.pseudo_labels import hard_labels

EVERY = 4
"""Iterations from one look at the student's own labels to the next, which cost a pass."""
DECAY, FEATURE_DECAY = 0.9, 0.97
"""What a scan keeps of its past with each patch that is looked at: of labels, and of features,
which say little of a single patch that is turned and zoomed."""
PRIOR_DECAY = 0.99
"""What frequencies of classes keep of their past."""


class Scans(nn.Module):
    """Buffers of which some have a row for each scan.

    Class attributes:
        by_scan: those, with what is known of a scan before it is seen.
    """

    by_scan: ClassVar[Mapping[str, float]] = {"table": 0}
    table: Tensor

    def make_room(self, unlabeled: int, labeled: int) -> None:
        """Remember so many scans; what was known is forgotten."""
        self._sized({name: labeled if name == "labeled" else unlabeled for name in self.by_scan})

    def _sized(self, rows: Mapping[str, int]) -> None:
        for name, count in rows.items():
            shape = (max(count, 1), *getattr(self, name).shape[1:])
            setattr(self, name, getattr(self, name).new_full(shape, self.by_scan[name]))

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Have as many scans as were saved."""
        saved = {n: state[f"{prefix}{n}"] for n in self.by_scan if f"{prefix}{n}" in state}
        self._sized({name: len(rows) for name, rows in saved.items()})
        super()._load_from_state_dict(state, prefix, *rest)


class Cases(Scans):
    """A row of figures for each scan, and how frequent classes are.

    Args:
        classes: K, background included.
        channels: of all levels at which the student is tapped; 0 where nobody said where it can
            be: then what is familiar is not asked.

    Buffers:
        table: ``(U, 5 + K)``, see :func:`medssl.ops.case_trust.tally`.
        unlabeled, labeled: ``(U or L, 2 + 2 channels)``, see :func:`medssl.ops.case_trust.pooled`.
        familiar: ``(U,)``, see :func:`medssl.ops.case_trust.familiarity`.
        prior: ``(2, K)``, of labels and of unlabeled patches.
    """

    by_scan: ClassVar[Mapping[str, float]] = {
        **Scans.by_scan,
        "unlabeled": 0,
        "labeled": 0,
        "familiar": 1,
    }
    unlabeled: Tensor
    labeled: Tensor
    familiar: Tensor
    prior: Tensor

    def __init__(self, classes: int, channels: int = 0) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("table", torch.zeros(1, FIXED + classes - 1))
        for name in ("unlabeled", "labeled"):
            self.register_buffer(name, torch.zeros(1, 2 + 2 * channels))
        self.register_buffer("familiar", torch.ones(1))
        self.register_buffer("prior", torch.full((2, classes), 1 / classes))

    def figures(self) -> dict[str, Tensor]:
        """Return what is known of each scan, see :func:`medssl.ops.case_trust.figures`."""
        return trusts.figures(self.table, self.familiar)

    @contextmanager
    def watched(self, name: str, case: Tensor, network: nn.Module) -> Iterator[None]:
        """Remember the features of a pass inside.

        Args:
            name: ``unlabeled`` or ``labeled``.
            case: of the patches that are passed, ``(B,)``.
            network: the teacher, whose features are steadier than its student's.
        """
        if not self.channels:
            yield
            return
        with taps(network) as found:
            yield
        rows: Tensor = getattr(self, name)
        new = put_together(trusts.pooled([*found.levels, found.penultimate]), found.rows)
        # What overflowed in half precision would be remembered for good; zeros count nothing.
        new = torch.where(new.isfinite().all(1, keepdim=True), new, 0.0)
        rows.copy_(remembered_cases(rows, new, case % len(rows), FEATURE_DECAY))

    @torch.no_grad()
    def weigh(
        self,
        weight: Tensor,
        guess: tuple[Tensor, Tensor],
        batch: Batch,
        student: nn.Module,
        progress: Progress,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weigh voxels by how far their scans are trusted, and remember what is said of these.

        Args:
            weight: of unlabeled patches, ``(B, *spatial)``.
            guess: labels ``(B, *spatial)`` of the same, and probabilities ``(B, K, *spatial)``.
            batch: they, and labeled ones, if there are any.
            student: says what it finds in them, in eval mode.
            progress: where training stands.

        Returns:
            The weight, and what to log.
        """
        unlabeled, (label, probs) = batch.unlabeled, guess
        assert unlabeled is not None
        case = unlabeled.case % len(self.table)
        if progress.iteration % EVERY == 0:
            with eval_mode(student):
                second = hard_labels(finest(student(unlabeled.image)))
            torch.clear_autocast_cache()  # weights cast without gradients
            new = tally(label, second, weight > 0, self.prior.shape[1])
            self.table.copy_(remembered_cases(self.table, new, case, DECAY))
            self.familiar.copy_(trusts.familiarity(self.unlabeled, self.labeled))
        labels = label.new_empty(0) if batch.labeled is None else batch.labeled.label
        self.prior.copy_(prior_step(self.prior, probs, labels, PRIOR_DECAY))
        trust = self.figures()["trust"]
        told = {
            "cases/trust": trust.mean(),
            "cases/left_out": (trust == 0).float().mean(),
            "prior/shift": prior_shift(self.prior),
        }
        return weight * trust[case].view(-1, *[1] * (weight.ndim - 1)), told
