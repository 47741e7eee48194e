"""Read images of any supported format and bring them to the grid and intensities of a data spec.

The order is fixed: read, normalize intensities, align slices, orient, resample, resize. Intensities
come first so that their statistics are those of the acquired voxels, whatever the grid (as in the
literature, where volumes are normalized once and resized later).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medssl.data.datasets.case import Case
from medssl.data.images.labels import read_label
from medssl.data.images.volume import check_grid
from medssl.data.preprocessing.align import AlignSlicesd, SliceShifts
from medssl.data.preprocessing.geometry import resize_transforms, spacing_transforms
from medssl.data.preprocessing.intensity import intensity_transforms
from medssl.data.preprocessing.prepared_grid import Grid, make_grid
from medssl.data.preprocessing.scan_facts import ScanFacts, scan_facts
from medssl.data.preprocessing.tensors import read_images, with_affine
from medssl.data.preprocessing.votes import CERTAIN
from medssl.errors import MedSSLError
from medssl.ops.boxes import Box
from medssl.settings.spec import DataSpec

__all__ = [
    "Prepared",
    "preprocess_case",
    "preprocess_image",
]


@dataclass(frozen=True)
class Prepared:
    """A preprocessed image and the way back to its file's own grid.

    Attributes:
        image: ``(C, X, Y, Z)`` float32, a plain tensor.
        affine: of the prepared grid, to RAS in the spec's unit.
        native_shape: ``(X, Y, Z)`` of the file.
        native_affine: ``(4, 4)`` of the file's grid, to RAS in the spec's unit.
        pad_value: what to pad the image with where it is smaller than a patch.
        grid: how the prepared voxels lie in the file.
        box: what part of the prepared volume ``image`` is; None: all of it.
        shifts: how the slices were moved before, if the spec aligns them.
        facts: the scan before preprocessing, of a case for training.
    """

    image: torch.Tensor
    affine: np.ndarray
    native_shape: tuple[int, ...]
    native_affine: np.ndarray
    pad_value: float
    grid: Grid
    box: Box | None = None
    shifts: SliceShifts | None = None
    facts: ScanFacts | None = None

    def crop(self, box: Box) -> Prepared:
        """Return this image cropped to a box; what is restored is background outside of it."""
        image = self.image[(slice(None), *(slice(a, b) for a, b in box))].contiguous()
        return replace(self, image=image, box=box)

    def restore(self, classes: np.ndarray, margins: np.ndarray | None = None) -> np.ndarray:
        """Bring a label map ``(X, Y, Z)`` back to the file's grid (same dtype).

        Args:
            classes: of the image's voxels.
            margins: how sure each is of its class, uint8; see
                :func:`medssl.data.preprocessing.votes.voted`.
        """
        whole = None if margins is None else self._whole(margins, CERTAIN)
        return self._restore(self._whole(np.asarray(classes)), order=0, margins=whole)

    def restore_probabilities(self, volumes: np.ndarray, *, outside: float = 0.0) -> np.ndarray:
        """Bring ``(K, X, Y, Z)`` back to the file's grid (linear, float32).

        Args:
            volumes: one map or several.
            outside: their value outside of the box, if there is one.
        """
        whole = (self._whole(np.asarray(v, np.float32), outside) for v in volumes)
        return np.stack([self._restore(v, order=1) for v in whole])

    def _restore(
        self, volume: np.ndarray, *, order: int, margins: np.ndarray | None = None
    ) -> np.ndarray:
        volume = self.grid.restore(volume, order=order, margins=margins)
        return volume if self.shifts is None else self.shifts.undo(volume)

    def _whole(self, volume: np.ndarray, outside: float = 0) -> np.ndarray:
        """Put a volume of the image's shape into the whole prepared volume."""
        if volume.shape != tuple(self.image.shape[1:]):
            raise ValueError(
                f"shape {volume.shape}, but the prepared image is {tuple(self.image.shape[1:])}"
            )
        if self.box is None:
            return volume
        whole = np.full(self.grid.shape, outside, dtype=volume.dtype)
        whole[tuple(slice(a, b) for a, b in self.box)] = volume
        return whole


