"""Do jobs one after another in this process, or several at a time in processes of their own."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from medssl.errors import MedSSLError, Stopped
from medssl.jobs.job import Job, Outcome
from medssl.progress import Display
from medssl.training.state import STOP_SIGNALS

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1


def run_here(jobs: Sequence[Job], display: Display) -> Outcome:
    """Do one job after another with the usual display. A failing one does not stop the rest."""
    outcome = Outcome()
    for number, job in enumerate(jobs, 1):
        display.say(f"run {number} of {len(jobs)}: {job.name}")
        _forget_peak_memory()
        try:
            job.call(display)
        except Stopped as stop:
            outcome.stopped = stop.signum
            break
        except KeyboardInterrupt:
            outcome.stopped = signal.SIGINT
            break
        except Exception as error:  # anything: the other runs are worth having
            if not isinstance(error, MedSSLError):
                logger.exception("run %s failed", job.name)
            outcome.failures[job.name] = _reason(error)
            display.say(f"failed: {job.name}: {error}")
    return outcome


def _reason(error: Exception) -> str:
    if isinstance(error, MedSSLError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _forget_peak_memory() -> None:
    """Let the next run's peak memory be its own; elsewhere than on Linux it is the largest yet."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")  # loaded by the run before this one, if there was one
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Collect the signals that stop a run in a list instead of acting on them."""
    noted: list[int] = []
    try:
        before = {
            s: signal.signal(s, lambda signum, _frame: noted.append(signum)) for s in STOP_SIGNALS
        }
    except ValueError:  # not the main thread: the caller owns the signals
        before = {}
    try:
        yield noted
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def run_in_processes(jobs: Sequence[Job], display: Display, *, at_once: int) -> Outcome:
    """Do several jobs at a time, each by ``medssl`` in a process of its own.

    On a signal no further job starts and each running one is asked once to save its state; a second
    signal makes them stop without.
    """
    outcome, waiting, passed_on = Outcome(), list(jobs), 0
    running: dict[subprocess.Popen[bytes], tuple[Job, IO[bytes]]] = {}
    with display.counting("runs", len(jobs)) as done, noted_signals() as signals:
        while waiting or running:
            while waiting and len(running) < at_once and not signals:
                process, messages = _start(waiting[0], at_once)
                running[process] = (waiting.pop(0), messages)
            if len(signals) > passed_on:
                if outcome.stopped is None:
                    display.say("stopping: the running ones save their state")
                outcome.stopped, passed_on, waiting = signals[0], len(signals), []
                for process in running:
                    process.send_signal(signal.SIGTERM)
            for process in [p for p in running if p.poll() is not None]:
                job, messages = running.pop(process)
                _finish(job, process.returncode, messages, outcome, display)
                done(job.name)
            time.sleep(_POLL_SECONDS)
    return outcome


def _start(job: Job, at_once: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Start a job. A session of its own keeps Ctrl-C away: it is passed on once, not twice."""
    command = [sys.executable, "-m", "medssl", "--quiet", *job.arguments]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = str(max(1, (cores or 1) // at_once))
    messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _finish
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=messages,
        env={"OMP_NUM_THREADS": threads, **os.environ},
        start_new_session=True,
    )
    return process, messages


def _finish(job: Job, code: int, messages: IO[bytes], outcome: Outcome, display: Display) -> None:
    """Note how a process ended; one that was asked to stop has not failed."""
    with messages:
        messages.seek(0)
        text = messages.read().decode(errors="replace").strip()
    if code == 0:
        display.say(f"finished: {job.name}")
    elif outcome.stopped is None or code in (1, 2):
        reason = "\n".join(text.removeprefix("error: ").splitlines()[-6:])
        if code < 0:
            reason = f"killed by {signal.Signals(-code).name}" + (
                ": perhaps out of memory, try fewer --jobs" if code == -signal.SIGKILL else ""
            )
        outcome.failures[job.name] = reason or f"exit code {code}"
        display.say(f"failed: {job.name}: {outcome.failures[job.name]}")
