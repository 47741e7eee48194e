"""Files that claim more than they hold, or more than fits into memory, are refused by name."""

from __future__ import annotations

import gzip
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from medssl.data.images.labels import read_label
from medssl.data.images.limits import SETTING, SizeError, check_claim, memory_limit
from medssl.data.images.volume import read_header, read_image, read_volume
from medssl.errors import MedSSLError
from medssl.runs.checkpoint import load_checkpoint, save_checkpoint

HUGE = 10_000  # per axis: a terabyte and more
READERS: dict[str, Callable[[Path], object]] = {
    "read_image": read_image,
    "read_volume": read_volume,
    "read_label": read_label,
}


def nifti_bytes(shape: tuple[int, ...] = (6, 5, 4), **fields: object) -> bytes:
    """Return a small NIfTI file, fields of its header changed afterwards."""
    raw = nib.Nifti1Image(np.ones(shape, np.uint8), np.eye(4)).to_bytes()
    header = nib.Nifti1Header(raw[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + raw[348:]


def claiming(n: int) -> bytes:
    return nifti_bytes(dim=[3, n, n, n, 1, 1, 1, 1])


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    return READERS[request.param]


def refused(reader: Callable[[Path], object], path: Path) -> str:
    """Return the message of a refusal, which must come without allocating what is claimed."""
    reader.__module__  # noqa: B018 - imported before memory is measured
    tracemalloc.start()
    try:
        with pytest.raises(MedSSLError) as caught:
            reader(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30e6
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_that_claims_a_terabyte(
    tmp_path: Path, suffix: str, reader: Callable[[Path], object]
) -> None:
    path = tmp_path / f"a{suffix}"
    raw = claiming(HUGE)
    path.write_bytes(gzip.compress(raw) if suffix == ".nii.gz" else raw)
    message = refused(reader, path)
    assert "10000 x 10000 x 10000" in message
    assert "copy the file again" in message


def test_claim_that_the_file_could_hold_but_memory_cannot(
    tmp_path: Path, reader: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING, "0.001")
    path = tmp_path / "zeros.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((100, 100, 50), np.uint8), np.eye(4)), path)
    message = refused(reader, path)
    assert f"set {SETTING}=1 " in message
    monkeypatch.setenv(SETTING, "1")
    reader(path)


def test_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(nifti_bytes())
        for _ in range(300):
            file.write(bytes(10**6))
    assert path.stat().st_size < 400_000
    assert "more data follows" in refused(read_volume, path)
    assert read_header(path).shape == (6, 5, 4)


@pytest.mark.parametrize("size", [-8, 0, 2**30])
def test_header_extension_that_claims_gigabytes(
    tmp_path: Path, size: int, reader: Callable[[Path], object]
) -> None:
    raw = bytearray(nifti_bytes(vox_offset=1024))
    raw[348:352] = b"\1\0\0\0"
    raw[352:360] = np.array([size, 6], "<i4").tobytes()
    path = tmp_path / "a.nii"
    path.write_bytes(bytes(raw) + bytes(2000))
    assert "extension" in refused(reader, path)
    with pytest.raises(MedSSLError, match="extension"):
        read_header(path)


@pytest.mark.parametrize("offset", [float("nan"), float("inf"), -1e9, 1e12])
def test_voxels_at_an_impossible_place(tmp_path: Path, offset: float) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(vox_offset=offset))
    assert "places the voxels" in refused(read_image, path)


def write_itk(path: Path) -> str:
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.uint8)), str(path))
    return path.read_bytes().decode("latin-1")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("a.mha", "DimSize = 6 5 4", f"DimSize = {HUGE} {HUGE} {HUGE}"),
        ("a.nrrd", "sizes: 6 5 4", f"sizes: {HUGE} {HUGE} {HUGE}"),
        ("a.mhd", "DimSize = 6 5 4", f"DimSize = {HUGE} {HUGE} {HUGE}"),
        ("a.mha", "ElementDataFile = LOCAL", "ElementNumberOfChannels = 999999999\n"
         "ElementDataFile = LOCAL"),
        ("a.mha", "CompressedData = False", "CompressedData = True\nCompressedDataSize = 99999999"),
    ],
)  # fmt: skip
def test_itk_header_that_claims_too_much(
    tmp_path: Path, name: str, old: str, new: str, reader: Callable[[Path], object]
) -> None:
    path = tmp_path / name
    text = write_itk(path)
    assert old in text
    path.write_bytes(text.replace(old, new).encode("latin-1"))
    assert "claims" in refused(reader, path)


