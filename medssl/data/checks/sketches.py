"""Find the pairs of scans that are one scan rescaled, resampled or turned, among very many.

A thumbnail has 32768 numbers; to keep and to multiply those of all scans takes gigabytes and
minutes. What is kept of each is a sketch: ``SIZE`` coefficients, drawn once and for all, of a
transform that spreads every difference over all of them. The squared distance of two sketches then
estimates that of the thumbnails, with a relative spread of ``sqrt(2 / SIZE)``, whatever the images.
Pairs are passed over only where the estimate is beyond the limit by a factor that chance reaches in
less than one of 10^10 pairs; the few that are left are measured on their thumbnails, which are read
again.

The first ``FIRST`` coefficients compare all pairs: 64 multiplications a pair, some seconds for
20,000 scans, a few per cent of the time to read them. Hashing would need thousands of planes to be
as sure, and pay from about 200,000 scans on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from typing import IO, Any

import numpy as np
from scipy import fft, ndimage

from medssl.data.checks.measures import THUMBNAIL, thumbnail

NEAR = 0.97
"""Correlation of thumbnails from which on two scans may be one."""

NEAR_DETAIL = 0.9
"""Correlation that their fine detail must have, too: heads and hearts are all alike coarsely."""

SIZE, FIRST = 512, 64
SLACK, FIRST_SLACK = 1.5, 2.75
"""Factors on the squared distance that chance does not reach with so many coefficients."""

BLOCK = 512
_VOXELS = THUMBNAIL**3


@dataclass(frozen=True)
class Sketch:
    """What is kept of a thumbnail and of its fine detail, each ``(SIZE,)`` float32."""

    coarse: np.ndarray
    fine: np.ndarray


def make_sketch(flat: np.ndarray) -> Sketch:
    """Sketch a thumbnail, see :func:`medssl.data.checks.measures.thumbnail`."""
    return Sketch(_project(flat), _project(detail(flat)))


def look(data: np.ndarray) -> str:
    """Return the signs of the sketch of a volume's fine detail, as hexadecimal digits; nothing of
    a volume that is constant or not finite.

    Whatever scale, offset and data type the intensities have, a scan keeps nearly all of them: two
    details of correlation ``r`` differ in a share of ``arccos(r) / pi`` of the signs.

    Args:
        data: ``(X, Y, Z)``.
    """
    flat = thumbnail(data)
    if not flat.any() or not np.isfinite(flat).all():
        return ""
    return np.packbits(_project(detail(flat)) > 0).tobytes().hex()


def detail(flat: np.ndarray) -> np.ndarray:
    """Return what a thumbnail shows beyond a mean over 7 boxes an axis; norm 1."""
    cube = flat.reshape((THUMBNAIL,) * 3)
    out = (cube - ndimage.uniform_filter(cube, 7, mode="nearest")).ravel()
    return out / max(float(np.linalg.norm(out)), 1e-12)


def _project(flat: np.ndarray) -> np.ndarray:
    signs, chosen = _draw()
    spread = fft.dct(flat * signs, norm="ortho")
    return (spread[chosen] * np.float32(np.sqrt(_VOXELS / SIZE))).astype(np.float32)


@cache
def _draw() -> tuple[np.ndarray, np.ndarray]:
    """Return the signs and the coefficients of all sketches."""
    rng = np.random.default_rng(0)
    signs = rng.choice(np.array([-1, 1], np.float32), _VOXELS)
    return signs, rng.permutation(_VOXELS)[:SIZE]


def near_pairs(
    sketches: Sequence[Sketch],
    read: Callable[[int], np.ndarray | None],
    *,
    pass_over: Callable[[int, int], bool] = lambda _i, _j: False,
    first_only: bool = False,
) -> Iterator[tuple[int, int, float]]:
    """Yield ``(i, j, correlation)`` of all pairs ``j < i`` of near thumbnails, in order.

    Args:
        sketches: of all scans.
        read: returns the thumbnail of a scan once more, None if that is not possible.
        pass_over: pairs that are not looked for.
        first_only: of each ``i``, yield only the pair with the smallest ``j``.
    """
    with _Thumbnails(read) as thumbnails:
        for i, js in _candidates(sketches):
            for j in js:
                if pass_over(i, j):
                    continue
                one, other = thumbnails.get(i), thumbnails.get(j)
                if one is None or other is None:
                    continue
                correlation = float(one @ other)
                if correlation > NEAR and float(detail(one) @ detail(other)) > NEAR_DETAIL:
                    yield i, j, correlation
                    if first_only:
                        break


def _candidates(sketches: Sequence[Sketch]) -> Iterator[tuple[int, list[int]]]:
    """Yield each ``i`` with the ``j < i`` that may be near it by their sketches."""
    if not sketches:
        return
    limits = [(2 - 2 * NEAR_DETAIL, "fine"), (2 - 2 * NEAR, "coarse")]
    tables = [np.stack([getattr(s, name) for s in sketches]) for _, name in limits]
    begins = [np.ascontiguousarray(table[:, :FIRST]) for table in tables]
    norms = [(begin**2).sum(1) for begin in begins]
    for start in range(0, len(sketches), BLOCK):
        rows, columns = slice(start, start + BLOCK), slice(0, start + BLOCK)
        near: Any = None
        for (limit, _), begin, norm in zip(limits, begins, norms, strict=True):
            apart = norm[rows, None] + norm[None, columns] - 2 * begin[rows] @ begin[columns].T
            found = apart * (SIZE / FIRST) <= limit * FIRST_SLACK
            near = found if near is None else near & found
        i, j = np.nonzero(np.tril(near, start - 1))
        i += start
        for (limit, _), table in zip(limits, tables, strict=True):
            kept = _apart(table, i, j) <= limit * SLACK
            i, j = i[kept], j[kept]
        for row in np.unique(i).tolist():
            yield row, j[i == row].tolist()


def _apart(table: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return the squared distances of pairs of rows, not too many of them at a time."""
    out = np.empty(len(i), np.float32)
    for k in range(0, len(i), 2**15):
        part = slice(k, k + 2**15)
        out[part] = ((table[i[part]] - table[j[part]]) ** 2).sum(1)
    return out


class _Thumbnails:
    """Thumbnails that were read once more, kept on disk: where many are alike, all are needed.

    A disk that has no room costs time only.
    """

    def __init__(self, read: Callable[[int], np.ndarray | None]) -> None:
        self._read = read
        self._places: dict[int, int] = {}
        self._open = ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> _Thumbnails:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def get(self, number: int) -> np.ndarray | None:
        """Return one, ``(32768,)`` float32, None if it cannot be read."""
        place = self._places.get(number)
        if place is not None and self._file is not None:
            self._file.seek(place)
            return np.frombuffer(self._file.read(4 * _VOXELS), np.float32)
        found = self._read(number)
        if found is not None:
            with suppress(OSError):
                self._keep(number, found)
        return found

    def _keep(self, number: int, thumbnail: np.ndarray) -> None:
        if self._file is None:
            self._file = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        place = self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(thumbnail, np.float32).tobytes())
        self._file.flush()
        self._places[number] = place
