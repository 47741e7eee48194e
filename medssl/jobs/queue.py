"""Do jobs in a queue: submit once, wait, find them again later."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from medssl.files import write_json
from medssl.jobs.job import Job, Outcome
from medssl.jobs.processes import noted_signals
from medssl.jobs.slurm import Queue, QueuedCall, QueueJob
from medssl.progress import Display

POLL_SECONDS = 2.0


def run_in_queue(
    jobs: Sequence[Job], display: Display, *, queue: Queue, folder: Path, wait: bool
) -> Outcome:
    """Queue the jobs that are not in the queue yet, and wait for all.

    ``folder/jobs.json`` says which job of the queue does which of them, so that a later call
    neither queues one twice nor loses one. A signal ends the waiting, not the jobs.

    Args:
        jobs: their calls are pickled, and may start in another folder.
        folder: for ``jobs.json``.
        wait: False returns when the jobs are in the queue.

    Raises:
        MedSSLError: the queue refuses the jobs.
    """
    outcome = Outcome()
    record = folder / "jobs.json"
    ids = _read(record)
    waiting: dict[str, tuple[Job, QueueJob]] = {}
    for job in jobs:
        if job.name in ids:
            queued = queue.job(ids[job.name])
            if not queued.done():
                waiting[job.name] = (job, queued)
    # One that has ended just now may be finished.
    new = [job for job in jobs if job.name not in waiting and not job.is_finished()]
    if waiting:
        display.say(f"{len(waiting)} runs are in the queue since an earlier call")
    if new:
        made = queue.submit([QueuedCall(job.call) for job in new])
        ids |= dict(zip((job.name for job in new), made, strict=True))
        write_json(record, ids)
        waiting |= {job.name: (job, queue.job(ids[job.name])) for job in new}
        display.say(f"queued: {len(new)} runs as job {made[0].partition('_')[0]}; logs in {folder}")
    if wait:
        _wait(waiting, outcome, display)
    outcome.queued = len(waiting)
    return outcome


def _wait(waiting: dict[str, tuple[Job, QueueJob]], outcome: Outcome, display: Display) -> None:
    """Wait until no job is left or a signal comes; take those that end out of ``waiting``."""
    with display.counting("runs in the queue", len(waiting)) as done, noted_signals() as signals:
        while waiting:
            for name, (job, queued) in list(waiting.items()):
                if not queued.done():
                    continue
                del waiting[name]
                if job.is_finished():
                    display.say(f"finished: {name}")
                else:
                    outcome.failures[name] = queued.describe()
                    display.say(f"failed: {name}: {outcome.failures[name]}")
                done(name)
            if signals:
                outcome.stopped = signals[0]
                return
            if waiting:
                time.sleep(POLL_SECONDS)


def _read(record: Path) -> dict[str, str]:
    """Return job ids by run; a damaged file is as good as none, for a run has one writer."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return {str(run): str(job_id) for run, job_id in content.items()}
    except (OSError, ValueError, AttributeError):
        return {}
