"""A folder written whole or not at all, and the folder of what is kept between calls."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medssl.errors import MedSSLError
from medssl.files.atomic import FIX, move, name_beside, reason_of, refusals, remove
from medssl.files.formats import write_bytes

_PARTIAL = ".partial"


def default_cache_root() -> Path:
    """Return ``$MEDSSL_CACHE``, or else ``~/.cache/medssl``."""
    return Path(os.environ.get("MEDSSL_CACHE") or Path.home() / ".cache" / "medssl").expanduser()


def refuse_filled(out: Path, thing: str) -> None:
    """Refuse a folder to write to that holds something already.

    Args:
        thing: what is to be written, such as ``the bundle``.

    Raises:
        MedSSLError: there is a file of that name, or the folder is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MedSSLError(
            f"the folder of {thing} exists and is not empty",
            where=out,
            fix="choose another folder, or empty this one",
        )


@contextmanager
def all_or_nothing(out: Path, thing: str) -> Iterator[Path]:
    """Yield a folder whose content becomes that of ``out`` on success and vanishes on failure.

    Args:
        out: does not exist, or is an empty folder.
        thing: what is written, such as ``the bundle``.

    Raises:
        MedSSLError: ``out`` holds something, or the disk refuses.
    """
    refuse_filled(out, thing)
    fresh = not out.exists()
    created = [p for p in out.parents if not p.exists()]
    # On the same file system as its destination, so that moving is renaming.
    building = name_beside(out if fresh else out / out.name, _PARTIAL)
    moved: list[Path] = []
    try:
        building.parent.mkdir(parents=True, exist_ok=True)
        building.mkdir()
        yield building
        if fresh:
            os.rename(building, out)
            return
        # An empty folder the user made stays his own (it may be a mount point): fill it.
        for item in sorted(building.iterdir(), key=lambda p: p.is_file()):
            target = out / item.name
            refuse_filled(target, thing)  # another process may write here as well
            moved.append(target)
            os.rename(item, target)
        building.rmdir()
    except BaseException as error:
        for leftover in [building, *moved]:
            shutil.rmtree(leftover, ignore_errors=True)
            remove(leftover)
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, MedSSLError) and _is_inside(error.where, building):
            error.where = str(out)  # the folder it names is gone
        if not isinstance(error, OSError):
            raise
        # A file that is read inside may be what fails.
        where = out if _is_inside(error.filename, building) else error.filename
        what = f"cannot write {thing}: {reason_of(error)}"
        raise MedSSLError(what, where=where, fix=FIX) from error


def _is_inside(name: str | Path | None, folder: Path) -> bool:
    return name is None or folder in (Path(name), *Path(name).parents)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new hidden folder inside ``parent``, on the same disk, that vanishes at the end.

    Raises:
        MedSSLError: it cannot be made.
    """
    folder = name_beside(parent / parent.name, _PARTIAL)
    with refusals(parent):
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_in(building: Path, target: Path, *, replaced: Sequence[str], fix: str) -> None:
    """Move the files of a folder into another one: all of them, or that one is as it was.

    Args:
        building: on the same disk; its files keep their places, below it and below ``target``.
        target: the other folder.
        replaced: names of files that take the place of those that are there, last and in this
            order; all others must be new.
        fix: what to do about one that is not.

    Raises:
        MedSSLError: a new file is there already, or the disk refuses.
    """
    files = [p.relative_to(building) for p in sorted(building.rglob("*")) if p.is_file()]
    before = {n: _content(target / n) for n in replaced if (building / n).is_file()}
    moved: list[Path] = []
    fresh: list[Path] = []
    try:
        for name in files:
            place = target / name
            if name.as_posix() in before:
                continue
            if os.path.lexists(place):
                what = f"{place.parent.name} already has a file {place.name}"
                raise MedSSLError(what, where=place, fix=fix)
            fresh += [p for p in place.parents if not p.exists()]
            place.parent.mkdir(parents=True, exist_ok=True)
            move(building / name, place)
            moved.append(place)
        for text in before:
            move(building / text, target / text)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        for folder in sorted(fresh, key=lambda p: -len(p.parts)):
            with contextlib.suppress(OSError):
                folder.rmdir()
        for text, content in before.items():
            if content is None:
                (target / text).unlink(missing_ok=True)
            elif _content(target / text) != content:
                write_bytes(target / text, content)
        raise


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, without a second copy where the disk can.

    Raises:
        MedSSLError: the disk refuses.
    """
    with refusals(target):
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            shutil.copyfile(source, target)


def discard_folder(folder: Path) -> None:
    """Remove a folder. It is moved first: others must never see, or trip over, half of it.

    Raises:
        MedSSLError: the disk refuses.
    """
    aside = name_beside(folder, _PARTIAL)
    try:
        with refusals(folder), contextlib.suppress(FileNotFoundError):  # another was faster
            os.rename(folder, aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_abandoned(folder: Path, *, seconds: float = 24 * 3600.0) -> None:
    """Remove half-written folders that processes left that were killed, a day ago or more."""
    for pattern in (f".*{_PARTIAL}", ".building-*"):  # the second: of 0.1.0
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > seconds:
                    shutil.rmtree(path)
