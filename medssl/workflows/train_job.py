"""The training of one run as a job that launchers start: here, in a process, or in a queue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from medssl.jobs.job import Job
from medssl.progress import Display
from medssl.runs.folder import RunFolder
from medssl.workflows.train import train


@dataclass(frozen=True)
class TrainCall:
    """Train a run, from where it stands.

    Attributes:
        recipe, overrides, output, device, precision: as for `medssl.train`.
    """

    recipe: str
    overrides: tuple[str, ...]
    output: str
    device: str = "auto"
    precision: str | None = None

    def __call__(self, display: Display) -> None:
        """Train, and evaluate as the recipe says."""
        train(
            self.recipe,
            overrides=self.overrides,
            output=Path(self.output),
            resume_or_start=True,
            device=self.device,
            precision=self.precision,
            display=display,
        )

    @property
    def arguments(self) -> tuple[str, ...]:
        """The same for the command line."""
        words = ["train", self.recipe, "--output", self.output, "--device", self.device]
        words += [word for assignment in self.overrides for word in ("--set", assignment)]
        words += ["--precision", self.precision] if self.precision else []
        return (*words, "--resume-or-start")

    def from_everywhere(self) -> TrainCall:
        """Return the same call, whichever folder it is made in."""
        file = Path(self.recipe)
        recipe = str(file.resolve()) if file.exists() else self.recipe  # else a shipped one's name
        return replace(self, recipe=recipe, output=str(Path(self.output).resolve()))


def train_job(name: str, call: TrainCall, *, elsewhere: bool = False) -> Job:
    """Return the job of a run.

    Args:
        name: of the run.
        call: trains it.
        elsewhere: it may start in another folder than this one.
    """
    done = RunFolder(Path(call.output)).is_finished
    call = call.from_everywhere() if elsewhere else call
    return Job(name, call, call.arguments, done)
