"""Jobs of a SLURM queue, through submitit.

submitit writes the batch script, submits it as one array, and starts ``python`` in each job with
what is to be called. It also catches the signal that announces a preemption or the time limit, and
requeues the job; see :class:`QueuedCall` for how the work saves itself first.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from medssl.errors import MedSSLError, Stopped
from medssl.jobs.job import Call
from medssl.optional import optional_module
from medssl.progress import Display

EXTRA = "slurm"
PREEMPTION = getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"), None)
"""The signal by which submitit has SLURM announce the end of a job."""
REQUEUES = 1000
"""How often a job may be requeued; one longer than the limit of its queue needs many."""


class QueueJob(Protocol):
    """What is asked of a job of a queue."""

    def done(self) -> bool:
        """Say whether it has ended, one way or another."""
        ...

    def describe(self) -> str:
        """Say how it ended, and the last lines it wrote."""
        ...


class Queue(Protocol):
    """What is asked of a queue."""

    def submit(self, calls: Sequence[Callable[[], Any]]) -> list[str]:
        """Queue some calls and return the ids of their jobs."""
        ...

    def job(self, job_id: str) -> QueueJob:
        """Return a job that was submitted before, by this process or another."""
        ...


@dataclass(frozen=True)
class QueuedCall:
    """What a job of the queue calls; every start of the job goes on where the last ended.

    Attributes:
        call: the work; picklable.
    """

    call: Call

    def __call__(self) -> None:
        """Do the work; when the queue wants the job back, save, and let submitit requeue it."""
        requeue = signal.getsignal(PREEMPTION) if PREEMPTION else None
        announced: list[int] = []

        def note(signum: int, frame: FrameType | None) -> None:
            announced.append(signum)
            save = signal.getsignal(signal.SIGUSR1)
            if callable(save) and save is not note:
                save(signal.SIGUSR1, frame)  # the loop ends its iteration, saves and raises Stopped
            elif callable(requeue):
                requeue(signum, frame)  # before and after the loop there is nothing to save

        if PREEMPTION and callable(requeue):
            signal.signal(PREEMPTION, note)
        try:
            self.call(Display())
        except Stopped as stop:
            if PREEMPTION and callable(requeue) and (announced or stop.signum == PREEMPTION):
                requeue(PREEMPTION, None)  # ends this process
            # No result, which would say that the job has ended: the queue may start it again.
            sys.exit(128 + stop.signum)

    def checkpoint(self) -> Any:
        """Tell submitit what to call when the job starts again: the same."""
        return optional_module("submitit", EXTRA).helpers.DelayedSubmission(self)


class SlurmQueue:
    """The queue of this cluster.

    Args:
        folder: for batch scripts and logs; on a file system that all nodes share.
        options: as from :func:`medssl.jobs.slurm_options.parse_options`.
        name: name of the array job.
        at_once: how many jobs may run at a time; None for as many as the queue lets.

    Raises:
        MedSSLError: submitit or SLURM is missing, or it does not take the options.
    """

    def __init__(
        self, folder: Path, options: dict[str, Any], *, name: str, at_once: int | None
    ) -> None:
        self.submitit = check_slurm()
        self.folder = folder
        # It says at every look that `sacct` gave no answer, in the middle of the display.
        logging.getLogger("submitit").setLevel(logging.ERROR)
        self._executor = self.submitit.AutoExecutor(
            folder, cluster="slurm", slurm_max_num_timeout=REQUEUES
        )
        if at_once is not None:
            options = {**options, "slurm_array_parallelism": at_once}
        self._executor.update_parameters(name=name, stderr_to_stdout=True, **options)

    def submit(self, calls: Sequence[Callable[[], Any]]) -> list[str]:
        """Queue some calls as one array job.

        Raises:
            MedSSLError: ``sbatch`` refuses.
        """
        try:
            with self._executor.batch():
                jobs = [self._executor.submit(call) for call in calls]
        except RuntimeError as error:  # what submitit makes of an exit code of sbatch
            lines = [line.strip() for line in str(error).splitlines() if "sbatch: " in line]
            reason = lines[-1] if lines else (str(error).strip().splitlines() or [""])[-1][:200]
            raise MedSSLError(
                f"the queue refuses the jobs: {reason}",
                where="--slurm",
                fix="correct the options; `sinfo` lists partitions and their limits",
            ) from error
        return [job.job_id for job in jobs]

    def job(self, job_id: str) -> QueueJob:
        """Return a job by its id."""
        return _SlurmJob(self.submitit.SlurmJob(self.folder, job_id))


class _SlurmJob:
    """A job of submitit. Its result is never read: it is a pickle, and the run's folder tells."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def done(self) -> bool:
        return bool(self._job.done())

    def describe(self) -> str:
        log = self._job.paths.stdout
        try:
            lines = log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        state = self._job.state
        known = "" if state in ("UNKNOWN", "RUNNING", "COMPLETED") else f" ({state})"
        last = "".join(f"\n  {line.strip()[:200]}" for line in lines[-3:])
        return f"job {self._job.job_id}{known}, log {log}{last}"


def check_slurm() -> Any:
    """Return submitit.

    Raises:
        MedSSLError: it is not installed, or there is no SLURM.
    """
    try:
        submitit = optional_module("submitit", EXTRA)
    except MedSSLError:
        raise MedSSLError(
            "queueing runs needs the package 'submitit', which is not installed",
            where="--launcher submitit",
            fix=f'install it with: pip install "medssl[{EXTRA}]"',
        ) from None
    for program in ("sbatch", "srun"):
        if shutil.which(program) is None:
            raise MedSSLError(
                f"there is no SLURM here: `{program}` is not found",
                where="--launcher submitit",
                fix="run this on a login node of the cluster, or use --launcher local",
            )
    return submitit
