"""How PyTorch says that memory ran out, on every device."""

from __future__ import annotations

import re

import torch

_WORDS = re.compile(
    r"out of memory|not enough memory|can't allocate memory|_ALLOC_FAILED|cannot allocate memory",
    re.I,
)
_BINARY = re.compile(r"tried to allocate ([\d.]+) ([KMGT])i?B", re.I)
_PLAIN = re.compile(r"tried to allocate (\d+) bytes", re.I)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error says that a device, or the host, has too little memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_WORDS.search(str(error)))


def bytes_asked(error: BaseException) -> int:
    """Return how many bytes were asked for when memory ran out; 0 where the error says nothing."""
    if found := _BINARY.search(str(error)):
        return int(float(found[1]) * 1024 ** ("KMGT".index(found[2].upper()) + 1))
    found = _PLAIN.search(str(error))
    return int(found[1]) if found else 0
