"""Right and left on every picture: what lies on the patient's right stands beside the R."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medssl.reports import preview
from medssl.reports.overlays import draw_heat
from medssl.reports.sides import COLOR, SIDES, mark_pixels
from medssl.reports.thumbnails import draw_thumbnail

SHAPE = (40, 36, 32)
"""Along right, front and up."""
ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*axes)
]
CENTERS = {"R": (33, 18, 16), "L": (7, 18, 16), "A": (20, 30, 16), "P": (20, 6, 16)}
"""Voxel, in RAS, of a block on each side of the patient."""


def scene(side: str, codes: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an image that is bright on one side of the patient, stored along other axes.

    Returns:
        The image and a label of the bright block on the stored axes, and the affine.
    """
    ras = np.zeros(SHAPE, np.float32)
    x, y, z = CENTERS[side]
    ras[x - 3 : x + 4, y - 3 : y + 4, z - 3 : z + 4] = 100
    stored = nib.orientations.axcodes2ornt(codes)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), stored)
    image = nib.orientations.apply_orientation(ras, turn)
    affine = nib.orientations.inv_ornt_aff(turn, SHAPE)
    assert "".join(nib.aff2axcodes(affine)) == codes
    return image, (image > 0).astype(np.uint8), affine


def planes_of(jpeg: bytes) -> list[np.ndarray]:
    """Cut a thumbnail into its sagittal, coronal and axial plane."""
    colors = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    widths = np.round(np.array((SHAPE[1], SHAPE[0], SHAPE[0])) * 132 / max(SHAPE)).astype(int)
    starts = np.cumsum([0, *(widths[:2] + 4)])
    return [colors[:, a : a + w] for a, w in zip(starts, widths, strict=True)]


def middle(mask: np.ndarray) -> float:
    """Return where a mask lies from left (0) to right (1)."""
    return float(np.nonzero(mask)[1].mean() / mask.shape[1])


def is_letter(plane: np.ndarray) -> np.ndarray:
    """Return which pixels are of the letters' yellow."""
    return (plane[..., 0] > 150) & (plane[..., 1] > 110) & (plane[..., 2] < 80)


def letter_beside(plane: np.ndarray, axis: int, place: float) -> str:
    """Return which of the two letters of a plane stands on the same half as a place.

    The pixels decide: they are compared with each letter drawn at that edge.
    """
    half = slice(plane.shape[1] // 2, None) if place > 0.5 else slice(0, plane.shape[1] // 2)
    seen = is_letter(plane)[:, half]
    assert seen.any()
    blank = np.zeros((*plane.shape[:2], 3), np.uint8)
    plane_name = list(SIDES)[axis]
    across, up = SIDES[plane_name]
    for letters in (across, across[::-1]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SIDES, plane_name, (letters, up))
            drawn = is_letter(mark_pixels(blank, plane_name).astype(int))[:, half]
        if (drawn == seen).mean() > 0.999:
            return letters[1 if place > 0.5 else 0]
    raise AssertionError("no such letter")


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("side", ["R", "L"])
def test_a_block_on_the_right_lies_beside_the_r_of_a_thumbnail(side: str, codes: str) -> None:
    image, _, affine = scene(side, codes)
    image[:] = np.where(image > 0, image, np.roll(image, 1))  # more than one value
    for axis, plane in list(enumerate(planes_of(draw_thumbnail(image, None, affine))))[1:]:
        bright = (plane > 150).all(axis=2)
        assert bright.any()
        assert letter_beside(plane, axis, middle(bright)) == side


@pytest.mark.parametrize("side", ["A", "P"])
def test_the_front_lies_beside_the_a(side: str) -> None:
    image, _, affine = scene(side, "LPS")
    plane = planes_of(draw_thumbnail(image, None, affine))[0]
    assert letter_beside(plane, 0, middle((plane > 150).all(axis=2))) == side


def test_where_nobody_knows_the_sides_none_are_written() -> None:
    image, _, _ = scene("R", "RAS")
    assert any(
        is_letter(plane).any() for plane in planes_of(draw_thumbnail(image, None, np.eye(4)))
    )
    unknown = planes_of(draw_thumbnail(image, None, np.zeros((4, 4))))
    assert not any(is_letter(plane).any() for plane in unknown)


def beside_text(axes: object, mask: np.ndarray) -> str:
    """Return the letter of matplotlib's axes on the half where a mask, first axis right, lies."""
    at = float(np.nonzero(mask)[0].mean()) / mask.shape[0]
    texts = {t.get_text(): t.get_position()[0] for t in axes.texts}
    return min(texts, key=lambda letter: abs(texts[letter] - at))


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
@pytest.mark.parametrize("side", ["R", "L"])
def test_the_heat_map_and_the_contours_say_right_and_left(
    side: str, codes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, label, affine = scene(side, codes)
    heat = draw_heat(image, label.astype(float), affine)
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(label, affine), tmp_path / "label.nii.gz")
    drawn = []
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    monkeypatch.setattr(FigureCanvasAgg, "print_png", lambda c, *_: drawn.append(c.figure))
    file = tmp_path / "label.nii.gz"
    names = {0: "background", 1: "block"}
    preview.draw_case(tmp_path / "image.nii.gz", file, file, io.BytesIO(), title="", names=names)
    for figure in (heat, drawn[0]):
        for axes in figure.axes[1:3]:
            shown = np.asarray(axes.images[0].get_array()).T
            assert axes.images[0].origin == "lower"
            assert beside_text(axes, shown > 50) == side


def test_letters_are_seen_on_black_and_on_white() -> None:
    for gray in (0, 255):
        marked = mark_pixels(np.full((60, 80, 3), gray, np.uint8), "axial")
        assert (np.abs(marked.astype(int) - COLOR).max(axis=2) < 30).sum() > 30
        assert (marked == 0).all(axis=2).any()
