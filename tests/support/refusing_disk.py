"""Disks that refuse: full, read-only, or failing at the last moment; and what is left then."""

from __future__ import annotations

import errno
import io
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def full(size: int = 0) -> Iterator[None]:
    """Let no file grow beyond a size, whoever writes it: Python, numpy, ITK or torch."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def full_at_the_end() -> Iterator[None]:
    """Refuse to give a file or folder its name, for want of space."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        for name in ("replace", "rename"):
            patch.setattr(os, name, refuse)
        yield


@contextmanager
def _closed(code: int) -> Iterator[None]:
    """Refuse whatever makes or changes a file or folder."""
    opened, low = io.open, os.open

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    def look(file: Any, mode: str = "r", *options: Any, **more: Any) -> Any:
        return (refuse if set(mode) & set("wxa+") else opened)(file, mode, *options, **more)

    def look_low(file: Any, flags: int, *options: Any, **more: Any) -> Any:
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return (refuse if writes else low)(file, flags, *options, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", look)
        patch.setattr("builtins.open", look)
        patch.setattr(os, "open", look_low)
        for name in ("replace", "rename", "link", "mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, refuse)
        yield


@contextmanager
def read_only() -> Iterator[None]:
    """A file system that is mounted read-only."""
    with _closed(errno.EROFS):
        yield


@contextmanager
def denied() -> Iterator[None]:
    """A folder of somebody else's."""
    with _closed(errno.EACCES):
        yield


FAULTS = {
    "full": full,
    "full at the end": full_at_the_end,
    "read-only": read_only,
    "denied": denied,
}
SAID = {
    "full": errno.EFBIG,
    "full at the end": errno.ENOSPC,
    "read-only": errno.EROFS,
    "denied": errno.EACCES,
}
"""What the system calls each."""


def content_of(folder: Path) -> dict[str, bytes | None]:
    """Return every file below a folder with its bytes, hidden ones too, and every folder."""
    found = sorted(folder.rglob("*"))
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in found
    }
