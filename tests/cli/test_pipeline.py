"""The whole way: train a recipe, look at what it leaves, predict new images, measure them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from helpers import blob_case, small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.recipe.find import list_recipes
from medssl.recipe.load import load_recipe
from medssl.settings.recipe import Recipe
from medssl.training import validation
from medssl.training.compute import Compute
from medssl.training.prepare import TrainingData

COLUMNS = [
    "case",
    "label",
    "name",
    "dice",
    "iou",
    "hd95_mm",
    "assd_mm",
    "nsd",
    "volume_reference_mm3",
    "volume_prediction_mm3",
    "status",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that has really learned two blobs, and its dataset."""
    folder = tmp_path_factory.mktemp("pipeline")
    data = write_dataset(folder / "data", cases=12, unlabeled=2)
    recipe = small_recipe(data, folder / "cache")
    recipe["data"] |= {"labeled": 6, "validation": 1}
    recipe["network"] = {"name": "unet", "channels": [8, 16, 32], "strides": [2, 2]}
    recipe["training"] |= {
        "iterations": 320,
        "validate_every": 80,
        "optimizer": {"name": "adam", "lr": 0.01},
    }
    file = write_recipe(folder / "recipe.yaml", recipe)
    return medssl.train(file, output=folder / "run").path, data


def test_run_folder_holds_what_is_promised(trained: tuple[Path, Path]) -> None:
    run, _ = trained
    for name in (
        "recipe.yaml",
        "manifest.json",
        "splits.json",
        "metrics.jsonl",
        "log.txt",
        "tensorboard",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "evaluation/test/cases.csv",
        "evaluation/test/summary.json",
    ):
        assert (run / name).exists(), name
    assert not list(run.rglob("*.tmp"))
    assert len(list((run / "preview").glob("*.png"))) == 3
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["iterations_done"] == 320
    assert manifest["cases"] == {"labeled": 5, "unlabeled": 6, "validation": 1, "test": 2}
    assert manifest["peak_memory_bytes"]["host"] > 0
    assert {"torch", "monai", "python"} <= manifest["versions"].keys()


def test_it_learned_and_says_so(trained: tuple[Path, Path]) -> None:
    run, _ = trained
    with (run / "evaluation/test/cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert len(rows) == 4
    assert min(float(r["dice"]) for r in rows) > 0.5
    logged = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [x["loss/labeled"] for x in logged if "loss/labeled" in x]
    assert losses[-1] < losses[0] / 2
    assert {x["step"] for x in logged if "validation/dice" in x} == {80, 160, 240, 320}


def test_the_saved_recipe_runs_again(trained: tuple[Path, Path]) -> None:
    run, _ = trained
    again = load_recipe(run / "recipe.yaml").recipe
    assert again == load_recipe(run.parent / "recipe.yaml").recipe
    assert load_recipe(run).recipe == again


@pytest.mark.parametrize("kind", ["oblique", "lps", "anisotropic"])
def test_a_known_shape_comes_back_in_its_place(
    trained: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    """Lay a case on another grid; its prediction must lie where the blobs lie in the world."""
    run, _ = trained
    image, label = blob_case(77)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = (-31.5, 120.25, 7.75)
    if kind == "lps":
        flip = np.diag([-1.0, -1.0, 1.0, 1.0])
        flip[:2, 3] = (23, 23)
        affine = affine @ flip
        image, label = image[::-1, ::-1].copy(), label[::-1, ::-1].copy()
    elif kind == "oblique":
        angle = np.deg2rad(17)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = turn @ affine
    else:
        affine = affine @ np.diag([1.0, 1.0, 1.7, 1.0])
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(image, affine), path)
    assert cli.run(["--quiet", "predict", str(run), str(path), "-o", str(tmp_path / "out")]) == 0
    result = nib.load(tmp_path / "out" / "scan.nii.gz")
    assert result.shape == image.shape
    np.testing.assert_allclose(result.affine, affine, atol=1e-5)
    assert result.get_data_dtype() == np.uint8
    found = np.asarray(result.dataobj)
    for value in (1, 2):
        overlap = 2 * ((found == value) & (label == value)).sum()
        assert overlap / ((found == value).sum() + (label == value).sum()) > 0.5


def test_evaluate_folders_agrees_with_the_run(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = trained
    reference = tmp_path / "reference"
    reference.mkdir()
    for path in (run / "predictions" / "test").glob("*.nii.gz"):
        (reference / path.name).write_bytes((data / "labelsTr" / path.name).read_bytes())
    out = tmp_path / "evaluation"
    arguments = ["evaluate", str(run / "predictions" / "test"), str(reference), "-o", str(out)]
    assert cli.run(["--quiet", *arguments, "--dataset", str(data / "dataset.json")]) == 0
    assert (out / "cases.csv").read_text() == (run / "evaluation/test/cases.csv").read_text()


def test_one_bad_image_does_not_stop_the_others(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = trained
    images = tmp_path / "images"
    images.mkdir()
    for name in ("case_00.nii.gz", "case_01.nii.gz"):
        (images / name).write_bytes((data / "imagesTr" / name).read_bytes())
    (images / "broken.nii.gz").write_bytes((images / "case_00.nii.gz").read_bytes()[:500])
    arguments = ["--quiet", "predict", str(run), str(images), "-o", str(tmp_path / "out")]
    assert cli.run(arguments) == 1
    assert "failed: broken" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_the_test_split_never_chooses_a_checkpoint(
    trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, _ = trained
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["training"] |= {"iterations": 4, "validate_every": 1}
    file = write_recipe(tmp_path / "r.yaml", recipe)
    seen: list[str] = []
    original = validation.make_dice

    def spy(recipe: Recipe, data: TrainingData, compute: Compute) -> object:
        seen.extend(c.id for c in data.validation)
        return original(recipe, data, compute)

    monkeypatch.setattr(validation, "make_dice", spy)
    result = medssl.train(file, output=tmp_path / "run")
    splits = json.loads((result.path / "splits.json").read_text())
    assert seen
    assert not set(seen) & set(splits["test"])


@pytest.mark.parametrize("name", sorted(list_recipes()))
def test_every_shipped_recipe_is_valid_short_and_commented(name: str) -> None:
    path = list_recipes()[name]
    loaded = load_recipe(path)
    assert loaded.recipe.name == name
    lines = path.read_text().splitlines()
    assert len(lines) <= 45
    assert lines[0].startswith("# ")
    if loaded.recipe.protocol == "literature":
        clean = load_recipe(path, ["protocol=clean"]).recipe
        assert clean.protocol == "clean"


def test_information_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command, word in (
        ("methods", "bcp"),
        ("recipes", "quickstart"),
        ("specs", "mr_cardiac"),
        ("info", "dynunet"),
        ("--version", medssl.__version__),
    ):
        assert cli.run([command]) == 0
        assert word in capsys.readouterr().out
    assert cli.run(["--quiet", "phantom", str(tmp_path / "phantom")]) == 0
    assert (tmp_path / "phantom" / "dataset.json").is_file()
