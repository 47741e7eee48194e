"""Folders as archives publish them: BIDS, a file for each structure, labels in folders."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from import_sources import SHAPE, cases_of, image_array, label_array, write_nifti

from medssl.data.importers.dataset import import_dataset
from medssl.data.importers.pairing import find_pairs
from medssl.errors import MedSSLError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / f"{name}.nii.gz").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.nii.gz").touch()


def layout(root: Path) -> dict[str, str | list[str] | None]:
    """Return what belongs to each image: its label, its structures, or nothing."""
    pairs, _ = find_pairs(root, structures=True)

    def name(path: Path) -> str:
        return path.relative_to(root).as_posix().removesuffix(".nii.gz")

    return {
        name(p.image): (
            f"{name(p.label)}"
            if p.label is not None
            else [f"{s}: {name(path)}" for s, path in p.structures.items()] or None
        )
        for p in pairs
    }


def test_bids_derivatives(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-01/anat/sub-01_T1w",
        "sub-02/anat/sub-02_T1w",
        "sub-03/anat/sub-03_T1w",
        "derivatives/manual/sub-01/anat/sub-01_T1w_dseg",
        "derivatives/manual/sub-02/anat/sub-02_space-T1w_desc-manual_dseg",
        "derivatives/prep/sub-01/anat/sub-01_desc-preproc_T1w",
    )
    assert layout(tmp_path) == {
        "sub-01/anat/sub-01_T1w": "derivatives/manual/sub-01/anat/sub-01_T1w_dseg",
        "sub-02/anat/sub-02_T1w": (
            "derivatives/manual/sub-02/anat/sub-02_space-T1w_desc-manual_dseg"
        ),
        "sub-03/anat/sub-03_T1w": None,
    }
    _, notes = find_pairs(tmp_path)
    assert "1 images in derivatives/ are left out" in notes[0]


def test_bids_sessions_contrasts_and_labels(tmp_path: Path) -> None:
    scans = [f"sub-01/ses-{s}/anat/sub-01_ses-{s}_{c}" for s in "12" for c in ("T1w", "FLAIR")]
    folder = "derivatives/labels/final/sub-01/ses-1/anat"
    touch(
        tmp_path,
        *scans,
        f"{folder}/sub-01_ses-1_FLAIR_label-lesion_mask",
        f"{folder}/sub-01_ses-1_FLAIR_label-edema_mask",
        "derivatives/labels/final/sub-01/ses-2/anat/sub-01_ses-2_T1w_seg",
    )
    found = layout(tmp_path)
    assert found.pop("sub-01/ses-1/anat/sub-01_ses-1_FLAIR") == [
        f"edema: {folder}/sub-01_ses-1_FLAIR_label-edema_mask",
        f"lesion: {folder}/sub-01_ses-1_FLAIR_label-lesion_mask",
    ]
    assert found.pop("sub-01/ses-2/anat/sub-01_ses-2_T1w") == (
        "derivatives/labels/final/sub-01/ses-2/anat/sub-01_ses-2_T1w_seg"
    )
    assert set(found.values()) == {None}


def test_a_bids_label_of_several_contrasts_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T2w")
    touch(tmp_path, "derivatives/x/sub-01/anat/sub-01_dseg")
    with pytest.raises(MedSSLError, match=r"the label sub-01_dseg.nii.gz has no image"):
        find_pairs(tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (  # TotalSegmentator
            ["s1/ct", "s1/segmentations/liver", "s1/segmentations/spleen", "s2/ct"],
            {
                "s1/ct": ["liver: s1/segmentations/liver", "spleen: s1/segmentations/spleen"],
                "s2/ct": None,
            },
        ),
        (
            ["images/c1", "images/c2", "labels/c1/liver", "labels/c2/liver"],
            {"images/c1": ["liver: labels/c1/liver"], "images/c2": ["liver: labels/c2/liver"]},
        ),
        (
            ["c1", "c1_liver_seg", "c1_left lung_seg", "c10", "c10_liver_mask"],
            {
                "c1": ["left lung: c1_left lung_seg", "liver: c1_liver_seg"],
                "c10": ["liver: c10_liver_mask"],
            },
        ),
        (
            ["images/a", "images/b", "labels/final/a", "labels/final/b"],
            {"images/a": "labels/final/a", "images/b": "labels/final/b"},
        ),
        (
            ["data/a_0000", "data/b_0000", "gt/final/a", "gt/final/b"],
            {"data/a_0000": "gt/final/a", "data/b_0000": "gt/final/b"},
        ),
        (
            ["scan_0000", "scan_0001", "scan_0000_seg"],
            {"scan_0000": "scan_0000_seg", "scan_0001": None},
        ),
    ],
)
def test_layouts(tmp_path: Path, names: list[str], expected: dict) -> None:
    touch(tmp_path, *names)
    assert layout(tmp_path) == expected


def test_two_versions_of_a_label_are_refused_by_their_folders(tmp_path: Path) -> None:
    touch(tmp_path, "images/a", "labels/final/a", "labels/draft/a")
    with pytest.raises(
        MedSSLError, match=r"labels/draft/a.nii.gz and labels/final/a.nii.gz are both"
    ):
        find_pairs(tmp_path)


def test_a_whole_label_beside_single_structures_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "s1/ct", "s1/segmentations/liver", "s1/ct_seg")
    with pytest.raises(MedSSLError, match="are both labels of ct"):
        find_pairs(tmp_path, structures=True)


def test_formats_of_their_own_refuse_single_structures(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in/s1/ct.nii.gz", image_array())
    write_nifti(tmp_path / "in/s1/segmentations/liver.nii.gz", label_array(1))
    with pytest.raises(MedSSLError, match=r"label of one structure \('liver'\).*") as caught:
        import_dataset("images", tmp_path / "in", tmp_path / "out", options=["labels=1:x"])
    assert "--format sitk" in str(caught.value.fix)


def masks() -> dict[str, np.ndarray]:
    liver, spleen = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    liver[1:3, 2:5, 3], spleen[5, 0, 1] = 1, 255
    return {"liver": liver, "spleen": spleen, "empty": np.zeros(SHAPE, np.uint8)}


def write_structures(root: Path) -> None:
    for n in (1, 2):
        write_nifti(root / f"s{n}/ct.nii.gz", image_array(n))
        for name, mask in masks().items():
            write_nifti(root / f"s{n}/segmentations/{name}.nii.gz", mask)


def test_structures_become_one_label(tmp_path: Path) -> None:
    write_structures(tmp_path / "in")
    result = import_dataset("sitk", tmp_path / "in", tmp_path / "out")
    assert result.labeled == 2
    cases = cases_of(tmp_path / "out")
    assert set(cases) == {"s1_ct", "s2_ct"}
    label = np.asarray(nib.load(cases["s1_ct"].label).dataobj)
    expected = 2 * masks()["liver"] + 3 * (masks()["spleen"] > 0)  # empty, liver, spleen
    np.testing.assert_array_equal(label, expected)
    import_dataset("sitk", tmp_path / "in", tmp_path / "one", options=["labels=7:spleen"])
    label = np.asarray(nib.load(cases_of(tmp_path / "one")["s1_ct"].label).dataobj)
    np.testing.assert_array_equal(label, 7 * (masks()["spleen"] > 0))
    with pytest.raises(MedSSLError, match="no file shows a structure named 'kidney'"):
        import_dataset("sitk", tmp_path / "in", tmp_path / "no", options=["labels=1:kidney"])


def test_overlapping_structures_are_refused_or_ordered(tmp_path: Path) -> None:
    write_structures(tmp_path / "in")
    both = masks()["spleen"] + masks()["liver"] * 255
    write_nifti(tmp_path / "in/s2/segmentations/spleen.nii.gz", both)
    with pytest.raises(MedSSLError, match="case 's2_ct': 'liver' and 'spleen' overlap in 6 voxels"):
        import_dataset("sitk", tmp_path / "in", tmp_path / "no")
    options = ["labels=2:spleen,1:liver"]
    import_dataset("sitk", tmp_path / "in", tmp_path / "out", options=options)
    label = np.asarray(nib.load(cases_of(tmp_path / "out")["s2_ct"].label).dataobj)
    np.testing.assert_array_equal(label == 1, masks()["liver"] > 0)


def test_a_structure_of_several_values_is_refused(tmp_path: Path) -> None:
    write_structures(tmp_path / "in")
    mixed = masks()["spleen"]
    mixed[0, 0, 0] = 3
    write_nifti(tmp_path / "in/s2/segmentations/spleen.nii.gz", mixed)
    with pytest.raises(MedSSLError, match=r"spleen.nii.gz holds 3 values, not one structure"):
        import_dataset("sitk", tmp_path / "in", tmp_path / "out")


def test_ids_of_any_script(tmp_path: Path) -> None:
    names = ["患者01", "患者02", "肝脏_甲", "肝脏_乙"]
    for n, name in enumerate(names):
        write_nifti(tmp_path / f"in/images/{name}.nii.gz", image_array(n))
        write_nifti(tmp_path / f"in/labels/{name}.nii.gz", label_array(1))
    import_dataset("sitk", tmp_path / "in", tmp_path / "out")
    assert set(cases_of(tmp_path / "out")) == set(names)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.where(label_array(1) > 0, np.nan, 0.0), "7 voxels are not whole numbers"),
        (np.stack([label_array(1)] * 2, -1), "overlapping layers or channels"),
        (label_array(1).astype(np.complex64), "colors or complex numbers"),
        (np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colors or complex numbers"),
    ],
)
def test_what_is_no_label_is_refused_by_name_or_skipped(
    tmp_path: Path, label: np.ndarray, message: str
) -> None:
    for n in (1, 2):
        write_nifti(tmp_path / f"in/images/c{n}.nii.gz", image_array(n))
        write_nifti(tmp_path / f"in/labels/c{n}.nii.gz", label_array(1))
    write_nifti(tmp_path / "in/labels/c1.nii.gz", label)
    with pytest.raises(MedSSLError, match=message) as caught:
        import_dataset("sitk", tmp_path / "in", tmp_path / "out")
    assert caught.value.where == str(tmp_path / "in/labels/c1.nii.gz")
    result = import_dataset("sitk", tmp_path / "in", tmp_path / "out", options=["skip_broken=true"])
    assert result.labeled == 1
    assert next(iter(result.skipped.values())).startswith("case 'c1'")


def test_values_whole_up_to_rounding_are_taken(tmp_path: Path) -> None:
    """Behind a factor they read 1.00000006; interpolation leaves 0.99995."""
    write_nifti(tmp_path / "in/images/a.nii.gz", image_array())
    write_nifti(tmp_path / "in/labels/a.nii.gz", (label_array(1) * 0.99995).astype(np.float32))
    import_dataset("sitk", tmp_path / "in", tmp_path / "out")
    label = nib.load(cases_of(tmp_path / "out")["a"].label)
    np.testing.assert_array_equal(np.asarray(label.dataobj), label_array(1))


def test_headers_that_contradict_themselves_are_told_once(tmp_path: Path) -> None:
    for n in (1, 2):
        path = write_nifti(tmp_path / f"in/c{n}.nii.gz", image_array(n))
        image = nib.load(path)
        data, header = np.asarray(image.dataobj), image.header.copy()
        header["qform_code"] = header["sform_code"] = 0
        nib.save(nib.Nifti1Image(data, None, header), path)
    result = import_dataset("sitk", tmp_path / "in", tmp_path / "out", options=["labels=1:x"])
    told = [line for line in result.warnings if "codes no orientation" in line]
    assert len(told) == 1
    assert told[0].startswith("c1: ")
    assert told[0].endswith("(2 such cases)")
