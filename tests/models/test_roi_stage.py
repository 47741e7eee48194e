"""Regions of interest: a coarse run finds them, training and prediction keep to them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import crash_after, small_recipe, write_dataset, write_recipe
from torch import Tensor, nn

import medssl
from medssl.data.datasets.case import CachedCase, LabelMap
from medssl.data.preprocessing.pipeline import preprocess_image
from medssl.data.preprocessing.region import Region
from medssl.errors import MedSSLError
from medssl.inference.predictor import Predictor
from medssl.inference.search_box import RegionFinder
from medssl.inference.task import Task
from medssl.models.coarse import check_coarse, describe_regions
from medssl.models.loaded_run import load_run
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.settings.recipe import InferenceSettings, RoiSettings
from medssl.settings.spec import DataSpec
from medssl.training.cases import plan_cases
from medssl.training.prepare import prepare_cases
from medssl.training.validation import case_dice

LABELS = LabelMap((0, 11, 12), ("background", "body", "core"))
RAW = {"intensity": {"rule": "none"}}
SHAPE = (30, 24, 14)
SPACING = (0.5, 1.0, 2.0)


class Levels(nn.Module):
    """Classify intensities near 0, 100 and 200 as classes 0, 1 and 2."""

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.tensor([0.0, 100.0, 200.0]).reshape(1, 3, *(1,) * (x.ndim - 2))
        return -((x[:, :1].float() - levels) ** 2) / 1000


def predictor(**changes: Any) -> Predictor:
    own = {k: changes.pop(k) for k in ("spec", "label_map", "patch", "in_channels") if k in changes}
    task = replace(Task(DataSpec(**RAW), LABELS, (8, 8, 8), in_channels=1), **own)
    options = {"inference": InferenceSettings(), "device": torch.device("cpu")}
    return Predictor(Levels(), task, **(options | changes))


def scan(folder: Path, *blocks: tuple[int, tuple[slice, ...]], name: str = "scan") -> Path:
    """Write a scan in LPS order whose intensities are 100 times the class."""
    array = np.zeros(SHAPE, np.int16)
    for value, where in blocks:
        array[where] = 100 * value
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = [12.0, -7.0, 40.0]
    path = folder / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


BLOCK = (slice(10, 20), slice(6, 12), slice(4, 8))
SPECK = (slice(1, 3), slice(20, 22), slice(12, 13))


def finder(coarse: Predictor | None = None, **settings: Any) -> RegionFinder:
    others = {k: settings.pop(k) for k in ("cache", "patch") if k in settings}
    return RegionFinder(
        coarse or predictor(),
        RoiSettings(run="runs/coarse", **settings),
        folder=Path("runs/coarse"),
        **{"patch": (4, 4, 4), **others},
    )


# ------------------------------------------------------------------------------------ boxes


def test_the_margin_is_in_millimeters_on_the_grid_of_the_file(tmp_path: Path) -> None:
    path = scan(tmp_path, (1, BLOCK), (2, SPECK))
    region = finder(margin_mm=2.0).find([path])
    assert region == Region(((6, 24), (4, 14), (3, 9)), SHAPE, True, (4, 4, 4))
    assert region.share == pytest.approx(18 * 10 * 6 / np.prod(SHAPE))
    coarse = predictor(spec=DataSpec(**RAW, spacing=[2.0, 2.0, 2.0]))
    coarser = finder(coarse, margin_mm=2.0).find([path])
    # Voxels of 2 mm leave an edge uncertain by one of them, which is four, two and one here.
    off = np.abs(np.subtract(coarser.box, region.box)).max(1)
    assert (off <= [4, 2, 1]).all()


def test_which_pieces_and_labels_count(tmp_path: Path) -> None:
    path = scan(tmp_path, (1, BLOCK), (2, SPECK))
    every = finder(margin_mm=0.0, pieces="all").find([path])
    assert every.box == ((1, 20), (6, 22), (4, 13))
    large = finder(margin_mm=0.0, pieces="all", min_volume_mm3=50.0).find([path])
    assert large.box == ((10, 20), (6, 12), (4, 8))
    core = finder(margin_mm=0.0, labels=[12]).find([path])
    assert core.box == ((1, 3), (20, 22), (12, 13))
    with pytest.raises(MedSSLError, match=r"names \[3\]") as error:
        finder(labels=[3, 12])
    assert "choose among [11, 12]" in str(error.value)


def test_fallbacks(tmp_path: Path) -> None:
    empty = finder().find([scan(tmp_path, name="empty")])
    assert (empty.box, empty.found, empty.share) == (tuple((0, n) for n in SHAPE), False, 1.0)
    corner = scan(tmp_path, (1, (slice(0, 3), slice(20, 24), slice(0, 2))), name="corner")
    clipped = finder(margin_mm=3.0).find([corner])
    assert clipped.box == ((0, 9), (17, 24), (0, 4))
    small = finder(margin_mm=0.0, patch=(12, 8, 20)).find([corner])
    prepared = preprocess_image(corner, DataSpec(**RAW))
    # Grown to the patch, and to the whole axis where the scan is shorter.
    assert small.crop(prepared).image.shape == (1, 12, 8, 14)


def test_micrometers(tmp_path: Path) -> None:
    """A file whose voxels are half a micrometer: the margin is still given in millimeters."""
    path = scan(tmp_path, (1, BLOCK))
    coarse = predictor(spec=DataSpec(**RAW, spatial_unit="um"))
    assert finder(coarse, margin_mm=0.002).find([path]).box == ((6, 24), (4, 14), (3, 9))


def test_boxes_are_kept_for_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = scan(tmp_path, (1, BLOCK)), tmp_path / "cache"
    first = finder(margin_mm=2.0, cache=cache).find([path])
    (entry,) = cache.iterdir()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("predicted again")

    monkeypatch.setattr(Predictor, "predict_file", refuse)
    assert finder(margin_mm=2.0, cache=cache).find([path]) == first
    with pytest.raises(AssertionError):
        finder(margin_mm=3.0, cache=cache).find([path])
    other = predictor()
    other.model.register_buffer("weight", torch.ones(1))
    with pytest.raises(AssertionError):
        finder(other, margin_mm=2.0, cache=cache).find([path])
    entry.write_text("{")
    with pytest.raises(AssertionError):
        finder(margin_mm=2.0, cache=cache).find([path])


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"orientation": None},
        {"orientation": "SLA"},
        {"spacing": [0.8, 0.7, 1.3]},
        {"resize": [20, 31, None]},
        {"resize": [20, 31, None], "resize_mode": "nearest"},
    ],
    ids=str,
)
def test_a_prepared_box_covers_the_file_s(tmp_path: Path, spec: dict[str, Any]) -> None:
    path = scan(tmp_path, (1, BLOCK))
    prepared = preprocess_image(path, DataSpec(**RAW, **spec))
    region = Region(((10, 20), (6, 12), (4, 8)), SHAPE, True)
    cropped = region.crop(prepared)
    inside = cropped.restore(np.ones(cropped.image.shape[1:], np.uint8)) == 1
    assert inside[BLOCK].all()
    # Nothing beyond one more voxel of either grid.
    near = tuple(slice(s.start - 3, s.stop + 3) for s in BLOCK)
    assert inside.sum() == inside[near].sum()
    assert prepared.image.max() == cropped.image.max()
    assert cropped.image.numel() < prepared.image.numel() / 4


# ------------------------------------------------------------------------------------ prediction


def test_outside_of_the_region_is_background(tmp_path: Path) -> None:
    path = scan(tmp_path, (1, BLOCK), (2, SPECK))
    whole = predictor().predict_file(path)
    assert set(np.unique(whole.values)) == {0, 11, 12}
    inner = predictor(regions=finder(margin_mm=2.0)).predict_file(path, keep_probabilities=True)
    assert inner.values.shape == SHAPE
    assert np.array_equal(inner.affine, whole.affine)
    box = (slice(6, 24), slice(4, 14), slice(3, 9))
    assert np.array_equal(inner.values[box], whole.values[box])
    outside = np.ones(SHAPE, bool)
    outside[box] = False
    assert not inner.values[outside].any()
    maps = [inner.probability_map(c) for c in range(3)]
    assert (maps[0][outside] == 1).all()
    np.testing.assert_allclose(sum(maps), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="but the prepared image is"):
        inner.prepared.restore(np.zeros(SHAPE, np.uint8))


def test_slices_keep_to_the_region(tmp_path: Path) -> None:
    path = scan(tmp_path, (1, BLOCK))
    inner = predictor(patch=(12, 12), regions=finder(margin_mm=0.0, patch=(12, 12)))
    prediction = inner.predict_file(path)
    assert prediction.prepared.image.shape == (1, 12, 12, 4)
    assert np.array_equal(prediction.values == 11, predictor().predict_file(path).values == 11)


# ------------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset of large scans with small structures, and a coarse run at 2 mm."""
    folder = tmp_path_factory.mktemp("roi")
    root = write_dataset(folder / "data", cases=7, unlabeled=1, shape=(52, 40, 16))
    recipe = recipe_of(folder, spec={"spacing": [2, 2, 2]}, method={"name": "supervised"})
    recipe["training"] |= {
        "iterations": 60,
        "labeled_batch": 4,
        "optimizer": {"name": "adam", "lr": 0.02},
    }
    run = medssl.train(write_recipe(folder / "coarse.yaml", recipe), output=folder / "coarse").path
    return root.parent, run


