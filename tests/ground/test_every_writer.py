"""Whatever medssl writes, a disk that refuses gives the usual message and leaves no half of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import AFFINE, blob_case, small_recipe, write_dataset, write_recipe
from refusing_disk import FAULTS, SAID, content_of, full
from run_folders import NAMES, case_names, result_row, write_run

import medssl
from medssl.comparison.output import write_comparison
from medssl.data.checks.repaired_copy import write_repaired
from medssl.data.checks.run import check_dataset
from medssl.data.datasets.case import Case, LabelMap
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.split_file import load_splits, save_splits
from medssl.data.datasets.verdicts import Verdicts
from medssl.data.images.write import write_label, write_map
from medssl.data.phantoms.dataset import write_phantom
from medssl.data.preprocessing.cache import CaseCache
from medssl.data.preprocessing.region import Region
from medssl.errors import MedSSLError
from medssl.evaluation.boundaries import boundary_columns, write_boundaries_csv
from medssl.evaluation.summary import write_cases_csv
from medssl.inference import search_box
from medssl.inference.assessment import Assessment
from medssl.inference.assessment_files import write_assessment
from medssl.models.coarse import record_regions
from medssl.recipe.find import copy_recipe
from medssl.recipe.load import load_recipe, save_recipe
from medssl.reports.preview import write_previews
from medssl.runs.checkpoint import save_checkpoint
from medssl.runs.folder import RunFolder
from medssl.settings.spec import DataSpec
from medssl.sweeps.summary import write_sweep
from medssl.uncertainty.volumes_csv import write_tables


@dataclass(frozen=True)
class World:
    """What there is to write about: a dataset, another image, a finished run, a comparison."""

    data: Path
    more: Path
    run: Path
    compared: dict[str, Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("writers")
    data = write_dataset(folder / "data", cases=6)
    recipe = small_recipe(data, folder / "cache", method={"name": "supervised"})
    recipe["training"] |= {"iterations": 2, "validate_every": 2}
    run = medssl.train(write_recipe(folder / "recipe.yaml", recipe), output=folder / "run").path
    dice = [0.5, 0.6, 0.7, 0.8]
    runs = [
        write_run(folder / name, {n: [d + gain for d in dice] for n in NAMES}, method=method)
        for name, method, gain in (("base", "supervised", 0.0), ("better", "bcp", 0.1))
    ]
    compared = medssl.compare(runs[::-1], baseline=runs[0])
    more = folder / "more"
    more.mkdir()
    nib.save(nib.Nifti1Image(blob_case(77)[0], AFFINE), more / "more.nii.gz")
    return World(data, more, run, compared)


ROWS = [result_row(case, name, 0.5) for case in case_names(3) for name in NAMES]
ASSESSMENT = Assessment("mm", 1.0, (), {})


def copied_run(world: World, folder: Path) -> RunFolder:
    if not (folder / "run").exists():
        shutil.copytree(world.run, folder / "run")
    return RunFolder(folder / "run")


def boundaries(_: World, folder: Path) -> None:
    row = dict.fromkeys(boundary_columns("um"), 1.5)
    write_boundaries_csv([row], folder / "boundaries.csv", unit="um")


def label(suffix: str) -> Callable[[World, Path], None]:
    def write(_: World, folder: Path) -> None:
        image, values = blob_case(0)
        write_label(values, folder / f"label{suffix}", affine=AFFINE)
        write_map(image.astype(np.float32), folder / f"map{suffix}", affine=AFFINE)

    return write


def sweep(world: World, folder: Path) -> None:
    cost = {"seconds_per_iteration": 0.1}
    point = {"method": "bcp", "labeled": 2, "labeled_cases": 2, "dice": 0.5, "low": 0.4}
    point |= {"high": 0.6, "dice_per_run": [0.5], "cost": cost}
    summary = {"runs": [{"run": "a", "dice": 0.5}], "points": [point], "n_cases": 3}
    write_sweep({**summary, "recipe": "r.yaml", "interval": "95 %", "split": "test"}, folder)


def cached(world: World, folder: Path) -> None:
    dataset = read_dataset(world.data)
    case = dataset.training[int(any(folder.glob("cache/[!.]*")))]  # another one each time
    CaseCache(folder / "cache", DataSpec(), dataset.labels).prepare([case])


def joined(world: World, folder: Path) -> None:
    if not (folder / "data").exists():
        shutil.copytree(world.data, folder / "data")
    else:
        medssl.import_dataset("images", world.more, folder / "data")


def imported(world: World, folder: Path) -> None:
    images = world.data / "imagesTr"
    medssl.import_dataset("images", images, folder / "dataset", options=["labels=1:bright"])


def repaired(world: World, folder: Path) -> None:
    report = check_dataset(read_dataset(world.data), workers=1)
    write_repaired(report, folder / "copy")


WRITERS: dict[str, Callable[[World, Path], Any]] = {
    "checkpoint": lambda w, d: save_checkpoint({"x": torch.zeros(9)}, d / "last.pt"),
    "recipe": lambda w, d: save_recipe(load_recipe(w.run).recipe, d / "recipe.yaml"),
    "splits": lambda w, d: save_splits(
        load_splits(w.run / "splits.json", read_dataset(w.data)), d / "splits.json"
    ),
    "manifest": lambda w, d: RunFolder(d).write_manifest(status="finished"),
    "metrics": lambda w, d: RunFolder(d).append_metrics({"step": 1}),
    "shorter metrics": lambda w, d: copied_run(w, d).truncate_metrics(2),
    "run folder": lambda w, d: RunFolder(d).create(resume=True),
    "cases.csv": lambda w, d: write_cases_csv(ROWS, d / "cases.csv"),
    "boundaries.csv": boundaries,
    "evaluation": lambda w, d: medssl.evaluate(w.data / "labelsTr", w.data / "labelsTr", d),
    "comparison": lambda w, d: write_comparison(w.compared, d),
    "sweep": sweep,
    "report": lambda w, d: medssl.report(w.run, output=d / "page.html", pictures=False),
    "nii.gz": label(".nii.gz"),
    "nii": label(".nii"),
    "assessment": lambda w, d: write_assessment(ASSESSMENT, d / "uncertainty" / "a.json"),
    "regions": lambda w, d: record_regions(
        {"a": Region(((0, 1),) * 3, (2, 2, 2), True, (1, 1, 1))}, d / "roi.json"
    ),
    "check": lambda w, d: medssl.check(w.data, json_file=d / "a.json", html_file=d / "a.html"),
}
"""What may be written again, in the place of the old."""
ONCE: dict[str, Callable[[World, Path], Any]] = {
    "copy of a recipe": lambda w, d: copy_recipe("quickstart", d),
    "phantom": lambda w, d: write_phantom(
        d / "phantom", labeled=2, unlabeled=0, test=0, shape=(24, 24, 12)
    ),
    "import": imported,
    "join": joined,
    "repaired copy": repaired,
    "bundle": lambda w, d: medssl.export(w.run, d / "bundle", torchscript=False),
    "cache": cached,
    "plan": lambda w, d: medssl.plan(
        w.data, output=d / "plan.yaml", method="supervised", device="cpu"
    ),
}


def assert_refused(
    write: Callable[[World, Path], Any], world: World, folder: Path, fault: str
) -> None:
    before = content_of(folder)
    with FAULTS[fault](), pytest.raises(MedSSLError) as caught:
        write(world, folder)
    assert os.strerror(SAID[fault]) in caught.value.what
    assert caught.value.fix
    assert caught.value.where
    assert Path(caught.value.where).is_relative_to(folder)
    assert content_of(folder) == before


LONG = {"report", "plan"}
"""What takes seconds; it writes by the same functions."""
UNNAMED = {"metrics", "run folder"}
"""What gives no file another name."""


def pairs(writers: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return the writers with the faults that each is tried with."""
    return [
        (name, fault)
        for name in writers
        for fault in FAULTS
        if (name not in LONG or fault == "full")
        and (name not in UNNAMED or fault != "full at the end")
    ]


