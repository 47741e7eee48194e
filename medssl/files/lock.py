"""One lock, for runs, datasets, tables and sweeps: it ends with its process, however that ends."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medssl.errors import MedSSLError
from medssl.files.atomic import refusals, remove

try:
    import fcntl
except ImportError:  # Windows: only the threads of one process keep each other out
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_held: set[Path] = set()
"""Locks of this process: the kernel would grant it a second one."""
_changed = threading.Condition()


def _forget() -> None:
    """Start anew in a forked child: it holds none of its parent's locks."""
    global _changed
    _held.clear()
    _changed = threading.Condition()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def locked(
    path: Path,
    *,
    busy: Callable[[int | None], MedSSLError] | None = None,
    stays: bool = True,
) -> Iterator[int]:
    """Hold a lock that ends with this process, however that ends, and that no child inherits.

    It is a POSIX record lock. Where a file system has none, only this process's own threads keep
    each other out.

    Args:
        path: file of the lock; its folder exists.
        busy: makes the error to raise where another holds the lock, from the open file; None where
            it is this process. Without it the lock is waited for.
        stays: leave the file, which is cheaper.

    Yields:
        The open file, for what is to be known of the holder.

    Raises:
        MedSSLError: the file cannot be written, or what ``busy`` makes.
    """
    name = path.resolve()
    with _changed:
        if name in _held and busy is not None:
            raise busy(None)
        _changed.wait_for(lambda: name not in _held)
        _held.add(name)
    try:
        with refusals(path.parent):
            handle = _open(name, busy)
        try:
            yield handle
        finally:
            if not stays:
                remove(name)  # while it is held, see _open
            os.close(handle)  # drops the lock
    finally:
        with _changed:
            _held.discard(name)
            _changed.notify_all()


def _open(path: Path, busy: Callable[[int | None], MedSSLError] | None) -> int:
    """Open a file and lock it; one that its holder removed meanwhile is no longer the lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not try_lock(handle, wait=busy is None) and busy is not None:
                raise busy(handle)
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def try_lock(handle: int, *, wait: bool = False) -> bool:
    """Take the kernel's lock of an open file; False if another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        logger.info("the file system has no locks: %s", error)
    return True
