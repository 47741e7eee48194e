"""The data pipeline of the published UA-MT family of codes, to reproduce what was trained on.

Training uses the package's own patches (`medssl.data.patches.sampling`), which leave out the faults
noted below; these functions are for comparing with numbers and checkpoints of the literature.
Arrays are ``(X, Y, Z)``.

Source: Yu et al., UA-MT (MICCAI 2019) and Adiga V et al. (MICCAI 2022), published code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def normalize_percentile(volume: np.ndarray) -> np.ndarray:
    """Clip to the 0.5 and 99.5 percentiles, then standardize by the voxels above the first.

    Mean and standard deviation are those of voxels above the 1st percentile of the clipped volume;
    all voxels are standardized with them.
    """
    clipped = np.clip(volume, *np.percentile(volume, [0.5, 99.5]))
    bright = clipped[clipped > np.percentile(clipped, 1)]
    return (clipped - bright.mean()) / bright.std()


def rotate_and_flip(
    arrays: Sequence[np.ndarray], rng: np.random.RandomState
) -> tuple[np.ndarray, ...]:
    """Turn by 0 to 3 quarter turns in the plane of the first two axes, then always mirror one.

    Every result is mirrored: the arrangement of the original is never among them.
    """
    turns, axis = rng.randint(0, 4), rng.randint(0, 2)
    return tuple(np.flip(np.rot90(a, turns), axis=axis).copy() for a in arrays)


def pad_for_crop(array: np.ndarray, patch: Sequence[int]) -> np.ndarray:
    """Pad with zeros for a crop, on all axes if one of them is at most as long as the patch.

    Each axis gets ``(patch - side) // 2 + 3`` voxels at either end, if that is more than 0: three
    more than needed, and also where the patch fits exactly.
    """
    if all(n > p for n, p in zip(array.shape, patch, strict=True)):
        return array
    margins = [max((p - n) // 2 + 3, 0) for n, p in zip(array.shape, patch, strict=True)]
    return np.pad(array, [(m, m) for m in margins])


def random_crop(
    arrays: Sequence[np.ndarray], patch: Sequence[int], rng: np.random.RandomState
) -> tuple[np.ndarray, ...]:
    """Crop arrays of one shape at one random place; the last valid place is never drawn."""
    padded = [pad_for_crop(a, patch) for a in arrays]
    start = [rng.randint(0, n - p) for n, p in zip(padded[0].shape, patch, strict=True)]
    return tuple(_crop(a, start, patch) for a in padded)


def center_crop(arrays: Sequence[np.ndarray], patch: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Crop arrays of one shape in the middle."""
    padded = [pad_for_crop(a, patch) for a in arrays]
    start = [round((n - p) / 2) for n, p in zip(padded[0].shape, patch, strict=True)]
    return tuple(_crop(a, start, patch) for a in padded)


def _crop(array: np.ndarray, start: Sequence[int], patch: Sequence[int]) -> np.ndarray:
    return array[tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))]


def one_stream_batches(
    items: Sequence[int], batch_size: int, rng: np.random.RandomState
) -> Iterator[list[int]]:
    """Yield the batches of one epoch: a permutation in pieces, the remainder dropped."""
    order = rng.permutation(items).tolist()
    for first in range(0, len(order) - batch_size + 1, batch_size):
        yield order[first : first + batch_size]


def two_stream_batches(
    labeled: Sequence[int],
    unlabeled: Sequence[int],
    batch_size: int,
    unlabeled_size: int,
    rng: np.random.RandomState,
) -> Iterator[list[int]]:
    """Yield the batches of one epoch over the labeled items; unlabeled ones never run out."""
    pool: list[int] = []
    for first in one_stream_batches(labeled, batch_size - unlabeled_size, rng):
        while len(pool) < unlabeled_size:
            pool += rng.permutation(unlabeled).tolist()
        yield [*first, *pool[:unlabeled_size]]
        pool = pool[unlabeled_size:]
