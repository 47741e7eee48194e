"""What lists, checks or refuses loads neither PyTorch nor MONAI, which take seconds to import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from loaded import run_code, run_command

from medssl.data.images.write import write_nifti
from medssl.data.importers.dataset import list_formats
from medssl.data.phantoms.dataset import write_phantom

LIGHT_MODULES = [
    "medssl",
    "medssl.cli",
    "medssl.comparison.compare",
    "medssl.data.checks.run",
    "medssl.data.datasets.decathlon",
    "medssl.data.importers.dataset",
    "medssl.methods.registry",
    "medssl.networks.registry",
    "medssl.planning.planner",
    "medssl.recipe.load",
    "medssl.runs.folder",
    "medssl.settings.specs",
    "medssl.sweeps.sweep",
    "medssl.workflows.check",
    "medssl.workflows.evaluate_folders",
    "medssl.workflows.predict",
    "medssl.workflows.preprocess",
    "medssl.workflows.train",
    "medssl.workflows.training_order",
]


def test_a_heavy_import_would_be_seen():
    assert run_code("import torch").heavy == ["torch"]


def test_nothing_heavy_is_there_before():
    assert run_code("").heavy == []


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_module_is_light(module):
    assert run_code(f"import {module}").heavy == []


def test_help_needs_no_library_of_the_sciences():
    code, loaded = run_command("--help", before=())
    assert code == 0
    assert {"numpy", "scipy", "nibabel", "pydantic", *loaded.heavy}.isdisjoint(loaded.modules)


@pytest.mark.parametrize("command", ["methods", "methods umct", "recipes", "specs", "models"])
def test_listing_is_light(command):
    code, loaded = run_command(*command.split())
    assert code == 0
    assert loaded.heavy == []


def test_loading_a_recipe_is_light():
    """Every shipped recipe, with its method, network and data spec."""
    code = (
        "from medssl.recipe.find import list_recipes\nfrom medssl.recipe.load import load_recipe\n"
        "for name in list_recipes():\n    load_recipe(name)"
    )
    assert run_code(code).heavy == []


def test_check_of_a_dataset_with_a_page_is_light(tmp_path: Path):
    data = write_phantom(tmp_path / "data", labeled=2, unlabeled=1, test=0)
    files = "--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")
    code, loaded = run_command("check", str(data), *files)
    assert code == 0, loaded.output
    assert "training can start" in loaded.output
    assert loaded.heavy == []


def test_formats_are_listed_in_a_fresh_process():
    code, loaded = run_command("import", "--list")
    assert code == 0
    assert loaded.heavy == []
    assert all(name in loaded.output for name in list_formats())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train typo", "there is no such recipe"),
        ("train quickstart --set training.iteration=5", "unknown key `training.iteration`"),
        ("train quickstart --set method=bpc", "unknown method 'bpc'"),
        ("train quickstart --set data.root=nowhere", "there is no such folder"),
        ("train quickstart --resume --output nowhere", "there is no run to resume"),
        ("preprocess typo", "there is no such recipe"),
        ("preprocess quickstart --set data.root=nowhere", "there is no such folder"),
        ("sweep typo --labeled 4", "there is no such recipe"),
        ("crossval typo", "there is no such recipe"),
        ("crossval quickstart --set method=bpc", "unknown method 'bpc'"),
        ("predict nowhere nowhere --output out", "not a run folder"),
        ("evaluate nowhere --split test", "not a run folder"),
        ("evaluate nowhere there --output out", "this folder does not exist"),
        ("compare nowhere there", "not a run folder"),
        ("report nowhere", "not a run folder"),
        ("calibrate nowhere", "not a run folder"),
        ("replay nowhere", "not a run folder"),
        ("export nowhere out", "not a run folder"),
        ("pack nowhere out.zip", "not a run folder"),
        ("triage nowhere --input nowhere", "not a run folder"),
        ("plan nowhere --method bpc --output mine.yaml", "unknown method 'bpc'"),
        ("check nowhere", "there is no such folder"),
        ("import nnunet nowhere out", "there is no such file or folder"),
    ],
)
def test_a_mistake_is_told_before_anything_heavy_is_loaded(command, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, loaded = run_command(*command.split())
    assert code == 2
    assert words in loaded.output
    assert loaded.heavy == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("predict run missing.nii.gz --output out", "there is no such file or folder"),
        ("predict run scan.txt --output out", "not an image medssl reads"),
        ("evaluate masks labels --output out", "have no prediction: b"),
        ("evaluate masks nowhere --output out", "this folder does not exist"),
        ("preprocess recipe.yaml", "unknown key `training.iteration`"),
        ("train recipe.yaml", "unknown key `training.iteration`"),
    ],
)
def test_a_mistake_in_files_is_told_as_early(command, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("data: phantom\ntraining: {iteration: 5}\n")
    (tmp_path / "scan.txt").write_text("no image")
    for folder in ("run", "masks", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("data: phantom\n")
    (tmp_path / "run" / "manifest.json").write_text("{}")
    mask = np.zeros((4, 4, 4), np.uint8)
    for path in ("masks/a.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz"):
        write_nifti(tmp_path / path, mask, np.eye(4), "mm")
    code, loaded = run_command(*command.split())
    assert code == 2
    assert words in loaded.output
    assert loaded.heavy == []
    assert not (tmp_path / "out").exists()
