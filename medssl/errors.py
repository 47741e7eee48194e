"""The one error a user sees: what happened, where, and what to do about it."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Iterator, Mapping
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


def nearest(
    word: str, choices: Iterable[str], *, synonyms: Mapping[str, str] | None = None
) -> str | None:
    """Return the choice most like ``word``, whatever the case, or None if nothing is close.

    Args:
        synonyms: what others call some of the choices.
    """
    options = {c.lower(): c for c in choices}
    for theirs, ours in (synonyms or {}).items():
        if ours in options and difflib.SequenceMatcher(None, word.lower(), theirs).ratio() > 0.85:
            return options[ours]
    found = difflib.get_close_matches(word.lower(), options, n=1, cutoff=0.5)
    return options[found[0]] if found else None


def did_you_mean(
    word: str,
    choices: Iterable[str],
    *,
    synonyms: Mapping[str, str] | None = None,
    most: int = 40,
    listing: str | None = None,
) -> str:
    """Return what to do about a name that is not known: the nearest if one is close, and all.

    Args:
        choices: the known names.
        synonyms: what others call some of them.
        most: name at most so many.
        listing: what stands in the place of their names.
    """
    options = list(choices)
    close = nearest(word, options, synonyms=synonyms)
    if listing is None:
        more = f" and {len(options) - most} more" if len(options) > most else ""
        names = ", ".join(options[:most]) + more
        listing = f"Known: {names}" if close else f"use one of: {names}"
    return f"did you mean {close!r}? {listing}" if close else listing


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
