"""The one error a user sees: what happened, where, and what to do about it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class MedSSLError(Exception):
    """A problem the user can act on. The CLI prints it in a few lines and exits with code 2.

    Args:
        what: one sentence: what happened, with the values involved.
        where: the file (or ``file:line``) concerned, if any.
        fix: what to do, as an instruction.
    """

    def __init__(
        self, what: str, *, where: str | Path | None = None, fix: str | None = None
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(what, self.where, fix)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class ToldElsewhere(MedSSLError):  # noqa: N818 - nothing more to say
    """Another process of the same run says what is wrong."""


@contextmanager
def located(file: str | Path) -> Iterator[None]:
    """Add ``file`` to an error raised inside that names no file: none, or only a recipe's key."""
    try:
        yield
    except MedSSLError as error:
        if error.where is None:
            error.where = str(file)
        elif error.where.split(".")[0] == "data" and not Path(error.where).exists():
            error.where = f"{file} ({error.where})"
        raise


class Stopped(Exception):  # noqa: N818 - not an error: the user or the queue asked for it
    """Training was asked to stop by a signal; its state has been saved in ``run``."""

    def __init__(self, signum: int, step: int, run: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name} after {step} iterations")
        self.signum = signum
        self.run = run
