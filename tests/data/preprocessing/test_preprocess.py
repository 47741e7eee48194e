"""Reading, preprocessing and the way back to the file's grid."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from monai.data import MetaTensor
from scipy import ndimage

from medssl.data.datasets.case import Case
from medssl.data.preprocessing.geometry import CornerNearestd
from medssl.data.preprocessing.intensity import padding_value
from medssl.data.preprocessing.pipeline import (
    preprocess_case,
    preprocess_image,
)
from medssl.data.preprocessing.tensors import read_images
from medssl.errors import MedSSLError
from medssl.settings.spec import DataSpec

PLAIN = {"intensity": {"rule": "none"}}


def rotation(degrees: float) -> np.ndarray:
    """Rotation about z and then x."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return about_x @ about_z


def make_affine(linear: np.ndarray, origin: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = linear
    out[:3, 3] = origin
    return out


AFFINES = {
    "ras": make_affine(np.diag([1.0, 1.0, 1.0])),
    "lps anisotropic off-origin": make_affine(np.diag([-0.7, -0.7, 5.0]), (91.3, 120.25, -44.5)),
    "permuted": make_affine(np.array([[0, 0, 2.5], [-0.8, 0, 0], [0, 0.9, 0]]), (-10, 20, 30)),
    "oblique": make_affine(rotation(17) @ np.diag([-1.4, -1.4, 8.0]), (2.5, -77, 13)),
}


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def volume(shape: tuple[int, int, int] = (20, 24, 9), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-500, 900, shape).astype(np.int16)


def world_center(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    return (affine @ [*((np.array(shape) - 1) / 2), 1])[:3]


def world_ball(
    shape: tuple[int, ...], affine: np.ndarray, center: np.ndarray, radius: float
) -> np.ndarray:
    """1 within ``radius`` of a world position, else 0."""
    indices = np.stack([*np.indices(shape), np.ones(shape)])
    world = np.tensordot(affine, indices, 1)[:3]
    distance = np.linalg.norm(world - center[:, None, None, None], axis=0)
    return (distance <= radius).astype(np.uint8)


@pytest.mark.parametrize("name", AFFINES)
def test_read_image_keeps_voxels_and_affine(tmp_path: Path, name: str) -> None:
    array = volume()
    image = read_images([write(tmp_path / "a.nii.gz", array, AFFINES[name])])
    assert image.shape == (1, *array.shape)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.as_tensor()[0].numpy(), array)
    np.testing.assert_allclose(image.affine.numpy(), AFFINES[name], atol=1e-5)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("name", AFFINES)
def test_nrrd_and_metaimage_read_like_nifti(tmp_path: Path, suffix: str, name: str) -> None:
    nifti = write(tmp_path / "a.nii.gz", volume(), AFFINES[name])
    other = tmp_path / f"b{suffix}"
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(other))
    first, second = read_images([nifti]), read_images([other])
    np.testing.assert_array_equal(first.as_tensor(), second.as_tensor())
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-4)


def test_fourth_axis_and_several_files_become_channels(tmp_path: Path) -> None:
    array = np.stack([volume(seed=0), volume(seed=1)], axis=-1)
    four = read_images([write(tmp_path / "four.nii.gz", array, AFFINES["oblique"])])
    parts = [
        write(tmp_path / f"part{i}.nii.gz", array[..., i], AFFINES["oblique"]) for i in range(2)
    ]
    spec = DataSpec(orientation=None, **PLAIN)
    np.testing.assert_array_equal(four.as_tensor(), np.moveaxis(array, -1, 0))
    np.testing.assert_array_equal(preprocess_image(parts, spec).image, four.as_tensor())

    vector = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0, 3)), True)
    sitk.WriteImage(vector, str(tmp_path / "vector.nrrd"))
    np.testing.assert_array_equal(
        read_images([tmp_path / "vector.nrrd"]).as_tensor(), four.as_tensor()
    )


