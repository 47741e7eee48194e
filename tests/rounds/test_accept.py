"""Labels that come back: what is taken, what is refused, and that nothing is half done."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from helpers import AFFINE, blob_case, write_dataset
from round_folders import draft_of, give_back, make_round

import medssl
from medssl import cli
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.origins import LabelOrigin, chosen_patients, origin_of
from medssl.data.images.labels import read_label
from medssl.errors import MedSSLError
from medssl.files import locked


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two labeled cases, three unlabeled ones: 2, 3, 4."""
    monkeypatch.setenv("MEDSSL_CACHE", str(tmp_path / "cache"))
    return write_dataset(tmp_path / "data", cases=2, unlabeled=3)


@pytest.fixture
def round1(tmp_path: Path, data: Path) -> Path:
    """A round over the three unlabeled cases, as it was given out."""
    make_round(tmp_path / "round1", data, (2, 3, 4))
    return tmp_path / "round1"


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(round1: Path, data: Path, message: str, **options: bool) -> MedSSLError:
    """Check that a round is refused in these words, and that the dataset is as it was."""
    before = bytes_of(data)
    with pytest.raises(MedSSLError, match=message) as caught:
        medssl.accept(round1, data, **options)
    assert bytes_of(data) == before
    return caught.value


def test_edited_labels_join_the_dataset_and_a_second_call_changes_nothing(
    round1: Path, data: Path
) -> None:
    for number in (2, 3, 4):
        give_back(round1, number)
    found = medssl.accept(round1, data)
    assert found.accepted == ("case_02", "case_03", "case_04")
    dataset = read_dataset(data)
    assert [c.id for c in dataset.training] == [f"case_{i:02d}" for i in range(5)]
    assert (dataset.unlabeled, dataset.deviations) == ((), ())
    for case in dataset.training:
        assert np.array_equal(read_label(case.label)[0], blob_case(int(case.id[-2:]))[1])
    assert chosen_patients(dataset.training) == {"case_02", "case_03", "case_04"}
    assert origin_of(dataset.training[0]) is None
    origin = origin_of(dataset.training[2])
    round_id = json.loads((round1 / "round.json").read_text())["id"]
    assert origin == LabelOrigin("chosen", "combined", "edited", "00ff", round_id)
    assert json.loads((data / "dataset.json").read_text())["numTraining"] == 5
    before = bytes_of(data)
    again = medssl.accept(round1, data)
    assert (again.accepted, again.already) == ((), found.accepted)
    assert bytes_of(data) == before
    report = medssl.check(data).report
    assert report.can_train
    assert any("3 of 5 labeled patients were chosen by a rule" in p.what for p in report.problems)


def test_other_programs_and_formats_are_written_as_the_datasets_own(
    round1: Path, data: Path
) -> None:
    for number, suffix in ((2, ".nrrd"), (3, ".nii.gz"), (4, ".nii")):
        place = round1 / f"case_{number:02d}"
        image = sitk.ReadImage(str(place / "label.nii.gz"))
        array = sitk.GetArrayFromImage(image)
        array[...] = blob_case(number)[1].T
        edited = sitk.GetImageFromArray(array.astype(np.float32))
        edited.CopyInformation(image)
        for key, code in (("qform_code", "2"), ("sform_code", "4")):
            edited.SetMetaData(key, code)
        sitk.WriteImage(edited, str(place / f"label{suffix}"))
    medssl.accept(round1, data)
    for number in (2, 3, 4):
        written = nib.load(data / "labelsTr" / f"case_{number:02d}.nii.gz")
        image = nib.load(data / "imagesUn" / f"case_{number:02d}.nii.gz")
        assert written.get_data_dtype() == np.uint8
        for field in ("qform_code", "sform_code", "srow_x", "srow_z", "pixdim"):
            assert np.array_equal(written.header[field], image.header[field])
        assert np.array_equal(np.asanyarray(written.dataobj), blob_case(number)[1])


