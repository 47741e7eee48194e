"""All trackers of a run as one, of which none can stop the training."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from medssl.errors import MedSSLError
from medssl.files import write_json
from medssl.optional import import_object, is_installed
from medssl.runs.folder import RunFolder

logger = logging.getLogger(__name__)

RECORD = "trackers.json"
"""In a run folder: what each tracker calls the run, so that a resumed run goes on there."""
PLACES = {
    "tensorboard": "medssl.trackers.tensorboard:TensorBoard",
    "mlflow": "medssl.trackers.mlflow:MLflow",
    "wandb": "medssl.trackers.wandb:WeightsAndBiases",
}


class Tracker(Protocol):
    """What shows numbers and pictures of one run. It is opened by its first value."""

    def __init__(self, run: RunFolder, known: str | None, step: int) -> None:
        """Open it.

        Args:
            run: its folder.
            known: what the tracker called the run before; None for a new one.
            step: finished iterations.
        """

    @property
    def known(self) -> str | None:
        """What the tracker calls the run; None if it needs no such thing."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show numbers after so many iterations."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Show a PNG file."""

    def close(self) -> None:
        """Write what is left."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose package is missing, before anything is trained.

    Raises:
        MedSSLError: names the extra that brings it.
    """
    for name in names:
        if name != "tensorboard" and not is_installed(name):
            raise MedSSLError(
                f"the package '{name}' is not installed",
                where="training.loggers",
                fix=f'install it with: pip install "medssl[{name}]", or take it out of the list',
            )


class Trackers:
    """Hand numbers and pictures to trackers; one that fails is left out, and said so once.

    Args:
        names: keys of ``PLACES``.
        run: its folder.
        say: is told of a tracker that fails.
    """

    def __init__(self, names: Sequence[str], run: RunFolder, say: Callable[[str], None]) -> None:
        self.run, self.say = run, say
        self._names = dict.fromkeys(names)
        self._open: dict[str, Any] = {}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show numbers after so many iterations."""
        self._all(step, lambda tracker: tracker.scalars(values, step))

    def pictures(self, pictures: Mapping[str, Path], step: int) -> None:
        """Show PNG files under their names."""
        for name, path in pictures.items():
            self._all(step, partial(_show, name, path, step))

    def close(self) -> None:
        """Close all; what comes later opens them again."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)
        self._open.clear()

    def _all(self, step: int, act: Callable[[Any], None]) -> None:
        for name in list(self._names):
            self._try(name, partial(self._act, name, step, act))

    def _act(self, name: str, step: int, act: Callable[[Any], None]) -> None:
        act(self._opened(name, step))

    def _opened(self, name: str, step: int) -> Any:
        """Open a tracker late: its import takes seconds."""
        if name not in self._open:
            before = self._recorded()
            tracker = import_object(PLACES[name])(self.run, before.get(name), step)
            self._open[name] = tracker
            if tracker.known is not None and tracker.known != before.get(name):
                write_json(self.run.path / RECORD, {**before, name: tracker.known})
        return self._open[name]

    def _recorded(self) -> dict[str, str]:
        try:
            content = json.loads((self.run.path / RECORD).read_text(encoding="utf-8"))
            return {str(name): str(known) for name, known in content.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever a tracker raises, the training matters more
            logger.debug("the tracker %s failed", name, exc_info=True)
            self._names.pop(name, None)
            self._open.pop(name, None)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            self.say(f"warning: {name} fails and shows nothing more of this run: {reason}")


def _show(name: str, path: Path, step: int, tracker: Any) -> None:
    tracker.picture(name, path, step)
