"""Faults that tests plant into copies of sound datasets; each says what must be found where."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage


class Folder:
    """A Decathlon folder on disk that can be spoiled."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.info: dict[str, Any] = json.loads((root / "dataset.json").read_text())

    def save(self) -> None:
        self.info["numTraining"] = len(self.info["training"])
        if "numTest" in self.info:
            self.info["numTest"] = len(self.info["test"])
        (self.root / "dataset.json").write_text(json.dumps(self.info))

    def image(self, k: int) -> Path:
        return self.root / self.info["training"][k]["image"]

    def label(self, k: int) -> Path:
        return self.root / self.info["training"][k]["label"]

    def add(self, section: str, name: str) -> Path:
        """List one more image, which the caller writes."""
        folder = {"unlabeled": "imagesUn", "test": "imagesTs"}[section]
        (self.root / folder).mkdir(exist_ok=True)
        path = f"{folder}/{name}.nii.gz"
        self.info.setdefault(section, []).append({"image": path} if section != "test" else path)
        return self.root / path


def voxels(source: Path | nib.Nifti1Image) -> np.ndarray:
    """Return the true values of an image in an array of their own."""
    image = nib.load(source) if isinstance(source, Path) else source
    return np.asarray(image.dataobj).copy()


def edit(path: Path, change: Callable[[np.ndarray], np.ndarray], dtype: Any = None) -> Path:
    """Change the voxels of a file, header kept."""
    image = nib.load(path)
    data = change(voxels(image))
    header = image.header.copy()
    header.set_data_dtype(dtype or data.dtype)
    nib.save(nib.Nifti1Image(data.astype(dtype or data.dtype), image.affine, header), path)
    return path


