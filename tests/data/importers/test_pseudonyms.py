"""Patients' pseudonyms: one key for a project, the same name each time, nothing to guess by."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_series

import medssl
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.importers.pseudonyms import KEY_NAME, known_patient, pseudonym, read_key
from medssl.errors import MedSSLError

KEY = bytes(range(32))


def series(folder: Path, patient: str, seed: int, **elements: str) -> None:
    voxels = np.random.default_rng(seed).integers(0, 3000, (6, 7, 5)).astype(np.uint16)
    write_series(folder, voxels, series=f"s{seed}", PatientID=patient, **elements)


def patients(dataset: Path) -> list[str]:
    return [c.patient for c in read_dataset(dataset).unlabeled]


def test_a_pseudonym_is_the_hmac_of_the_id() -> None:
    expected = hmac.digest(KEY, b"MRN 0042", hashlib.sha256).hex()
    assert pseudonym("MRN 0042", KEY) == "p" + expected[:12]
    assert pseudonym("MRN 0043", KEY) != pseudonym("MRN 0042", KEY)
    assert pseudonym("MRN 0042", KEY[::-1]) != pseudonym("MRN 0042", KEY)


@pytest.mark.parametrize("text", ["", " ", "Anonymous", "UNKNOWN"])
def test_nobodys_id_is_not_one_patient(text: str) -> None:
    assert known_patient(text, otherwise="1.2.3") == "1.2.3"
    assert known_patient(" 7 ", otherwise="1.2.3") == "7"


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / KEY_NAME
    key = read_key(path)
    assert len(key) == 32
    assert read_key(path) == key
    assert read_key(tmp_path / "other") != key
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [KEY_NAME]


def test_processes_that_start_together_share_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(read_key, [tmp_path / KEY_NAME] * 64))
    assert len(set(keys)) == 1
    assert os.listdir(tmp_path) == [KEY_NAME]


@pytest.mark.parametrize("text", ["", "secret", "ab" * 31, "é" * 64])
def test_a_file_that_holds_no_key_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / KEY_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(MedSSLError, match="key") as caught:
        read_key(tmp_path / KEY_NAME)
    assert "patient_key=FILE" in str(caught.value)
    assert (tmp_path / KEY_NAME).read_text(encoding="utf-8") == text


def test_a_key_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedSSLError, match="cannot be read or made") as caught:
        read_key(tmp_path / "file" / KEY_NAME)
    assert "keep_patient_id=true" in str(caught.value)


def test_without_hard_links_the_key_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    key = read_key(tmp_path / KEY_NAME)
    assert read_key(tmp_path / KEY_NAME) == key
    assert os.listdir(tmp_path) == [KEY_NAME]


def test_a_later_import_beside_the_first_gives_a_patient_the_same_name(tmp_path: Path) -> None:
    series(tmp_path / "in1" / "a", "MRN1", 1)
    series(tmp_path / "in1" / "b", "MRN2", 2)
    series(tmp_path / "in2", "MRN2", 3)  # alone, and first
    medssl.import_dataset("dicom", tmp_path / "in1", tmp_path / "data" / "one")
    medssl.import_dataset("dicom", tmp_path / "in2", tmp_path / "data" / "two")
    key = read_key(tmp_path / "data" / KEY_NAME)
    assert patients(tmp_path / "data/one") == [pseudonym(p, key) for p in ("MRN1", "MRN2")]
    assert patients(tmp_path / "data/two") == [pseudonym("MRN2", key)]
    # Elsewhere another key is made, unless that one is named.
    medssl.import_dataset("dicom", tmp_path / "in2", tmp_path / "far" / "two")
    assert patients(tmp_path / "far/two") != patients(tmp_path / "data/two")
    where = tmp_path / "data" / KEY_NAME
    medssl.import_dataset(
        "dicom", tmp_path / "in2", tmp_path / "else" / "two", options=[f"patient_key={where}"]
    )
    assert patients(tmp_path / "else/two") == patients(tmp_path / "data/two")
    assert not (tmp_path / "else" / KEY_NAME).exists()


def test_scans_of_a_patient_in_two_datasets_are_on_one_side(tmp_path: Path) -> None:
    series(tmp_path / "in1", "MRN1", 1)
    series(tmp_path / "in2", "MRN1", 2)
    for name in ("1", "2"):
        medssl.import_dataset("dicom", tmp_path / f"in{name}", tmp_path / "data" / name)
    more = [str(tmp_path / "data/2/imagesUn")]
    first, second = read_dataset(tmp_path / "data/1", extra_unlabeled=more).unlabeled
    assert first.patient == second.patient
    assert first.id != second.id


def test_the_key_is_nowhere_in_the_dataset_nor_is_its_place(tmp_path: Path) -> None:
    series(tmp_path / "in", "MRN1", 1)
    where = tmp_path / "vault" / "k"
    medssl.import_dataset(
        "dicom", tmp_path / "in", tmp_path / "out", options=[f"patient_key={where}"]
    )
    key = where.read_bytes().strip()
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len(files) > 2
    for path in files:
        content = path.read_bytes()
        assert key not in content
        assert b"vault" not in content
        assert b"MRN1" not in content
    assert json.loads((tmp_path / "out/provenance.json").read_text())["options"] == {}


def test_no_key_is_made_where_ids_are_kept_or_nothing_is_imported(tmp_path: Path) -> None:
    series(tmp_path / "in", "MRN1", 1)
    options = ["keep_patient_id=true"]
    medssl.import_dataset("dicom", tmp_path / "in", tmp_path / "data" / "x", options=options)
    assert patients(tmp_path / "data/x") == ["MRN1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedSSLError):
        medssl.import_dataset("dicom", tmp_path / "empty", tmp_path / "data" / "y")
    assert not (tmp_path / "data" / KEY_NAME).exists()


def test_scans_without_an_id_are_of_the_patients_of_their_studies(tmp_path: Path) -> None:
    series(tmp_path / "in" / "a", "ANONYMOUS", 1, StudyInstanceUID="1.2.3")
    series(tmp_path / "in" / "b", "", 2, StudyInstanceUID="1.2.4")
    series(tmp_path / "in" / "c", "", 3, StudyInstanceUID="1.2.4")
    medssl.import_dataset("dicom", tmp_path / "in", tmp_path / "out")
    first, second, third = patients(tmp_path / "out")
    assert first != second == third