@pytest.mark.parametrize("orientation", [None, "RAS", "LPS", "SAR"])
@pytest.mark.parametrize("name", AFFINES)
def test_native_grid_comes_back_exactly(tmp_path: Path, name: str, orientation: str | None) -> None:
    array = volume()
    prepared = preprocess_image(
        write(tmp_path / "a.nii.gz", array, AFFINES[name]),
        DataSpec(orientation=orientation, **PLAIN),
    )
    if orientation is not None:
        assert "".join(nib.aff2axcodes(prepared.affine)) == orientation
    np.testing.assert_array_equal(prepared.restore(prepared.image[0].numpy()), array)
    assert prepared.native_shape == array.shape
    np.testing.assert_array_equal(prepared.native_affine, nib.load(tmp_path / "a.nii.gz").affine)


@pytest.mark.parametrize(
    "grid",
    [
        {"spacing": [1.0, 1.1, 2.2]},
        {"resize": [48, 40, None]},
        {"resize": [48, 40, None], "resize_mode": "nearest"},
        {"spacing": [1.0, 1.0, 1.5], "resize": [32, 32, 32]},
    ],
    ids=["spacing", "linear resize", "nearest resize", "both"],
)
@pytest.mark.parametrize("name", AFFINES)
def test_resampled_shape_comes_back_in_place(
    tmp_path: Path, name: str, grid: dict[str, Any]
) -> None:
    """A ball put into world coordinates is where it was after the round trip."""
    shape = (40, 36, 20)
    spacing = np.linalg.norm(AFFINES[name][:3, :3], axis=0)
    center, radius = world_center(shape, AFFINES[name]), 0.35 * float((spacing * shape).min())
    truth = world_ball(shape, AFFINES[name], center, radius)
    image = write(tmp_path / "i.nii.gz", truth.astype(np.int16), AFFINES[name])
    label = write(tmp_path / "l.nii.gz", truth, AFFINES[name])
    spec = DataSpec(**grid, **PLAIN)
    prepared, values = preprocess_case(Case("c", (image,), label, "c"), spec)
    assert values is not None
    restored = prepared.restore(values.astype(np.uint8))
    assert restored.shape == shape
    assert restored.dtype == np.uint8
    both = (restored & truth).sum()
    assert 2 * both / (restored.sum() + truth.sum()) > 0.93
    offset = [np.array(ndimage.center_of_mass(m)) for m in (restored, truth)]
    assert np.abs(offset[0] - offset[1]).max() < 0.6  # nearest twice, voxels up to 2.4 as large
    back = prepared.restore_probabilities(np.stack([values, 1 - values]).astype(np.float32))
    assert back.shape == (2, *shape)
    np.testing.assert_allclose(back.sum(0), 1, atol=1e-5)


