"""What is known of whole image files, so that they need not be read again to tell them apart.

Size and time of a file say little: a label can be edited with both kept. So labels are hashed whole
each time. Images are large: they are hashed whole once, and that is believed while size, both times
(the system's own, which no program sets, among them) and a sample of the bytes are as they were.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError
from medssl.files.formats import write_json

logger = logging.getLogger(__name__)

PIECES, PIECE_BYTES = 16, 4096
"""So many pieces of a file, evenly spread from its first byte to its last, are its sample."""


class KnownFiles:
    """Hashes of files, and whatever else was worked out of their bytes.

    Args:
        folder: where it is kept, one small file each; made when first needed. None keeps nothing.
        verify: hash every file whole at least once, whatever is known of it.
    """

    def __init__(self, folder: Path | None, *, verify: bool = False) -> None:
        self.folder = folder
        self.verify = verify
        self._hashed: dict[Path, tuple[tuple[int, ...], str]] = {}

    @classmethod
    def below(cls, cache: Path, *, verify: bool = False) -> KnownFiles:
        """Return what is kept of files below the folder of the preprocessing cache."""
        return cls(cache / "files", verify=verify)

    def digest(self, path: Path, *, fresh: bool = False) -> str:
        """Return the SHA-256 of a file, from what is known of it if it looks the same.

        Args:
            fresh: hash the file as it is now, whatever is known of it.

        Raises:
            MedSSLError: the file cannot be read.
        """
        known = self.recall(path, "sha256")
        if isinstance(known, str) and not fresh and not self.verify:
            return known
        found = self.whole(path)
        if known not in (None, found):
            logger.warning("%s has changed, though its size, times and a sample have not", path)
        if known != found:
            self._write(path, {"sha256": found})
        return found

    def whole(self, path: Path) -> str:
        """Return the SHA-256 of a file as it is now; a second call reads it only if it was touched.

        Raises:
            MedSSLError: the file cannot be read.
        """
        try:
            before = _stat(path)
            hashed = self._hashed.get(path)
            if hashed is not None and hashed[0] == before:
                return hashed[1]
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from error
        self._hashed[path] = before, found
        return found

    def recall(self, path: Path, what: str) -> Any:
        """Return what was kept of a file under a name; None if nothing, or the file has changed.

        Raises:
            MedSSLError: the file cannot be read.
        """
        return self._read(path).get(what)

    def keep(self, path: Path, what: str, value: Any) -> None:
        """Keep something of a file; a folder that cannot be written costs time only.

        Raises:
            MedSSLError: the file cannot be read.
        """
        self._write(path, {**self._read(path), what: value})

    def _read(self, path: Path) -> dict[str, Any]:
        if self.folder is None:
            return {}
        try:
            record = json.loads(self._place(path).read_text(encoding="utf-8"))
            same = record["stamp"] == stamp(path)
            return dict(record["known"]) if same else {}
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def _write(self, path: Path, known: dict[str, Any]) -> None:
        if self.folder is None:
            return
        fresh = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
        try:
            write_json(self._place(path), {"file": path, "stamp": stamp(path), "known": known})
        except MedSSLError as error:
            logger.info("hashes cannot be kept in %s: %s", self.folder, error.what)
            for folder in fresh:
                with suppress(OSError):
                    folder.rmdir()

    def _place(self, path: Path) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
        return self.folder / f"{name[:32]}.json"


def stamp(path: Path) -> list[int | str]:
    """Return what tells whether a file is the same without reading all of it.

    Raises:
        MedSSLError: the file cannot be read.
    """
    try:
        size, changed, touched, _ = _stat(path)
        sample = hashlib.blake2b(digest_size=16)
        with path.open("rb") as file:
            if size <= PIECES * PIECE_BYTES:
                sample.update(file.read())
            else:
                for number in range(PIECES):
                    file.seek(number * (size - PIECE_BYTES) // (PIECES - 1))
                    sample.update(file.read(PIECE_BYTES))
    except OSError as error:
        raise _unreadable(path, error) from error
    return [size, changed, touched, sample.hexdigest()]


def _stat(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _unreadable(path: Path, error: OSError) -> MedSSLError:
    return MedSSLError(
        f"the file cannot be opened ({error.strerror})",
        where=path,
        fix="put the file there, or remove the case from dataset.json",
    )
