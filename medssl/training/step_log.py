"""Collect what a step reports without making the host wait for the device."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medssl.errors import MedSSLError

NOT_FINITE_FIX = (
    "lower training.optimizer.lr, set training.gradient_clip: 1, or use --precision fp32; "
    "the last checkpoint is from before"
)


class StepLog:
    """Collect scalar tensors on their device and turn them into means once in a while."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything and start the clock."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._steps = 0
        self._seconds = 0.0
        self._since = time.perf_counter()

    def add(self, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of one batch; no value is read."""
        for key, value in {"loss/total": loss, **terms}.items():
            value = value.detach().float()
            self._sums[key] = self._sums[key] + value if key in self._sums else value
            self._counts[key] = self._counts.get(key, 0) + 1
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the sums since the last report: a resumed run reports the same means."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what :meth:`state_dict` gave."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def restart_clock(self) -> None:
        """Leave the time since the last step (a validation) out of the speed."""
        self._since = time.perf_counter()

    def check_finite(self, stage: str, where: Path) -> None:
        """Refuse to save weights that a non-finite loss has already reached."""
        total = self._sums.get("loss/total")
        if total is not None and not math.isfinite(float(total)):
            raise MedSSLError(
                f"the loss became {float(total)} in stage {stage!r}",
                where=where,
                fix=NOT_FINITE_FIX,
            )

    def take(self) -> tuple[dict[str, float], float]:
        """Return the means since the last call and the speed in batches per second."""
        keys = list(self._sums)
        stacked = torch.stack([self._sums[k] for k in keys]).tolist() if keys else []
        means = {k: v / self._counts[k] for k, v in zip(keys, stacked, strict=True)}
        seconds = time.perf_counter() - self._since
        speed = self._steps / max(seconds, 1e-9)
        self.reset()
        return means, speed