@pytest.mark.parametrize("target", ["/etc/hostname", "../other.raw", "..\\other.raw", "C:\\x.raw"])
def test_itk_voxels_in_another_folder(
    tmp_path: Path, target: str, reader: Callable[[Path], object]
) -> None:
    path = tmp_path / "sub" / "a.mhd"
    path.parent.mkdir()
    text = write_itk(path)
    path.write_bytes(text.replace("a.raw", target).encode())
    (tmp_path / "other.raw").write_bytes(bytes(120))
    assert "another folder" in refused(reader, path)
    path = tmp_path / "a.nrrd"
    text = write_itk(path)
    head, _, _ = text.partition("\n\n")
    path.write_bytes(f"{head}\ndata file: {target}\n\n".encode("latin-1"))
    assert "another folder" in refused(reader, path)


def test_checkpoint_that_unpacks_to_more_than_itself(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"method": "bcp", "method_state": {"w": torch.zeros(50_000)}}, path)
    assert load_checkpoint(path)["method"] == "bcp"
    packed = tmp_path / "packed.pt"
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(MedSSLError, match="more than the whole file"):
        load_checkpoint(packed)


def test_npy_and_hdf5_that_claim_too_much(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    from medssl.data.importers.ssl4mis import _read_file
    from medssl.data.importers.toothfairy import _load

    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 2), np.uint8))
    path.write_bytes(path.read_bytes().replace(b"(2, 2)", b"(9999999, 99999999)"))
    assert "cannot be read" in refused(lambda p: _load(p, "a"), path)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (HUGE, HUGE, HUGE), "u1", chunks=(100, 100, 100))
    assert path.stat().st_size < 10_000
    assert f"set {SETTING}=" in refused(lambda p: _read_file(p, "a"), path)


def test_dicom_frames_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pydicom = pytest.importorskip("pydicom")
    from medssl.data.dicom.files import pixel_array, read_dicom

    path = tmp_path / "a.dcm"
    data = pydicom.Dataset()
    data.NumberOfFrames, data.Rows, data.Columns, data.BitsAllocated = 10**6, 60_000, 60_000, 16
    data.SamplesPerPixel = 1
    with pytest.raises(SizeError, match="1000000 x 60000 x 60000"):
        pixel_array(data, path)
    path.write_bytes(bytes(300) + b"1.2.840.10008.1.2.1.99" + bytes(3000))
    monkeypatch.setenv(SETTING, "0.001")
    with pytest.raises(SizeError, match="deflated"):
        read_dicom(path, "dicom")


def test_limit_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    assert memory_limit() > 10**7
    monkeypatch.setenv(SETTING, "2.5")
    assert memory_limit() == 2_500_000_000
    # 1000^3 bytes and as float32: 5 GB
    with pytest.raises(SizeError, match=r"need 5\.0 GB of memory; the limit is 2\.5 GB"):
        check_claim((1000, 1000, 1000), 1, path=Path("a.nii"))
    assert check_claim((1000, 1000, 10), 2, path=Path("a.nii"), capacity=20_000_000) == 20_000_000
    with pytest.raises(SizeError, match="negative"):
        check_claim((-1, 10), 1, path=Path("a.nii"))
    for wrong in ("0", "many", "nan", "-1"):
        monkeypatch.setenv(SETTING, wrong)
        with pytest.raises(MedSSLError, match=SETTING):
            memory_limit()


def test_codes_that_stand_for_nothing(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(datatype=514))
    assert "data type 514 is unknown" in refused(reader, path)
    path.write_bytes(nifti_bytes(xyzt_units=7))
    reader(path)
    assert read_label(path, unit="um")[0].shape == (6, 5, 4)