def preprocess_image(
    image: str | Path | Sequence[str | Path] | MetaTensor, spec: DataSpec
) -> Prepared:
    """Preprocess one image for prediction, and read it first where it is on disk.

    Args:
        image: one file, or one per channel, or voxels from
            :func:`medssl.data.preprocessing.tensors.make_image`.
        spec: the data spec of the training run.

    Raises:
        MedSSLError: a file cannot be read or used; the message names it.
    """
    if not isinstance(image, MetaTensor):
        files = [image] if isinstance(image, str | Path) else list(image)
        image = _read(files, spec)
    return _preprocess(image, None, spec)[0]


def preprocess_case(case: Case, spec: DataSpec) -> tuple[Prepared, np.ndarray | None]:
    """Preprocess a case for training: its image, and ``(X, Y, Z)`` label values if it has a label.

    Raises:
        MedSSLError: a file cannot be read or used; the message names it.
    """
    image = _read(case.images, spec)
    facts = scan_facts(image, spec)
    prepared, values = _preprocess(image, case.label, spec)
    return replace(prepared, facts=facts), values


def _read(paths: Sequence[str | Path], spec: DataSpec) -> MetaTensor:
    return read_images(paths, spatial_unit=spec.spatial_unit)


def _preprocess(
    native: MetaTensor, label: Path | None, spec: DataSpec
) -> tuple[Prepared, np.ndarray | None]:
    paths = native.meta["files"]
    bad = int((~torch.isfinite(native.as_tensor())).sum())
    if bad:
        raise MedSSLError(
            f"{bad} voxels are NaN or infinite",
            where=", ".join(paths[:4]),
            fix="write a number in their place, for instance the lowest value of the image",
        )
    data: dict[Hashable, Any] = {"image": native}
    if label is not None:
        data["label"] = _read_label(label, native, image_path=paths[0], spec=spec)
    keys = [str(key) for key in data]
    try:
        data = Compose(intensity_transforms(spec.intensity))(data)
        data = AlignSlicesd(keys, spec=spec)(data) if spec.align_slices else data
        aligned = data["image"]
        data = Compose(spacing_transforms(spec, keys))(data)
        spaced = data["image"]
        data = Compose(resize_transforms(spec, keys))(data)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise MedSSLError(
            f"preprocessing failed: {reason}",
            where=paths[0],
            fix="check orientation, spacing and resize of the data spec against the image",
        ) from error
    grid = make_grid(
        (aligned.shape[1:], aligned.affine.numpy()),
        (spaced.shape[1:], spaced.affine.numpy()),
        data["image"].shape[1:],
        orientation=spec.orientation,
        resampled=spec.spacing != "native",
        corners=spec.resize_mode == "nearest",
    )
    image = data["image"].as_tensor().float().contiguous()
    prepared = Prepared(
        image=image,
        affine=data["image"].affine.numpy(),
        native_shape=tuple(native.shape[1:]),
        native_affine=native.affine.numpy(),
        pad_value=float(image.min()),
        grid=grid,
        shifts=aligned.meta.get("slice_shifts"),
    )
    return prepared, None if label is None else data["label"].as_tensor()[0].numpy()


def _read_label(
    path: Path, image: MetaTensor, *, image_path: str | Path, spec: DataSpec
) -> MetaTensor:
    label, affine = read_label(path, unit=spec.spatial_unit)
    own = (tuple(image.shape[1:]), image.affine.numpy())
    check_grid((label.shape, affine), own, path=path, of=image_path)
    # Headers of labels are often rounded; the voxels belong together all the same.
    values = torch.from_numpy(np.ascontiguousarray(label, dtype=np.float32))
    return with_affine(values[None], image.affine, {"files": (str(path),)})
