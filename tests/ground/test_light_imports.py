"""What lists, checks or refuses loads neither PyTorch nor MONAI, which take seconds to import."""

from __future__ import annotations

from pathlib import Path

import pytest
from loaded import run_code, run_command

from medssl.data.importers.dataset import list_formats
from medssl.data.phantoms.dataset import write_phantom

LIGHT_MODULES = [
    "medssl",
    "medssl.cli",
    "medssl.data.checks.run",
    "medssl.data.datasets.decathlon",
    "medssl.data.importers.dataset",
    "medssl.methods.registry",
    "medssl.networks.registry",
    "medssl.recipe.load",
    "medssl.runs.folder",
    "medssl.settings.specs",
    "medssl.workflows.check",
]


def test_a_heavy_import_would_be_seen():
    assert run_code("import torch").heavy == ["torch"]


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_module_is_light(module):
    assert run_code(f"import {module}").heavy == []


def test_help_needs_no_library_of_the_sciences():
    code, loaded = run_command("--help")
    assert code == 0
    assert {"numpy", "scipy", "nibabel", "pydantic", *loaded.heavy}.isdisjoint(loaded.modules)


@pytest.mark.parametrize("command", ["methods", "recipes", "specs"])
def test_listing_is_light(command):
    code, loaded = run_command(command)
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
