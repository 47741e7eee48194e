"""Label maps on disk: geometry as nibabel and ITK see it, whole files only, equal bytes."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name

from medssl.data.images.names import image_suffix
from medssl.data.images.write import write_label, write_map
from medssl.errors import MedSSLError

SHAPE = (9, 7, 5)


def oblique_affine() -> np.ndarray:
    """RAS affine of an LPS-ordered, oblique, anisotropic, off-origin grid."""
    a, b = np.deg2rad(17), np.deg2rad(-9)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-1.4, -1.4, 8.0])
    affine[:3, 3] = [81.5, -33.25, 412.0]
    return affine


def labels(dtype: type = np.uint8) -> np.ndarray:
    values = np.zeros(SHAPE, dtype=dtype)
    values[2:5, 1:4, 3:] = 11
    values[6, 5, 0] = 12
    return values


def save_nifti(path: Path, affine: np.ndarray, *, sform: int, qform: int) -> nib.Nifti1Image:
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine)
    image.set_sform(affine if sform else None, code=sform)
    image.set_qform(affine if qform else None, code=qform)
    nib.save(image, path)
    return nib.load(path)


def itk_image(affine: np.ndarray) -> sitk.Image:
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.zeros(SHAPE[::-1], np.int16))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def physical(image: sitk.Image, index: tuple[int, int, int]) -> np.ndarray:
    return np.array(image.TransformIndexToPhysicalPoint(index))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_nifti_comes_back_with_values_dtype_and_affine(
    tmp_path: Path, dtype: type, suffix: str
) -> None:
    affine = oblique_affine()
    path = write_label(labels(), tmp_path / f"case{suffix}", affine=affine, dtype=dtype)
    image = nib.load(path)
    assert image.get_data_dtype() == dtype
    assert np.array_equal(np.asanyarray(image.dataobj), labels())
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert image.header["sform_code"] > 0
    assert image.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 0), (0, 1), (4, 1)])
def test_geometry_of_a_nifti_source_is_kept(tmp_path: Path, sform: int, qform: int) -> None:
    source = save_nifti(tmp_path / "image.nii.gz", oblique_affine(), sform=sform, qform=qform)
    # The affine of the argument went through a preprocessing and is a little off: the source wins.
    path = write_label(
        labels(),
        tmp_path / "label.nii.gz",
        affine=source.affine + 1e-4,
        reference=tmp_path / "image.nii.gz",
    )
    result = nib.load(path)
    # Spelling out a quaternion as a float32 matrix may change the last digit, nothing more.
    np.testing.assert_allclose(result.affine, source.affine, rtol=0, atol=0 if sform else 1e-6)
    assert np.array_equal(result.header["pixdim"][:4], source.header["pixdim"][:4])
    assert result.header["qform_code"] == qform
    assert result.header["sform_code"] > 0
    if sform:
        assert result.header["sform_code"] == sform
    if qform:
        assert np.array_equal(result.get_qform(), source.get_qform())


def test_a_header_that_contradicts_itself_is_spelled_out_as_itk_reads_it(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), oblique_affine())
    image.set_sform(oblique_affine(), code=4)
    image.set_qform(np.diag([2.0, 3.0, 4.0, 1.0]), code=1)
    nib.save(image, tmp_path / "image.nii")
    truth = np.diag([2.0, 3.0, 4.0, 1.0])  # the qform, since the sform is not of the scanner
    path = write_label(
        labels(), tmp_path / "label.nii.gz", affine=truth, reference=tmp_path / "image.nii"
    )
    result = nib.load(path)
    np.testing.assert_allclose(result.get_sform(), truth, atol=1e-6)
    np.testing.assert_allclose(result.get_qform(), truth, atol=1e-6)
    first, second = sitk.ReadImage(str(tmp_path / "image.nii")), sitk.ReadImage(str(path))
    np.testing.assert_allclose(physical(second, (8, 6, 4)), physical(first, (8, 6, 4)), atol=1e-4)


def test_intensity_scaling_of_the_source_does_not_reach_the_label(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.linspace(-3, 900, 315).reshape(SHAPE), np.eye(4))
    image.set_data_dtype(np.uint8)  # nibabel then writes a slope and an intercept
    image.header["descrip"] = b"patient name"
    nib.save(image, tmp_path / "image.nii.gz")
    path = write_label(
        labels(), tmp_path / "l.nii.gz", affine=np.eye(4), reference=tmp_path / "image.nii.gz"
    )
    result = nib.load(path)
    assert np.array_equal(result.get_fdata(), labels())
    assert bytes(result.header["descrip"]).strip(b"\0") == b""


def test_micron_unit_is_kept_in_nifti_and_itk_sees_the_true_size(tmp_path: Path) -> None:
    affine = np.diag([11.7, 120.0, 3.9, 1.0])
    image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine)
    image.header.set_xyzt_units("micron")
    image.set_sform(affine, code=2)
    nib.save(image, tmp_path / "oct.nii.gz")
    millimeters = np.diag([1e-3, 1e-3, 1e-3, 1.0]) @ affine
    options = {"affine": millimeters, "reference": tmp_path / "oct.nii.gz"}
    result = nib.load(write_label(labels(), tmp_path / "label.nii.gz", **options))
    assert result.header.get_xyzt_units()[0] == "micron"
    assert np.array_equal(result.affine, image.affine.astype(np.float32))
    mha = sitk.ReadImage(str(write_label(labels(), tmp_path / "label.mha", **options)))
    np.testing.assert_allclose(mha.GetSpacing(), (0.0117, 0.12, 0.0039), rtol=1e-6)


@pytest.mark.parametrize("source", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("target", [".nrrd", ".mha", ".nii.gz"])
def test_labels_of_itk_sources_lie_where_itk_puts_the_image(
    tmp_path: Path, source: str, target: str
) -> None:
    image = itk_image(oblique_affine())
    sitk.WriteImage(image, str(tmp_path / f"image{source}"))
    path = write_label(
        labels(),
        tmp_path / f"label{target}",
        affine=oblique_affine(),
        reference=tmp_path / f"image{source}",
    )
    result = sitk.ReadImage(str(path))
    assert result.GetSize() == image.GetSize()
    for index in [(0, 0, 0), (8, 0, 0), (0, 6, 0), (0, 0, 4), (6, 5, 0)]:
        np.testing.assert_allclose(physical(result, index), physical(image, index), atol=1e-4)
    assert result[6, 5, 0] == 12
    assert np.array_equal(sitk.GetArrayFromImage(result).T, labels())
    if target != ".nii.gz":
        assert result.GetOrigin() == image.GetOrigin()
        assert result.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-12)


def test_an_itk_label_of_a_nifti_source_lies_where_itk_puts_the_source(tmp_path: Path) -> None:
    save_nifti(tmp_path / "image.nii.gz", oblique_affine(), sform=1, qform=1)
    path = write_label(
        labels(),
        tmp_path / "label.nrrd",
        affine=oblique_affine(),
        reference=tmp_path / "image.nii.gz",
    )
    image, result = sitk.ReadImage(str(tmp_path / "image.nii.gz")), sitk.ReadImage(str(path))
    for index in [(0, 0, 0), (8, 6, 4)]:
        np.testing.assert_allclose(physical(result, index), physical(image, index), atol=1e-3)


def test_a_slice_and_a_4d_source_give_their_spatial_shape(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((6, 5), np.int16), np.eye(4)), tmp_path / "slice.nii")
    nib.save(nib.Nifti1Image(np.zeros((6, 5, 4, 2), np.int16), np.eye(4)), tmp_path / "two.nii")
    flat = write_label(
        np.ones((6, 5, 1), np.uint8),
        tmp_path / "flat.nii.gz",
        affine=np.eye(4),
        reference=tmp_path / "slice.nii",
    )
    assert nib.load(flat).shape == (6, 5)
    volume = write_label(
        np.ones((6, 5, 4), np.uint8),
        tmp_path / "volume.nii.gz",
        affine=np.eye(4),
        reference=tmp_path / "two.nii",
    )
    assert nib.load(volume).shape == (6, 5, 4)


@pytest.mark.parametrize(("top", "dtype"), [(12, np.uint8), (255, np.uint8), (300, np.uint16)])
def test_the_smaller_type_that_holds_the_values_is_chosen(
    tmp_path: Path, top: int, dtype: type
) -> None:
    values = np.full(SHAPE, top, np.int64)
    image = nib.load(write_label(values, tmp_path / "a.nii.gz", affine=np.eye(4)))
    assert image.get_data_dtype() == dtype
    assert (np.asanyarray(image.dataobj) == top).all()


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_maps_keep_their_fractions(tmp_path: Path, suffix: str) -> None:
    values = np.random.default_rng(0).random(SHAPE)
    path = write_map(values, tmp_path / f"map{suffix}", affine=oblique_affine())
    image = sitk.ReadImage(str(path))
    assert image.GetPixelID() == sitk.sitkFloat32
    assert np.array_equal(sitk.GetArrayFromImage(image).T, values.astype(np.float32))
    expected = np.diag([-1, -1, 1, 1]) @ oblique_affine() @ [8, 6, 4, 1]
    np.testing.assert_allclose(physical(image, (8, 6, 4)), expected[:3], atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_equal_labels_give_equal_bytes(tmp_path: Path, suffix: str, monkeypatch) -> None:
    first = write_label(labels(), tmp_path / f"one{suffix}", affine=oblique_affine())
    monkeypatch.setattr("time.time", lambda: 4e8)
    second = write_label(labels(), tmp_path / f"two{suffix}", affine=oblique_affine())
    assert first.read_bytes() == second.read_bytes()


def test_gzip_header_has_no_time_and_no_name(tmp_path: Path) -> None:
    data = write_label(labels(), tmp_path / "a.nii.gz", affine=np.eye(4)).read_bytes()
    assert data[:2] == b"\x1f\x8b"
    assert data[3] & 0x08 == 0  # no file name
    assert data[4:8] == bytes(4)  # mtime


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    path = write_label(labels(), tmp_path / "a.nii.gz", affine=np.eye(4))
    before = path.read_bytes()

    def full(self, data) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gzip.GzipFile.write", full)
    with pytest.raises(MedSSLError, match="No space left on device") as caught:
        write_label(labels() + 1, path, affine=np.eye(4))
    assert caught.value.where == str(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.nii.gz"]


def test_the_file_has_its_name_only_when_complete(tmp_path: Path, monkeypatch) -> None:
    seen: list[tuple[list[str], int]] = []
    replace = os.replace

    def watch(source, target) -> None:
        seen.append((os.listdir(tmp_path), Path(source).stat().st_size))
        replace(source, target)

    monkeypatch.setattr("os.replace", watch)
    path = write_label(labels(), tmp_path / "a.nii.gz", affine=np.eye(4))
    [(names, size)] = seen
    assert len(names) == 1
    assert names[0].startswith(".")
    assert size == path.stat().st_size


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedSSLError, match="cannot write the result") as caught:
        write_label(labels(), tmp_path / "file" / "a.nii.gz", affine=np.eye(4))
    assert "a.nii.gz" in str(caught.value)


@pytest.mark.parametrize("name", ["a.mhd", "a.png", "a"])
def test_formats_that_cannot_be_written_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MedSSLError, match=r"ends in .*\.nii\.gz"):
        write_label(labels(), tmp_path / name, affine=np.eye(4))
    assert list(tmp_path.iterdir()) == []


def test_another_shape_than_the_source_is_refused(tmp_path: Path) -> None:
    save_nifti(tmp_path / "image.nii.gz", np.eye(4), sform=1, qform=1)
    with pytest.raises(MedSSLError, match=r"\(5, 7, 9\) does not fit an image of shape \(9, 7, 5"):
        write_label(
            labels().T,
            tmp_path / "a.nii.gz",
            affine=np.eye(4),
            reference=tmp_path / "image.nii.gz",
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full(SHAPE, 0.5), "float64 cannot be written as uint8"),
        (np.full(SHAPE, -1), "from -1 to -1 do not fit uint8"),
        (np.full(SHAPE, 70000), "from 70000 to 70000 do not fit uint16"),
    ],
)
def test_values_that_are_no_labels_are_refused(
    tmp_path: Path, values: np.ndarray, message: str
) -> None:
    with pytest.raises(MedSSLError, match=message):
        write_label(values, tmp_path / "a.nii.gz", affine=np.eye(4))


def test_a_source_that_is_gone_is_named(tmp_path: Path) -> None:
    for name in ("gone.nii.gz", "gone.mha"):
        with pytest.raises(MedSSLError, match="does not exist") as caught:
            write_label(labels(), tmp_path / "a.mha", affine=np.eye(4), reference=tmp_path / name)
        assert caught.value.where == str(tmp_path / name)
        assert len(str(caught.value).splitlines()) <= 6


def test_suffixes_are_found_in_any_case() -> None:
    assert image_suffix(Path("A.NII.GZ")) == ".nii.gz"
    assert image_suffix(Path("a.b.mha")) == ".mha"
    assert image_suffix(Path("a.gz")) is None
