"""Host memory that is freed and soon wanted again: kept, instead of given back to the system."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MOST = 2**31 - 1  # that mallopt takes
_GLIBC = (2**26, 2**25)  # how far glibc's own thresholds would have grown
_PAGE = 2**12
_lock = threading.Lock()
_wanted = 0


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks for the rest of the process.

    Each step of a training, and each window of a prediction, allocates the same large blocks; given
    back, they have to be mapped and cleared again, page by page: 59 of the 933 ms of a V-Net step
    (4 patches of 48 x 48 x 32), and 3 of 904 so; 1.2 of the 2.6 s of a window of 112 x 112 x 80 on
    a virtual machine, where pages are dear. Where there is no glibc, nothing happens.
    """
    _count(1, (_MOST, 2**30))


@contextmanager
def freed_memory_kept(largest: int) -> Iterator[None]:
    """Do what :func:`keep_freed_memory` does for a while, and give back what is free afterwards.

    Args:
        largest: bytes of the largest block that is soon wanted again. Larger ones are given back
            at once: kept, they would lie between the others, free and of use to nobody.
    """
    threshold = min(max(largest + _PAGE, _GLIBC[1]), _MOST)  # a block has a header, and is aligned
    _count(1, (_MOST, threshold))
    try:
        yield
    finally:
        _count(-1, _GLIBC)


def _count(more: int, thresholds: tuple[int, int]) -> None:
    """Switch on with the first that wants it and off with the last; threads may overlap."""
    global _wanted
    with _lock:
        before, _wanted = _wanted, _wanted + more
        if before and _wanted:
            return
        mallopt = _of_glibc("mallopt")
        if mallopt is None:
            return
        trim, mmap = thresholds
        mallopt(_M_MMAP_THRESHOLD, mmap)
        mallopt(_M_TRIM_THRESHOLD, trim)
        give_back = _of_glibc("malloc_trim")
        if not _wanted and give_back is not None:
            give_back(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """Return a function of the C library; None where it is another library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