def set_affine(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Change the affine of a file, voxels kept."""
    image = nib.load(path)
    data = voxels(image)
    nib.save(nib.Nifti1Image(data, change(np.array(image.affine))), path)
    return path


@dataclass(frozen=True)
class Found:
    """What a check must report."""

    check: str
    file: Path
    severity: str = "error"


def truncated_image(d: Folder, k: int) -> Found:
    path = d.image(k)
    path.write_bytes(path.read_bytes()[:-60])
    return Found("unreadable", path)


def damaged_label(d: Folder, k: int) -> Found:
    path = d.label(k)
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 0xFF
    path.write_bytes(bytes(raw))
    return Found("unreadable", path)


def missing_label(d: Folder, k: int) -> Found:
    d.label(k).unlink()
    return Found("unreadable", d.label(k))


def pointer_instead_of_image(d: Folder, k: int) -> Found:
    d.image(k).write_bytes(gzip.compress(b"version https://git-lfs.github.com/spec/v1\n" * 20))
    return Found("unreadable", d.image(k))


def few_nan(d: Folder, k: int) -> Found:
    def change(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[5, 5:8, 3] = np.nan
        data[6, 5, 3] = np.inf
        return data

    return Found("not_finite", edit(d.image(k), change))


def frame_of_nan(d: Folder, k: int) -> Found:
    def change(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[:2] = np.nan
        return data

    return Found("not_finite", edit(d.image(k), change))


def constant_image(d: Folder, k: int) -> Found:
    return Found("constant", edit(d.image(k), lambda x: np.full_like(x, 7)))


def second_channel(d: Folder, k: int) -> Found:
    return Found("channels", edit(d.image(k), lambda x: np.stack([x, x], -1)))


def label_slightly_off(d: Folder, k: int) -> Found:
    step = np.array(nib.load(d.label(k)).affine)[:3, 0] * 0.2

    def change(affine: np.ndarray) -> np.ndarray:
        affine[:3, 3] += step
        return affine

    return Found("grid", set_affine(d.label(k), change), "warning")


def label_header_lost(d: Folder, k: int) -> Found:
    # The image gets an origin, as scanners write it; the label was saved without one.
    def place(affine: np.ndarray) -> np.ndarray:
        affine[:3, 3] += (-31.0, 12.0, 55.0)
        return affine

    set_affine(d.image(k), place)
    spacing = nib.load(d.label(k)).header.get_zooms()[:3]
    return Found("grid", set_affine(d.label(k), lambda _: np.diag([*spacing, 1.0])))


def label_spacing_lost(d: Folder, k: int) -> Found:
    return Found("grid", set_affine(d.label(k), lambda a: a @ np.diag([1.3, 1.3, 1.3, 1.0])))


def label_turned(d: Folder, k: int) -> Found:
    """Store a label with other axes than its image; its header says so rightly."""
    turned = nib.load(d.label(k)).as_reoriented(np.array([[0, -1], [1, -1], [2, 1]]))
    nib.save(nib.Nifti1Image(voxels(turned), turned.affine), d.label(k))
    return Found("grid", d.label(k))


def label_shifted(d: Folder, k: int) -> Found:
    """Place a label elsewhere: nobody can tell from the files what is right."""

    def change(affine: np.ndarray) -> np.ndarray:
        affine[:3, 3] += 3 * affine[:3, 0]
        return affine

    return Found("grid", set_affine(d.label(k), change))


def label_of_other_shape(d: Folder, k: int) -> Found:
    return Found("shape", edit(d.label(k), lambda x: x[:, :, :-1]))


def undeclared_value(d: Folder, k: int) -> Found:
    def change(data: np.ndarray) -> np.ndarray:
        data[2:4, 2, 2] = 9
        return data

    return Found("undeclared", edit(d.label(k), change))


def half_label(d: Folder, k: int) -> Found:
    def change(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[2, 2, 2] = 0.5
        return data

    return Found("undeclared", edit(d.label(k), change))


def nearly_whole_label(d: Folder, k: int) -> Found:
    return Found("undeclared", edit(d.label(k), lambda x: x.astype(np.float32) * 0.998))


def empty_label(d: Folder, k: int) -> Found:
    return Found("empty_label", edit(d.label(k), np.zeros_like))


def copy_among_unlabeled(d: Folder, k: int) -> Found:
    """List a labeled scan as unlabeled, under another name and voxel type."""
    path = d.add("unlabeled", f"new_{k}")
    shutil.copyfile(d.image(k), path)
    edit(path, lambda x: x.astype(np.float64))
    d.save()
    return Found("duplicate", path, "warning")


def rescaled_copy_in_test(d: Folder, k: int) -> Found:
    """Put a labeled scan into the test set, resampled and with other intensities."""
    path = d.add("test", f"other_{k}")
    image = nib.load(d.image(k))
    data = voxels(image).astype(np.float32)
    factor = [1.25 if n > 20 else 1.0 for n in data.shape]
    data = 3.7 * ndimage.zoom(data, factor, order=1) + 50
    affine = image.affine @ np.diag([*[1 / f for f in factor], 1.0])
    nib.save(nib.Nifti1Image(data, affine), path)
    d.save()
    return Found("near_duplicate", path, "warning")


def cropped_copy_in_test(d: Folder, k: int) -> Found:
    """Put three quarters of a labeled scan into the test set."""
    path = d.add("test", f"crop_{k}")
    image = nib.load(d.image(k))
    nib.save(
        image.slicer[tuple(slice(n // 16, n // 16 + round(n * 0.9)) for n in image.shape)], path
    )
    d.save()
    return Found("part", path, "warning")


def patient_in_test(d: Folder, k: int) -> Found:
    path = d.add("test", f"followup_{k}")
    rng = np.random.default_rng(k)
    shutil.copyfile(d.image(k + 1), path)
    edit(path, lambda x: rng.permutation(np.array(x).ravel()).reshape(x.shape))
    d.info["training"][k]["patient"] = "P1"
    d.info["test"][-1] = {"image": d.info["test"][-1], "patient": "P1"}
    d.save()
    return Found("patient", path, "warning")


def swapped_labels(d: Folder, k: int) -> Found:
    items = d.info["training"]
    items[k]["label"], items[k + 1]["label"] = items[k + 1]["label"], items[k]["label"]
    first, second = nib.load(d.image(k)).shape, nib.load(d.image(k + 1)).shape
    for item, shape in ((items[k], first), (items[k + 1], second)):
        # On the grid of the scan they are listed for, or their grid would give them away.
        label, image = d.root / item["label"], nib.load(d.root / item["image"])
        old, data = voxels(label), np.zeros(shape, np.uint8)
        common = tuple(slice(0, min(a, b)) for a, b in zip(shape, old.shape, strict=True))
        data[common] = old[common]
        nib.save(nib.Nifti1Image(data, image.affine), label)
    d.save()
    return Found("label_name", d.label(k), "warning")


def label_of_another(d: Folder, k: int) -> Found:
    """Save one label under two names."""
    shape = nib.load(d.image(k)).shape
    data = np.zeros(shape, np.uint8)
    old = voxels(d.label(k + 1))
    common = tuple(slice(0, min(a, b)) for a, b in zip(shape, old.shape, strict=True))
    data[common] = old[common]
    for j in (k, k + 1):
        full = np.zeros(nib.load(d.image(j)).shape, np.uint8)
        full[common] = data[common]
        if full.shape != shape:  # voxels can only be equal on equal grids
            edit(d.image(j), lambda _: voxels(d.image(k)) * 2 + 1)
            full = data
        nib.save(nib.Nifti1Image(full, nib.load(d.image(j)).affine), d.label(j))
    edit(d.image(k + 1), lambda x: ndimage.gaussian_filter(x.astype(np.float32)[::-1], 1))
    return Found("duplicate_label", d.label(k + 1), "warning")


def full_plane(d: Folder, k: int) -> Found:
    def change(data: np.ndarray) -> np.ndarray:
        data[:, :, -1] = 1
        return data

    return Found("full_plane", edit(d.label(k), change), "warning")


def repeated_slice(d: Folder, k: int) -> Found:
    def change(data: np.ndarray) -> np.ndarray:
        middle = data.shape[2] // 2
        data[:, :, middle] = data[:, :, middle - 1]
        return data

    return Found("repeated_slices", edit(d.image(k), change), "warning")


def spike(d: Folder, k: int) -> Found:
    def change(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[3, 3, 3] = data.max() * 500
        return data

    return Found("spike", edit(d.image(k), change), "warning")


def centimeters(d: Folder, k: int) -> Found:
    for path in (d.image(k), d.label(k)):
        set_affine(path, lambda a: np.diag([0.1, 0.1, 0.1, 1.0]) @ a)
    return Found("spacing", d.image(k), "warning")


def other_orientation(d: Folder, k: int) -> Found:
    for path in (d.image(k), d.label(k)):
        turned = nib.load(path).as_reoriented(np.array([[1, 1], [0, 1], [2, -1]]))
        nib.save(nib.Nifti1Image(voxels(turned), turned.affine), path)
    return Found("orientation", d.image(k), "warning")


def speckled_label(d: Folder, k: int) -> Found:
    def change(data: np.ndarray) -> np.ndarray:
        lattice = np.zeros(data.shape, bool)
        lattice[::2, ::2, ::2] = True
        data[lattice & (data == 0)] = 1
        return data

    return Found("speckle", edit(d.label(k), change), "warning")


def saturated(d: Folder, k: int) -> Found:
    def change(data: np.ndarray) -> np.ndarray:
        return np.minimum(data, np.percentile(data, 8)).astype(data.dtype)

    return Found("intensity", edit(d.image(k), change), "warning")


def noise_only(d: Folder, k: int) -> Found:
    rng = np.random.default_rng(0)
    return Found(
        "texture",
        edit(d.image(k), lambda x: rng.permutation(x.ravel()).reshape(x.shape)),
        "warning",
    )


def forgotten_structure(d: Folder, k: int) -> Found:
    top = max(int(v) for v in d.info["labels"])

    def change(data: np.ndarray) -> np.ndarray:
        data[data == top] = 0
        return data

    return Found("absent", edit(d.label(k), change), "warning")


def unlike_unlabeled(d: Folder, k: int) -> Found:
    """Add an unlabeled scan of something else: a fine ramp of other extent and spacing."""
    path = d.add("unlabeled", f"elsewhere_{k}")
    grid = np.indices((70, 40, 12)).sum(0).astype(np.float32)
    rng = np.random.default_rng(0)
    data = grid + rng.normal(0, 0.1, grid.shape).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.diag([0.2, 0.2, 0.4, 1.0])), path)
    d.save()
    return Found("shift", path, "warning")


def mirrored_label(d: Folder, k: int) -> Found:
    """Mirror a label front to back; only where structures keep their place is that seen."""
    return Found("label_place", edit(d.label(k), lambda x: x[:, ::-1]), "warning")


FAULTS = (
    *(truncated_image, damaged_label, missing_label, pointer_instead_of_image),
    *(few_nan, frame_of_nan, constant_image, second_channel),
    *(label_slightly_off, label_header_lost, label_spacing_lost, label_turned),
    *(label_shifted, label_of_other_shape),
    *(undeclared_value, half_label, nearly_whole_label, empty_label),
    *(copy_among_unlabeled, rescaled_copy_in_test, cropped_copy_in_test, patient_in_test),
    *(swapped_labels, label_of_another, full_plane, repeated_slice, spike),
    *(centimeters, other_orientation, speckled_label, saturated, noise_only),
    *(forgotten_structure, unlike_unlabeled),
)

REPAIRABLE = (
    *(few_nan, frame_of_nan, label_slightly_off, label_header_lost, label_spacing_lost),
    *(label_turned, nearly_whole_label, copy_among_unlabeled),
)