@pytest.mark.parametrize(("name", "fault"), pairs(WRITERS))
def test_what_was_there_stays(world: World, tmp_path: Path, name: str, fault: str) -> None:
    WRITERS[name](world, tmp_path)
    assert_refused(WRITERS[name], world, tmp_path, fault)
    WRITERS[name](world, tmp_path)


@pytest.mark.parametrize(("name", "fault"), pairs(ONCE))
def test_what_is_new_is_not_begun(world: World, tmp_path: Path, name: str, fault: str) -> None:
    if name == "join":
        joined(world, tmp_path)
    assert_refused(ONCE[name], world, tmp_path, fault)
    ONCE[name](world, tmp_path)
    assert not [n for n in content_of(tmp_path) if Path(n).name.startswith(".")]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_only_saves_time_is_done_without(world: World, tmp_path: Path, fault: str) -> None:
    image = world.data / "imagesTr" / "case_00.nii.gz"
    case = Case("a", (image,), None, "a")
    verdicts = Verdicts(tmp_path / "checked", LabelMap((0, 1), ("background", "x")), 1)
    region = Region(((0, 1),) * 3, (2, 2, 2), True, (1, 1, 1))
    with FAULTS[fault]():
        verdicts.keep(case, [])
        search_box._write(tmp_path / "regions" / "a.json", region)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert verdicts.get(case) is None
    verdicts.keep(case, [])
    search_box._write(tmp_path / "regions" / "a.json", region)
    assert verdicts.get(case) == []
    assert search_box._read(tmp_path / "regions" / "a.json", (1, 1, 1)) == region


@pytest.mark.parametrize("name", ["nrrd", "mha"])
def test_what_itk_cannot_write(world: World, tmp_path: Path, name: str) -> None:
    """It says so in words of its own, and no fault of Python's functions stops it."""
    label(f".{name}")(world, tmp_path)
    before = content_of(tmp_path)
    with full(), pytest.raises(MedSSLError, match="cannot write the result") as caught:
        label(f".{name}")(world, tmp_path)
    assert caught.value.where == str(tmp_path / f"label.{name}")
    assert caught.value.fix
    assert content_of(tmp_path) == before


def test_pictures_of_a_run(world: World, tmp_path: Path) -> None:
    run = copied_run(world, tmp_path)
    shutil.rmtree(run.preview)
    assert_refused(lambda *_: write_previews(run, "test"), world, tmp_path, "denied")


@pytest.mark.parametrize("fault", FAULTS)
def test_tables_of_predictions(world: World, tmp_path: Path, fault: str) -> None:
    write_assessment(ASSESSMENT, tmp_path / "uncertainty" / "a.json")
    write_tables(tmp_path, None)
    assert_refused(lambda _, folder: write_tables(folder, None), world, tmp_path, fault)
