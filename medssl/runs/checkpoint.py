"""Checkpoints: written atomically with a checksum, read without executing anything.

A checkpoint is what ``torch.save`` writes, a zip file, with the SHA-256 of its bytes as the zip
comment: other tools read it as before, and a flipped bit or a missing piece anywhere is noticed
before a weight is used. (torch's reader checks no sum of its own.)
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import torch

from medssl.errors import MedSSLError
from medssl.files import new_file

FORMAT = 2
"""Format 1 was the same without a checksum; it is still read."""

_MARK = b"medssl-sha256:"
_SEAL_BYTES = len(_MARK) + 64
_END_BYTES = 22
"""Length of a zip file's end record without its comment; its last two bytes count the comment."""
_END_START = b"PK\x05\x06"
_CHUNK = 2**20


class DamagedCheckpoint(MedSSLError):  # noqa: N818 - as it is called
    """The file is not what was written."""


def save_checkpoint(state: dict[str, Any], path: Path, *, previous: Path | None = None) -> None:
    """Write ``state`` so that ``path`` holds either the old or the new checkpoint, never a part.

    Args:
        previous: where the checkpoint that was at ``path`` is kept.

    Raises:
        MedSSLError: the disk is full or not writable; the previous checkpoint is kept.
    """
    kept = "the previous one is kept" if path.is_file() else "there is no earlier one"
    with new_file(
        path,
        lasting=True,
        keep=previous,
        what=f"the checkpoint could not be written ({kept})",
        fix="free disk space or make the folder writable, then run again with --resume",
    ) as file:
        hashed = _Hashed(file)
        try:
            torch.save({"format": FORMAT, **state}, cast(IO[bytes], hashed))
        except RuntimeError as error:  # torch may speak of its own file format instead of the disk
            raise hashed.refusal or OSError(_first_line(error)) from error
        _seal(file, hashed.digest)


class _Hashed:
    """A file that is hashed while it is written, so that it need not be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._sum = file, hashlib.sha256()
        self.refusal: OSError | None = None
        """What the disk said when it took no more."""

    def write(self, data: Any) -> int:
        self._sum.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.refusal = error
            raise

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> bytes:
        return self._sum.hexdigest().encode()


def _seal(file: IO[bytes], digest: bytes) -> None:
    """Append the sum as the comment of the zip file that ends here."""
    file.seek(-2, os.SEEK_END)
    file.write(struct.pack("<H", _SEAL_BYTES) + _MARK + digest)


def load_checkpoint(
    path: Path, *, map_location: torch.device | str = "cpu", method: str | None = None
) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``.

    Args:
        method: the method the checkpoint must belong to, if it matters.

    Raises:
        DamagedCheckpoint: the file is not what was written.
        MedSSLError: missing, not one of ours, or of another method.
    """
    if not path.is_file():
        raise MedSSLError(
            "there is no checkpoint", where=path, fix="start the run again without --resume"
        )
    sealed = _check_seal(path)
    state = load_tensors(path, map_location=map_location)
    known = isinstance(state, dict) and state.get("format") in (1, FORMAT)
    if not known or "method" not in state:
        raise MedSSLError(
            "the file is not a medssl checkpoint",
            where=path,
            fix="name a run folder, or a file of its checkpoints folder",
        )
    if state["format"] != 1 and not sealed:
        raise _damaged(path, "its checksum is missing")
    if method is not None and state["method"] != method:
        raise MedSSLError(
            f"the checkpoint was trained by method {state['method']!r}, not {method!r}",
            where=path,
            fix=f"resume with the recipe of method {state['method']!r}, or use another --output",
        )
    return state


def is_whole(path: Path) -> bool:
    """Tell whether there is a checkpoint that is as it was written."""
    try:
        load_checkpoint(path)
    except MedSSLError:
        return False
    return True


def load_newest(
    paths: Sequence[Path], *, map_location: torch.device | str = "cpu", method: str | None = None
) -> tuple[dict[str, Any], Path, DamagedCheckpoint | None]:
    """Read the first of several checkpoints, newest first, that is there and whole.

    Returns:
        Its content, its path, and what is wrong with the newest if that was not it.

    Raises:
        DamagedCheckpoint: all that are there are damaged.
        MedSSLError: as :func:`load_checkpoint`.
    """
    there = [path for path in paths if path.is_file()] or list(paths[:1])
    first: DamagedCheckpoint | None = None
    for path in there:
        try:
            return load_checkpoint(path, map_location=map_location, method=method), path, first
        except DamagedCheckpoint as error:
            first = first or error
    assert first is not None
    first.fix = (
        "restore it from a backup; or delete the checkpoints folder, and --resume starts the run "
        "from its beginning"
    )
    raise first


def _check_seal(path: Path) -> bool:
    """Compare a file with the checksum at its end; False if it has none.

    Raises:
        DamagedCheckpoint: they differ.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < _END_BYTES + _SEAL_BYTES:
                return False
            body = size - _SEAL_BYTES
            file.seek(body - _END_BYTES)
            tail = file.read()
            end, seal = tail[:_END_BYTES], tail[_END_BYTES:]
            if not seal.startswith(_MARK):
                return False
            # The sum was taken before the comment was counted.
            if not end.startswith(_END_START) or end[-2:] != struct.pack("<H", _SEAL_BYTES):
                raise _damaged(path, "its end is not as it was written")
            total = hashlib.sha256()
            file.seek(0)
            left = body - 2
            while left > 0 and (chunk := file.read(min(_CHUNK, left))):
                total.update(chunk)
                left -= len(chunk)
            total.update(b"\0\0")
    except OSError as error:
        raise _damaged(path, _first_line(error)) from None
    if total.hexdigest().encode() != seal[len(_MARK) :]:
        raise _damaged(path, "its content does not have its checksum")
    return True


def _damaged(path: Path, reason: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(
        f"the checkpoint cannot be read: {reason}",
        where=path,
        fix="use another checkpoint, or `medssl train RUN --resume`, which goes back to the one "
        "before; this file is damaged or not a checkpoint",
    )


def load_tensors(path: Path, *, map_location: torch.device | str = "cpu") -> Any:
    """Read what torch saved, with ``weights_only=True``: nothing in the file is executed.

    Raises:
        DamagedCheckpoint: damaged, or it holds more than tensors and plain values.
    """
    try:
        _check_archive(path)
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises anything at all for a damaged file
        raise _damaged(path, _first_line(error)) from None


def _check_archive(path: Path) -> None:
    """Refuse what could unpack to more than the file: torch stores its records uncompressed."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError(f"its records claim {unpacked} bytes, more than the whole file")


def load_weights(module: torch.nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Load a state dict, all of it.

    Raises:
        MedSSLError: the weights belong to another network.
    """
    try:
        module.load_state_dict(weights)
    except (RuntimeError, KeyError) as error:
        raise MedSSLError(
            f"the weights do not fit the network: {_first_line(error)}",
            where=path,
            fix="use the recipe.yaml of the same run; network, classes and channels must agree",
        ) from None


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
