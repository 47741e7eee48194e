"""A bundle's reader without medssl: where ITK places the voxels, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monai.transforms import LoadImage
from nifti_headers import (
    DATA,
    HEADERS,
    SHAPE,
    SHEARED,
    itk_places,
    landmarks,
    moved,
    oblique,
    places,
    unit_columns,
    write_raw,
)

from medssl.bundle.carried.reading import ItkPlacedReader, image_list
from medssl.data.images.volume import read_volume

REFUSED = {
    "long quaternion": "w2 should be positive",
    "very long quaternion": "w2 should be positive",
    "negative edge": "its voxel size",
}
"""ITK reads these, nibabel does not: no bundle guesses."""


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = LoadImage(reader=ItkPlacedReader(), image_only=True)(str(path))
    return np.asarray(image), image.affine.numpy()


@pytest.mark.parametrize("name", HEADERS)
def test_voxels_lie_where_itk_shows_them(tmp_path: Path, name: str) -> None:
    path = write_raw(tmp_path / "a.nii.gz", DATA, **HEADERS[name])
    if name in REFUSED:
        with pytest.raises((RuntimeError, ValueError), match=REFUSED[name]):
            read(path)
        return
    values, affine = read(path)
    truth = itk_places(path, landmarks(SHAPE))
    np.testing.assert_allclose(places(affine, landmarks(SHAPE)), truth, atol=1e-3)
    np.testing.assert_array_equal(values, DATA)


@pytest.mark.parametrize("seed", range(40))
def test_any_header_is_read_as_medssl_reads_it(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    qform = oblique(rng.uniform(0.3, 6, 3), tuple(rng.uniform(-180, 180, 3)))
    sform = [qform, unit_columns(qform), moved(qform, rng.choice([5, 1e-3])), np.eye(4)]
    codes = int(rng.integers(0, 3)), int(rng.integers(0, 5))
    path = write_raw(tmp_path / "a.nii", DATA, qform=qform, sform=sform[seed % 4], codes=codes)
    affine = read(path)[1]
    np.testing.assert_allclose(affine, read_volume(path).affine, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sform": SHEARED, "codes": (0, 1)}, "no transform of its header has right angles"),
        ({"sform": np.diag([0.5, 0.5, 0.5, 1]), "codes": (0, 1), "unit": "meter"}, "11.5 m long"),
        (
            {"qform": oblique(), "sform": -oblique(), "codes": (1, 2)},
            "run opposite ways",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused_by_name(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    path = write_raw(tmp_path / "scan.nii", DATA, **fields)
    with pytest.raises((RuntimeError, ValueError), match=f"scan.nii: .*{message}"):
        read(path)


def test_values_are_scaled_and_finite(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.nii", DATA, **HEADERS["both alike"], scl_slope=2, scl_inter=-3)
    np.testing.assert_array_equal(read(path)[0], DATA * 2.0 - 3)
    bad = DATA.astype(np.float32)
    bad[1, 1, 1] = np.nan
    path = write_raw(tmp_path / "b.nii", bad, **HEADERS["both alike"])
    with pytest.raises((RuntimeError, ValueError), match=r"b.nii: it holds voxels that are NaN"):
        read(path)


def test_images_and_their_labels_are_listed(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir()
    with pytest.raises(FileNotFoundError, match="no NIfTI image"):
        image_list(str(images))
    for name in ("b.nii", "a.nii.gz", "notes.txt"):
        (images / name).touch()
    (labels / "a.nii.gz").touch()
    assert [Path(entry["image"]).name for entry in image_list(str(images))] == ["a.nii.gz", "b.nii"]
    with pytest.raises(FileNotFoundError, match=r"no label .*b\.nii"):
        image_list(str(images), label_folder=str(labels))
    (labels / "b.nii").touch()
    found = image_list(str(images), label_folder=str(labels))
    assert [set(entry) for entry in found] == [{"image", "label"}] * 2
    assert found[0]["label"] == str(labels / "a.nii.gz")
