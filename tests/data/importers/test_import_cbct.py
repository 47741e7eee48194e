"""Dental CBCT: ToothFairy 1 to 3 and STS, with FDI numbers, sides and sparse annotation."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from import_sources import assert_written, cases_of, image_array, write_itk, write_nifti

from medssl.data.datasets.decathlon import read_dataset
from medssl.data.importers.dataset import import_dataset
from medssl.data.importers.fdi import TEETH, check_anatomy, mirrored, tooth_centers
from medssl.data.importers.toothfairy import VERSION_2, VERSION_3
from medssl.errors import MedSSLError

SHAPE = (12, 10, 8)
TURN = np.deg2rad(12.0)
# ITK's usual voxel order (first axis to the patient's left, second to the back), a bit turned.
AFFINE = np.array(
    [
        [-0.3 * np.cos(TURN), 0.3 * np.sin(TURN), 0, 7.0],
        [-0.3 * np.sin(TURN), -0.3 * np.cos(TURN), 0, -4.0],
        [0, 0, 0.4, 11.0],
        [0, 0, 0, 1],
    ]
)


def jaws(extra: dict[tuple[int, int, int], int] | None = None) -> np.ndarray:
    """Return a label with an incisor and a molar per quadrant where AFFINE's head has them."""
    label = np.zeros(SHAPE, np.uint8)
    label[3:9, 1:9, 0] = 1
    for quadrant, (left, up) in {1: (0, 1), 2: (1, 1), 3: (1, 0), 4: (0, 0)}.items():
        z = 6 if up else 2
        label[6 if left else 4, 2, z] = 10 * quadrant + 1  # incisor, in front (small y index)
        label[10 if left else 1, 7:9, z] = 10 * quadrant + 6  # molar, behind
    for place, value in (extra or {}).items():
        label[place] = value
    return label


def toothfairy(root: Path, ending: str, label: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    write = write_nifti if ending == ".nii.gz" else write_itk
    write(root / f"imagesTr/ToothFairy2F_001_0000{ending}", image_array(0, SHAPE), affine)
    write(root / f"labelsTr/ToothFairy2F_001{ending}", label, affine)
    write(root / f"imagesTs/ToothFairy2P_002_0000{ending}", image_array(1, SHAPE), affine)
    return root


@pytest.mark.parametrize(("ending", "extra"), [(".mha", 8), (".nii.gz", 138)])
def test_toothfairy_2_and_3_keep_fdi_codes(tmp_path, ending, extra):
    label = jaws({(5, 5, 5): extra})
    root = toothfairy(tmp_path / "tf", ending, label)
    import_dataset("toothfairy", root, tmp_path / "out")
    cases = cases_of(tmp_path / "out")
    case = cases["ToothFairy2F_001"]
    assert case.meta["group"] == "F"
    assert_written(case, image_array(0, SHAPE), label, AFFINE)
    assert_written(cases["ToothFairy2P_002"], image_array(1, SHAPE), None, AFFINE)
    labels = read_dataset(tmp_path / "out").labels
    assert labels.num_classes == (43 if extra == 8 else 78)
    # Contiguous classes for the network, and back to FDI codes for the reader.
    classes = labels.to_classes(label)
    assert set(np.unique(classes)) == {0, 1, 11, 16, 19, 24, 27, 32, 35, 40, labels_at(extra)}
    np.testing.assert_array_equal(labels.to_values(classes), label)


def labels_at(value: int) -> int:
    """Return the contiguous class of a stored value, by the rule 'sort the used codes'."""
    return sorted(VERSION_2 if value < 100 else VERSION_3).index(value)


def test_the_tables_hold_the_published_numbers():
    assert len(VERSION_2) == 43
    assert len(VERSION_3) == 78
    assert not {19, 20, 29, 30, 39, 40} & set(VERSION_3)
    places = {v: i for i, v in enumerate(sorted(VERSION_3))}
    assert [places[v] for v in (18, 21, 28, 31, 48, 103, 105, 111, 121, 148)] == [
        *(18, 19, 26, 27, 42, 43, 45, 46, 54, 77)
    ]
    assert len(set(VERSION_3.values())) == 78


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (49, r"case 'ToothFairy2F_001': label values that are not declared: 49 \(2 voxels\)"),
        (29, r"not declared: 29 \(2 voxels\)"),
        (60, r"not declared: 60 \(2 voxels\)"),
        (55, r"case 'ToothFairy2F_001': codes of deciduous teeth: 55 \(2 voxels\)"),
        (161, r"codes of deciduous teeth: 161 \(2 voxels\)"),
    ],
)
def test_stray_codes_stop_the_import(tmp_path, value, message):
    label = jaws({(5, 5, 5): value, (5, 5, 4): value})
    root = toothfairy(tmp_path / "tf", ".nii.gz", label)
    with pytest.raises(MedSSLError, match=message):
        import_dataset("toothfairy", root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("S", "upper teeth lie below"),
        ("R", "right teeth lie on the patient's left"),
        ("A", "incisors lie behind"),
    ],
)
def test_a_header_against_anatomy_blocks_unless_overridden(tmp_path, axis, message):
    wrong = mirrored(AFFINE, axis, SHAPE)
    root = toothfairy(tmp_path / "tf", ".nii.gz", jaws(), wrong)
    with pytest.raises(MedSSLError, match=message) as caught:
        import_dataset("toothfairy", root, tmp_path / "out")
    assert "ToothFairy2F_001" in str(caught.value)
    import_dataset("toothfairy", root, tmp_path / "a", options=["check_anatomy=false"])
    assert_written(cases_of(tmp_path / "a")["ToothFairy2F_001"], *scan(), wrong)
    import_dataset("toothfairy", root, tmp_path / "b", options=[f"mirror={axis}"])
    assert_written(cases_of(tmp_path / "b")["ToothFairy2F_001"], *scan(), AFFINE)


