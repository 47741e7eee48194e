"""How much a file may claim: sizes are checked against memory and file before any allocation."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from medssl.errors import MedSSLError

SETTING = "MEDSSL_MAX_IMAGE_GB"
"""Environment variable: the largest image in GB of memory, whatever this machine has free."""

FREE_MEMORY_SHARE = 0.8
DEFLATE_RATIO = 1032
"""Bytes that one byte of a deflate stream (gzip, zlib) can stand for, at most (RFC 1951)."""

_GB = 1e9
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class SizeError(MedSSLError):
    """A file claims more than fits into memory, or than it can hold."""

    def __init__(self, what: str, *, where: str | Path | None = None, fix: str) -> None:
        super().__init__(what, where=where, fix=fix)


def memory_limit() -> int:
    """Return the bytes that one image may take: the setting, else a share of the free memory.

    Raises:
        MedSSLError: the setting is no positive number.
    """
    setting = os.environ.get(SETTING, "").strip()
    if setting:
        try:
            value = float(setting)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise MedSSLError(
                f"{SETTING} is {setting!r}", fix="give a number of GB, or unset the variable"
            )
        return int(value * _GB)
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        free = min(free, int(_CGROUP_LIMIT.read_text()))
    return int(FREE_MEMORY_SHARE * free)


def check_claim(
    shape: Sequence[int], itemsize: int, *, path: Path, capacity: int | None = None
) -> int:
    """Refuse an array that does not fit into memory or cannot be in its file; return its bytes.

    Besides the array as stored, a copy as float32 is reckoned with.

    Args:
        shape: claimed by the file, all axes.
        itemsize: bytes per element as stored.
        path: the file, for the message.
        capacity: bytes that the file can unpack to, where that is known.

    Raises:
        SizeError: names the file, the claimed shape and what to do.
    """
    count = math.prod(int(n) for n in shape)
    claimed = " x ".join(str(int(n)) for n in shape)
    if any(n < 0 for n in shape):
        raise SizeError(
            f"the header claims a negative size ({claimed})", where=path, fix="export it again"
        )
    stored = count * itemsize
    if capacity is not None and stored > capacity:
        raise SizeError(
            f"the header claims {claimed} voxels ({_size(stored)}), but the file holds at most "
            f"{_size(capacity)}: it is truncated or damaged",
            where=path,
            fix="copy the file again from its source",
        )
    need, limit = count * (itemsize + 4), memory_limit()
    if need > limit:
        raise SizeError(
            f"the header claims {claimed} voxels, which need {_size(need)} of memory; the limit is "
            f"{_size(limit)}",
            where=path,
            fix=f"crop or resample the image, or set {SETTING}={math.ceil(need / _GB)} if it is "
            "really so large and the machine has the memory",
        )
    return stored


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
