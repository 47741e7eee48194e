"""Cached cases on their way to a worker process: memory maps travel by file name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medssl.data.datasets.case import CachedCase


@dataclass(frozen=True)
class _Mapped:
    """Where a memory-mapped array lies on disk."""

    file: str
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def open(self) -> np.ndarray:
        return np.memmap(self.file, self.dtype, "r", self.offset, self.shape)


def pack(case: CachedCase) -> CachedCase:
    """Return a case whose memory maps are pickled as file names, not as what is in the files."""
    return replace(case, image=_pack_array(case.image), label=_pack_array(case.label))


def unpack(case: CachedCase) -> CachedCase:
    """Return a packed case with its memory maps open again."""
    image = case.image.open() if isinstance(case.image, _Mapped) else case.image
    label = case.label.open() if isinstance(case.label, _Mapped) else case.label
    return replace(case, image=image, label=label)


def _pack_array(array: Any) -> Any:
    if not isinstance(array, np.memmap) or array.filename is None:
        return array
    return _Mapped(str(array.filename), array.offset, array.shape, array.dtype.str)
