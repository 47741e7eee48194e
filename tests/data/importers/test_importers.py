"""Round trips of the importers on files written here in each format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from import_sources import (
    AFFINE,
    SHAPE,
    assert_written,
    cases_of,
    image_array,
    label_array,
    world_of,
    write_itk,
    write_nifti,
)

from medssl.cli import run
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.importers.dataset import import_dataset
from medssl.errors import MedSSLError

LABELS_V1 = {"0": "background", "3": "lesion"}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


class TestNNUNet:
    def test_version_1_with_listed_cases_and_two_channels(self, tmp_path):
        root = tmp_path / "Task007_Test"
        images = [np.stack([image_array(n), image_array(n + 5)], -1) for n in (0, 1)]
        for n, case in enumerate(("a_01", "b_02")):
            folder = "imagesTr" if n == 0 else "imagesTs"
            for channel in (0, 1):
                name = f"{case}_{channel:04d}.nii.gz"
                write_nifti(root / folder / name, images[n][..., channel])
        write_nifti(root / "labelsTr/a_01.nii.gz", label_array())
        write_nifti(root / "labelsTs/b_02.nii.gz", label_array()[::-1].copy())
        content = {
            "name": "Test",
            "licence": "CC-BY-SA 4.0",
            "modality": {"0": "FLAIR", "1": "T1w"},
            "labels": LABELS_V1,
            "numTraining": 1,
            "training": [{"image": "./imagesTr/a_01.nii.gz", "label": "./labelsTr/a_01.nii.gz"}],
            "test": ["./imagesTs/b_02.nii.gz"],
        }
        write_json(root / "dataset.json", content)
        result = import_dataset("nnunet", root, tmp_path / "out")
        assert (result.labeled, result.unlabeled, result.test) == (1, 0, 1)
        cases = cases_of(tmp_path / "out")
        assert_written(cases["a_01"], images[0], label_array())
        assert_written(cases["b_02"], images[1], label_array()[::-1])
        dataset = read_dataset(tmp_path / "out")
        assert dataset.modality == ("FLAIR", "T1w")
        assert json.loads((tmp_path / "out/dataset.json").read_text())["license"] == "CC-BY-SA 4.0"

    @pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii.gz"])
    def test_version_2_with_ignore_label_and_other_files(self, tmp_path, ending):
        root = tmp_path / "Dataset012_Test"
        label = label_array()
        label[0, 0] = 7
        write = write_nifti if ending == ".nii.gz" else write_itk
        source = write(root / f"imagesTr/c1_0000{ending}", image_array(2))
        write(root / f"labelsTr/c1{ending}", label)
        write(root / f"imagesTs/c2_0000{ending}", image_array(3))
        content = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "lesion": 3, "ignore": 7},
            "numTraining": 1,
            "file_ending": ending,
        }
        write_json(root / "dataset.json", content)
        write_json(root / "splits_final.json", [{"train": ["c1"], "val": []}])
        import_dataset("nnunet", root, tmp_path / "out")
        cases = cases_of(tmp_path / "out")
        assert_written(cases["c1"], image_array(2), label)
        assert_written(cases["c2"], image_array(3), None)
        voxel = (1, 4, 3)
        np.testing.assert_allclose(
            world_of(cases["c1"].images[0], voxel), world_of(source, voxel), atol=1e-3
        )
        dataset = read_dataset(tmp_path / "out")
        assert (dataset.labels.values, dataset.labels.ignore_value) == ((0, 3), 7)
        splits = json.loads((tmp_path / "out/splits.json").read_text())
        assert splits == {"fold_0_train": ["c1"], "fold_0_val": []}

    def test_regions_stay_regions(self, tmp_path):
        write_nifti(tmp_path / "d/imagesTr/a_0000.nii.gz", image_array())
        write_nifti(tmp_path / "d/labelsTr/a.nii.gz", label_array())
        labels = {"background": 0, "whole tumor": [1, 3], "core": [3], "ignore": 4}
        content = {"channel_names": {"0": "MR"}, "labels": labels, "regions_class_order": [1, 3]}
        write_json(tmp_path / "d/dataset.json", content)
        import_dataset("nnunet", tmp_path / "d", tmp_path / "out")
        before, after = (read_dataset(tmp_path / name).labels for name in ("d", "out"))
        assert before == after
        assert [(r.name, r.values, r.writes) for r in after.regions] == [
            ("whole tumor", (1, 3), 1),
            ("core", (3,), 3),
        ]
        assert (after.names, after.ignore_value) == (("background", "label_1", "core"), 4)

    def test_channels_off_one_grid_name_the_case(self, tmp_path):
        root = tmp_path / "d"
        moved = AFFINE.copy()
        moved[:3, 3] += 5
        write_nifti(root / "imagesTr/a_0000.nii.gz", image_array())
        write_nifti(root / "imagesTr/a_0001.nii.gz", image_array(1), moved)
        write_nifti(root / "labelsTr/a.nii.gz", label_array())
        names = {"0": "T1", "1": "T2"}
        write_json(root / "dataset.json", {"channel_names": names, "labels": {"lesion": 3}})
        with pytest.raises(MedSSLError, match="case 'a': its channels are not on one grid"):
            import_dataset("nnunet", root, tmp_path / "out")


def write_acdc(root: Path, patient: str, *, group: str = "DCM", labels: bool = True) -> np.ndarray:
    """Write a patient as the official download has it; return the 4D image."""
    folder = root / patient
    frames = np.stack([image_array(n) for n in range(4)], axis=-1)
    write_nifti(folder / f"{patient}_4d.nii.gz", frames)
    for frame, value in ((1, 1), (3, 2)):
        write_nifti(folder / f"{patient}_frame{frame:02d}.nii.gz", frames[..., frame - 1])
        if labels:
            write_nifti(folder / f"{patient}_frame{frame:02d}_gt.nii.gz", label_array(value))
    (folder / "Info.cfg").write_text(
        f"ED: 1\nES: 3\nGroup: {group}\nHeight: 184.0\nNbFrame: 4\nWeight: 95.0\n"
    )
    return frames


class TestACDC:
    def test_ed_es_patients_and_spacing(self, tmp_path):
        frames = write_acdc(tmp_path / "acdc/training", "patient001")
        write_acdc(tmp_path / "acdc/testing", "patient101", group="NOR")
        result = import_dataset("acdc", tmp_path / "acdc", tmp_path / "out")
        assert (result.labeled, result.unlabeled, result.test) == (2, 0, 2)
        cases = cases_of(tmp_path / "out")
        assert_written(cases["patient001_frame01"], frames[..., 0], label_array(1))
        assert_written(cases["patient001_frame03"], frames[..., 2], label_array(2))
        systole = cases["patient001_frame03"]
        assert (systole.patient, systole.meta["phase"], systole.meta["group"]) == (
            "patient001",
            "ES",
            "DCM",
        )
        assert_written(cases["patient101_frame01"], frames[..., 0], label_array(1))
        sources = json.loads((tmp_path / "out/provenance.json").read_text())["cases"]
        names = [s["name"] for s in sources["patient001_frame01"]["sources"]]
        assert names[0] == "training/patient001/patient001_frame01.nii.gz"

    def test_other_frames_are_unlabeled(self, tmp_path):
        frames = write_acdc(tmp_path / "acdc", "patient001")
        out = tmp_path / "out"
        result = import_dataset("acdc", tmp_path / "acdc", out, options=["other_frames=true"])
        assert (result.labeled, result.unlabeled) == (2, 2)
        assert_written(cases_of(out)["patient001_frame04"], frames[..., 3], None)
        assert cases_of(out)["patient001_frame04"].patient == "patient001"

    def test_what_is_wrong_with_a_source_is_said(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(MedSSLError, match="no ACDC source"):
            import_dataset("acdc", tmp_path / "empty", tmp_path / "out")
        write_acdc(tmp_path / "acdc", "patient001")
        info = tmp_path / "acdc/patient001/Info.cfg"
        info.write_text("ED: 1\n")
        with pytest.raises(MedSSLError, match="no frame number of ES"):
            import_dataset("acdc", tmp_path / "acdc", tmp_path / "out")
        (tmp_path / "acdc/patient002").mkdir()
        with pytest.raises(MedSSLError, match=r"'patient002' has no Info\.cfg"):
            import_dataset("acdc", tmp_path / "acdc", tmp_path / "out")
        (tmp_path / "acdc/patient002").rmdir()
        info.write_text("ED: 1\nES: 9\n")
        with pytest.raises(MedSSLError, match=r"case 'patient001_frame09'.*does not exist"):
            import_dataset("acdc", tmp_path / "acdc", tmp_path / "out")


def write_h5(path: Path, image: np.ndarray, label: np.ndarray | None = None) -> Path:
    h5py = pytest.importorskip("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"] = image
        if label is not None:
            file["label"] = label
    return path


class TestSSL4MIS:
    def test_left_atrium_keeps_axes_and_lists(self, tmp_path):
        root = tmp_path / "2018LA_Seg_Training Set"
        image = image_array().astype(np.float32) / 7
        write_h5(root / "AAA/mri_norm2.h5", image, label_array(1))
        write_h5(root / "BBB/mri_norm2.h5", image + 1, label_array(1))
        (root / "train.list").write_text("AAA\nBBB\n")
        (root / "test.list").write_text("BBB\r\n\r\n")
        options = ["spacing=0.625,0.625,1.25"]
        import_dataset("ssl4mis", root, tmp_path / "out", options=options)
        affine = np.diag([0.625, 0.625, 1.25, 1])
        assert_written(cases_of(tmp_path / "out")["AAA"], image, label_array(1), affine)
        assert read_dataset(tmp_path / "out").labels.names == ("background", "left atrium")
        splits = json.loads((tmp_path / "out/splits.json").read_text())
        assert splits == {"test": ["BBB"], "train": ["AAA", "BBB"]}

    def test_a_missing_spacing_is_asked_for_with_the_reason(self, tmp_path):
        write_h5(tmp_path / "la/AAA/mri_norm2.h5", image_array(), label_array(1))
        with pytest.raises(MedSSLError, match="spacing is not in the files") as caught:
            import_dataset("ssl4mis", tmp_path / "la", tmp_path / "out")
        assert "--option spacing=0.625,0.625,0.625" in str(caught.value)
        assert not (tmp_path / "out").exists()

    def test_acdc_slices_first_and_lists_of_slices(self, tmp_path):
        root = tmp_path / "ACDC"
        ids = ("patient001_frame01", "patient001_frame02", "patient002_frame01")
        for n, name in enumerate(ids):
            image, label = image_array(n), label_array(2)
            if n < 2:  # as (slices, height, width)
                write_h5(root / f"data/{name}.h5", image.transpose(2, 1, 0), label.transpose())
            for z in range(SHAPE[2]):
                path = root / f"data/slices/{name}_slice_{z + 1}.h5"
                write_h5(path, image[:, :, z].T, label[:, :, z].T)
        lines = [f"patient001_frame01_slice_{z}" for z in (2, 1)] + ["patient001_frame02_slice_1"]
        (root / "train_slices.list").write_text("\n".join(lines))
        (root / "val.list").write_text("data/patient002_frame01.h5\nnobody\n")
        result = import_dataset("ssl4mis", root, tmp_path / "out", options=["spacing=1.5,1.25,10"])
        affine = np.diag([1.5, 1.25, 10, 1])
        cases = cases_of(tmp_path / "out")
        for n, name in enumerate(ids):  # the last one exists in slices only
            assert_written(cases[name], image_array(n), label_array(2), affine)
        assert cases[ids[0]].patient == cases[ids[1]].patient == "patient001"
        splits = json.loads((tmp_path / "out/splits.json").read_text())
        assert splits == {"train_slices": list(ids[:2]), "val": [ids[2]]}
        assert any("'val' names 1 cases" in w for w in result.warnings)

    def test_a_missing_slice_is_named(self, tmp_path):
        for z in (1, 2, 4):
            path = tmp_path / f"d/patient001_frame01_slice_{z}.h5"
            write_h5(path, image_array()[:, :, z], label_array(1)[:, :, z])
        with pytest.raises(MedSSLError, match="slice 3 of volume 'patient001_frame01' is missing"):
            import_dataset("ssl4mis", tmp_path / "d", tmp_path / "out", options=["spacing=1"])

    def test_pancreas_and_unlabeled(self, tmp_path):
        root = tmp_path / "Pancreas"
        write_h5(root / "Pancreas_h5/image0001_norm.h5", image_array(), label_array(1))
        write_h5(root / "Pancreas_h5/image0002_norm.h5", image_array(1))
        (root / "train.list").write_text("image0001\n")
        result = import_dataset("ssl4mis", root, tmp_path / "out", options={"spacing": 1})
        assert (result.labeled, result.unlabeled) == (1, 1)
        assert_written(cases_of(tmp_path / "out")["image0001"], *two(), np.eye(4))
        assert read_dataset(tmp_path / "out").modality == ("CT",)
        splits = json.loads((tmp_path / "out/splits.json").read_text())
        assert splits == {"train": ["image0001"]}

    def test_unknown_layouts_ask_for_the_axes(self, tmp_path):
        write_h5(tmp_path / "d/x.h5", image_array().transpose(), label_array().transpose())
        with pytest.raises(MedSSLError, match="order of the axes"):
            import_dataset("ssl4mis", tmp_path / "d", tmp_path / "out", options=["spacing=1"])
        options = ["spacing=1", "axes=zyx", "labels=3:lesion", "modality=MRI"]
        import_dataset("ssl4mis", tmp_path / "d", tmp_path / "out", options=options)
        assert_written(cases_of(tmp_path / "out")["x"], image_array(), label_array(), np.eye(4))

    def test_a_file_of_another_layout_is_named(self, tmp_path):
        write_h5(tmp_path / "d/AAA/mri_norm2.h5", image_array(), label_array(1))
        write_h5(tmp_path / "d/notes.h5", image_array(), label_array(1))
        with pytest.raises(MedSSLError, match=r"left atrium 2018, but 1 do not.*notes\.h5"):
            import_dataset("ssl4mis", tmp_path / "d", tmp_path / "out", options=["spacing=1"])

    def test_damaged_files_name_the_case(self, tmp_path):
        write_h5(tmp_path / "d/AAA/mri_norm2.h5", image_array(), label_array(1))
        (tmp_path / "d/BBB").mkdir()
        (tmp_path / "d/BBB/mri_norm2.h5").write_bytes(b"no h5")
        with pytest.raises(MedSSLError, match="case 'BBB': the file cannot be read"):
            import_dataset("ssl4mis", tmp_path / "d", tmp_path / "out", options=["spacing=1"])


def two() -> tuple[np.ndarray, np.ndarray]:
    return image_array(), label_array(1)


class TestSITK:
    @pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nii.gz"])
    @pytest.mark.parametrize(
        ("image", "label"),
        [
            ("p1", "p1_seg"),
            ("p1", "p1-label"),
            ("p1", "p1.seg"),
            ("p1_image", "p1_mask"),
            ("images/p1", "labels/p1"),
            ("imagesTr/p1_0000", "labelsTr/p1"),
            ("Images/p1", "Masks/p1_Mask"),
            ("p1/image", "p1/label"),
        ],
    )
    def test_pairs_by_name_and_folder(self, tmp_path, ending, image, label):
        root = tmp_path / "d"
        write = write_nifti if ending == ".nii.gz" else write_itk
        write(root / f"{image}{ending}", image_array())
        write(root / f"{label}{ending}", label_array())
        lone = "p2/image" if image == "p1/image" else image.replace("p1", "p2")
        write(root / f"{lone}{ending}", image_array(1))
        options = ["labels=3:lesion", "modality=CT"]
        result = import_dataset("sitk", root, tmp_path / "out", options=options)
        assert (result.labeled, result.unlabeled) == (1, 1)
        cases = cases_of(tmp_path / "out")
        assert_written(cases["p1"], image_array(), label_array())
        assert_written(cases["p2"], image_array(1), None)

    def test_list_vector_images_and_patients(self, tmp_path):
        vector = np.stack([image_array(), image_array(1)], -1)
        write_itk(tmp_path / "d/x/one.nrrd", vector)
        write_itk(tmp_path / "d/y/two.mha", label_array())
        (tmp_path / "d/cases.csv").write_text("image,label,patient\nx/one.nrrd,y/two.mha,P7\n")
        import_dataset(
            "sitk", tmp_path / "d/cases.csv", tmp_path / "out", options=["modality=T1,T2"]
        )
        case = cases_of(tmp_path / "out")["one"]
        assert case.patient == "P7"
        assert_written(case, vector, label_array())
        assert read_dataset(tmp_path / "out").labels.names == ("background", "label 3")
        (tmp_path / "d/cases.csv").write_text("x/one.nrrd\nx/two.nrrd\n")
        with pytest.raises(MedSSLError, match=r"two\.nrrd, which is no image") as caught:
            import_dataset("sitk", tmp_path / "d/cases.csv", tmp_path / "out2")
        assert "cases.csv:2" in str(caught.value)

    def test_a_cropped_slicer_segmentation_is_placed_and_named(self, tmp_path):
        write_itk(tmp_path / "d/p1.nrrd", image_array())
        crop = label_array()[1:6, 0:5, 1:5]
        affine = AFFINE.copy()
        affine[:3, 3] = (AFFINE @ [1, 0, 1, 1])[:3]
        path = write_itk(tmp_path / "d/p1.seg.nrrd", crop, affine)
        image = sitk.ReadImage(str(path))
        image.SetMetaData("Segment0_LabelValue", "3")
        image.SetMetaData("Segment0_Name", "left atrium")
        sitk.WriteImage(image, str(path))
        import_dataset("sitk", tmp_path / "d", tmp_path / "out")
        assert_written(cases_of(tmp_path / "out")["p1"], image_array(), label_array())
        assert read_dataset(tmp_path / "out").labels.names == ("background", "left atrium")
        write_itk(tmp_path / "d/p2.nrrd", image_array(1))
        image.SetMetaData("Segment0_Name", "aorta")
        sitk.WriteImage(image, str(tmp_path / "d/p2.seg.nrrd"))
        with pytest.raises(MedSSLError, match="value 3 is 'aorta' but in p1"):
            import_dataset("sitk", tmp_path / "d", tmp_path / "out2")

    def test_labels_off_the_grid_or_without_image_are_refused(self, tmp_path):
        moved = AFFINE.copy()
        moved[:3, 3] += 4
        write_itk(tmp_path / "d/p1.mha", image_array())
        label = write_itk(tmp_path / "d/p1_seg.mha", label_array(), moved)
        with pytest.raises(MedSSLError, match=r"case 'p1': the label lies .* voxels off"):
            import_dataset("sitk", tmp_path / "d", tmp_path / "out")
        moved[:3, 3] = AFFINE[:3, 3] + 0.1
        write_itk(label, label_array(), moved)
        result = import_dataset("sitk", tmp_path / "d", tmp_path / "near")
        assert any("p1: the label's header lies" in w for w in result.warnings)
        assert_written(cases_of(tmp_path / "near")["p1"], image_array(), label_array())
        label.rename(tmp_path / "d/p9_seg.mha")
        with pytest.raises(MedSSLError, match=r"p9_seg\.mha has no image"):
            import_dataset("sitk", tmp_path / "d", tmp_path / "out")
        write_itk(tmp_path / "d/p9.mha", image_array())
        write_itk(tmp_path / "d/p9_mask.mha", label_array())
        with pytest.raises(MedSSLError, match="both labels of p9"):
            import_dataset("sitk", tmp_path / "d", tmp_path / "out")

    def test_sparse_annotation_becomes_the_ignore_label(self, tmp_path):
        write_itk(tmp_path / "d/p1.mha", image_array())
        write_itk(tmp_path / "d/p1_seg.mha", label_array())
        options = ["labels=3:lesion", "sparse_axis=z"]
        import_dataset("sitk", tmp_path / "d", tmp_path / "out", options=options)
        truth = label_array()
        truth[:, :, [0, 2, 4]] = 255  # planes 1 and 3 carry labels
        assert_written(cases_of(tmp_path / "out")["p1"], image_array(), truth)
        assert read_dataset(tmp_path / "out").labels.ignore_value == 255

    def test_micrometers_in_a_nifti_header_become_mm(self, tmp_path):
        scaled = np.diag([1000.0, 1000.0, 1000.0, 1]) @ AFFINE
        write_nifti(tmp_path / "d/a.nii.gz", image_array(), scaled, unit="micron")
        import_dataset("sitk", tmp_path / "d", tmp_path / "out", options=["labels=1:x"])
        found = nib.load(cases_of(tmp_path / "out")["a"].images[0])
        np.testing.assert_allclose(found.affine, AFFINE, rtol=1e-5)


class TestImages:
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Path:
        write_itk(tmp_path / "d/p1.mha", image_array())
        write_itk(tmp_path / "d/p1_seg.mha", label_array())
        options = ["labels=3:lesion", "modality=CT"]
        import_dataset("sitk", tmp_path / "d", tmp_path / "out", options=options)
        return tmp_path / "out"

    def test_images_join_a_dataset(self, tmp_path, dataset):
        for n, ending in enumerate((".nrrd", ".mha")):
            write_itk(tmp_path / f"new/more {n}{ending}", image_array(n + 1))
        result = import_dataset("images", tmp_path / "new", dataset)
        assert result.unlabeled == 2
        write_nifti(tmp_path / "newer/again.nii.gz", image_array(9))
        import_dataset("images", tmp_path / "newer", dataset)
        cases = cases_of(dataset)
        assert sorted(cases) == ["again", "more_0", "more_1", "p1"]
        assert_written(cases["more_1"], image_array(2), None)
        assert_written(cases["again"], image_array(9), None)
        assert_written(cases["p1"], image_array(), label_array())
        joined = json.loads((dataset / "provenance.json").read_text())["joined"]
        assert [list(j["cases"]) for j in joined] == [["more_0", "more_1"], ["again"]]

    @pytest.mark.parametrize(
        ("name", "array", "message"),
        [
            ("P1", image_array(5), "already has a case 'P1'"),
            ("p7", image_array(), "'p7' is an exact duplicate of the dataset's case 'p1'"),
            ("p7", np.full(SHAPE, 3, np.int16), "case 'p7': the image is constant"),
            ("p7", np.stack([image_array()] * 2, -1), "2 channels instead of 1"),
        ],
    )
    def test_nothing_changes_when_one_image_is_refused(
        self, tmp_path, dataset, name, array, message
    ):
        before = {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()}
        write_itk(tmp_path / "new/a.nrrd", image_array(8))
        write_itk(tmp_path / f"new/{name}.nrrd", array)
        with pytest.raises(MedSSLError, match=message):
            import_dataset("images", tmp_path / "new", dataset)
        assert {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()} == before
        assert sorted(p.name for p in dataset.iterdir() if p.is_dir()) == ["imagesTr", "labelsTr"]

    def test_a_dataset_in_micrometers_gets_micrometers(self, tmp_path, dataset):
        millimeters = np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE
        info = json.loads((dataset / "dataset.json").read_text())
        write_json(dataset / "dataset.json", {**info, "spatialUnit": "um"})
        write_itk(tmp_path / "new/a.nrrd", image_array(8), millimeters)
        write_nifti(tmp_path / "new/b.nii.gz", image_array(9), AFFINE, unit="micron")
        write_nifti(tmp_path / "new/c.nii.gz", image_array(10), millimeters)
        import_dataset("images", tmp_path / "new", dataset)
        for name in "abc":
            found = nib.load(cases_of(dataset)[name].images[0])
            assert found.header.get_xyzt_units()[0] == "micron"
            np.testing.assert_allclose(found.affine, AFFINE, rtol=1e-4, atol=1e-4)

    def test_a_new_dataset_needs_labels_declared(self, tmp_path):
        write_itk(tmp_path / "new/a.nrrd", image_array(8))
        with pytest.raises(MedSSLError, match="cannot train") as caught:
            import_dataset("images", tmp_path / "new", tmp_path / "fresh")
        assert "labels=1:liver" in str(caught.value)
        options = ["labels=1:liver"]
        result = import_dataset("images", tmp_path / "new", tmp_path / "fresh", options=options)
        assert any("cannot train" in n for n in result.notes)
        assert_written(cases_of(tmp_path / "fresh")["a"], image_array(8), None)

    def test_labels_in_the_folder_are_noticed(self, tmp_path, dataset):
        shutil.copytree(tmp_path / "d", tmp_path / "new")
        with pytest.raises(MedSSLError, match=r"p1_seg\.mha looks like a label"):
            import_dataset("images", tmp_path / "new", dataset)


def test_the_command(tmp_path, capfd):
    write_itk(tmp_path / "d/p1.mha", image_array())
    write_itk(tmp_path / "d/p1_seg.mha", label_array())
    command = ["import", "sitk", str(tmp_path / "d"), str(tmp_path / "out")]
    assert run([*command, "-O", "labls=3:x"]) == 2
    assert "did you mean 'labels'" in capfd.readouterr().err
    assert run([*command, "-O", "labels=4:x"]) == 2
    assert "case 'p1': label values that are not declared: 3 (" in capfd.readouterr().err
    assert run([*command, "--option", "labels=3:lesion"]) == 0
    assert "1 labeled, 0 unlabeled, 0 test" in capfd.readouterr().out
    assert run(["import", "nope", str(tmp_path), str(tmp_path / "o")]) == 2
    message = capfd.readouterr().err
    assert all(f"\n    {name}" in message for name in ("acdc", "images", "nnunet", "sitk"))
    assert run(["import", "--list"]) == 0
    assert "other_frames" in capfd.readouterr().out
