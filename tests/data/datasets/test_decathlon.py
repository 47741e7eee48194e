"""Every deviation from the Decathlon format that is read, and every one that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from decathlon_files import LABELS, header, make_dataset, touch, write_json

from medssl.data.datasets.case import Dataset
from medssl.data.datasets.decathlon import read_dataset
from medssl.errors import MedSSLError


def refused(root: Path, *expected: str, **options: Any) -> MedSSLError:
    """Read a broken dataset and check its message: contents, length and instruction."""
    with pytest.raises(MedSSLError) as info:
        read_dataset(root, **options)
    text = str(info.value)
    for part in expected:
        assert part in text
    assert len(text.splitlines()) <= 6
    assert info.value.fix
    assert info.value.where
    return info.value


def noted(dataset: Dataset, part: str) -> bool:
    return any(part in line for line in dataset.deviations)


def test_faultless_dataset(tmp_path: Path) -> None:
    dataset = read_dataset(make_dataset(tmp_path, ["c_1", "c_2"]))
    assert [c.id for c in dataset.training] == ["c_1", "c_2"]
    assert dataset.training[0].images == (tmp_path / "imagesTr/c_1.nii.gz",)
    assert dataset.training[0].label == tmp_path / "labelsTr/c_1.nii.gz"
    assert dataset.training[0].patient == "c_1"
    assert dataset.labels.values == (0, 1, 2)
    assert dataset.labels.names == ("background", "a", "b")
    assert dataset.modality == ("MRI",)
    assert (dataset.spatial_unit, dataset.deviations) == ("mm", ())
    assert dataset.unlabeled == dataset.test == ()
    assert read_dataset(tmp_path / "dataset.json") == dataset


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"numTraining": "2"}, "'numTraining' is a string"),
        ({"numTraining": None}, "'numTraining' is missing"),
        ({"numTraining": 7}, "'numTraining' says 7 but 2"),
        ({"numTraining": "many"}, "'numTraining' is not a number: 'many'"),
        ({"numTest": 3}, "'numTest' says 3 but 0"),
        ({"labels": {"background": 0, "a": 1, "b": 2}}, "'labels' maps names to numbers"),
        ({"labels": {"background": "0", "a": "1", "b": "2"}}, "'labels' maps names to strings"),
        ({"labels": {"1": "a", "2": "b"}}, "no background"),
        ({"labels": ["background", "a", "b"]}, "'labels' is a list"),
        ({"modality": None, "channel_names": {"0": "MRI"}}, "'channel_names' is read"),
        ({"modality": ["MRI"]}, "'modality' is a list"),
        ({"modality": "MRI"}, "'modality' is a single name"),
        ({"relase": "1.0"}, "'relase' stands for 'release'"),
        ({"licence": "CC"}, "'licence' stands for 'license'"),
        ({"test": None, "testing": []}, "'testing' is read as 'test'"),
    ],
)
def test_header_deviations_are_read_and_noted(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    dataset = read_dataset(make_dataset(tmp_path, ["c_1", "c_2"], **changes))
    assert noted(dataset, line)
    assert len(dataset.deviations) == 1
    assert dataset.labels.values == (0, 1, 2)
    assert dataset.labels.names == ("background", "a", "b")
    assert dataset.modality == ("MRI",)
    assert len(dataset.training) == 2


def test_byte_order_mark(tmp_path: Path) -> None:
    path = make_dataset(tmp_path, ["c"]) / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert noted(read_dataset(tmp_path), "byte order mark")


def test_ignore_label_and_gaps_in_values(tmp_path: Path) -> None:
    labels = {"background": 0, "tooth": 48, "canal": 11, "ignore": 99}
    dataset = read_dataset(make_dataset(tmp_path, ["c"], labels=labels))
    assert dataset.labels.values == (0, 11, 48)
    assert dataset.labels.names == ("background", "canal", "tooth")
    assert dataset.labels.ignore_value == 99


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        ({"background": 0, "whole": [1, "x"]}, "'whole' is [1, 'x'], not a list of label values"),
        ({"background": 0, "a": 1, "b": 1}, "'a' and 'b' share the value 1"),
        ({"background": 0, "a": -1}, "label 'a' has the value -1"),
        ({"background": 0, "a": 70000}, "label 'a' has the value 70000"),
        ({"background": 1, "a": 2}, "background has the value 1"),
        ({"0": "background", "one": "a"}, "'one': 'a'"),
        ({"background": 0, "a": 1.5}, "without a whole number"),
        ({"background": 0}, "declares 0 structures"),
        ({"ignore": 0, "a": 1}, "'ignore' has the value 0"),
        ({}, "names no labels"),
        (None, "names no labels"),
        (3, "not a mapping"),
        ({str(i): f"s{i}" for i in range(300)}, "declares 299 structures"),
        ({"1": "tumor", "2": "tumor"}, "the values 1 and 2 are both called 'tumor'"),
        ({"tumor": 1, "tumor ": 2}, "the values 1 and 2 are both called 'tumor'"),
        ({"1": " ", "2": "tumor"}, "the value 1 has no name"),
        ({"1": "Gef\u00e4\u00df", "2": "Gefa\u0308\u00df"}, "the values 1 and 2 are both called"),
    ],
)
def test_labels_refused_by_name(tmp_path: Path, labels: Any, part: str) -> None:
    refused(make_dataset(tmp_path, ["c"], labels=labels), part, "dataset.json")


def test_an_entry_that_stands_twice_is_not_lost(tmp_path: Path) -> None:
    make_dataset(tmp_path, ["c"], labels={"tumor": 1, "other": 2})
    where = tmp_path / "dataset.json"
    where.write_text(where.read_text().replace('"other"', '"tumor"'))
    refused(tmp_path, "'labels' has the entry 'tumor' twice", "dataset.json")


def test_names_that_differ_in_letter_case_are_two_structures(tmp_path: Path) -> None:
    labels = {"1": "Tumor", "2": "tumor", "3": "肝脏", "4": "肿瘤"}
    dataset = read_dataset(make_dataset(tmp_path, ["c"], labels=labels))
    assert dataset.labels.names == ("background", "Tumor", "tumor", "肝脏", "肿瘤")


def test_spatial_unit(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, ["c"], spatial_unit="um")
    assert read_dataset(root).spatial_unit == "um"
    make_dataset(tmp_path, ["c"], spatialUnit="micron")
    assert read_dataset(root).spatial_unit == "um"
    make_dataset(tmp_path, ["c"], spatial_unit="inch")
    refused(root, "'spatial_unit' is 'inch'", '"um"')


def test_paths_with_backslashes_dots_and_absolute_inside(tmp_path: Path) -> None:
    make_dataset(tmp_path, ["a", "b", "c"])
    training = [
        {"image": "imagesTr\\a.nii.gz", "label": ".\\labelsTr\\a.nii.gz"},
        {"image": "imagesTr/../imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
        {"image": str(tmp_path / "imagesTr/c.nii.gz"), "label": "labelsTr/c.nii.gz"},
    ]
    write_json(tmp_path, header(training=training, numTraining=3))
    dataset = read_dataset(tmp_path)
    assert [c.images[0] for c in dataset.training] == [
        tmp_path / f"imagesTr/{i}.nii.gz" for i in "abc"
    ]
    assert noted(dataset, "backslashes (2 of them, first: imagesTr\\a.nii.gz)")
    assert noted(dataset, "paths are absolute")


@pytest.mark.parametrize(
    ("image", "part"),
    [
        ("../x.nii.gz", "outside the dataset's folder: ../x.nii.gz"),
        ("imagesTr/../../x.nii.gz", "outside"),
        ("..\\x.nii.gz", "outside"),
        ("/etc/x.nii.gz", "outside the dataset's folder: /etc/x.nii.gz"),
        ("C:\\data\\x.nii.gz", "outside"),
        ("s3://bucket/x.nii.gz", "URL: s3://bucket/x.nii.gz"),
        ("imagesTr/x.png", "no image format that is read: imagesTr/x.png"),
        (7, "has 7 where a file name belongs"),
        ({"0": "x.nii.gz"}, "where a file name belongs"),
        ("", "names no image"),
    ],
)
def test_image_paths_refused(tmp_path: Path, image: Any, part: str) -> None:
    touch(tmp_path.parent / "x.nii.gz")
    write_json(tmp_path, header(training=["imagesTr/ok.nii.gz", {"image": image}]))
    touch(tmp_path / "imagesTr/ok.nii.gz")
    refused(tmp_path, "item 2 of 'training'", part)


def test_linked_image_is_inside(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere/x.nii.gz")
    root = make_dataset(tmp_path / "data", ["a"])
    (root / "imagesTr/b.nii.gz").symlink_to(tmp_path / "elsewhere/x.nii.gz")
    write_json(root, header(training=["imagesTr/b.nii.gz"], numTraining=1))
    assert [c.id for c in read_dataset(root).unlabeled] == ["b"]


@pytest.mark.parametrize("label", [{}, {"label": None}, {"label": ""}])
def test_training_item_without_label_is_unlabeled(tmp_path: Path, label: dict[str, Any]) -> None:
    make_dataset(tmp_path, ["a", "b"])
    items = [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]
    items += [{"image": "imagesTr/b.nii.gz", **label}]
    write_json(tmp_path, header(training=items, numTraining=2))
    dataset = read_dataset(tmp_path)
    assert [c.id for c in dataset.training] == ["a"]
    assert [(c.id, c.label) for c in dataset.unlabeled] == [("b", None)]
    assert noted(dataset, "1 items of 'training' have no label")


def test_other_extensions(tmp_path: Path) -> None:
    names = ["a.nii", "b.nrrd", "c.mha", "d.v2.NII.GZ"]
    touch(*(tmp_path / "imagesTr" / n for n in names))
    write_json(tmp_path, header(training=[f"imagesTr/{n}" for n in names], numTraining=4))
    assert [c.id for c in read_dataset(tmp_path).unlabeled] == ["a", "b", "c", "d.v2"]


def test_multi_file_images(tmp_path: Path) -> None:
    files = [f"imagesTr/x_{n:04d}.nii.gz" for n in range(2)]
    touch(*(tmp_path / f for f in files), tmp_path / "labelsTr/x.nii.gz")
    item = {"image": files, "label": "labelsTr/x.nii.gz"}
    modality = {"1": "T2", "0": "T1"}
    write_json(tmp_path, header(training=[item], numTraining=1, modality=modality))
    dataset = read_dataset(tmp_path)
    assert dataset.training[0].id == "x"
    assert dataset.training[0].images == tuple(tmp_path / f for f in files)
    assert dataset.modality == ("T1", "T2")
    write_json(tmp_path, header(training=[item], numTraining=1))
    refused(tmp_path, "case 'x' has 2 image files but dataset.json declares 1 channel")
    write_json(tmp_path, header(training=[item], numTraining=1, modality=None))
    assert read_dataset(tmp_path).modality == ("channel 0", "channel 1")


def test_one_file_may_hold_all_channels(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, ["x"], modality={"0": "T1", "1": "T2"})
    assert read_dataset(root).modality == ("T1", "T2")


def test_nnunet_v1_list_without_channel_suffix(tmp_path: Path) -> None:
    make_dataset(tmp_path, ["x_1", "x_2"])
    for case_id in ("x_1", "x_2"):
        (tmp_path / f"imagesTr/{case_id}.nii.gz").rename(
            tmp_path / f"imagesTr/{case_id}_0000.nii.gz"
        )
    dataset = read_dataset(tmp_path)
    assert [c.id for c in dataset.training] == ["x_1", "x_2"]
    assert dataset.training[0].images == (tmp_path / "imagesTr/x_1_0000.nii.gz",)
    assert noted(dataset, "without their channel suffix _0000 (2 of them, first: x_1.nii.gz)")
    touch(tmp_path / "imagesTr/x_2_0001.nii.gz")
    refused(tmp_path, "case 'x_2' has 2 image files")


def nnunet_v2(root: Path, ids: list[str], channels: int) -> dict[str, Any]:
    for case_id in ids:
        touch(root / f"labelsTr/{case_id}.nrrd")
        touch(*(root / f"imagesTr/{case_id}_{n:04d}.nrrd" for n in range(channels)))
    names = {str(n): f"m{n}" for n in range(channels)}
    return header(
        training=None,
        test=None,
        modality=None,
        channel_names=names,
        labels={"background": 0, "a": 1},
        numTraining=len(ids),
        file_ending=".nrrd",
    )


@pytest.mark.parametrize("channels", [1, 2])
def test_nnunet_v2_without_list(tmp_path: Path, channels: int) -> None:
    content = nnunet_v2(tmp_path, ["case_001", "case_002"], channels)
    touch(tmp_path / "imagesTr/._case_001_0000.nrrd", tmp_path / "imagesTr/stray.nii.gz")
    touch(*(tmp_path / f"imagesTs/case_009_{n:04d}.nrrd" for n in range(channels)))
    write_json(tmp_path, content)
    dataset = read_dataset(tmp_path)
    assert [c.id for c in dataset.training] == ["case_001", "case_002"]
    assert [len(c.images) for c in dataset.training] == [channels] * 2
    assert dataset.training[1].label == tmp_path / "labelsTr/case_002.nrrd"
    assert [c.id for c in dataset.test] == ["case_009"]
    assert noted(dataset, "no list 'training'")
    assert noted(dataset, "ghost files")
    assert noted(dataset, "do not end in .nrrd are not read (1 of them, first: stray.nii.gz)")


def test_nnunet_label_in_another_letter_case(tmp_path: Path) -> None:
    content = nnunet_v2(tmp_path, ["case_01", "case_02"], 2)
    (tmp_path / "labelsTr/case_02.nrrd").rename(tmp_path / "labelsTr/Case_02.nrrd")
    write_json(tmp_path, content)
    dataset = read_dataset(tmp_path)
    assert [c.id for c in dataset.training] == ["case_01", "case_02"]
    assert dataset.training[1].label == tmp_path / "labelsTr/Case_02.nrrd"
    assert noted(dataset, "but for letter case (1 of them, first: Case_02.nrrd)")


def test_nnunet_label_without_image_is_refused(tmp_path: Path) -> None:
    content = nnunet_v2(tmp_path, ["case_01", "case_02"], 1)
    write_json(tmp_path, content)
    (tmp_path / "labelsTr/case_02.nrrd").rename(tmp_path / "labelsTr/case_20.nrrd")
    refused(tmp_path, "the label case_20.nrrd in labelsTr has no image in imagesTr")
    touch(tmp_path / "labelsTr/case_02.nrrd", tmp_path / "labelsTr/Case_02.nrrd")
    (tmp_path / "labelsTr/case_20.nrrd").unlink()
    refused(tmp_path, "the label Case_02.nrrd in labelsTr has no image in imagesTr")
    (tmp_path / "labelsTr/Case_02.nrrd").unlink()
    touch(tmp_path / "labelsTr/case_02.nii.gz")
    refused(tmp_path, "case_02.nii.gz and case_02.nrrd in labelsTr are of one case")


def test_nnunet_v2_case_with_a_channel_missing(tmp_path: Path) -> None:
    content = nnunet_v2(tmp_path, ["c_1", "c_2"], 2)
    (tmp_path / "imagesTr/c_2_0001.nrrd").unlink()
    write_json(tmp_path, content)
    refused(tmp_path, "case 'c_2' has 1 channel file(s)", "declares 2 channel(s)")


def test_nnunet_v2_mapping_of_cases(tmp_path: Path) -> None:
    touch(tmp_path / "i/a.nii.gz", tmp_path / "i/b.nii.gz", tmp_path / "l/a.nii.gz")
    cases = {"p1": {"images": ["i/a.nii.gz", "i/b.nii.gz"], "label": "l/a.nii.gz"}}
    content = header(training=None, dataset=cases, modality={"0": "x", "1": "y"})
    write_json(tmp_path, content)
    case = read_dataset(tmp_path).training[0]
    assert (case.id, len(case.images)) == ("p1", 2)


def test_nnunet_v2_refusals(tmp_path: Path) -> None:
    write_json(tmp_path, header(training=None, file_ending=".png"))
    refused(tmp_path, "'file_ending' is .png")
    write_json(tmp_path, header(training=None, file_ending=".nii.gz"))
    refused(tmp_path, "no list 'training' and no image .nii.gz in imagesTr")


def test_four_digit_case_numbers_are_no_channels(tmp_path: Path) -> None:
    make_dataset(tmp_path, [])
    touch(*(tmp_path / f"imagesUn/scan_{n:04d}.nii.gz" for n in range(3)))
    dataset = read_dataset(tmp_path)
    assert [c.id for c in dataset.unlabeled] == ["scan_0000", "scan_0001", "scan_0002"]


def test_ghost_files_listed_or_lying_about(tmp_path: Path) -> None:
    make_dataset(tmp_path, ["a"])
    content = json.loads((tmp_path / "dataset.json").read_text())
    content["training"].append({"image": "./imagesTr/._a.nii.gz", "label": "labelsTr/._a.nii.gz"})
    write_json(tmp_path, content | {"numTraining": 2})
    touch(tmp_path / "imagesUn/._b.nii.gz", tmp_path / "imagesUn/notes.txt")
    dataset = read_dataset(tmp_path)
    assert [c.id for c in dataset.training] == ["a"]
    assert dataset.unlabeled == ()
    assert noted(dataset, "are listed and ignored")
    assert noted(dataset, "are ignored (1 of them, first: imagesUn/._b.nii.gz)")


@pytest.mark.parametrize("as_mapping", [False, True])
def test_test_items(tmp_path: Path, as_mapping: bool) -> None:
    make_dataset(tmp_path, ["a"])
    touch(tmp_path / "imagesTs/t.nii.gz")
    name = "imagesTs/t.nii.gz"
    make_dataset(tmp_path, ["a"], test=[{"image": name} if as_mapping else name])
    dataset = read_dataset(tmp_path)
    assert [c.id for c in dataset.test] == ["t"]
    assert dataset.unlabeled == ()


def test_test_list_missing_but_folder_present(tmp_path: Path) -> None:
    touch(tmp_path / "imagesTs/t.nii.gz")
    dataset = read_dataset(make_dataset(tmp_path, ["a"], test=None))
    assert [c.id for c in dataset.test] == ["t"]
    assert noted(dataset, "no list 'test': 1 images")


def test_unlabeled_from_all_four_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    make_dataset(root, ["a", "b"])
    touch(root / "un/l1.nii.gz", root / "un/l2.nii.gz", root / "imagesUn/u.nii.gz")
    touch(tmp_path / "more/m1.nii", tmp_path / "more/m2.nii", tmp_path / "more/text.txt")
    touch(root / "third/q.mha")
    items = [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}, "imagesTr/b.nii.gz"]
    listed = ["un/l1.nii.gz", {"image": "un/l2.nii.gz", "label": "labelsTr/b.nii.gz"}]
    write_json(root, header(training=items, numTraining=2, unlabeled=listed))
    monkeypatch.chdir(tmp_path)
    dataset = read_dataset(root, extra_unlabeled=["more/*.nii", "third", "imagesTr"])
    assert [c.id for c in dataset.unlabeled] == ["b", "l1", "l2", "u", "m1", "m2", "q"]
    assert all(c.label is None for c in dataset.unlabeled)
    assert [c.id for c in dataset.training] == ["a"]
    assert noted(dataset, "'unlabeled' name a label, which is not read")
    single = read_dataset(root, extra_unlabeled=[str(tmp_path / "more" / "m1.nii")])
    assert [c.id for c in single.unlabeled][-1] == "m1"


def test_unlabeled_id_of_a_training_case_gets_the_folder_name(tmp_path: Path) -> None:
    make_dataset(tmp_path, ["a"])
    touch(tmp_path / "imagesUn/a.nii.gz", tmp_path / "x/a.nii.gz", tmp_path / "y/x/a.nii.gz")
    dataset = read_dataset(tmp_path, extra_unlabeled=["x"])
    assert [(c.id, c.patient) for c in dataset.unlabeled] == [("imagesUn_a", "a"), ("x_a", "a")]
    refused(tmp_path, "two scans have the case id 'x_a'", extra_unlabeled=["x", "y/x"])


def test_linked_copy_of_a_training_image_is_not_duplicated(tmp_path: Path) -> None:
    make_dataset(tmp_path, ["a"])
    (tmp_path / "imagesUn").mkdir()
    (tmp_path / "imagesUn/z.nii.gz").symlink_to(tmp_path / "imagesTr/a.nii.gz")
    assert read_dataset(tmp_path).unlabeled == ()


def test_extra_unlabeled_that_matches_nothing(tmp_path: Path) -> None:
    make_dataset(tmp_path, ["a"])
    (tmp_path / "empty").mkdir()
    for text in ("nowhere/*.nii.gz", "empty"):
        refused(tmp_path, f"'{text}' matches no image", "data.unlabeled", extra_unlabeled=[text])


def test_duplicate_case_ids(tmp_path: Path) -> None:
    make_dataset(tmp_path, ["a", "b/a"])
    refused(tmp_path, "two scans have the case id 'a'", '"id"')
    items = [
        {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"},
        {"image": "imagesTr/b/a.nii.gz", "label": "labelsTr/b/a.nii.gz", "id": "ba"},
    ]
    write_json(tmp_path, header(training=items, numTraining=2))
    assert [c.id for c in read_dataset(tmp_path).training] == ["a", "ba"]
    write_json(tmp_path, header(training=[items[0] | {"id": "../a"}]))
    refused(tmp_path, "id '../a'")


def test_missing_files_are_counted(tmp_path: Path) -> None:
    make_dataset(tmp_path, ["a", "b", "c"])
    (tmp_path / "imagesTr/a.nii.gz").unlink()
    refused(tmp_path, "1 listed file does not exist: imagesTr/a.nii.gz")
    for i in "bc":
        (tmp_path / f"imagesTr/{i}.nii.gz").unlink()
        (tmp_path / f"labelsTr/{i}.nii.gz").unlink()
    message = refused(tmp_path, "5 listed files do not exist", "and 2 more").what
    assert message.count(".nii.gz") == 3


def test_folder_listed_as_image(tmp_path: Path) -> None:
    make_dataset(tmp_path, [])
    (tmp_path / "imagesTr/x.nii.gz").mkdir(parents=True)
    write_json(tmp_path, header(training=["imagesTr/x.nii.gz"]))
    refused(tmp_path, "is a folder: x.nii.gz")


def test_no_dataset(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such folder", "imagesTr/")
    refused(tmp_path, "no dataset.json", "imagesTr/ and labelsTr/")
    make_dataset(tmp_path / "inner", ["a"])
    refused(tmp_path, f"did you mean {tmp_path / 'inner'}?")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{\n "labels": {},\n "training": [,]\n}', "in column 15"),
        ("[1, 2]", "holds a JSON list"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_json(tmp_path: Path, text: str, part: str) -> None:
    write_json(tmp_path, text)
    refused(tmp_path, part)


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    path = write_json(tmp_path, '{\n "labels": {},\n "training": [,]\n}')
    assert refused(tmp_path).where == f"{path}:3"
    path.write_bytes('{"name": "Müller"}'.encode("latin-1"))
    refused(tmp_path, "not UTF-8")


@pytest.mark.parametrize("section", ["training", "unlabeled", "test"])
def test_sections_must_be_lists_of_items(tmp_path: Path, section: str) -> None:
    write_json(tmp_path, header(**{section: {"a": 1}}))
    refused(tmp_path, f"'{section}' is a dict, not a list")
    write_json(tmp_path, header(**{section: [3]}))
    refused(tmp_path, f"item 1 of '{section}' is 3, neither a file name nor a mapping")


def test_fold_and_validation_list_of_auto3dseg(tmp_path: Path) -> None:
    make_dataset(tmp_path, ["a", "v"])
    a, v = json.loads((tmp_path / "dataset.json").read_text())["training"]
    write_json(tmp_path, header(training=[a | {"fold": 3, "site": "."}], validation=[v]))
    dataset = read_dataset(tmp_path)
    assert [c.id for c in dataset.training] == ["a", "v"]
    assert dataset.training[0].meta == {"fold": "3", "site": "."}
    assert noted(dataset, "'fold'")
    assert noted(dataset, "1 items of 'validation' are read as training cases")


def test_patients(tmp_path: Path) -> None:
    ids = ["patient012_frame01", "patient012_frame13", "sub7_ED", "video_frame02", "x_t1", "plain"]
    dataset = read_dataset(make_dataset(tmp_path, ids))
    assert [c.patient for c in dataset.training] == [
        "patient012", "patient012", "sub7", "video_frame02", "x_t1", "plain"
    ]  # fmt: skip
    by_pattern = read_dataset(tmp_path, patients=r"^(\w+?)_(?:t|frame)\d+$")
    assert [c.patient for c in by_pattern.training] == [
        "patient012", "patient012", "sub7", "video", "x", "plain"
    ]  # fmt: skip
    assert noted(by_pattern, "matches all cases but 2")


def test_patient_key(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    items = [{"image": "a.nii.gz", "patient": 5}, {"image": "b.nii.gz", "subject": "5"}]
    write_json(tmp_path, header(training=items, numTraining=2))
    assert [c.patient for c in read_dataset(tmp_path).unlabeled] == ["5", "5"]


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        ("(zzz)", "matches no case id (the first is 'a_1')"),
        ("(", "not a regular expression"),
        ("a", "has no group"),
    ],
)
def test_bad_patient_pattern(tmp_path: Path, pattern: str, part: str) -> None:
    make_dataset(tmp_path, ["a_1"])
    refused(tmp_path, part, "data.patients", patients=pattern)


def test_nothing_is_opened(tmp_path: Path) -> None:
    # The files of these folders are empty: reading one would fail.
    assert len(read_dataset(make_dataset(tmp_path, ["a"], labels=LABELS)).training) == 1


@pytest.mark.parametrize(
    ("folder", "cases", "patients", "classes"),
    [
        ("Task04_Hippocampus", 200, 200, 3),
        ("Task101_ACDC", 160, 80, 4),
        ("Task102_LeftAtrium", 80, 80, 2),
    ],
)
def test_real_folders(
    shared_data: Path, folder: str, cases: int, patients: int, classes: int
) -> None:
    dataset = read_dataset(shared_data / folder)
    assert len(dataset.training) == cases
    assert len({c.patient for c in dataset.training}) == patients
    assert dataset.labels.num_classes == classes
    assert dataset.modality == ("MRI",)
    assert dataset.deviations == ("'licence' stands for 'license'",)
