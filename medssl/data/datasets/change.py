"""Change a dataset that exists: by one process at a time, and all of a change or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medssl.errors import MedSSLError
from medssl.files import locked, refusals


@contextmanager
def alone_in(dataset: Path) -> Iterator[None]:
    """Hold the dataset's lock, so that nobody else changes it meanwhile.

    Raises:
        MedSSLError: another process does, or it cannot be written.
    """

    def busy(_: int | None) -> MedSSLError:
        return MedSSLError(
            "another import, or labels that are accepted, go into this dataset now",
            where=dataset,
            fix="wait for it to end, then try again",
        )

    with (
        refusals(dataset, what="cannot write into the dataset"),
        locked(dataset / ".lock", busy=busy, stays=False),
    ):
        yield
