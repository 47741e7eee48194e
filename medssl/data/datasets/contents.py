"""Recognize a scan by its voxels, under whatever name, in whatever file format."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.datasets.case import Case
from medssl.data.datasets.known_files import KnownFiles
from medssl.data.datasets.marks import marks_of
from medssl.data.images.geometry import Unit, turn_to_ras
from medssl.data.images.volume import Volume, read_volume

KEPT_AS = "voxels in both orders"
LOOK, MARKS = "look", "marks"
SLAB = 16
"""Slices that are hashed at a time, which bounds what a copy as float32 takes."""


class Contents:
    """The voxels of scans, each as a hash; a file that is known is not read again.

    Args:
        files: what is known of image files, where the hashes are kept.
        unit: of the dataset.
        look: says in a few hexadecimal digits what an image ``(X, Y, Z)`` in RAS order looks like,
            see :func:`medssl.data.checks.sketches.look`; None where nobody asks for looks and
            marks.
    """

    def __init__(
        self,
        files: KnownFiles,
        unit: Unit = "mm",
        look: Callable[[np.ndarray], str] | None = None,
    ) -> None:
        self._files = files
        self._unit = unit
        self._look = look
        self._seen: dict[tuple[Path, str], list[list[str]]] = {}
        self._firsts: dict[Path, dict[str, Any]] = {}

    def of(self, case: Case) -> str:
        """Return a hash of a scan's voxels; empty if all of it is constant.

        Equal for equal values in equal places of the body: file format, data type and the order in
        which the axes are stored do not matter.

        Raises:
            MedSSLError: a file cannot be read.
        """
        return scan_hash([h for path in case.images for h in self._channels(path)[0]])

    def all_of(self, case: Case) -> tuple[str, ...]:
        """Return the hashes that a copy of a scan shares at least one of; none if it is constant.

        Besides that of :meth:`of`, one of the voxels in the order of the file: a copy whose header
        was lost or written anew may say that its axes run another way.

        Raises:
            MedSSLError: a file cannot be read.
        """
        return copy_hashes([self._channels(path) for path in case.images])

    def look_of(self, case: Case) -> str:
        """Return what the first channel of a scan looks like; empty if all of it is constant, or
        nobody asks for looks.

        Raises:
            MedSSLError: a file cannot be read.
        """
        return str(self._first(case, LOOK) or "")

    def marks_of(self, case: Case) -> list[int]:
        """Return the marks of the first channel of a scan, see
        :func:`medssl.data.datasets.marks.marks_of`; none if nobody asks for them.

        Raises:
            MedSSLError: a file cannot be read.
        """
        return [int(mark, 16) for mark in self._first(case, MARKS) or ()]

    def _first(self, case: Case, what: str) -> Any:
        if self._look is None:
            return None
        path = case.images[0]
        kept = self._files.recall(path, what)
        if kept is None and path not in self._firsts:
            self._learn(path, read_volume(path, unit=self._unit))
        return self._firsts[path][what] if kept is None else kept

    def reading(self, case: Case) -> Callable[..., Volume]:
        """Return a function that reads files as :func:`read_volume` does, and learns the case's."""

        def read(path: Path, *, unit: Unit) -> Volume:
            volume = read_volume(path, unit=unit)
            if path in case.images and _is_scan(volume):
                self._learn(path, volume)
            return volume

        return read

    def _channels(self, path: Path) -> list[list[str]]:
        """Return the hashes of a file's channels in RAS order, and in the order of the file."""
        digest = self._files.digest(path)
        seen = self._seen.get((path, digest))
        if seen is not None:
            return seen
        kept = self._files.recall(path, KEPT_AS)
        if isinstance(kept, list) and len(kept) == 2:
            return kept
        return self._learn(path, read_volume(path, unit=self._unit))

    def _learn(self, path: Path, volume: Volume) -> list[list[str]]:
        digest = self._files.digest(path)
        found = both_hashes(volume)
        self._files.keep(path, KEPT_AS, found)
        self._seen[path, digest] = found
        if self._look is not None:
            # As stored: a scale changes nothing, and a copy in true values takes memory.
            first = volume.data[..., 0] if volume.data.ndim == 4 else volume.data
            turned = turn_to_ras(first, volume.affine)
            scale, offset = volume.scale
            told = {
                LOOK: self._look(turned) if found[0][0] else "",
                MARKS: [f"{mark:x}" for mark in marks_of(turned, scale, offset)],
            }
            self._firsts[path] = told
            for what, value in told.items():
                self._files.keep(path, what, value)
        return found


def scan_hash(channels: list[str]) -> str:
    """Return one hash of those of a scan's channels; empty if they all are."""
    if not any(channels):
        return ""
    return hashlib.blake2b("".join(channels).encode(), digest_size=16).hexdigest()


def copy_hashes(channels: list[list[list[str]]]) -> tuple[str, ...]:
    """Return the hashes of :meth:`Contents.all_of` from those of :func:`both_hashes`, file by file.

    A constant scan has none.
    """
    found = (scan_hash([h for file in channels for h in file[order]]) for order in (0, 1))
    return tuple(dict.fromkeys(h for h in found if h))


def channel_hashes(volume: Volume) -> list[str]:
    """Return a hash of the true values of each channel, in RAS order; empty where constant.

    Constant images are alike whosever they are.
    """
    return _hashes(turn_to_ras(_true_values(volume), volume.affine))


def both_hashes(volume: Volume) -> list[list[str]]:
    """Return the hashes of `channel_hashes`, and such of the values in the order of the file."""
    stored = _true_values(volume)
    turned = turn_to_ras(stored, volume.affine)
    first = _hashes(turned)
    # One hash is enough where the file has that order already; strides tell turned from not.
    same = turned.shape == stored.shape and turned.strides == stored.strides
    return [first, first if same else _hashes(stored)]


def _true_values(volume: Volume) -> np.ndarray:
    return volume.values(None if volume.scale == (1.0, 0.0) else np.float32)


def _hashes(data: np.ndarray) -> list[str]:
    channels = np.moveaxis(data, 3, 0) if data.ndim == 4 else data[None]
    return ["" if c.min() == c.max() else voxel_hash(c) for c in channels]


def _is_scan(volume: Volume) -> bool:
    """Tell whether an image has numbers for voxels; colors and the like are refused elsewhere."""
    return volume.data.ndim in (3, 4) and volume.data.size > 0 and volume.data.dtype.kind in "biuf"


def voxel_hash(data: np.ndarray) -> str:
    """Return a hash of values ``(X, Y, Z)``, the same whatever data type holds them."""
    digest = hashlib.blake2b(str(data.shape).encode(), digest_size=16)
    for first in range(0, data.shape[2], SLAB):
        # Transposed, for most files store the first axis densest. -0.0 and 0.0 are one value but
        # two patterns of bits.
        slab = np.ascontiguousarray(data[..., first : first + SLAB].T, np.float32)
        digest.update((slab + np.float32(0)).tobytes())
    return digest.hexdigest()
