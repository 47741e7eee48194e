"""The file of a packed model: a plain zip whose few entries are stored as they are.

Nothing in it is compressed, so that no entry can unpack to more than the file; nothing lies before,
between or behind the entries; no entry is a link or carries a path. Whatever else a zip may be is
refused, which leaves a reader of fewer lines than the rules of the format.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from medssl.errors import MedSSLError
from medssl.files import new_file

DESCRIPTION, WEIGHTS, LICENCE = "medssl.json", "weights.safetensors", "LICENSE"
MOST_BYTES = {DESCRIPTION: 2**20, WEIGHTS: 2**31 - 2**20, LICENCE: 2**20}
"""What a package may hold, and how much of each: a zip of 2 GiB needs no further headers."""

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_MOST_ENTRIES = 16
_CHUNK = 2**22


class Refused(MedSSLError):  # noqa: N818 - it is an answer, not a fault of ours
    """A package that is not taken, and why."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the package is refused: {why}",
            fix="have it packed and sent again, and compare its --sha256 with the sender's",
        )


@dataclass(frozen=True)
class _Entry:
    name: str
    start: int
    size: int
    crc: int


def write_archive(path: Path, entries: Mapping[str, bytes]) -> str:
    """Write a package; the same entries make the same bytes.

    Returns:
        Its SHA-256.

    Raises:
        MedSSLError: an entry is too large, or the disk refuses.
    """
    for name, data in entries.items():
        if len(data) > MOST_BYTES[name]:
            raise MedSSLError(
                f"{name} has {len(data)} bytes, and a package holds at most {MOST_BYTES[name]}",
                fix="pack fewer members (--members)" if name == WEIGHTS else None,
            )
    with new_file(path) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in entries.items():
                info = zipfile.ZipInfo(name)
                info.create_system = 3
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(info, data)
        file.flush()
        return hash_of(Path(file.name))


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_archive(path: Path, sha256: str | None = None) -> tuple[dict[str, bytes], str]:
    """Read a package without believing it, and without writing anything.

    Args:
        sha256: of the file, as its sender says; None: not known.

    Returns:
        Its entries, and its SHA-256.

    Raises:
        Refused: names the reason.
        MedSSLError: there is no such file.
    """
    if not path.is_file():
        raise MedSSLError("there is no such file", where=path, fix="name what was packed")
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size > sum(MOST_BYTES.values()):
                raise Refused(f"it has {size} bytes, more than a package can have")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 is not None and digest != sha256.strip().lower():
                raise Refused(f"its SHA-256 is {digest}, not the one that was given")
            entries = _entries(file, size)
            return {entry.name: _content(file, entry) for entry in entries}, digest
    except Refused as refused:
        refused.where = str(path)
        raise


def _entries(file: BinaryIO, size: int) -> list[_Entry]:
    """Read what the end of the file lists, and hold it against what lies there."""
    if size < _END.size:
        raise Refused("it is no zip file")
    file.seek(size - _END.size)
    mark, disk, first, here, count, length, start, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\x05\x06" or comment or disk or first or here != count:
        raise Refused("it is no zip file, is cut off, or something follows it")
    if count > _MOST_ENTRIES:
        raise Refused(f"it holds {count} entries, a package at most {len(MOST_BYTES)}")
    if start + length != size - _END.size or length > _MOST_ENTRIES * 2**12:
        raise Refused("its directory is not where it should be")
    file.seek(start)
    directory, found, position = file.read(length), list[_Entry](), 0
    for _ in range(count):
        entry, used = _listed(directory, {e.name for e in found})
        directory = directory[used:]
        _check_local(file, entry, position)
        found.append(entry)
        position = entry.start + entry.size
    if directory or position != start:
        raise Refused("bytes lie between its entries that belong to none")
    missing = {DESCRIPTION, WEIGHTS} - {e.name for e in found}
    if missing:
        raise Refused(f"it has no {sorted(missing)[0]}")
    return found


def _listed(directory: bytes, before: set[str]) -> tuple[_Entry, int]:
    """Read the next entry of the directory, and how long it is there."""
    if len(directory) < _CENTRAL.size:
        raise Refused("its directory is cut off")
    mark, _, _, flags, method, _, _, crc, packed, size, name_length, *rest = _CENTRAL.unpack(
        directory[: _CENTRAL.size]
    )
    extra, comment, disk, _, attributes, offset = rest
    end = _CENTRAL.size + name_length
    name = directory[_CENTRAL.size : end].decode("ascii", errors="backslashreplace")
    shown = repr(name[:80])
    if mark != b"PK\x01\x02" or extra or comment or disk:
        raise Refused("its directory is not that of a package")
    if name not in MOST_BYTES:
        raise Refused(f"it holds {shown}, which is no part of a packed model")
    if name in before:
        raise Refused(f"it holds {shown} twice")
    kind = stat.S_IFMT(attributes >> 16)
    if kind not in (0, stat.S_IFREG):
        raise Refused(f"{shown} is {'a link' if stat.S_ISLNK(kind) else 'no file'}")
    if flags or method or packed != size:
        how = "encrypted" if flags & 1 else "compressed"
        raise Refused(f"{shown} is {how}, and a package holds its entries as they are")
    if size > MOST_BYTES[name]:
        raise Refused(f"{shown} has {size} bytes, of at most {MOST_BYTES[name]}")
    return _Entry(name, offset + _LOCAL.size + name_length, size, crc), end


def _check_local(file: BinaryIO, entry: _Entry, position: int) -> None:
    """Make sure that an entry begins where the one before ends, and says the same of itself."""
    name = entry.name.encode()
    file.seek(position)
    head = file.read(_LOCAL.size + len(name))
    same = len(head) == _LOCAL.size + len(name) and head[_LOCAL.size :] == name
    if same:
        mark, _, flags, method, _, _, crc, packed, size, length, extra = _LOCAL.unpack(
            head[: _LOCAL.size]
        )
        same = (mark, flags, method, extra, length) == (b"PK\x03\x04", 0, 0, 0, len(name))
        same = same and (crc, packed, size) == (entry.crc, entry.size, entry.size)
    if not same or entry.start != position + len(head):
        raise Refused(f"{entry.name!r} is not what the directory says of it")


def _content(file: BinaryIO, entry: _Entry) -> bytes:
    file.seek(entry.start)
    data = file.read(entry.size)
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        raise Refused(f"{entry.name!r} does not have its checksum")
    return data
