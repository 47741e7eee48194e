"""The log of a run: what the terminal shows, from the first line said on."""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medssl.runs.privacy import Redactor

MOST_EARLY = 10_000
"""So many lines are remembered."""


class _Log(logging.FileHandler):
    """A log that a full disk leaves short: what ends the run then says so, and says it better."""

    def handleError(self, _: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Print no traceback."""

    def close(self) -> None:
        """Close the file, whatever of it cannot be written."""
        with suppress(OSError):
            super().close()


class _Redacting(logging.Formatter):
    """Format a record, tracebacks included, and take patients out of it."""

    def __init__(self, layout: str, redactor: Redactor) -> None:
        super().__init__(layout)
        self.redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self.redactor.text(super().format(record))


class _Early(logging.handlers.MemoryHandler):
    """What was said before a run had a folder."""

    def __init__(self) -> None:
        super().__init__(MOST_EARLY, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self.setLevel(logging.INFO)

    def shouldFlush(self, _: logging.LogRecord) -> bool:  # noqa: N802 - logging's own name
        """Keep all, up to a number that no run reaches before it begins."""
        del self.buffer[:-MOST_EARLY]
        return False


@contextmanager
def remembered() -> Iterator[None]:
    """Remember what is said, for the log of a run that has no folder yet: it begins with it."""
    early, log = _Early(), logging.getLogger("medssl")
    log.addHandler(early)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(early)
        early.close()


def log_to_file(path: Path, redactor: Redactor | None = None) -> logging.Handler:
    """Send medssl's log to ``path`` as well, and what is remembered; the caller removes it."""
    handler = _Log(path, encoding="utf-8", delay=True)
    layout = "%(asctime)s %(levelname)s %(message)s"
    formatter = _Redacting(layout, redactor) if redactor else logging.Formatter(layout)
    handler.setFormatter(formatter)
    handler.setLevel(logging.INFO)
    log = logging.getLogger("medssl")
    for early in [h for h in log.handlers if isinstance(h, _Early)]:
        early.setTarget(handler)
        early.flush()
        log.removeHandler(early)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    return handler
