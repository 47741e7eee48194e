"""Where jobs are done: in this process, in several, or in a queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError, did_you_mean
from medssl.jobs.job import Job, Outcome
from medssl.jobs.processes import run_here, run_in_processes
from medssl.jobs.queue import run_in_queue
from medssl.jobs.slurm import SlurmQueue, check_slurm
from medssl.jobs.slurm_options import parse_options
from medssl.progress import Display

LOCAL = "local"
LAUNCHERS = (LOCAL, "submitit")
LOGS = "slurm"
"""Folder beside the runs for what a queue writes."""


@dataclass(frozen=True)
class Launcher:
    """Where and how many at a time; from :func:`choose_launcher`, which checks it.

    Attributes:
        name: one of ``LAUNCHERS``.
        at_once: jobs at a time; None is one on this machine, and in a queue as many as it lets.
        options: of the queue, as from :func:`medssl.jobs.slurm_options.parse_options`.
        wait: False returns once the jobs are in the queue.
    """

    name: str = LOCAL
    at_once: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    wait: bool = True

    @property
    def elsewhere(self) -> bool:
        """Whether jobs start on other machines, perhaps in another folder."""
        return self.name != LOCAL


def choose_launcher(
    name: str, *, at_once: int | None = None, slurm: Sequence[str] = (), wait: bool = True
) -> Launcher:
    """Return a launcher that can work here.

    Args:
        name: one of ``LAUNCHERS``.
        at_once, wait: see :class:`Launcher`.
        slurm: ``KEY=VALUE`` options of the queue.

    Raises:
        MedSSLError: no such launcher or number, no queue here, or options without a queue.
    """
    if at_once is not None and at_once < 1:
        raise MedSSLError(f"{at_once} runs at a time", where="--jobs", fix="give 1 or more")
    if name not in LAUNCHERS:
        raise MedSSLError(
            f"there is no launcher {name!r}",
            where="--launcher",
            fix=did_you_mean(name, LAUNCHERS),
        )
    if name != LOCAL:
        check_slurm()
        return Launcher(name, at_once, parse_options(slurm), wait)
    if slurm:
        raise MedSSLError(
            "--slurm has no meaning for runs on this machine",
            where="--slurm",
            fix="add --launcher submitit, or leave --slurm out",
        )
    return Launcher(name, at_once, {}, wait)


def launch(jobs: Sequence[Job], launcher: Launcher, *, folder: Path, display: Display) -> Outcome:
    """Do all jobs, or queue them. A failing one does not stop the others.

    Args:
        jobs: what is not finished.
        launcher: where.
        folder: of the runs; a queue writes its scripts and logs into ``folder/slurm``.
        display: shows progress.

    Raises:
        MedSSLError: the queue refuses the jobs.
    """
    if not jobs:
        return Outcome()
    if launcher.elsewhere:
        queue = SlurmQueue(
            folder / LOGS,
            launcher.options,
            name=f"medssl-{folder.name}",
            at_once=launcher.at_once,
        )
        return run_in_queue(jobs, display, queue=queue, folder=folder / LOGS, wait=launcher.wait)
    if launcher.at_once in (None, 1):
        return run_here(jobs, display)
    return run_in_processes(jobs, display, at_once=launcher.at_once)
