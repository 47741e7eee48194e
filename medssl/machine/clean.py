"""What medssl has written to the disk, and which of it can go without anything being lost."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medssl.files import default_cache_root, discard_folder, is_leftover, refusals
from medssl.paths import AnyPath, as_paths
from medssl.runs.folder import RunFolder
from medssl.settings.model_names import is_installed_model, models_folder

DAY = 24 * 3600.0
_ENTRY = re.compile(r"[0-9a-f]{64}|phantom-[0-9a-f]{12}")
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Space:
    """Something that takes space.

    Attributes:
        path: file or folder.
        bytes: it takes.
        what: it is, for the reader.
        why: it can go; empty where it stays.
    """

    path: Path
    bytes: int
    what: str
    why: str = ""


@dataclass(frozen=True)
class CleanResult:
    """What takes space, and what of it went.

    Attributes:
        stays: what is only shown, the largest first.
        can_go: what can be made again, or is of no use any more.
        deleted: whether that has been deleted.
    """

    stays: tuple[Space, ...]
    can_go: tuple[Space, ...]
    deleted: bool = False

    @property
    def bytes(self) -> int:
        """What can go takes, or took."""
        return sum(space.bytes for space in self.can_go)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "deleted": self.deleted,
            "bytes": self.bytes,
            "can_go": [{**asdict(space), "path": str(space.path)} for space in self.can_go],
            "stays": [{**asdict(space), "path": str(space.path)} for space in self.stays],
        }


def clean(
    folders: AnyPath | Sequence[AnyPath] = "runs",
    *,
    days: float = 30.0,
    cache: AnyPath | None = None,
    delete: bool = False,
) -> CleanResult:
    """Say what takes space, and delete what can go if asked.

    What can go: what is cached and was not used for some days, which the next training makes again;
    of finished runs, the spare copy of the last checkpoint; and what processes left half-written
    that were killed. Runs, predictions, installed models and datasets stay.

    Args:
        folders: of runs; looked through to the bottom, without following links.
        days: that a cached case was not used.
        cache: folder of the cache; default: ``$MEDSSL_CACHE``, or ``~/.cache/medssl``.
        delete: what can go.

    Raises:
        MedSSLError: the disk refuses.

    Example:
        >>> found = medssl.clean("runs")
        >>> found.deleted
        False
    """
    before = time.time() - DAY * days
    places = [path for path in as_paths(folders) if path.is_dir()]
    root = default_cache_root() if cache is None else Path(cache).expanduser()
    found = [*_cached(root, before), *_models()]
    for place in places:
        found += _runs(place)
    found.sort(key=lambda space: -space.bytes)
    can_go = tuple(space for space in found if space.why)
    if delete:
        for space in can_go:
            _delete(space.path)
    return CleanResult(tuple(s for s in found if not s.why), can_go, delete)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        discard_folder(path)
        return
    with refusals(path, what="cannot delete"):
        path.unlink(missing_ok=True)


def _cached(root: Path, before: float) -> Iterator[Space]:
    """Yield cached cases, those of a kind that stay as one."""
    used: dict[str, int] = {}
    for path in sorted(root.glob("*")) if root.is_dir() else ():
        if path.is_symlink() or not path.is_dir():
            continue
        size, last = _measure(path)
        phantom = path.name.startswith("phantom-")
        what = "cached phantom" if phantom else "cached case"
        if path.name.endswith(_PARTIAL) or path.name.startswith(".building-"):
            if last < time.time() - DAY:
                yield Space(path, size, "half-written case", "left by a process that was killed")
        elif _ENTRY.fullmatch(path.name) is None:
            used["what is known of files"] = used.get("what is known of files", 0) + size
        elif last < before:
            idle = (time.time() - last) / DAY
            yield Space(path, size, what, f"not used for {idle:.0f} days, and made again if needed")
        else:
            used[f"{what}s in use"] = used.get(f"{what}s in use", 0) + size
    for what, size in used.items():
        yield Space(root, size, what)


def _models() -> Iterator[Space]:
    for path in sorted(models_folder().glob("*")):
        if is_installed_model(path):
            yield Space(path, _measure(path)[0], "installed model (medssl models --remove NAME)")


def _runs(place: Path) -> Iterator[Space]:
    """Yield runs, and what of finished ones is of no use any more."""
    for folder, folders, files in os.walk(place):
        here = Path(folder)
        yield from _leftovers(here, folders, files)
        if "recipe.yaml" not in files:
            continue
        run = RunFolder(here)
        spare = run.previous
        size = _measure(here, skip={p.name for p in here.iterdir() if _is_run(p)})[0]
        if run.is_finished() and spare.is_file() and _is_whole(run.last):
            bytes_ = spare.stat().st_size
            yield Space(spare, bytes_, "spare checkpoint", "the run is finished")
            size -= bytes_
        yield Space(here, size, f"run ({run.read_manifest().get('status', 'unknown')})")


def _is_whole(checkpoint: Path) -> bool:
    from medssl.runs.checkpoint import is_whole  # loads PyTorch, for whoever has something to clean

    return is_whole(checkpoint)


def _is_run(path: Path) -> bool:
    return (path / "recipe.yaml").is_file()


def _leftovers(here: Path, folders: list[str], files: list[str]) -> Iterator[Space]:
    why = "left by a process that was killed"
    old = time.time() - DAY
    for name in files:
        path = here / name
        if is_leftover(path) and path.lstat().st_mtime < old:
            yield Space(path, path.lstat().st_size, "half-written file", why)
    for name in list(folders):
        path = here / name
        if name.startswith(".") and name.endswith(_PARTIAL):
            folders.remove(name)
            size, last = _measure(path)
            if last < old:
                yield Space(path, size, "half-written folder", why)


def _measure(folder: Path, *, skip: Collection[str] = ()) -> tuple[int, float]:
    """Return how many bytes a folder takes, and when something in it was last read or written."""
    size, last = 0, 0.0
    for here, folders, files in os.walk(folder):
        if Path(here) == folder:
            folders[:] = [name for name in folders if name not in skip]
        for name in files:
            try:
                found = os.lstat(os.path.join(here, name))
            except OSError:  # another process has just removed it
                continue
            size += found.st_size
            last = max(last, found.st_atime, found.st_mtime)
    return size, last or time.time()