@pytest.mark.parametrize(
    "grid",
    [{"spacing": [1.0, 1.1, 2.2]}, {"spacing": [1.0, 1.0, 1.5], "resize": [32, 32, 32]}],
    ids=["spacing", "both"],
)
@pytest.mark.parametrize("name", AFFINES)
def test_prepared_affine_is_exact(tmp_path: Path, name: str, grid: dict[str, Any]) -> None:
    """A linear function of world position is still that function of it after resampling."""

    def ramp(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
        indices = np.stack([*np.indices(shape), np.ones(shape)])
        world = np.tensordot(affine, indices, 1)[:3]
        return (world[0] + 2 * world[1] - world[2]).astype(np.float32)

    path = write(tmp_path / "r.nii.gz", ramp((40, 36, 20), AFFINES[name]), AFFINES[name])
    prepared = preprocess_image(path, DataSpec(**grid, **PLAIN))
    difference = prepared.image[0].numpy() - ramp(prepared.image.shape[1:], prepared.affine)
    assert np.abs(difference[4:-4, 4:-4, 4:-4]).max() < 2e-3


def test_single_voxel_survives_upsampling(tmp_path: Path) -> None:
    label = np.zeros((9, 7, 5), np.uint8)
    label[2, 3, 4] = 1
    path = write(tmp_path / "l.nii.gz", label, AFFINES["oblique"])
    spec = DataSpec(spacing=[0.7, 0.7, 4.0], **PLAIN)
    prepared, values = preprocess_case(Case("c", (path,), path, "c"), spec)
    assert values is not None
    assert values.shape > label.shape
    np.testing.assert_array_equal(prepared.restore(values), label)


def test_sheared_affine_goes_through_the_general_path(tmp_path: Path) -> None:
    linear = np.diag([1.0, 1.0, 2.0])
    linear[0, 1] = 0.3
    affine = make_affine(linear)
    truth = world_ball((32, 32, 20), affine, world_center((32, 32, 20), affine), 8)
    path = write(tmp_path / "l.nii.gz", truth, affine)
    spec = DataSpec(spacing=[1.0, 1.0, 1.0], **PLAIN)
    prepared, values = preprocess_case(Case("c", (path,), path, "c"), spec)
    assert values is not None
    restored = prepared.restore(values)
    assert 2 * (restored * truth).sum() / (restored.sum() + truth.sum()) > 0.93


def test_fine_spacing_is_resampled(tmp_path: Path) -> None:
    """0.0039 to 0.0030 is below MONAI's tolerance and would silently do nothing."""
    affine = make_affine(np.diag([0.0119, 0.0039, 0.12]))
    path = write(tmp_path / "oct.nii.gz", volume((16, 40, 4)), affine)
    spec = DataSpec(spacing=[0.0119, 0.0030, 0.12], **PLAIN)
    prepared = preprocess_image(path, spec)
    assert prepared.image.shape == (1, 16, round(39 * 0.0039 / 0.0030) + 1, 4)
    np.testing.assert_allclose(
        np.linalg.norm(prepared.affine[:3, :3], axis=0), spec.spacing, rtol=1e-5
    )


def test_millimeter_file_under_a_micrometer_spec(tmp_path: Path) -> None:
    affine = make_affine(np.diag([0.0119, 0.0039, 0.12]), (0.5, 0, 0))
    path = write(tmp_path / "oct.nii.gz", volume((16, 40, 4)), affine)
    spec = DataSpec(spatial_unit="um", spacing=[11.9, 3.0, 120.0], **PLAIN)
    prepared = preprocess_image(path, spec)
    assert prepared.image.shape[2] == round(39 * 3.9 / 3.0) + 1
    micrometers = np.diag([1000.0, 1000.0, 1000.0, 1.0]) @ affine
    np.testing.assert_allclose(prepared.native_affine, micrometers, rtol=1e-6)
    assert prepared.restore(prepared.image[0].numpy()).shape == (16, 40, 4)


def zoomed(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    image = MetaTensor(torch.from_numpy(array).float()[None, :, :, None])
    out = CornerNearestd(["image"], spatial_size=(*shape, -1))({"image": image})["image"]
    return out.as_tensor()[0, :, :, 0].numpy()


def test_nearest_resize_equals_the_literature(golden: Any) -> None:
    truth = golden("bcp")["checks"]["10_inference_metrics"]
    up = zoomed(np.arange(35.0).reshape(5, 7), (8, 8))
    np.testing.assert_array_equal(up, truth["zoom_up"])
    np.testing.assert_array_equal(zoomed(up, (5, 7)), truth["zoom_down"])
    values = np.random.default_rng(52).random((37, 53)).astype(np.float32)
    large = zoomed(values, (64, 64))
    assert large.sum(dtype=np.float64) == pytest.approx(truth["zoom_float"]["up_sum"], rel=1e-6)
    down = zoomed(large, (37, 53))
    assert (down == values).mean() == truth["zoom_float"]["down_equal_fraction"]
    assert down.sum(dtype=np.float64) == pytest.approx(truth["zoom_float"]["down_sum"], rel=1e-6)


def test_nearest_resize_equals_scipy() -> None:
    for n, m in [(1, 5), (5, 1), (8, 26), (154, 256), (256, 154), (224, 256), (37, 64)]:
        row = np.arange(1.0, n + 1)
        expected = ndimage.zoom(row, m / n, order=0, mode="nearest")
        np.testing.assert_array_equal(zoomed(row[:, None], (m, 1))[:, 0], expected)


def test_nearest_resize_restores_like_scipy(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii.gz", volume((37, 53, 3)), np.eye(4))
    spec = DataSpec(resize=[64, 64, None], resize_mode="nearest", **PLAIN)
    prepared = preprocess_image(path, spec)
    classes = np.random.default_rng(0).integers(0, 4, (64, 64, 3)).astype(np.uint8)
    expected = ndimage.zoom(classes, (37 / 64, 53 / 64, 1), order=0, mode="nearest")
    np.testing.assert_array_equal(prepared.restore(classes), expected)


def intensities(tmp_path: Path, array: np.ndarray, **rule: Any) -> np.ndarray:
    path = write(tmp_path / "a.nii.gz", array, np.eye(4))
    return preprocess_image(path, DataSpec(intensity=rule)).image.numpy()


def test_intensity_rules(tmp_path: Path) -> None:
    array = volume().astype(np.float32)
    array[:5] = 0
    inside = array != 0
    out = intensities(tmp_path, array, rule="zscore")[0]
    np.testing.assert_allclose(out, (array - array.mean()) / array.std(), atol=1e-4)
    out = intensities(tmp_path, array, rule="zscore", nonzero=True)[0]
    np.testing.assert_allclose(out[inside].mean(), 0, atol=1e-4)
    np.testing.assert_array_equal(out[~inside], 0)
    out = intensities(tmp_path, array, rule="minmax")[0]
    np.testing.assert_allclose(out, (array - array.min()) / np.ptp(array), atol=1e-5)
    out = intensities(tmp_path, array, rule="window", lower=-100, upper=300)[0]
    np.testing.assert_allclose(out, (np.clip(array, -100, 300) + 100) / 400, atol=1e-5)
    out = intensities(tmp_path, array, rule="percentile", lower=10, upper=90)[0]
    low, high = np.percentile(array, [10, 90])
    np.testing.assert_allclose(out, np.clip((array - low) / (high - low), 0, 1), atol=1e-4)
    out = intensities(tmp_path, np.abs(array), rule="percentile", nonzero=True)[0]
    low, high = np.percentile(np.abs(array)[inside], [0.5, 99.5])
    expected = np.where(inside, np.clip((np.abs(array) - low) / (high - low), 0, 1), 0)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_percentile_zscore(tmp_path: Path) -> None:
    array = volume((20, 20, 20)).astype(np.float32)
    out = intensities(tmp_path, array, rule="percentile_zscore", lower=5, upper=95)[0]
    clipped = np.clip(array, *np.percentile(array, [5, 95]))
    np.testing.assert_allclose(out, (clipped - clipped.mean()) / clipped.std(), atol=1e-4)
    # What was not scanned takes no part and becomes the lowest value.
    array[:6] = 0
    inside = array != 0
    out = intensities(tmp_path, array, rule="percentile_zscore", exclude="zero")[0]
    assert abs(out[inside].mean()) < 1e-4
    assert abs(out[inside].std() - 1) < 1e-4
    assert (out[~inside] == out.min()).all()
    other = np.where(inside, array, 0) * 3 + 500 * inside  # another scanner, the same scan
    twin = intensities(tmp_path, other, rule="percentile_zscore", exclude="zero")[0]
    np.testing.assert_allclose(twin, out, atol=1e-3)


def outside_neighbor(outside: np.ndarray) -> np.ndarray:
    return ndimage.binary_dilation(outside, iterations=1)


def test_padding_around_a_cylindrical_field(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.arange(24) - 11.5, np.arange(24) - 11.5, indexing="ij")
    outside = np.broadcast_to((x**2 + y**2 > 11.8**2)[..., None], (24, 24, 10))
    array = np.where(outside, -1000, volume((24, 24, 10)))
    assert padding_value(array) == -1000
    assert padding_value(volume((24, 24, 10))) is None
    assert padding_value(array[:, :, :1]) == -1000
    rule = {"rule": "percentile_zscore", "exclude": "padding"}
    out = intensities(tmp_path, array.astype(np.int16), **rule)[0]
    assert abs(out[~outside].mean()) < 1e-4
    assert (out[outside] == out.min()).all()
    padded = np.where(outside, 0, volume((24, 24, 10)))  # another value of the same padding
    twin = intensities(tmp_path, padded.astype(np.int16), **rule)[0]
    scanned = ~outside & ~((padded == 0) & outside_neighbor(outside))
    np.testing.assert_allclose(twin[scanned], out[scanned], atol=0.02)


def test_an_axis_without_spacing_is_kept(tmp_path: Path) -> None:
    array = volume((12, 7, 30))
    affine = make_affine(np.array([[-11.7, 0, 0], [0, 0, -3.9], [0, 123.0, 0]]), (5, 6, 7))
    path = write(tmp_path / "oct.nii.gz", array, affine)
    spec = DataSpec(spatial_unit="um", spacing=[11.7, 3.0, None], **PLAIN)
    prepared = preprocess_image(path, spec)
    # Depth (now axis 1) has more voxels; the B-scans, now last, are untouched.
    assert prepared.image.shape == (1, 12, round(29 * 3.9 / 3.0) + 1, 7)
    steps = np.linalg.norm(prepared.affine[:3, :3], axis=0)
    np.testing.assert_allclose(steps, [11.7, 3.0, 123.0], rtol=1e-5)
    np.testing.assert_array_equal(prepared.restore(prepared.image[0].numpy()).shape, array.shape)
    whole = preprocess_image(path, spec.model_copy(update={"spacing": [None, None, None]}))
    np.testing.assert_array_equal(whole.restore(whole.image[0].numpy()), array)


@pytest.mark.filterwarnings("ignore:Divide by zero")
def test_constant_image_stays_finite(tmp_path: Path) -> None:
    for rule in ("zscore", "minmax", "percentile", "percentile_zscore"):
        out = intensities(tmp_path, np.full((4, 4, 4), 7, np.int16), rule=rule)
        assert np.isfinite(out).all()


def failing(paths: Any, spec: DataSpec | None = None) -> str:
    with pytest.raises(MedSSLError) as caught:
        preprocess_image(paths, spec or DataSpec())
    message = str(caught.value)
    assert len(message.splitlines()) <= 6
    assert "fix:" in message
    return message


def test_bad_files_are_named(tmp_path: Path) -> None:
    good = write(tmp_path / "good.nii.gz", volume(), np.eye(4))
    truncated = tmp_path / "truncated.nii.gz"
    truncated.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    assert "truncated.nii.gz" in failing(truncated)
    noise = tmp_path / "noise.nii.gz"
    noise.write_bytes(gzip.compress(b"this is no image" * 50))
    assert "noise.nii.gz" in failing(noise)
    (tmp_path / "broken.nrrd").write_text("NRRD0004\n")
    assert "broken.nrrd" in failing(tmp_path / "broken.nrrd")
    (tmp_path / "a.tiff").write_bytes(b"II*")
    assert "'.tiff'" in failing(tmp_path / "a.tiff")
    assert "does not exist" in failing(tmp_path / "absent.nii.gz")
    array = volume().astype(np.float32)
    array[0, 0, :3] = np.nan
    assert "3 voxels are NaN" in failing(write(tmp_path / "nan.nii.gz", array, np.eye(4)))
    flat = write(tmp_path / "flat.nii.gz", volume((5, 5, 5)), np.eye(4))
    message = failing([good, flat])
    assert "(5, 5, 5)" in message
    assert "flat.nii.gz" in message


def test_label_off_the_image_grid_is_refused(tmp_path: Path) -> None:
    image = write(tmp_path / "i.nii.gz", volume(), np.diag([1.0, 1.0, 3.0, 1.0]))
    label = write(tmp_path / "l.nii.gz", np.zeros((20, 24, 9), np.uint8), np.eye(4))
    with pytest.raises(
        MedSSLError, match=r"5.33 voxels away.*\(1, 1, 1\) against \(1, 1, 3\)"
    ) as caught:
        preprocess_case(Case("c", (image,), label, "c"), DataSpec())
    assert caught.value.where == str(label)
    nearly = np.diag([1.0, 1.0, 3.0, 1.0]) + 1e-3
    nearly[3] = [0, 0, 0, 1]
    label = write(tmp_path / "n.nii.gz", np.ones((20, 24, 9), np.uint8), nearly)
    _, values = preprocess_case(Case("c", (image,), label, "c"), DataSpec())
    assert values is not None
    assert values.all()
