"""Registration of anatomies whose deformation, place and orientation are known."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from anatomies import SHAPE, draw

from medssl.atlases.registration import Volume, register
from medssl.atlases.scans import Atlas, warp_atlas
from medssl.atlases.settings import AtlasSettings

SETTINGS = AtlasSettings()
LABELS = 3


def anatomy(
    shape: tuple[int, ...] = SHAPE, affine: np.ndarray | None = None, bend: float = 0.0
) -> Atlas:
    """An anatomy as an atlas."""
    image, label = draw(shape, affine, bend)
    return Atlas("a", Volume(image[None], np.eye(4) if affine is None else affine), label)


def labeled_by(scan: Atlas, atlas: Atlas, settings: AtlasSettings = SETTINGS) -> np.ndarray:
    """The label that one atlas gives a scan."""
    warp = register(scan.volume, atlas.volume, settings)
    return warp_atlas(atlas, warp, LABELS).shares.argmax(axis=0)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """The lowest Dice of both bodies."""
    return min(
        2 * ((one == k) & (other == k)).sum() / ((one == k).sum() + (other == k).sum())
        for k in (1, 2)
    )


def test_a_scan_lies_on_itself() -> None:
    scan = anatomy()
    warp = register(scan.volume, scan.volume, SETTINGS)
    field = sitk.TransformToDisplacementField(
        warp.transform, sitk.sitkVectorFloat64, scan.classes.shape
    )
    moved = np.linalg.norm(sitk.GetArrayFromImage(field), axis=-1)
    assert moved.mean() < 0.1
    assert dice(labeled_by(scan, scan), scan.classes) > 0.99


def test_a_bent_anatomy_is_found_and_demons_find_more_than_an_affine() -> None:
    scan, atlas = anatomy(), anatomy(bend=2.5)
    before = dice(atlas.classes, scan.classes)
    affine = dice(labeled_by(scan, atlas, AtlasSettings(demons=0)), scan.classes)
    after = dice(labeled_by(scan, atlas), scan.classes)
    assert before < 0.75
    assert affine < after
    assert after >= 0.9


@pytest.mark.parametrize(
    "affine",
    [
        np.array([[-1.0, 0, 0, 23], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[0, 0, 1.0, 1.0], [1, 0, 0, 0.0], [0, -1, 0, 19.0], [0, 0, 0, 1]]),
        np.array([[0.8, 0, 0, 0], [0, 1.1, 0, 0], [0, 0, 1.5, 0], [0, 0, 0, 1]]),
    ],
    ids=["mirrored axis", "turned axes", "other voxels"],
)
def test_grids_that_differ_meet_in_the_world(affine: np.ndarray) -> None:
    scan = anatomy()
    shape = tuple(int(np.ceil(24 / n)) if n else 24 for n in np.linalg.norm(affine[:3, :3], axis=0))
    atlas = anatomy(shape, affine)
    assert dice(labeled_by(scan, atlas), scan.classes) > 0.9


def test_sides_never_swap() -> None:
    scan = anatomy()
    flip = np.array([[-1.0, 0, 0, 23], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    found = labeled_by(scan, anatomy((24, 22, 20), flip))
    assert (found[scan.classes == 1] == 2).sum() == 0
    assert (found[scan.classes == 2] == 1).sum() == 0


@pytest.mark.parametrize("shape", [(24, 22, 1), (3, 22, 20)], ids=["one slice", "thin"])
def test_thin_scans_are_registered(shape: tuple[int, int, int]) -> None:
    offset = np.eye(4)
    offset[:3, 3] = [0 if shape[0] > 3 else 14, 0, 10 if shape[2] == 1 else 0]
    scan = anatomy(shape, offset)
    found = labeled_by(scan, scan)
    assert (found == scan.classes).mean() > 0.99


def test_images_without_contrast_leave_the_atlas_where_it_is() -> None:
    scan, atlas = anatomy(), anatomy()
    flat = Atlas("b", Volume(np.zeros_like(scan.volume.image), scan.volume.affine), scan.classes)
    assert dice(labeled_by(flat, atlas), scan.classes) > 0.8
