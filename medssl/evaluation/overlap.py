"""Dice and IoU of label maps from one confusion matrix, for any number of classes at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medssl.data.datasets.case import IGNORE_INDEX

_BLOCK = 1 << 20  # voxels counted at a time: keeps the int64 copy in cache and off the heap


def confusion_matrix(
    prediction: np.ndarray,
    reference: np.ndarray,
    num_classes: int,
    ignore_index: int | None = IGNORE_INDEX,
) -> np.ndarray:
    """Count voxels by (reference class, predicted class).

    Args:
        prediction: class indices, any shape.
        reference: class indices, same shape; voxels equal to ``ignore_index`` are not counted,
            whatever was predicted there.
        num_classes: number of classes, background included.
        ignore_index: the index of voxels without annotation, or None.

    Returns:
        ``(num_classes, num_classes)`` int64; rows are reference classes.

    Raises:
        ValueError: the shapes differ, or a counted voxel holds no class index.
    """
    _check_shapes(prediction.shape, reference.shape)
    if prediction.flags.f_contiguous and reference.flags.f_contiguous:
        prediction, reference = prediction.T, reference.T  # NIfTI order: ravel without a copy
    flat_prediction, flat_reference = prediction.ravel(), reference.ravel()
    matrix = np.zeros(num_classes * num_classes, dtype=np.int64)
    for start in range(0, flat_reference.size, _BLOCK):
        r = flat_reference[start : start + _BLOCK]
        p = flat_prediction[start : start + _BLOCK]
        if ignore_index is not None:
            keep = r != ignore_index
            if not keep.all():
                r, p = r[keep], p[keep]
        _check_range(p, "prediction", num_classes)
        _check_range(r, "reference", num_classes)
        joint = r.astype(np.intp)
        joint *= num_classes
        joint += p.astype(np.intp, copy=False)
        matrix += np.bincount(joint, minlength=matrix.size)
    return matrix.reshape(num_classes, num_classes)


def dice_per_class(confusion: np.ndarray) -> np.ndarray:
    """Return Dice ``2 TP / (2 TP + FP + FN)`` of every class, NaN where a class is in neither map.

    Args:
        confusion: ``(C, C)`` matrix of `confusion_matrix`.

    Returns:
        ``(C,)`` float64, background first.
    """
    hits = np.diagonal(confusion).astype(np.float64)
    return _ratio(2.0 * hits, confusion.sum(0) + confusion.sum(1))


def of_structures(confusion: np.ndarray, structures: Sequence[Sequence[int]]) -> np.ndarray:
    """Count hits and voxels of structures, each a union of classes.

    Args:
        confusion: ``(C, C)`` matrix of `confusion_matrix`.
        structures: class indices of each.

    Returns:
        ``(S, 3)`` int64: voxels in both maps, in the reference, in the prediction.
    """
    found = [
        (confusion[np.ix_(s, s)].sum(), confusion[list(s)].sum(), confusion[:, list(s)].sum())
        for s in structures
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def dice_and_iou(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Dice and IoU ``(S,)`` of the counts of `of_structures`, NaN where in neither map."""
    hits, both = counts[:, 0].astype(np.float64), counts[:, 1] + counts[:, 2]
    return _ratio(2.0 * hits, both), _ratio(hits, both - hits)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    out = np.full(numerator.shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _check_shapes(prediction: tuple[int, ...], reference: tuple[int, ...]) -> None:
    if tuple(prediction) != tuple(reference):
        raise ValueError(
            f"prediction has shape {tuple(prediction)} but reference {tuple(reference)}"
        )


def _check_range(values: np.ndarray, which: str, num_classes: int) -> None:
    if not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_classes:
        bad = low if low < 0 else high
        raise ValueError(f"{which} holds class index {bad}, expected 0 to {num_classes - 1}")
