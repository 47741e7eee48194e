"""Files written whole or not at all: text, JSON, CSV, folders; and one lock."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import secrets
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError


def default_cache_root() -> Path:
    """Return ``$MEDSSL_CACHE``, or else ``~/.cache/medssl``."""
    return Path(os.environ.get("MEDSSL_CACHE") or Path.home() / ".cache" / "medssl").expanduser()


@contextlib.contextmanager
def all_or_nothing(out: Path) -> Iterator[Path]:
    """Yield a folder whose content becomes that of ``out`` on success and vanishes on failure."""
    fresh = not out.exists()
    created = [p for p in out.parents if not p.exists()]
    # On the same file system as its destination, so that moving is renaming.
    building = (out.parent if fresh else out) / f".{out.name}-{secrets.token_hex(4)}.partial"
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
            moved.append(out / item.name)
            os.rename(item, moved[-1])
        building.rmdir()
    except BaseException:
        for leftover in [building, *moved]:
            shutil.rmtree(leftover, ignore_errors=True)
            leftover.unlink(missing_ok=True) if leftover.is_file() else None
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(temporary, path)


try:
    import fcntl
except ImportError:  # Windows: tables of one process are right, those of several may miss rows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait for the lock of a file. Else who reads early and writes late would drop rows."""
    try:
        file = path.open("w")
    except OSError:  # the tables will say why
        yield
        return
    with file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys, whole or not at all; NaN is an empty cell.

    Raises:
        MedSSLError: the disk refuses.
    """
    buffer = io.StringIO(newline="")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_text(path, buffer.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        MedSSLError: the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    except OSError as error:
        raise MedSSLError(
            f"cannot write: {error.strerror or error}",
            where=path,
            fix="free some space, or choose a folder you may write to",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
