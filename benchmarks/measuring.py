"""Clocks, peaks of memory, and a look into a training while it runs."""

from __future__ import annotations

import json
import math
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import harness
import torch

import medssl
from medssl.device import resolve_device
from medssl.training.engine import Engine

MIB = 2**20
NEVER = 10**7
"""More iterations than any run has: for what should not happen while a clock runs."""


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return a clock in seconds: finished work on a card, time computed on a CPU.

    The wall clock of a shared machine also counts what others compute.
    """
    if device.type != "cuda":
        return time.process_time

    def finished() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return finished


class PeakMemory:
    """The peak of memory since an object was made: of the card, or resident memory above now."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            forget_peak()
            self._before = resident_mib()

    def mib(self) -> float:
        """Return it in MiB."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / MIB
        return peak_resident_mib() - self._before


def forget_peak() -> None:
    """Let the peak of resident memory begin anew, on Linux; elsewhere it is the process's."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident_mib() -> float:
    """Return the peak of resident memory since it was forgotten."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mib() -> float:
    """Return the resident memory now."""
    return _status("VmRSS") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status(key: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith(key + ":")), 0.0)


def children_seconds() -> float:
    """Return the processor time of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return b of ``cost = a size^b``, by least squares of the logarithms."""
    x, y = [math.log(v) for v in sizes], [math.log(v) for v in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


# ---------------------------------------------------------------------- trainings


def by_name(method: str) -> dict[str, Any]:
    """Return a recipe's section for a method that is to train on patches of any shape."""
    return {"name": method, **({"allow_anisotropic": True} if method == "umct" else {})}


Around = Callable[[Engine, Any, Callable[[], None]], None]
"""Called instead of each step with the engine, the stage and the step, which it must call."""


@contextmanager
def around_steps(around: Around) -> Iterator[None]:
    """Call something around every step of every training inside."""
    original = Engine._step

    def watched(engine: Engine, stage: Any, batches: Any) -> None:
        around(engine, stage, lambda: original(engine, stage, batches))

    Engine._step = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        Engine._step = original  # type: ignore[method-assign]


def train(
    recipe: str | Path,
    changes: Mapping[str, Any],
    *,
    folder: Path,
    device: str,
    around: Around,
) -> Path:
    """Train with a look at its steps; return the run's folder, a new one in ``folder``.

    Args:
        recipe: file or name.
        changes: of the recipe, ``{"training.iterations": 10}``.
        device: auto, cpu or cuda.
        around: see `Around`.
    """
    path = Path(tempfile.mkdtemp(prefix="run-", dir=folder)) / "run"
    with around_steps(around):
        medssl.train(
            recipe,
            overrides=[f"{key}={text_of(value)}" for key, value in changes.items()],
            output=path,
            device=device,
        )
    return path


def text_of(value: Any) -> str:
    """Write a value as `--set` takes it."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value)


def device_of(options: Any) -> torch.device:
    """Return the device of a part; one thread on a CPU, so that its clock is that of the work."""
    device = resolve_device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    return device


def child_environment() -> dict[str, str]:
    """Return the environment of a process that is to import this code, with one thread."""
    found = [str(harness.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(found)}