def scan() -> tuple[np.ndarray, np.ndarray]:
    return image_array(0, SHAPE), jaws()


def test_anatomy_is_judged_only_where_both_kinds_of_teeth_are():
    only_upper_right = np.where(np.isin(jaws(), (11, 16)), jaws(), 0)
    check_anatomy(only_upper_right, AFFINE, "x", Path("x"))
    check_anatomy(np.zeros(SHAPE, np.uint8), AFFINE, "x", Path("x"))
    centers = tooth_centers(jaws(), AFFINE)
    assert set(centers) <= set(TEETH)
    np.testing.assert_allclose(centers[16], (AFFINE @ [1, 7.5, 6, 1])[:3])


def test_mirroring_turns_about_the_center():
    flipped = mirrored(AFFINE, "RS", SHAPE)
    center = [*(np.array(SHAPE) - 1) / 2, 1]
    np.testing.assert_allclose(flipped @ center, AFFINE @ center)
    np.testing.assert_allclose(mirrored(flipped, "SR", SHAPE), AFFINE)


def write_npy(root: Path, patient: str, **arrays: np.ndarray) -> None:
    (root / patient).mkdir(parents=True)
    for name, array in arrays.items():
        np.save(root / patient / f"{name}.npy", array.transpose(2, 1, 0))  # axial slices first


def test_toothfairy_1_dense_sparse_and_unlabeled(tmp_path):
    canal = np.zeros(SHAPE, np.uint8)
    canal[3:5, 4:9, 2] = 1
    canal[2, 3, 5] = 1
    image = [image_array(n, SHAPE) for n in range(3)]
    root = tmp_path / "tf"
    write_npy(root / "Dataset", "P1", data=image[0], gt_alpha=canal, gt_sparse=canal)
    write_npy(root / "Dataset", "P2", data=image[1], gt_sparse=canal)
    write_npy(root / "Dataset", "P3", data=image[2])
    (root / "splits.json").write_text(json.dumps({"train": ["P1", "P2"], "val": ["P3"]}))
    for options, word in (([], "spacing"), (["spacing=0.3"], "axes")):
        with pytest.raises(MedSSLError, match=word):
            import_dataset("toothfairy", root, tmp_path / "out", options=options)
    options = ["spacing=0.3,0.3,0.4", "axes=zyx"]
    result = import_dataset("toothfairy", root, tmp_path / "out", options=options)
    assert (result.labeled, result.unlabeled) == (2, 1)
    assert any("1 of 3 scans are annotated sparsely" in n for n in result.notes)
    affine = np.diag([0.3, 0.3, 0.4, 1])
    cases = cases_of(tmp_path / "out")
    assert_written(cases["P1"], image[0], canal, affine)
    sparse = canal.copy()
    sparse[:, :, [0, 1, 3, 4, 6, 7]] = 255
    assert_written(cases["P2"], image[1], sparse, affine)
    assert_written(cases["P3"], image[2], None, affine)
    assert cases["P2"].meta["annotation"] == "sparse"
    assert read_dataset(tmp_path / "out").labels.ignore_value == 255
    assert json.loads((tmp_path / "out/splits.json").read_text())["val"] == ["P3"]
    options += ["sparse=unlabeled"]
    result = import_dataset("toothfairy", root, tmp_path / "b", options=options)
    assert (result.labeled, result.unlabeled) == (1, 2)


