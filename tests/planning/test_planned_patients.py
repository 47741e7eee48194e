"""A plan writes down what ids look like, and paths that its recipe's folder understands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from helpers import write_dataset

from medssl.cli import run
from medssl.data.opened import open_dataset
from medssl.recipe.load import load_recipe


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Six scans of three patients, as their ids look like."""
    root = write_dataset(tmp_path / "work" / "scans", cases=6)
    content = json.loads((root / "dataset.json").read_text())
    for number, item in enumerate(content["training"]):
        item["id"] = f"{number // 2:03d}_{number % 2 + 1}"
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def plan(*arguments: str) -> int:
    return run(["--quiet", "plan", *arguments, "--method", "supervised", "--device", "cpu"])


def test_the_guess_is_written_and_counted(
    scans: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(scans.parent)
    assert plan("scans", "-o", "a.yaml") == 0
    text = Path("a.yaml").read_text()
    assert "# patients: a guess: 6 ids look like scans of 3 patients" in text
    data = yaml.safe_load(text)["data"]
    assert (data["root"], data["test"]) == ("scans", 0)  # three patients, all needed
    recipe = load_recipe("a.yaml").recipe
    dataset = open_dataset(recipe.data, recipe.spec)
    assert dataset.guess is None
    assert {c.id: c.patient for c in dataset.training}["002_2"] == "002"
    # The user's own word takes its place.
    assert plan("scans", "-o", "b.yaml", "--patients", "(.+)") == 0
    assert yaml.safe_load(Path("b.yaml").read_text())["data"]["patients"] == "(.+)"
    capsys.readouterr()
    assert run(["--quiet", "check", "scans"]) == 0
    assert "6 ids look like scans of 3 patients" in " ".join(capsys.readouterr().out.split())
    assert run(["--quiet", "check", "scans", "--patients", "(.+)"]) == 0
    assert "look like scans" not in " ".join(capsys.readouterr().out.split())


def test_a_recipe_in_another_folder_finds_its_data(
    scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scans.parent)
    ids = [f"{number // 2:03d}_{number % 2 + 1}" for number in range(6)]
    lines = ["case,patient", *(f"{i},{i[:3]}" for i in ids)]
    Path("who.csv").write_text("\n".join(lines))
    assert plan("scans", "-o", "recipes/a.yaml", "--patients", "who.csv") == 0
    monkeypatch.chdir("/")
    data = load_recipe(scans.parent / "recipes" / "a.yaml").recipe.data
    assert data.root == str(scans)
    assert data.patients == str(scans.parent / "who.csv")
