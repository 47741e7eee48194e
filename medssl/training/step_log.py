"""Collect what a step reports without making the host wait for the device."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class StepLog:
    """Collect scalar tensors on their device and turn them into means once in a while.

    Batches with a loss that is not finite are left out of the means.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything and start the clock."""
        # By the names of the terms: their sums and, last, the number of batches.
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._steps = 0
        self._since = time.perf_counter()

    def add(self, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of one batch; no value is read."""
        values = {"loss/total": loss, **terms}
        # Terms that are plain settings (the weight of a ramp) were made on the host.
        terms_here = [v.detach().to(loss.device, non_blocking=True) for v in values.values()]
        row = torch.stack([v.float() for v in terms_here])
        row = torch.cat([row, torch.ones_like(row[:1])])
        row = torch.where(loss.isfinite(), row, 0.0)
        names = tuple(values)
        self._sums[names] = self._sums[names] + row if names in self._sums else row
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the sums since the last report: a resumed run reports the same means."""
        return {"names": [list(k) for k in self._sums], "sums": list(self._sums.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what :meth:`state_dict` gave."""
        names = [tuple(k) for k in state["names"]]
        self._sums = dict(zip(names, state["sums"], strict=True))

    def restart_clock(self) -> None:
        """Leave the time since the last step (a validation) out of the speed."""
        self._since = time.perf_counter()

    def take(self) -> tuple[dict[str, float], float]:
        """Return the means since the last call and the speed in batches per second."""
        totals: dict[str, float] = {}
        counts: dict[str, float] = {}
        for names, row in self._sums.items():
            *sums, count = row.tolist()
            for name, value in zip(names, sums, strict=True):
                totals[name] = totals.get(name, 0.0) + value
                counts[name] = counts.get(name, 0.0) + count
        means = {name: value / counts[name] for name, value in totals.items() if counts[name]}
        seconds = time.perf_counter() - self._since
        speed = self._steps / max(seconds, 1e-9)
        self.reset()
        return means, speed
