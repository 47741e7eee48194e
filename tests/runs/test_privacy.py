"""A run under ``privacy: strict`` names no patient in what it writes about itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from decathlon_files import make_dataset
from helpers import small_recipe, write_dataset, write_recipe

from medssl.data.datasets.decathlon import read_dataset
from medssl.runs.privacy import Redactor
from medssl.workflows.train import train


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("warning: Doe_Jane.nii.gz: the label is empty", "warning: <file>: the label is empty"),
        ("case 'Doe_Jane' has no label", "case '<case>' has no label"),
        ("Doe_Janet is another name", "Doe_Janet is another name"),
        ("taken from ROOT/imagesTr/Doe_Jane.nii.gz now", "taken from <file> now"),
        ("read ROOT, then more", "read <file>, then more"),
        ("cannot read /mnt/ward 7/scan", "cannot read <file> 7/scan"),
        ("copied from ward/2020/scan.txt", "copied from <file>"),
        ("loss: total 0.512, labeled 7 it/s 3/8", "loss: total 0.512, labeled 7 it/s 3/8"),
    ],
)
def test_redacts_text(tmp_path: Path, message: str, kept: str) -> None:
    root = make_dataset(tmp_path / "Clinic of Dr X", ["Doe_Jane", "7"])
    redactor = Redactor(read_dataset(root))
    assert redactor.text(message.replace("ROOT", str(root))) == kept


def test_redacts_values_but_no_keys(tmp_path: Path) -> None:
    redactor = Redactor(read_dataset(make_dataset(tmp_path / "d", ["Doe_Jane"])))
    value = {"Doe_Jane": ["Doe_Jane", 3, {"a": Path("/x/y.nii")}]}
    assert redactor.value(value) == {"Doe_Jane": ["<case>", 3, {"a": "<file>"}]}


def test_strict_run_names_no_patient(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "clinic9", cases=6)
    recipe = small_recipe(root, tmp_path / "cache", privacy="strict", training={"iterations": 2})
    result = train(write_recipe(tmp_path / "r.yaml", recipe), output=tmp_path / "run")
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["dataset"] == "<file>"
    assert manifest["cases"]["test"] == 2  # what is no text stays
    for name in ("log.txt", "metrics.jsonl", "manifest.json"):
        text = (result.path / name).read_text()
        assert text, name
        for secret in ("case_0", str(tmp_path), "clinic9"):
            assert secret not in text, (name, secret)
    assert list((result.path / "predictions" / "test").glob("case_0*.nii.gz"))
