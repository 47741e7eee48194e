"""Checkpoints: written atomically, read without executing anything, checked before use."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from medssl.errors import MedSSLError

FORMAT = 1
FULL_BYTES = 2**20


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write ``state`` so that ``path`` holds either the old or the new checkpoint, never a part.

    Raises:
        MedSSLError: the disk is full or not writable; the previous checkpoint is kept.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError about its own file format.
        full = isinstance(error, RuntimeError) and shutil.disk_usage(path.parent).free < FULL_BYTES
        reason = "No space left on device" if full else _first_line(error)
        temporary.unlink(missing_ok=True)
        kept = "the previous one is kept" if path.is_file() else "there is no earlier one"
        raise MedSSLError(
            f"the checkpoint could not be written ({kept}): {reason}",
            where=path,
            fix="free disk space or make the folder writable, then run again with --resume",
        ) from error


def load_checkpoint(
    path: Path, *, map_location: torch.device | str = "cpu", method: str | None = None
) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``.

    Args:
        method: the method the checkpoint must belong to, if it matters.

    Raises:
        MedSSLError: missing, damaged, not one of ours, or of another method.
    """
    if not path.is_file():
        raise MedSSLError(
            "there is no checkpoint", where=path, fix="start the run again without --resume"
        )
    state = load_tensors(path, map_location=map_location)
    if not isinstance(state, dict) or state.get("format") != FORMAT or "method" not in state:
        raise MedSSLError(
            "the file is not a medssl checkpoint",
            where=path,
            fix="name a run folder, or a file of its checkpoints folder",
        )
    if method is not None and state["method"] != method:
        raise MedSSLError(
            f"the checkpoint was trained by method {state['method']!r}, not {method!r}",
            where=path,
            fix=f"resume with the recipe of method {state['method']!r}, or use another --output",
        )
    return state


def load_tensors(path: Path, *, map_location: torch.device | str = "cpu") -> Any:
    """Read what torch saved, with ``weights_only=True``: nothing in the file is executed.

    Raises:
        MedSSLError: missing or damaged, or it holds more than tensors and plain values.
    """
    try:
        _check_archive(path)
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises anything at all for a damaged file
        raise MedSSLError(
            f"the checkpoint cannot be read: {_first_line(error)}",
            where=path,
            fix="use another checkpoint of the run; this file is damaged or not a checkpoint",
        ) from None


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
