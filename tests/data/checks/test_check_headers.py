"""A check reads headers, units and labels as ITK programs and training do, and spoils none."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import blob_case
from nifti_headers import write_raw

from medssl.errors import MedSSLError
from medssl.workflows.check import CheckResult, check

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
ITK = np.diag([-1.0, -1.0, 2.0, 1.0])
"""Where ITK puts a file of such voxels that codes no orientation."""


def write_pairs(root: Path, image: dict, label: dict, *, factor: float = 1.0) -> Path:
    """Write four cases whose headers say ``image`` and ``label``; ``factor`` spoils the labels."""
    items = []
    for n in range(4):
        voxels, structures = blob_case(n)
        write_raw(root / f"imagesTr/c{n}.nii.gz", voxels, **image)
        stored = structures if factor == 1 else (structures * factor).astype(np.float32)
        write_raw(root / f"labelsTr/c{n}.nii.gz", stored, **label)
        items.append({"image": f"imagesTr/c{n}.nii.gz", "label": f"labelsTr/c{n}.nii.gz"})
    header = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "bright", "2": "dim"},
        "numTraining": 4,
        "training": items,
    }
    (root / "dataset.json").write_text(json.dumps(header))
    return root


def problems(result: CheckResult) -> list[tuple[str, str]]:
    return [(p.severity, p.check) for p in result.report.problems]


def coded(affine: np.ndarray, **fields: object) -> dict:
    return {"qform": affine, "sform": affine, "codes": (1, 1), **fields}


def micron(affine: np.ndarray) -> dict:
    return coded(np.diag([1000.0, 1000, 1000, 1]) @ affine, unit="micron")


def meter(affine: np.ndarray) -> dict:
    return coded(np.diag([1e-3, 1e-3, 1e-3, 1]) @ affine, unit="meter")


@pytest.mark.parametrize("image", [micron, meter, coded])
@pytest.mark.parametrize("label", [micron, meter, coded])
def test_units_are_no_difference(tmp_path: Path, image, label) -> None:
    root = write_pairs(tmp_path / "in", image(AFFINE), label(AFFINE))
    result = check(root, repair=tmp_path / "copy")
    assert problems(result) == []
    assert result.repairs == ()
    assert all(f.spacing == pytest.approx((1, 1, 2)) for f in result.report.facts)
    for path in sorted(root.rglob("*.nii.gz")):  # a sound pair is copied, byte for byte
        copy = tmp_path / "copy" / path.relative_to(root)
        assert copy.read_bytes() == path.read_bytes()


def test_labels_drawn_in_itk_on_images_without_codes(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "in", {"pixdim": (1, 1, 2)}, coded(ITK))
    result = check(root)
    assert problems(result) == [("warning", "header")]
    assert "(4 such files)" in result.report.problems[0].what


def test_a_unit_sform_beside_the_truth_is_told_once(tmp_path: Path) -> None:
    header = coded(AFFINE, codes=(1, 2)) | {"sform": np.eye(4)}
    result = check(write_pairs(tmp_path / "in", header, header))
    assert problems(result) == [("warning", "header")]
    assert "voxels of 1 x 1 x 2 mm, not 1 x 1 x 1 (8 such files)" in result.report.problems[0].what
    assert all(f.spacing == (1, 1, 2) for f in result.report.facts)


def test_a_mended_label_gets_the_geometry_that_itk_reads(tmp_path: Path) -> None:
    """The image contradicts itself, the label lies elsewhere by its header: the copy agrees."""
    header = coded(AFFINE, codes=(1, 2)) | {"sform": np.eye(4)}
    root = write_pairs(tmp_path / "in", header, coded(np.diag([3.0, 1, 2, 1])))
    result = check(root, repair=tmp_path / "copy")
    assert result.can_train
    mended = nib.load(tmp_path / "copy/labelsTr/c0.nii.gz")
    np.testing.assert_allclose(mended.get_sform(), AFFINE)
    np.testing.assert_allclose(mended.get_qform(), AFFINE)
    assert mended.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("factor", [0.99995, 1.00000006])
def test_labels_whole_up_to_rounding(tmp_path: Path, factor: float) -> None:
    root = write_pairs(tmp_path / "in", coded(AFFINE), coded(AFFINE), factor=factor)
    result = check(root, repair=tmp_path / "copy")
    assert set(problems(result)) == {("note", "label_type")}
    assert len(result.repairs) == 4
    mended = nib.load(tmp_path / "copy/labelsTr/c0.nii.gz")
    assert mended.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(mended.dataobj), blob_case(0)[1])


def test_labels_behind_a_factor(tmp_path: Path) -> None:
    """Stored as 0, 127 and 254 with a slope of 1/127 in single precision."""
    root = write_pairs(tmp_path / "in", coded(AFFINE), coded(AFFINE))
    for n in range(4):
        stored = blob_case(n)[1] * np.uint8(127)
        fields = coded(AFFINE, scl_slope=1 / 127, scl_inter=0.0)
        write_raw(root / f"labelsTr/c{n}.nii.gz", stored, **fields)
    result = check(root, repair=tmp_path / "copy")
    assert set(problems(result)) == {("note", "label_type")}
    mended = nib.load(tmp_path / "copy/labelsTr/c1.nii.gz")
    assert (mended.dataobj.slope, mended.dataobj.inter) == (1, 0)
    np.testing.assert_array_equal(np.asarray(mended.dataobj), blob_case(1)[1])


@pytest.mark.parametrize(
    ("label", "name", "message"),
    [
        (np.float32([np.nan]), "undeclared", "nan (1 voxels)"),
        (np.float32([np.inf]), "undeclared", "inf (1 voxels)"),
        (np.complex64([1]), "voxel_type", "colors or complex numbers"),
        (np.zeros(1, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "voxel_type", "colors or complex"),
        (np.uint8([[1, 0]]), "shape", "24 x 24 x 12 x 2 voxels"),
    ],
)
def test_what_is_no_label_is_named(
    tmp_path: Path, label: np.ndarray, name: str, message: str
) -> None:
    root = write_pairs(tmp_path / "in", coded(AFFINE), coded(AFFINE))
    stored = np.zeros((24, 24, 12, *label.shape[1:]), label.dtype)
    stored[5, 5, 5] = label[0]
    write_raw(root / "labelsTr/c2.nii.gz", stored, **coded(AFFINE))
    result = check(root, repair=tmp_path / "copy")
    [found] = [p for p in result.report.problems if p.severity == "error"]
    assert (found.check, found.file.name) == (name, "c2.nii.gz")
    assert message in found.what


def test_a_sheared_scan_is_an_error_that_names_it(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.3
    root = write_pairs(tmp_path / "in", coded(AFFINE), coded(AFFINE))
    for folder, stored in zip(("imagesTr", "labelsTr"), blob_case(1), strict=True):
        fields = {"sform": sheared, "codes": (0, 1), "pixdim": (1, 1, 2)}
        write_raw(root / f"{folder}/c1.nii.gz", stored, **fields)
    result = check(root)
    assert problems(result) == [("error", "sheared")]
    assert result.report.problems[0].file.name == "c1.nii.gz"


def test_an_impossible_unit_is_an_error_that_names_it(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "in", coded(AFFINE, unit="meter"), coded(AFFINE))
    result = check(root)
    assert {p.check for p in result.report.problems if p.severity == "error"} == {"unreadable"}
    assert all("unit 'meter'" in p.what for p in result.report.problems if p.check == "unreadable")


def test_repeated_names_are_refused_by_check(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "in", coded(AFFINE), coded(AFFINE))
    where = root / "dataset.json"
    where.write_text(where.read_text().replace("dim", "bright"))
    with pytest.raises(MedSSLError, match="the values 1 and 2 are both called 'bright'"):
        check(root)
