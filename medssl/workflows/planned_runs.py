"""What commands that train many runs have in common: planned runs, their folders, what is left."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError
from medssl.files import locked, refusals
from medssl.jobs.job import Job
from medssl.jobs.launch import Launcher
from medssl.methods.registry import get_settings
from medssl.paths import AnyPath
from medssl.recipe.load import LoadedRecipe, load_recipe
from medssl.runs.changes import flatten
from medssl.runs.folder import RunFolder
from medssl.workflows.train_job import TrainCall, train_job
from medssl.workflows.training_order import spaced_as

BASELINE = "supervised"
"""The method that learns from labels alone."""
_FREE_KEYS = (
    "name",
    "data.cache",
    "method.overridden",
    "training.workers",
    "training.log_every",
    "training.loggers",
    "training.checkpoint_every",
)
"""What may change between two starts: it does not change the result."""


@dataclass(frozen=True)
class PlannedRun:
    """A run to be trained: its folder, the overrides of its recipe, and the checked recipe.

    ``costs`` are the other runs that had to be trained for it.
    """

    path: Path
    overrides: tuple[str, ...]
    loaded: LoadedRecipe
    costs: tuple[Path, ...] = field(default=(), kw_only=True)

    @property
    def name(self) -> str:
        """The name of the run folder."""
        return self.path.name

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return RunFolder(self.path).is_finished()

    def check_folder(self) -> None:
        """Refuse a folder that holds another experiment, or none.

        Raises:
            MedSSLError: names the first key that differs.
        """
        from medssl.comparison.experiments import UNLABELED_KEYS  # loads SciPy: the recipe first

        run = RunFolder(self.path)
        if not run.recipe.is_file():
            if run.holds_something():
                raise MedSSLError(
                    "the folder of a run holds something that is not a run",
                    where=self.path,
                    fix="remove it, or choose another --output",
                )
            return
        before, now = (
            flatten(r.model_dump(mode="json"), "")
            for r in (load_recipe(run.recipe).recipe, spaced_as(self.loaded, run).recipe)
        )
        free: tuple[str, ...] = _FREE_KEYS
        if not self.loaded.settings.uses_unlabeled:
            free = (*free, *UNLABELED_KEYS)
        for key in {**before, **now}:
            if key not in free and before.get(key) != now.get(key):
                raise MedSSLError(
                    f"the run was made with {key} = {before.get(key)!r}, not {now.get(key)!r}",
                    where=run.recipe,
                    fix="choose another --output for what has changed, or remove these runs",
                )


@dataclass(frozen=True)
class RunsResult:
    """What a command that trains many runs leaves.

    Attributes:
        path: the folder.
        summary: what its JSON file holds; empty where there is nothing to summarize yet.
        failures: run -> reason.
        stopped: the signal that ended it early, or None.
        finished: number of finished runs.
        total: number of all runs.
        queued: number of runs that are still in the queue.
    """

    path: Path
    summary: dict[str, Any]
    failures: dict[str, str] = field(default_factory=dict)
    stopped: int | None = None
    finished: int = 0
    total: int = 0
    queued: int = 0


def overrides_for(method: str, own: str, given: Sequence[str]) -> list[str]:
    """Return the overrides with which a recipe trains a method.

    Settings under ``method`` and ``training.stages`` belong to the recipe's own method; others run
    on their defaults.

    Args:
        method: to be trained.
        own: the recipe's method.
        given: overrides of the recipe.

    Raises:
        MedSSLError: there is no such method.
    """
    get_settings(method)
    if method == own:
        return list(given)
    keys = [f"{a.partition('=')[0].strip()}." for a in given]
    kept = [
        a
        for a, key in zip(given, keys, strict=True)
        if not key.startswith(("method.", "training.stages."))
    ]
    return [*kept, f"method={method}", "training.stages={}"]


def jobs_of(
    plan: Sequence[PlannedRun],
    recipe: AnyPath,
    where: Launcher,
    *,
    names: Sequence[str],
    device: str,
    precision: str | None,
) -> list[Job]:
    """Return the jobs of those planned runs that are not finished, by ``names``."""
    jobs = []
    for planned, name in zip(plan, names, strict=True):
        if not planned.finished:
            call = TrainCall(str(recipe), planned.overrides, str(planned.path), device, precision)
            jobs.append(train_job(name, call, elsewhere=where.elsewhere))
    return jobs


@contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Keep a second command out of a folder while one runs; the lock dies with its process.

    Args:
        folder: of all runs; made if it is not there.
        what: the command's word, such as ``sweep``.

    Raises:
        MedSSLError: another one runs there, or the folder cannot be written.
    """

    def busy(_: int | None) -> MedSSLError:
        return MedSSLError(
            f"another {what} is running in this folder",
            where=folder,
            fix="wait for it or stop it, or choose another --output",
        )

    with refusals(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", busy=busy):
        yield


def stopped_message(result: RunsResult) -> str:
    """Say how to go on after a signal."""
    name = signal.Signals(result.stopped or signal.SIGINT).name
    if result.queued:
        return f"stopped by {name}: {queued_message(result)}"
    return (
        f"stopped by {name}: {result.finished} of {result.total} runs are finished, the state of "
        "the others is saved. Go on with the same command"
    )


def queued_message(result: RunsResult) -> str:
    """Say how to come back to runs in a queue."""
    return (
        f"{result.queued} runs go on in the queue, {result.finished} of {result.total} are "
        "finished. The same command waits for them and summarizes"
    )
