"""Whose scan each case is: what is said, what ids tell for certain, what they only look like."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from decathlon_files import header, make_dataset, touch, write_json

from medssl.data.checks.lists import list_problems
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.patient_guess import guess_patients
from medssl.data.datasets.patient_names import MOST, patients_by_name
from medssl.data.datasets.patient_table import read_patient_table
from medssl.data.datasets.split import make_splits
from medssl.errors import MedSSLError
from medssl.settings.recipe import DataSettings

TOGETHER = {
    "bids": ("sub-01_ses-01_T1w", "sub-01_ses-02_T1w", "sub-01_T2w", "sub-01"),
    "bids with entities": ("sub-A7_acq-x_run-1_bold", "sub-A7_acq-y_run-2_bold"),
    "bids, session first": ("ses-01_sub-01", "ses-02_sub-01", "2020-01-31_sub-01", "T1w_sub-01"),
    "bids of a site": ("siteA_sub-01_T1w", "siteA_sub-01_ses-2_T1w"),
    "session": ("P7_ses-1_T1w", "P7_ses-1_run-2_T1w", "P7_ses02", "P7_session_3", "P7-sess4"),
    "time point": ("012_timepoint1", "012_timepoint_2", "012_TP3", "012_time4_FLAIR"),
    "visit": ("A1_visit1", "A1-visit-2", "A1.baseline", "A1_followup", "A1_follow-up2", "A1_FU3"),
    "before and after": ("9_pre", "9_post", "9_preop", "9_post-op", "9_pre_contrast"),
    "heart": ("patient012_frame01", "patient012_frame13", "patient012_ED", "patient012_es"),
    "phases": ("patient3_phase10", "patient3_phase_90", "patient3_end-diastole", "patient3_SA_ED"),
    "eyes": ("101_OD", "101_OS", "101_od_oct"),
    "sides": ("101_L", "101_R", "101_R_T1"),
    "sides in other words": ("101_links", "101_rechts", "101_左", "101_右眼"),
    "sides in words": ("101-left", "101 right", "101.Left.CT"),
    "dates": ("P1_20200131", "P1_2020-02-28_CT", "P1_28.02.2021", "P1_2022_12_01_T1w"),
    "dates and times": ("P1_20200131T101112", "P1_20200131_1011", "P1_1998.08.23"),
    "several": ("P1_OD_20200131", "P1_OS_20200131", "P1_visit2_OS"),
    "spaced": ("P1 visit 1", "P1_visit 2", "P1.session.3", "P1_time_point_4", "P1 frame 5"),
    "zero width": ("P01_ses-1", "P01\u200b_ses-2", "P01_\u200dses-3"),
    "byte order mark": ("\ufeffsub-01_ses-1", "sub-01_ses-2"),
    "wide letters": ("\uff30\uff10\uff11_ses-1", "P01_ses-2"),
    "hyphens and spaces of print": ("P01\u2010ses\u20101", "P01\u00a0ses-2", "P01-ses\u20133"),
    "accents apart": ("M\u00fcller7_ses-1", "Mu\u0308ller7_ses-2"),
    "adni": ("002_S_0295_2006-04-18", "ADNI_002_S_0295_MR_MPR_Br_20070525135721811_S13407"),
    "oasis": ("OAS1_0001_MR1", "OAS1_0001_MR2_mpr-1"),
    "oasis 3": ("OAS30001_MR_d0129", "OAS30001_MR_d0757", "sess-OAS30001_d2430"),
    "tcga": ("TCGA-02-0003", "TCGA-02-0003_1997.06.08", "TCGA-02-0003-01Z"),
    "long names": ("Glioma-Post_Patient_0003_Timepoint_1_t1c", "Glioma-Post_Patient_0003_tp2"),
}


@pytest.mark.parametrize("ids", TOGETHER.values(), ids=TOGETHER)
def test_spellings_of_one_patient(ids: tuple[str, ...]) -> None:
    assert len(set(patients_by_name([*ids, "other_99"]).values())) == 2


@pytest.mark.parametrize(
    ("case_id", "patient"),
    [
        ("sub-01_ses-01_T1w", "sub-01"),
        ("site_sub-01_T1w", "site_sub-01"),
        ("site_ses-2_sub-01_T1w", "site_sub-01"),
        ("P7_ses-1", "P7"),
        ("patient012_frame01", "patient012"),
        ("P-07_visit1_CT", "P-07"),
        ("ADNI_002_S_0295_MR_MPR", "002_S_0295"),
        ("P01\u200b_ses-1", "P01"),
    ],
)
def test_the_patient_is_the_beginning(case_id: str, patient: str) -> None:
    # Also where no other scan of the patient is there: another one may join the dataset.
    assert patients_by_name([case_id]) == {case_id: patient}


APART = {
    "numbers": tuple(f"hippocampus_{n:03d}" for n in range(30)),
    "numbers of sites": ("siteA_001", "siteA_002", "siteB_001"),
    "bids of two sites": ("siteA_sub-01", "siteB_sub-01", "sub-01"),
    "one name without a digit": ("video_frame01", "video_frame02"),
    "only left ones": ("101_L", "102_L", "Paul_L"),
    "sizes": ("7_S", "7_M", "7_L", "7_R"),
    "low and high": ("7_L", "7_H", "8_L", "8_H"),
    "sequences": ("x_t1", "x_t2", "7_T1", "7_T2"),
    "scanner and day": ("MR_20200101", "MR_20200102", "CT_20200101"),
    "no day": ("7_20201301", "7_20200132", "7_18991231"),
    "words inside": ("sub01x", "7_seds-1", "7_postal", "7_lr", "7_LOD"),
    "unpaired": ("ct_train_1001", "mr_train_1001"),
    "organs": ("kidney_L", "kidney_R"),
    "codes": ("TCGA-02-0003", "TCGA-02-0006", "LIDC-IDRI-0001", "BraTS19_TCIA01_131_1"),
    "letters": ("0RZDK210BSMWAA6467LU", "1D7CUD1955YZPGK8XHJX"),
}


@pytest.mark.parametrize("ids", APART.values(), ids=APART)
def test_spellings_of_several_patients(ids: tuple[str, ...]) -> None:
    assert patients_by_name(ids) == {i: i for i in ids}


def test_names_without_digit_take_two_of_them() -> None:
    assert set(patients_by_name(["smith_OD", "smith_OS"]).values()) == {"smith_OD", "smith_OS"}
    assert set(patients_by_name(["smith_OD", "smith_OS", "lee_OD"]).values()) == {"smith", "lee"}


@pytest.mark.parametrize("word", ["visit{}", "ses-{}", "202001{:02d}"])
def test_a_name_with_too_many_sessions_is_a_site(word: str) -> None:
    ids = ["site1_" + word.format(n) for n in range(1, MOST + 2)]
    assert set(patients_by_name(ids[:-1]).values()) == {"site1"}
    assert patients_by_name(ids) == {i: i for i in ids}
    frames = [f"patient1_frame{n:02d}" for n in range(40)]
    assert set(patients_by_name(frames).values()) == {"patient1"}


LOOKS = {
    "counters": {"001_1": "001", "001_2": "001", "002_1": "002", "002_2": "002"},
    "a counter once": {"007": "007", "007_2": "007", "008": "008"},
    "long counters": {"B-00005-100": "B-00005", "B-00005-101": "B-00005", "B-00009-000": "B-00009"},
    "letters": {"7a": "7", "7b": "7", "8a": "8"},
    "single letters": {"t1_S": "t1", "t1_M": "t1", "t1_L": "t1", "t2_S": "t2"},
    "sides glued on": {"001L": "001", "001R": "001", "002L": "002"},
    "time or weighting": {"P1_T1": "P1", "P1_T2": "P1", "P2_T1": "P2"},
    "months": {"P1_m00": "P1", "P1_m12": "P1", "P2_m00": "P2"},
    "modalities": {"101_CT": "101", "101_MR": "101", "102_CT": "102"},
    "scans": {"101_scan1": "101", "101_scan2": "101", "102_scan1": "102"},
    "words": {"P1_before": "P1", "P1_after": "P1", "P2_after": "P2"},
    "dates of names": {"lee_20200101": "lee", "lee_20210101": "lee", "kim_20200101": "kim"},
    "one session name": {"lee_ses1": "lee", "lee_ses2": "lee", "kim": "kim"},
    "eye, then number": {"P1_OD_1": "P1", "P1_OS_1": "P1", "P2_OD_1": "P2", "P2_OD_2": "P2"},
    "eyes glued on": {"101OD": "101", "101OS": "101", "102OD": "102"},
    "months by name": {"P1_Jan2020": "P1", "P1_3-feb-2021": "P1", "P2_Jan2020": "P2"},
    "day first": {"20200102_P1": "P1", "2021-05-06_P1": "P1", "20200102_P2": "P2"},
    "side first": {"left_001": "001", "right_001": "001", "left_002": "002"},
    "side between": {"hip_L_01": "01", "hip_R_01": "01", "hip_L_02": "02"},
    "any words": {"1_inhale": "1", "1_exhale": "1", "2_inhale": "2", "2_exhale": "2"},
    "crops": {"7_crop1": "7", "7_crop2": "7", "8_crop1": "8"},
    "copies": {"s7": "s7", "s7 - Copy": "s7", "s8": "s8"},
    "numbered by a browser": {"s7 (1)": "s7", "s7 (2)": "s7", "s8": "s8"},
    "in another language": {"张三_术前": "张三", "张三_术后": "张三", "李四_术后": "李四"},
    "glued words": {"7V1": "7", "7V2": "7", "8V1": "8", "8V2": "8"},
    "glued before and after": {"p1pre": "p1", "p1post": "p1", "p2post": "p2"},
    "days": {"x1_d0129": "x1", "x1_d0757": "x1", "x2_d0001": "x2"},
    "times counted": {"张三_第1次": "张三", "张三_第2次": "张三", "李四_第1次": "李四"},
    "visit first": {"s_visit1_P01": "P01", "s_visit2_P01": "P01", "s_visit1_P02": "P02"},
}


@pytest.mark.parametrize("truth", LOOKS.values(), ids=LOOKS)
def test_ids_that_look_alike_are_guessed_and_not_joined(truth: dict[str, str]) -> None:
    known = patients_by_name(truth)
    assert known == {i: i for i in truth}
    guess = guess_patients(known)
    assert guess is not None
    found = {i: (m[1] if (m := re.search(guess.pattern, i)) else i) for i in truth}
    assert found == truth
    joined = [p for p in truth.values() if list(truth.values()).count(p) > 1]
    assert (guess.cases, guess.patients) == (len(joined), len(set(joined)))
    assert set(guess.examples) <= truth.keys()


@pytest.mark.parametrize(
    "ids",
    [
        *(APART[k] for k in ("numbers", "numbers of sites", "only left ones", "codes", "letters")),
        *(APART[k] for k in ("unpaired", "bids of two sites", "one name without a digit")),
        tuple(f"site{k}_{n:03d}" for k in (1, 2) for n in range(25)),
        tuple(f"TCGA-{k:02d}-{n:04d}" for k in (2, 6, 8) for n in range(5)),
        tuple(f"study2_202001{n:02d}" for n in range(1, 26)),
        ("sub-01_ses-01", "sub-01_ses-02"),
        ("ses-01_sub-01", "ses-02_sub-01", "ses-01_sub-02", "ses-02_sub-02", "ses-01_sub-03"),
        ("scan_0000", "scan_0001", "scan_0002"),
        tuple(
            f"site{k}_{name}" for k in (1, 2) for name in ("anna", "bob", "carl", "dora", "emil")
        ),
        (),
    ],
)
def test_other_ids_look_like_nothing(ids: tuple[str, ...]) -> None:
    assert guess_patients(patients_by_name(ids)) is None


def test_no_guess_contradicts_what_is_said() -> None:
    known = patients_by_name(["001_1", "001_2", "002_1"])
    assert guess_patients(known, {"003_1": "003"}) is not None
    assert guess_patients(known, {"003_1": "A", "003_2": "B"}) is None


def test_letter_case_alone_makes_no_other_patient(tmp_path: Path) -> None:
    ids = ["sub-01_ses-1", "SUB-01_ses-2", "Case7_visit1", "case7_visit2", "sub-02_ses-1"]
    dataset = read_dataset(make_dataset(tmp_path, ids))
    owner = {case.id: case.patient for case in dataset.training}
    assert owner[ids[0]] == owner[ids[1]] != owner[ids[4]]
    assert owner[ids[2]] == owner[ids[3]]
    said = [d for d in dataset.deviations if "letter case" in d]
    assert len(said) == 1
    assert "'Case7' and 'case7'" in said[0]
    assert guess_patients({i: i for i in ("A1_t1", "a1_t2", "B1_t1")}) is not None


def test_the_order_of_what_tells(tmp_path: Path) -> None:
    ids = ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1", "x_1", "x_2"]
    root = make_dataset(tmp_path, ids)
    content = json.loads((root / "dataset.json").read_text())
    content["training"][1]["patient"] = "said"
    write_json(root, content)
    table = tmp_path / "who.csv"
    table.write_text("case,patient\nsub-01_ses-1,table\nx_1,table\n")

    def patients(told: str | None) -> list[str]:
        return [c.patient for c in read_dataset(root, patients=told).training]

    assert patients(None) == ["sub-01", "said", "sub-02", "x_1", "x_2"]
    assert patients(str(table)) == ["table", "said", "sub-02", "table", "x_2"]
    assert patients(r"(x)_") == ["sub-01", "said", "sub-02", "x", "x"]
    assert patients(r"_(?:ses-)?(\d)$") == ["1", "2", "1", "1", "2"]


@pytest.mark.parametrize(
    "text",
    [
        "case,patient\na,1\nb,1\nc,2\n",
        "\ufeffpatient;site;case\n1;x;a\n1;x;b\n\n2;y;c\n",
        'Case\tPatient\n"a.nii.gz"\t1\nimagesTr/b.nii.gz\t1\nc\t2\na\t1\n',
    ],
)
def test_table(tmp_path: Path, text: str) -> None:
    table = tmp_path / "who.csv"
    table.write_text(text, encoding="utf-8")
    assert read_patient_table(table) == {"a": "1", "b": "1", "c": "2"}
    dataset = read_dataset(make_dataset(tmp_path / "d", ["a", "b", "c", "d"]), patients=str(table))
    assert [c.patient for c in dataset.training] == ["1", "1", "2", "d"]
    [note] = [d for d in dataset.deviations if "table names all cases but 1 (first: d)" in d]
    assert "are not here" not in note
    table.write_text("case,patient\na,1\nb,1\nc,2\nD,3\n", encoding="utf-8")
    dataset = read_dataset(tmp_path / "d", patients=str(table))
    assert any("1 that it names are not here (D)" in d for d in dataset.deviations)


@pytest.mark.parametrize(
    ("text", "part", "line"),
    [
        ("case,patient\na,1\na,2\n", "case 'a' has two patients: '1' and '2'", 3),
        ("case,patient\na,\n", "the line has no patient", 2),
        ("case,patient\n,1\n", "the line has no case", 2),
        ("case,patient\na\n", "the line has no patient", 2),
        ("id,patient\na,1\n", "no column 'case'", 1),
        ("case\na\n", "no column 'patient'", 1),
        ("", "no column 'case'", 1),
        ("case,patient\n", "the table has no case", None),
        ("case,patient\nz,1\n", "the table names no case id (the first is 'a')", None),
    ],
)
def test_bad_table(tmp_path: Path, text: str, part: str, line: int | None) -> None:
    table = tmp_path / "who.csv"
    table.write_text(text)
    with pytest.raises(MedSSLError) as caught:
        read_dataset(make_dataset(tmp_path / "d", ["a"]), patients=str(table))
    assert part in caught.value.what
    assert caught.value.fix
    if line is not None:
        assert caught.value.where == f"{table}:{line}"


def test_missing_or_binary_table(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d", ["a"])
    with pytest.raises(MedSSLError, match="neither beside the recipe") as caught:
        read_dataset(root, patients="nowhere.csv")
    assert "--set data.patients=FILE" in str(caught.value.fix)
    (tmp_path / "x.csv").write_bytes(b"case,patient\n\xff\xfe\n")
    with pytest.raises(MedSSLError, match="cannot be read"):
        read_dataset(root, patients=str(tmp_path / "x.csv"))


def test_the_former_name_of_the_key() -> None:
    assert DataSettings.model_validate({"patient_pattern": "(p)"}).patients == "(p)"
    assert DataSettings.model_validate({"patient_pattern": None}).patients is None
    both = {"patient_pattern": None, "patients": "(p)"}
    assert DataSettings.model_validate(both).patients == "(p)"
    with pytest.raises(ValueError, match="former name of patients"):
        DataSettings.model_validate({"patient_pattern": "(q)", "patients": "(p)"})


def test_images_of_another_dataset_keep_its_patients(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d", ["a"])
    other = tmp_path / "other"
    touch(*(other / "imagesUn" / f"{n}.nii.gz" for n in ("p001_s01", "p001_s02", "p002_s01")))
    items = [{"image": f"./imagesUn/p001_s0{n}.nii.gz", "patient": "P"} for n in (1, 2)]
    write_json(other, header(unlabeled=items))
    found = read_dataset(root, extra_unlabeled=[str(other / "imagesUn")]).unlabeled
    assert [(c.id, c.patient) for c in found] == [
        ("p001_s01", "P"), ("p001_s02", "P"), ("p002_s01", "p002_s01")
    ]  # fmt: skip
    (other / "dataset.json").write_text("{")
    again = read_dataset(root, extra_unlabeled=[str(other / "imagesUn")]).unlabeled
    assert [c.patient for c in again] == ["p001_s01", "p001_s02", "p002_s01"]


def test_scans_of_a_patient_in_two_folders_belong_together(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "d", ["sub-01_ses-1", "sub-02_ses-1"])
    touch(tmp_path / "more" / "sub-01_ses-1.nii.gz", tmp_path / "more" / "sub-02_ses-9.nii.gz")
    found = read_dataset(root, extra_unlabeled=[str(tmp_path / "more")]).unlabeled
    assert {c.id: c.patient for c in found} == {
        "more_sub-01_ses-1": "sub-01", "sub-02_ses-9": "sub-02"
    }  # fmt: skip


def test_check_shows_the_guess_until_it_is_answered(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, ["001_1", "001_2", "002_1"])
    (problem,) = (p for p in list_problems(read_dataset(root)) if p.check == "patient_guess")
    assert problem.severity == "warning"
    assert "2 ids look like scans of 1 patient (such as 001_1 and 001_2)" in problem.what
    assert "data.patients: '^(.*" in problem.fix
    for answer in (r"^(.*)_\d$", "(.+)"):
        assert read_dataset(root, patients=answer).guess is None


@pytest.mark.parametrize(
    "name", ["sub-0{}_ses-{}", "0{}_visit{}", "P{}_2020010{}", "patient{}_frame0{}", "0{}_{}"]
)
@pytest.mark.parametrize("seed", range(4))
def test_no_scan_of_a_test_patient_is_trained_on(tmp_path: Path, name: str, seed: int) -> None:
    labeled = [name.format(n, scan) for n in range(6) for scan in (1, 2)]
    root = make_dataset(tmp_path / "d", labeled)
    touch(*(root / "imagesUn" / f"{name.format(n, 3)}.nii.gz" for n in range(8)))
    touch(*(tmp_path / "more" / f"{name.format(n, 4)}.nii.gz" for n in range(9)))
    more = [str(tmp_path / "more")]
    guess = read_dataset(root, extra_unlabeled=more).guess
    assert (guess is not None) == (name == "0{}_{}")
    dataset = read_dataset(root, extra_unlabeled=more, patients=guess.pattern if guess else None)
    data = DataSettings(labeled=2, test=2, validation=1, split_seed=seed)
    splits = make_splits(dataset, data)

    def people(*roles: str) -> set[str]:
        width = name.index("{}") + 1
        return {case.id[:width] for role in roles for case in getattr(splits, role)}

    assert len(people("test")) == 2
    assert len(splits.test) == 4
    assert not people("test", "validation") & people("labeled", "unlabeled")
    assert not people("test") & people("validation")
    assert any("show patients of the validation or test set" in note for note in splits.notes)
