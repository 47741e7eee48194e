"""Check one imported case in memory and give it the data types it is stored with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl.data.images.geometry import is_sheared, is_usable
from medssl.data.images.labels import count_values, whole_numbers
from medssl.data.images.names import safe_id
from medssl.data.importers.importer import ImportedCase, ImportPlan
from medssl.errors import MedSSLError

MAX_STRUCTURES = 253


@dataclass(frozen=True)
class CheckedCase:
    """A case ready to be written.

    Attributes:
        image: int16 where the values are whole and fit, else float32 (float64 where that would
            change a whole number).
        label: uint8 or uint16, or None.
        affine: ``(4, 4)`` float64.
        values: the label values that occur.
        voxels_sha256: hash of the image's shape and values, whatever their dtype was.
    """

    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    values: frozenset[int]
    voxels_sha256: str


def check_imported(case: ImportedCase, plan: ImportPlan, *, where: Path, fix: str) -> CheckedCase:
    """Check a case against its plan.

    Args:
        where: the file to name in an error.
        fix: what to do about a broken case.

    Raises:
        MedSSLError: wrong dimensions, an unusable affine, or label values that are not whole or
            not declared; names the case and counts the voxels.
    """

    def refuse(what: str) -> MedSSLError:
        return MedSSLError(f"case '{case.id}': {what}", where=where, fix=fix)

    if case.id != safe_id(case.id):
        raise refuse("the id cannot be a file name")
    image, label = np.asarray(case.image), case.label
    channels = image.shape[3] if image.ndim == 4 else 1
    if image.ndim not in (3, 4) or image.size == 0:
        raise refuse(f"the image has the shape {image.shape}, which is no volume")
    if channels != len(plan.modality):
        raise refuse(f"the image has {channels} channels instead of {len(plan.modality)}")
    if image.dtype.kind not in "iufb":
        raise refuse(f"the voxels are of type {image.dtype}, not plain numbers")
    affine = np.asarray(case.affine, dtype=np.float64)
    if not is_usable(affine):
        raise refuse("the spacing or orientation is not usable (zero, or not a number)")
    if is_sheared(affine, image.shape):
        raise refuse("the axes are not at right angles (a tilted gantry?); resample it first")
    image = stored_image(image[..., 0] if image.ndim == 4 and channels == 1 else image)
    counts: dict[float, int] = {}
    if label is not None:
        label = np.asarray(label)
        if label.shape != image.shape[:3]:
            raise refuse(f"the label has the shape {label.shape} but the image {image.shape[:3]}")
        try:
            label = whole_numbers(label)
        except MedSSLError as error:
            raise refuse(f"its label: {error.what}") from None
        counts = count_values(label)
        problem = _label_problem(counts, plan)
        if problem:
            raise refuse(problem)
        high = max([*counts, *(plan.labels or {}), plan.ignore_value or 0])
        label = label.astype(np.uint8 if high < 256 else np.uint16)
    digest = stored_hash(image)
    return CheckedCase(image, label, affine, frozenset(int(v) for v in counts), digest)


def stored_image(image: np.ndarray) -> np.ndarray:
    """Convert to int16 where that changes no value, else to float32 (or float64)."""
    if image.dtype == bool:
        return image.astype(np.int16)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        return image.astype(np.float32)
    low, high = float(image.min()), float(image.max())
    whole = image.dtype.kind in "iu" or bool((np.rint(image) == image).all())
    if whole and low >= -(2**15) and high < 2**15:
        return image.astype(np.int16)
    return image.astype(np.float64 if whole and max(-low, high) > 2**24 else np.float32)


def stored_hash(image: np.ndarray) -> str:
    """Hash the shape and the values of a stored image, to recognize it under another name."""
    digest = hashlib.sha256(repr((image.shape, image.dtype.name)).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _label_problem(counts: dict[float, int], plan: ImportPlan) -> str | None:
    """Say what is wrong with the values of a label, each with its number of voxels."""
    broken = {v: n for v, n in counts.items() if not 0 <= v < 2**16}
    if broken:
        return f"the label has values that are no label: {_listed(broken)}"
    if plan.labels is None:
        many = len(counts) > MAX_STRUCTURES
        return f"the label has {len(counts)} different values: is it an image?" if many else None
    known = {0, *plan.labels, *([] if plan.ignore_value is None else [plan.ignore_value])}
    unknown = {v: n for v, n in counts.items() if int(v) not in known}
    return f"label values that are not declared: {_listed(unknown)}" if unknown else None


def _listed(counts: dict[float, int]) -> str:
    items = list(counts.items())
    more = f" and {len(items) - 6} more values" if len(items) > 6 else ""
    return ", ".join(f"{v:g} ({n} voxels)" for v, n in items[:6]) + more
