"""Speed, memory and idle time of a stretch of training steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from measuring import PeakMemory, clock_of


@dataclass
class Speed:
    """What was measured of some steps."""

    seconds_per_step: float
    peak_mib: float
    busy: float | None = None

    def details(self) -> dict[str, Any]:
        """Return it as figures for the file."""
        return {
            "iterations_per_second": 1 / self.seconds_per_step,
            "ms_per_step": 1000 * self.seconds_per_step,
            "peak_mib": self.peak_mib,
            **({} if self.busy is None else {"busy": self.busy}),
        }

    def note(self) -> str:
        """Return it for a reader."""
        busy = "" if self.busy is None else f", card busy {100 * self.busy:.0f} %"
        speed = 1 / self.seconds_per_step
        return f"{speed:.3g} it/s, peak {self.peak_mib:.0f} MiB{busy}"


class Stretch:
    """Measure a stretch of steps after a warm-up, and how busy the card is in the steps after it.

    The clock starts and stops between steps, when the card has finished; in between nobody waits.
    """

    def __init__(self, device: torch.device, *, warm: int, steps: int) -> None:
        self.device, self.warm, self.steps = device, warm, steps
        self.profiled = 30 if device.type == "cuda" else 0
        self.clock, self.count, self.taken = clock_of(device), 0, 0.0
        self.peak = PeakMemory(device)
        self.speed: Speed | None = None
        self._profile: Any = None

    @property
    def total(self) -> int:
        """Return the steps it takes."""
        return self.warm + self.steps + self.profiled

    def around(self, step: Callable[[], None]) -> None:
        """Take a step."""
        if self.count == self.warm:
            self.taken = self.clock()
        step()
        self.count += 1
        if self.count == self.warm + self.steps:
            seconds = (self.clock() - self.taken) / self.steps
            self.speed = Speed(seconds, self.peak.mib())
            if self.profiled:
                activities = [torch.profiler.ProfilerActivity.CUDA]
                self._profile = torch.profiler.profile(activities=activities)
                self._profile.start()
                self._since = time.perf_counter()
        if self.profiled and self.count == self.total and self.speed is not None:
            torch.cuda.synchronize(self.device)
            wall = time.perf_counter() - self._since
            self._profile.stop()
            self.speed.busy = busy_seconds(self._profile.events()) / wall


def busy_seconds(events: Iterable[Any]) -> float:
    """Return how long a card computed or copied, from a profile's events of it.

    Work that overlaps, in several streams, counts once. Spans that people annotate are no work.
    """
    spans = sorted(
        (e.time_range.start, e.time_range.end)
        for e in events
        if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation
    )
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total / 1e6
