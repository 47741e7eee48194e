"""Which kind of scan datasets and DICOM state, in the spellings seen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from medssl.data.datasets.modality import dicom_kind, is_another, kind_beside, stated_kind


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["MRI"], "MR"),
        (["FLAIR", "T1w", "t1gd", "T2w"], "MR"),
        (["LGE"], "MR"),
        (["cine-MRI"], "MR"),
        (["CT"], "CT"),
        (["CTA"], "CT"),
        (["computed tomography"], "CT"),
        (["CBCT"], "CBCT"),
        (["cone-beam CT"], "CBCT"),
        (["OCT"], "OCT"),
        (["optical coherence tomography"], "OCT"),
        (["positron emission tomography"], "PET"),
        (["ultrasound"], "US"),
        (["channel 0"], None),
        (["unknown"], None),
        ([], None),
    ],
)
def test_names_of_channels(names: list[str], kind: str | None) -> None:
    assert stated_kind(names) == kind


def test_codes_of_dicom() -> None:
    codes = ("CT", "mr ", "OPT", "OP", "PT", "XA", "OT", "SC", "")
    kinds = ("CT", "MR", "OCT", "OCT", "PET", "XA", None, None, None)
    assert tuple(map(dicom_kind, codes)) == kinds


def test_only_two_statements_contradict_each_other() -> None:
    assert is_another("CT", "MR")
    assert is_another("CBCT", "MR")
    assert not is_another("CT", "CBCT")  # DICOM has one code for both
    assert not is_another("MR", "MR")
    assert not is_another(None, "MR")
    assert not is_another("CT", None)


def test_the_dataset_of_an_image_is_asked(tmp_path: Path) -> None:
    image = tmp_path / "imagesTs" / "a.nii.gz"
    image.parent.mkdir()
    image.touch()
    assert kind_beside(image) is None
    info = tmp_path / "dataset.json"
    info.write_text(json.dumps({"modality": {"0": "CT"}}))
    assert kind_beside(image) == "CT"
    info.write_text(json.dumps({"channel_names": {"0": "T1"}}))  # nnU-Net calls it so
    os.utime(info, ns=(1, 1))
    assert kind_beside(image) == "MR"
    assert kind_beside(Path("an image in memory")) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"modality": 3}', '{"modality": {"0": 7}}', "\x00"])
def test_a_dataset_that_cannot_be_read_states_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.nii").touch()
    (tmp_path / "dataset.json").write_text(text)
    assert kind_beside(tmp_path / "a.nii") is None