def recipe_of(folder: Path, **changes: Any) -> dict[str, Any]:
    return small_recipe(folder / "data", folder / "cache", **changes)


def fine_recipe(world: tuple[Path, Path], file: Path, **data: Any) -> Path:
    folder, coarse = world
    roi = {"run": str(coarse), "margin_mm": 2.0, "pieces": "all", "min_volume_mm3": 40.0}
    changes = {"method": {"name": "mean_teacher"}, "data": {"roi": roi, **data}}
    return write_recipe(file, recipe_of(folder, **changes))


def test_a_run_keeps_to_its_regions_and_carries_the_coarse_run(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, coarse = world
    moved = tmp_path / "coarse"
    shutil.copytree(coarse, moved)
    recipe = fine_recipe((folder, moved), tmp_path / "fine.yaml")
    seen: list[Any] = []

    def note(*arguments: Any, **options: Any) -> Any:
        seen.append(prepare_cases(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr("medssl.workflows.training_run.prepare_cases", note)
    run = medssl.train(recipe, output=tmp_path / "run").path

    boxes = json.loads((run / "roi.json").read_text())
    splits = json.loads((run / "splits.json").read_text())
    assert set(boxes) == {*splits["labeled"], *splits["unlabeled"]}
    assert any(box["found"] for box in boxes.values())
    for case in (*seen[0].labeled, *seen[0].unlabeled):
        region = seen[0].regions[case.id]
        assert boxes[case.id]["box"] == [list(side) for side in region.box]
        sides = zip(region.box, (16, 16, 8), case.shape, strict=True)
        assert all(n == max(b - a, least) for (a, b), least, n in sides)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["roi"]["margin_mm"] == 2.0
    assert manifest["roi"]["found"] == sum(b["found"] for b in boxes.values())

    test_boxes = json.loads((run / "evaluation/test/roi.json").read_text())
    assert set(test_boxes) == set(splits["test"])
    for name, entry in test_boxes.items():
        values = np.asarray(nib.load(run / f"predictions/test/{name}.nii.gz").dataobj)
        assert values.shape == (52, 40, 16)
        outside = np.ones(values.shape, bool)
        least = zip(entry["box"], (16, 16, 8), values.shape, strict=True)
        # A box smaller than the patch was grown to it.
        outside[
            tuple(
                slice(max(b - n, 0), min(a + n, size)) if b - a < n else slice(a, b)
                for (a, b), n, size in least
            )
        ] = False
        assert not values[outside].any()

    shutil.rmtree(moved)
    image = folder / "data" / "imagesTr" / f"{splits['test'][0]}.nii.gz"
    (result,) = medssl.predict(run, [image], tmp_path / "out")
    expected = run / "predictions" / "test" / image.name
    assert np.array_equal(nib.load(result.path).dataobj, nib.load(expected).dataobj)

    # A run that died goes on with the copy it keeps.
    shutil.copytree(coarse, moved)
    with monkeypatch.context() as patch:
        crash_after(patch, 5)
        with pytest.raises(RuntimeError, match="power cut"):
            medssl.train(recipe, output=tmp_path / "again")
    shutil.rmtree(moved)
    medssl.train(recipe, output=tmp_path / "again", resume=True)
    weights = [
        torch.load(tmp_path / n / "checkpoints/last.pt", weights_only=True)["method_state"]
        for n in ("run", "again")
    ]
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())


def test_a_coarse_run_must_not_know_the_test_cases(
    world: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coarse = load_run(world[1])
    known = json.loads(coarse.folder.splits.read_text())["labeled"]
    for data in ({"test": known[:1]}, {"labeled": known[:2], "test": 0}):
        loaded = load_recipe(fine_recipe(world, tmp_path / "fine.yaml", **data))
        plan = plan_cases(loaded, Display(quiet=True))
        recipe, cases = loaded.recipe, (plan.dataset, plan.splits)
        where = RegionFinder(
            coarse.predictor, recipe.data.roi, folder=world[1], patch=recipe.training.patch
        )
        if "labeled" not in data:
            with pytest.raises(MedSSLError, match=r"labels of 1 test case\(s\)"):
                check_coarse(where, *cases, Display(quiet=True))
        else:
            check_coarse(where, *cases, Display())
            assert "labels of 1 unlabeled case(s)" in capsys.readouterr().err
    where.coarse.in_channels = 2
    with pytest.raises(MedSSLError, match="takes 2 image channel"):
        check_coarse(where, *cases, Display(quiet=True))


def test_mistakes_are_named_before_any_work(world: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = fine_recipe(world, tmp_path / "fine.yaml")
    with pytest.raises(MedSSLError, match="no run folder") as error:
        medssl.train(recipe, overrides=["data.roi=runs/nothing"], output=tmp_path / "run")
    assert str(recipe) in str(error.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(MedSSLError, match="margin_m"):
        medssl.train(recipe, overrides=["data.roi.margin=3"], output=tmp_path / "run")
    shorthand = load_recipe(recipe, ["data.roi=runs/coarse"]).recipe.data.roi
    assert shorthand == RoiSettings(run="runs/coarse")


# ------------------------------------------------------------------------------------ honesty


def cached(outside: tuple[int, ...]) -> CachedCase:
    label = np.zeros((8, 8, 8), np.uint8)
    label[:4] = 1
    label[4:, :2] = 2
    image = (100 * label)[None].astype(np.float16)
    return CachedCase("a", "a", image, label, {1: np.arange(256), 2: np.arange(64)}, outside)


def test_validation_counts_what_the_region_leaves_out() -> None:
    perfect = case_dice(predictor(), cached(()), LABELS)
    np.testing.assert_allclose(perfect, [1, 1])
    cut = case_dice(predictor(), cached((500, 0, 64)), LABELS)
    np.testing.assert_allclose(cut, [1, 2 * 64 / (64 + 128)])


def test_what_is_said_of_regions() -> None:
    whole = tuple((0, n) for n in SHAPE)
    found = Region(((0, 15), (0, 12), (0, 7)), SHAPE, True)
    lost = Region(whole, SHAPE, False)
    first, second = describe_regions({"a": found, "b": lost}, [], LABELS.names)
    assert "found in 1 of 2 scans, where they hold 12% of a scan" in first
    assert second == "warning: nothing found, so the whole scan is used: b"
    (_, cut) = describe_regions({"a": found}, [cached((9, 0, 16))], LABELS.names)
    assert "a (20.0% of core)" in cut
    assert len(describe_regions({"a": found}, [cached((9, 1, 0))], LABELS.names)) == 1
    with pytest.raises(MedSSLError, match="finds nothing in any of 1 scans"):
        describe_regions({"b": lost}, [], LABELS.names)
