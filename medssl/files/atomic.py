"""One file, written whole or not at all, and what the disk refuses as the one error a user sees."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from medssl.errors import MedSSLError

WHAT = "cannot write"
FIX = "free some space, or choose a folder you may write to"


@contextmanager
def refusals(path: Path, *, what: str = WHAT, fix: str = FIX) -> Iterator[None]:
    """Turn what the disk refuses inside into an error that names ``path`` and says what to do.

    Raises:
        MedSSLError: for an OSError inside.
    """
    try:
        yield
    except OSError as error:
        raise MedSSLError(f"{what}: {reason_of(error)}", where=path, fix=fix) from error


def reason_of(error: BaseException) -> str:
    """Return in a few words why something failed: the system's own, else the text's last line."""
    reason = getattr(error, "strerror", None) or (str(error).strip().splitlines() or [""])[-1]
    return reason or type(error).__name__


def check_writable(folder: Path, *, make: bool = True, what: str = WHAT, fix: str = FIX) -> None:
    """Make a folder, if it is not there, and try to write into it.

    Args:
        folder: to write to.
        make: else a folder that is not there stays so, and one above it is tried.
        what, fix: of the error.

    Raises:
        MedSSLError: it cannot be made or written.
    """
    with refusals(folder, what=what, fix=fix):
        there = folder
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        while not there.exists():
            there = there.absolute().parent
        probe = name_beside(there / "probe")
        try:
            probe.write_bytes(b"x")
        finally:
            remove(probe)


def is_leftover(path: Path) -> bool:
    """Say whether a file is what a process that was killed left of a file it wrote."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


@contextmanager
def replacing(
    path: Path, *, suffix: str = ".tmp", what: str = WHAT, fix: str = FIX
) -> Iterator[Path]:
    """Yield a name beside ``path``; the file that is written there takes the place of ``path``.

    For libraries that open files themselves; otherwise `new_file`.

    Args:
        path: its folder is made if it is not there.
        suffix: what the name has to end in, where a library chooses the format by it.

    Raises:
        MedSSLError: the disk refuses; ``path`` is then as it was.
    """
    temporary = name_beside(path, suffix)
    try:
        with refusals(path, what=what, fix=fix):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        remove(temporary)


@contextmanager
def new_file(
    path: Path,
    *,
    lasting: bool = False,
    keep: Path | None = None,
    what: str = WHAT,
    fix: str = FIX,
) -> Iterator[BinaryIO]:
    """Yield an open file that takes the place of ``path`` when the block ends without an error.

    Args:
        path: its folder is made if it is not there.
        lasting: the file is on the disk, and under its name, even if the power fails next.
        keep: where the file that is at ``path`` now is kept.

    Raises:
        MedSSLError: the disk refuses; ``path`` is then as it was.
    """
    with replacing(path, what=what, fix=fix) as temporary:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        if keep is not None and path.is_file():
            _keep(path, keep)
    if lasting:
        _sync_folder(path.parent)


def write_private(path: Path, content: bytes, *, what: str = WHAT, fix: str = FIX) -> None:
    """Write a file that its owner alone may read, unless one is there, which stays.

    Of several processes, one writes it.

    Raises:
        MedSSLError: the disk refuses.
    """
    temporary = name_beside(path)
    try:
        with refusals(path, what=what, fix=fix):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)  # unlike a rename, never over a file that is there
            except FileExistsError:
                return
            except OSError:  # a file system without hard links
                if not path.exists():
                    os.replace(temporary, path)
    finally:
        remove(temporary)


def name_beside(path: Path, suffix: str = ".tmp") -> Path:
    """Return a name in the same folder that no other process uses; hosts share process ids."""
    return path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}{suffix}")


def remove(path: Path) -> None:
    """Remove a file that may be there; one that cannot be removed is left."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _keep(path: Path, other: Path) -> None:
    """Keep the file at ``path`` under another name too, so that there is always one at ``path``."""
    spare = name_beside(other)
    try:
        os.link(path, spare)
        os.replace(spare, other)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        os.replace(path, other)  # a file system without hard links
    finally:
        remove(spare)  # still there if both names already meant one file


def _sync_folder(folder: Path) -> None:
    """Make renames last through a power cut, where the system lets a folder be synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def move(source: Path, target: Path) -> None:
    """Give a file another name on the same disk, in the place of one that is there.

    Raises:
        MedSSLError: the disk refuses.
    """
    with refusals(target):
        os.replace(source, target)