def test_drafts_left_as_they_are_must_be_confirmed(round1: Path, data: Path) -> None:
    give_back(round1, 3)
    error = refused(round1, data, "2 labels are refused, nothing changed; 1 in order")
    assert "case_02: the label is the draft, voxel for voxel" in error.what
    assert "--confirmed" in (error.fix or "")
    assert len(medssl.accept(round1, data, confirmed=True).accepted) == 3
    origins = {c.id: o.draft for c in read_dataset(data).training if (o := origin_of(c))}
    assert origins == {"case_02": "confirmed", "case_03": "edited", "case_04": "confirmed"}
    # What was confirmed once is there, and need not be confirmed again.
    assert len(medssl.accept(round1, data).already) == 3


def other_grid(place: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 3
    nib.save(nib.Nifti1Image(blob_case(3)[1], moved), place / "label.nii.gz")


def other_shape(place: Path) -> None:
    nib.save(nib.Nifti1Image(blob_case(3)[1][1:], AFFINE), place / "label.nii.gz")


def unknown_value(place: Path) -> None:
    label = blob_case(3)[1]
    label[0, 0, 0] = 7
    nib.save(nib.Nifti1Image(label, AFFINE), place / "label.nii.gz")


def halves(place: Path) -> None:
    label = blob_case(3)[1] + 0.5
    nib.save(nib.Nifti1Image(label.astype(np.float32), AFFINE), place / "label.nii.gz")


def empty(place: Path) -> None:
    nib.save(nib.Nifti1Image(0 * blob_case(3)[1], AFFINE), place / "label.nii.gz")


def a_link(place: Path) -> None:
    shutil.move(place / "label.nii.gz", place.parent / "elsewhere.nii.gz")
    (place / "label.nii.gz").symlink_to(place.parent / "elsewhere.nii.gz")


def a_linked_folder(place: Path) -> None:
    shutil.move(place, place.parent / "elsewhere")
    place.symlink_to(place.parent / "elsewhere")


def a_pipe(place: Path) -> None:
    (place / "label.nii.gz").unlink()
    os.mkfifo(place / "label.nii.gz")


def image_changed(place: Path) -> None:
    image = np.asanyarray(nib.load(place / "image.nii.gz").dataobj).copy()
    image[0, 0, 0] += 1
    nib.save(nib.Nifti1Image(image, AFFINE), place / "image.nii.gz")


def draft_changed(place: Path) -> None:
    shutil.copyfile(place.parent / "case_02" / "draft.nii.gz", place / "draft.nii.gz")


def no_label(place: Path) -> None:
    (place / "label.nii.gz").rename(place / "Segmentation.nii.gz")


def two_labels(place: Path) -> None:
    other = blob_case(3)[1]
    other[0, 0, 0] = 1
    nib.save(nib.Nifti1Image(other, AFFINE), place / "label.nii")


def other_name(place: Path) -> None:
    shutil.copyfile(place / "draft.nii.gz", place / "label.nii.gz")
    nib.save(nib.Nifti1Image(blob_case(3)[1], AFFINE), place / "Segmentation.nii.gz")


def huge(place: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    header.set_data_dtype(np.uint8)
    (place / "label.nii.gz").unlink()
    (place / "label.nii").write_bytes(header.binaryblock + bytes(4))


FAULTS = {
    other_grid: "places this file up to 3 voxels away",
    other_shape: r"shape \(23, 24, 12\), but image.nii.gz has shape \(24, 24, 12\)",
    unknown_value: r"label values not declared in dataset.json: 7 \(1 voxels\)",
    halves: "are not whole numbers",
    empty: "the label is empty",
    a_link: "this is a link or no plain file",
    a_linked_folder: "the scan's folder is missing, or a link",
    a_pipe: "this is a link or no plain file",
    image_changed: "the image is not the one that was given out",
    draft_changed: "the draft is missing or was changed",
    no_label: r"there is no label \(there is Segmentation.nii.gz\)",
    two_labels: "label.nii and label.nii.gz are both there",
    other_name: "there is another file, Segmentation.nii.gz",
    huge: "the header claims 30000 x 30000 x 30000 voxels",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_one_that_is_wrong_keeps_the_others_out(fault, round1: Path, data: Path) -> None:
    for number in (2, 3, 4):
        give_back(round1, number)
    fault(round1 / "case_03")
    error = refused(round1, data, "1 label is refused, nothing changed; 2 in order")
    with pytest.raises(MedSSLError, match=FAULTS[fault]):
        raise error
    assert "case_03" in (error.where or "")
    found = medssl.accept(round1, data, partial=True)
    assert found.accepted == ("case_02", "case_04")
    assert list(found.refused) == ["case_03"]
    assert [c.id for c in read_dataset(data).unlabeled] == ["case_03"]


def test_labels_saved_under_each_others_names_are_noticed(round1: Path, data: Path) -> None:
    # The draft of 3 lies elsewhere on the same grid, as another patient's does.
    shutil.rmtree(round1)
    make_round(round1, data, (2, 3))
    far = np.roll(draft_of(3), 6, axis=1)
    content = json.loads((round1 / "round.json").read_text())
    rewrite_draft(round1, content, 1, far)
    give_back(round1, 2, np.roll(blob_case(3)[1], 6, axis=1))
    give_back(round1, 3, blob_case(2)[1])
    error = refused(round1, data, "2 labels are refused")
    assert "case_02: this looks like the label of case_03" in error.what
    assert "case_03: this looks like the label of case_02" in error.what
    # The draft of another scan itself is refused, whoever looked at it.
    shutil.copyfile(round1 / "case_02" / "draft.nii.gz", round1 / "case_03" / "label.nii.gz")
    error = refused(round1, data, "1 label is refused", confirmed=True)
    assert "it shares Dice 1.00 with that scan's draft and 0.05 with its own" in error.what


def rewrite_draft(folder: Path, content: dict, place: int, values: np.ndarray) -> None:
    """Give a scan of a round another draft, and the record the hash of it."""
    from medssl.data.datasets.contents import voxel_hash
    from medssl.data.images.write import write_label
    from medssl.rounds.record import _from_dict, write_round

    scan = content["scans"][place]
    write_label(values, folder / scan["id"] / "draft.nii.gz", affine=AFFINE)
    scan["draft_voxels"] = voxel_hash(values)
    write_round(_from_dict(content).sealed(), folder)


def test_a_label_that_shares_nothing_with_its_draft_must_be_confirmed(
    tmp_path: Path, data: Path
) -> None:
    make_round(tmp_path / "one", data, (3,))
    label = np.zeros_like(draft_of(3))
    label[:3, :3, :3] = 1
    give_back(tmp_path / "one", 3, label)
    refused(tmp_path / "one", data, "shares no voxel with its draft")
    assert medssl.accept(tmp_path / "one", data, confirmed=True).accepted == ("case_03",)


def test_a_scan_that_has_another_label_by_now_keeps_it(round1: Path, data: Path) -> None:
    for number in (2, 3, 4):
        give_back(round1, number)
    medssl.accept(round1, data)
    changed = blob_case(3)[1]
    changed[0, 0, 0] = 1
    give_back(round1, 3, changed)
    refused(round1, data, "case 'case_03' has another label already")


def test_a_round_belongs_to_its_dataset(round1: Path, data: Path, tmp_path: Path) -> None:
    for number in (2, 3, 4):
        give_back(round1, number)
    header = json.loads((data / "dataset.json").read_text())
    for changes, message in (
        ({"name": "others"}, "its name is blobs, that of .* is others"),
        ({"labels": {"0": "background", "1": "bright", "3": "dim"}}, "its labels is"),
    ):
        (data / "dataset.json").write_text(json.dumps({**header, **changes}))
        refused(round1, data, message)
    (data / "dataset.json").write_text(json.dumps(header))
    image, _ = blob_case(9)
    nib.save(nib.Nifti1Image(image, AFFINE), data / "imagesUn" / "case_03.nii.gz")
    refused(round1, data, "'case_03' of the dataset is missing or shows another image now")
    refused(tmp_path, data, "no folder of a round")


def test_a_record_that_was_touched_is_not_believed(round1: Path, data: Path) -> None:
    path = round1 / "round.json"
    content = json.loads(path.read_text())
    for changes, message in (
        ({"rule": "random"}, "it was changed after it was written"),
        ({"format": 9}, "format 9"),
        ({"scans": [{}]}, "TypeError|KeyError"),
        ({"labels": None}, "TypeError"),
    ):
        path.write_text(json.dumps({**content, **changes}))
        refused(round1, data, message)
    from medssl.rounds.record import _from_dict, write_round

    content["scans"][0]["id"] = "../../elsewhere"
    write_round(_from_dict(content).sealed(), round1)
    refused(round1, data, "would leave its folder")


def test_images_from_elsewhere_join_with_their_labels(tmp_path: Path, data: Path) -> None:
    other = write_dataset(tmp_path / "other", cases=0, unlabeled=8)
    make_round(tmp_path / "r", data, (6, 7), images=other / "imagesUn", rule="random")
    give_back(tmp_path / "r", 6)
    give_back(tmp_path / "r", 7)
    assert medssl.accept(tmp_path / "r", data).accepted == ("case_06", "case_07")
    cases = {c.id: c for c in read_dataset(data).training}
    assert cases["case_07"].images == (data / "imagesTr" / "case_07.nii.gz",)
    source = other / "imagesUn" / "case_07.nii.gz"
    assert cases["case_07"].images[0].read_bytes() == source.read_bytes()
    assert chosen_patients(cases.values()) == set()
    assert medssl.accept(tmp_path / "r", data).accepted == ()


def test_an_image_the_dataset_has_under_another_name_is_that_case(
    tmp_path: Path, data: Path
) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    shutil.copyfile(data / "imagesUn" / "case_03.nii.gz", folder / "case_09.nii.gz")
    found = make_round(tmp_path / "r", data, (9,), images=folder)
    give_back(tmp_path / "r", 9, blob_case(9)[1])
    assert found.scans[0].id == "case_09"
    assert medssl.accept(tmp_path / "r", data).accepted == ("case_03",)
    assert len(read_dataset(data).unlabeled) == 2


def test_another_scan_of_the_name_is_refused(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    nib.save(nib.Nifti1Image(blob_case(5)[0], AFFINE), folder / "case_03.nii.gz")
    make_round(tmp_path / "r", data, (3,), images=folder)
    give_back(tmp_path / "r", 3)
    refused(tmp_path / "r", data, "the dataset has another scan called 'case_03'")


def test_nothing_is_left_of_a_change_that_fails(
    round1: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (2, 3, 4):
        give_back(round1, number)
    (data / "labelsTr" / "case_04.nii.gz").write_bytes(b"someone's")
    refused(round1, data, "labelsTr already has a file case_04.nii.gz")
    (data / "labelsTr" / "case_04.nii.gz").unlink()

    replace = os.replace

    def full(source: str, target: str) -> None:
        if str(target).endswith("dataset.json"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        refused(round1, data, "No space left on device")
    assert not [p for p in data.iterdir() if p.name.startswith(".")]

    def busy(_: object) -> MedSSLError:
        return MedSSLError("busy")

    with (
        locked(data / ".lock", busy=busy, stays=False),
        pytest.raises(MedSSLError, match="go into this dataset now"),
    ):
        medssl.accept(round1, data)
    assert len(medssl.accept(round1, data).accepted) == 3


def test_layouts_without_a_list_are_refused(round1: Path, data: Path) -> None:
    for number in (2, 3, 4):
        give_back(round1, number)
    header = json.loads((data / "dataset.json").read_text())
    del header["training"]
    (data / "dataset.json").write_text(json.dumps(header))
    refused(round1, data, "dataset.json has no list 'training'")


def test_the_command_says_what_it_took_and_what_not(
    round1: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    give_back(round1, 2)
    give_back(round1, 3)
    accept = ["accept", str(round1), "--dataset", str(data)]
    assert cli.run(accept) == 2
    assert "1 label is refused, nothing changed" in capsys.readouterr().err
    assert cli.run([*accept, "--partial"]) == 1
    said = capsys.readouterr()
    assert "2 labels joined" in said.out
    assert "not taken: case_04: the label is the draft" in said.err
    assert cli.run([*accept, "--confirmed"]) == 0
    said = capsys.readouterr()
    assert "2 labels were there already: case_02, case_03" in said.out
    assert "1 labels joined" in said.out