def sts_24(root: Path, label: np.ndarray) -> Path:
    name = "STS24_Train_Labeled_0001"
    write_nifti(root / f"Labeled/Images/{name}.nii.gz", image_array(0, SHAPE), AFFINE)
    write_nifti(root / f"Labeled/Masks/{name}_Mask.nii.gz", label, AFFINE)
    for n in (0, 1):
        path = root / f"Unlabeled/STS24_Train_Unlabeled_{n:04d}.nii.gz"
        write_nifti(path, image_array(n, SHAPE), AFFINE)
    return root


def without_jaw(extra: dict[tuple[int, int, int], int] | None = None) -> np.ndarray:
    label = jaws()
    label[label == 1] = 0
    for place, value in (extra or {}).items():
        label[place] = value
    return label


def test_sts_2024_pairs_masks_and_reports_duplicates(tmp_path):
    root = sts_24(tmp_path / "sts", without_jaw())
    result = import_dataset("sts", root, tmp_path / "out")
    assert (result.labeled, result.unlabeled) == (1, 2)
    assert result.notes == ("read as task 'fdi' by the files' names",)
    duplicate = (
        "STS24_Train_Unlabeled_0000: its image is an exact duplicate of STS24_Train_Labeled_0001"
    )
    assert duplicate in result.warnings
    case = cases_of(tmp_path / "out")["STS24_Train_Labeled_0001"]
    assert_written(case, image_array(0, SHAPE), without_jaw(), AFFINE)


def test_sts_2024_stray_value_1(tmp_path):
    root = sts_24(tmp_path / "sts", without_jaw({(5, 5, 5): 1}))
    with pytest.raises(MedSSLError, match=r"Labeled_0001': .*not declared: 1 \(1 voxels\)"):
        import_dataset("sts", root, tmp_path / "out")
    import_dataset("sts", root, tmp_path / "a", options=["value_1=background"])
    case = cases_of(tmp_path / "a")["STS24_Train_Labeled_0001"]
    assert_written(case, image_array(0, SHAPE), without_jaw(), AFFINE)
    import_dataset("sts", root, tmp_path / "b", options=["value_1=ignore"])
    case = cases_of(tmp_path / "b")["STS24_Train_Labeled_0001"]
    assert_written(case, image_array(0, SHAPE), without_jaw({(5, 5, 5): 255}), AFFINE)
    assert read_dataset(tmp_path / "b").labels.ignore_value == 255


def test_sts_2023_is_binary_and_sts_2024_is_checked_by_anatomy(tmp_path):
    label = (jaws() > 10).astype(np.uint8)
    write_nifti(tmp_path / "sts/labeled/image/1.nii.gz", image_array(0, SHAPE), AFFINE)
    write_nifti(tmp_path / "sts/labeled/label/1.nii.gz", label, AFFINE)
    write_nifti(tmp_path / "sts/unlabeled/image/1.nii.gz", image_array(1, SHAPE), AFFINE)
    result = import_dataset("sts", tmp_path / "sts", tmp_path / "out")
    assert (result.labeled, result.unlabeled) == (1, 1)
    assert_written(
        cases_of(tmp_path / "out")["labeled_image_1"], image_array(0, SHAPE), label, AFFINE
    )
    root = sts_24(tmp_path / "sts24", without_jaw())
    mask = next((root / "Labeled/Masks").iterdir())
    image = next((root / "Labeled/Images").iterdir())
    for path in (mask, image):
        data = np.asarray(nib.load(path).dataobj)
        write_nifti(path, data, mirrored(AFFINE, "S", SHAPE))
    with pytest.raises(MedSSLError, match="upper teeth lie below"):
        import_dataset("sts", root, tmp_path / "b")
