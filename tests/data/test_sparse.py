"""Sparse annotation: what carries no label is learned from as unlabeled and measured nowhere."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import AFFINE, small_recipe, write_dataset, write_recipe

from medssl.data.datasets.case import IGNORE_INDEX, CachedCase
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.patches.augment import Augmenter
from medssl.data.patches.sampling import PatchSampler, PatchSettings, Stream
from medssl.data.preprocessing.cache import CaseCache
from medssl.data.preprocessing.cache_entry import class_indices
from medssl.errors import MedSSLError
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.reports.preview import draw_case
from medssl.settings.augment import AugmentSettings
from medssl.settings.spec import DataSpec
from medssl.training.cases import plan_cases
from medssl.training.prepare import prepare_cases
from medssl.workflows.train import train

VALUE = 200
"""The dataset's own value for "not annotated"; inside the program it is 255."""
ANNOTATED = (4, 8)


def sparse_dataset(root: Path, cases: int = 5, sparse: int = 5, **options: int) -> Path:
    """The blobs, of which every fourth plane is annotated in the first ``sparse`` cases."""
    write_dataset(root, cases=cases, **options)
    info = json.loads((root / "dataset.json").read_text())
    info["labels"][str(VALUE)] = "ignore"
    (root / "dataset.json").write_text(json.dumps(info))
    for number in range(sparse):
        path = root / "labelsTr" / f"case_{number:02d}.nii.gz"
        label = np.asanyarray(nib.load(path).dataobj).copy()
        hidden = [z for z in range(label.shape[2]) if z not in ANNOTATED]
        label[:, :, hidden] = VALUE
        nib.save(nib.Nifti1Image(label, AFFINE), path)
    return root


def sampler(case: CachedCase, patch: tuple[int, ...], *, sparse: bool = True) -> PatchSampler:
    spec = DataSpec(flip_axes=[0, 1, 2], rot90_planes=[[0, 1]], rotate_planes=[[0, 1]])
    settings = AugmentSettings(rotate_degrees=20, rotate_probability=1.0)
    augment = Augmenter(settings, spec, spatial_dims=len(patch))
    return PatchSampler(
        [case], Stream("labeled", 0, 2), PatchSettings(patch, augment=augment, sparse=sparse)
    )


def sparse_case(planes: tuple[int, ...], *, foreground: bool = True) -> CachedCase:
    label = np.full((16, 16, 40), IGNORE_INDEX, np.uint8)
    label[:, :, planes] = 0
    if foreground:
        label[4:9, 4:9, planes] = 1
    image = np.zeros((1, 16, 16, 40), np.float16)
    return CachedCase("a", "a", image, label, class_indices(label, seed=0))


@pytest.mark.parametrize("foreground", [True, False])
def test_every_labeled_volume_patch_shows_an_annotation(foreground: bool) -> None:
    case = sparse_case((5, 30), foreground=foreground)
    shown = {}
    for sparse in (True, False):
        patches = sampler(case, (8, 8, 6), sparse=sparse)
        labels = [patches.draw(n)["label"] for n in range(40)]
        shown[sparse] = sum(bool((label != IGNORE_INDEX).any()) for label in labels)
        # Turning and rotating make no new value of it.
        assert set(torch.cat([x.flatten() for x in labels]).tolist()) <= {0, 1, IGNORE_INDEX}
    assert shown[True] == 40 > shown[False]


def test_slices_without_annotation_are_no_labeled_items() -> None:
    patches = sampler(sparse_case((5, 30)), (8, 8))
    assert len(patches.items) == 2
    assert {patches.item(n)[1] for n in range(10)} == {5, 30}
    assert all((patches.draw(n)["label"] != IGNORE_INDEX).any() for n in range(10))
    assert len(sampler(sparse_case((5, 30)), (8, 8), sparse=False).items) == 40
    with pytest.raises(MedSSLError, match="no slice of the 1 labeled cases"):
        sampler(sparse_case(()), (8, 8))


@pytest.mark.parametrize(
    "grid",
    [
        {"spacing": [0.8, 1.3, 2.0]},
        {"resize": [20, 32, None]},
        {"resize": [20, 32, None], "resize_mode": "nearest"},
        {"orientation": "LPS"},
    ],
)
def test_preprocessing_keeps_what_is_not_annotated(tmp_path: Path, grid: dict) -> None:
    dataset = read_dataset(sparse_dataset(tmp_path / "data", cases=1, sparse=1))
    assert dataset.labels.ignore_value == VALUE
    cache = CaseCache(tmp_path / "cache", DataSpec(**grid), dataset.labels)
    case = cache.prepare(dataset.training)["case_00"]
    assert case.label is not None
    assert set(np.unique(case.label)) <= {0, 1, 2, IGNORE_INDEX}
    assert IGNORE_INDEX not in case.class_indices
    annotated = (case.label != IGNORE_INDEX).any(axis=(0, 1))
    assert tuple(np.flatnonzero(annotated)) == ANNOTATED
    assert (case.label[:, :, ANNOTATED] != IGNORE_INDEX).all()


def recipe_of(folder: Path, root: Path, method: str, **changes: dict) -> Path:
    recipe = small_recipe(root, folder / "cache", method={"name": method}, **changes)
    return write_recipe(folder / f"{method}.yaml", recipe)


def test_partly_annotated_cases_also_serve_as_unlabeled(tmp_path: Path) -> None:
    root = sparse_dataset(tmp_path / "data", cases=4, sparse=2)
    path = recipe_of(tmp_path, root, "mean_teacher", data={"labeled": 4, "test": 0})
    loaded = load_recipe(path)
    said: list[str] = []
    display = Display(quiet=True)
    display.say = said.append  # type: ignore[method-assign]
    data = prepare_cases(loaded, plan_cases(loaded, display), display)
    assert len(data.labeled) == 4
    assert {case.id for case in data.unlabeled} == {"case_00", "case_01"}
    assert all(case.label is None and not case.class_indices for case in data.unlabeled)
    assert any("2 labeled cases are annotated in part" in line for line in said)


def test_without_any_unlabeled_voxel_there_is_nothing_to_learn_from(tmp_path: Path) -> None:
    root = sparse_dataset(tmp_path / "data", cases=3, sparse=0)
    path = recipe_of(tmp_path, root, "mean_teacher", data={"labeled": 3, "test": 0})
    with pytest.raises(MedSSLError, match="every label is annotated throughout"):
        train(path, output=tmp_path / "run", device="cpu")


@pytest.mark.parametrize(("method", "patch"), [("bcp", [16, 16, 8]), ("supervised", [16, 16])])
def test_training_and_evaluation_on_sparse_labels(
    tmp_path: Path, method: str, patch: list[int]
) -> None:
    root = sparse_dataset(tmp_path / "data", cases=5, sparse=5)
    path = recipe_of(
        tmp_path,
        root,
        method,
        data={"labeled": 3, "test": 2},
        training={"iterations": 4, "patch": patch, "precision": "fp32"},
    )
    run = train(path, output=tmp_path / "run", device="cpu").path
    with (run / "evaluation" / "test" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        label = np.asanyarray(nib.load(root / "labelsTr" / f"{row['case']}.nii.gz").dataobj)
        predicted = np.asanyarray(
            nib.load(run / "predictions" / "test" / f"{row['case']}.nii.gz").dataobj
        )
        assert VALUE not in predicted
        value, seen = int(row["label"]), label != VALUE
        for column, mask in (("reference", label == value), ("prediction", predicted == value)):
            volume = float(row[f"volume_{column}_mm3"])
            assert volume == pytest.approx(2.0 * float((mask & seen).sum()))


def test_pictures_show_annotated_planes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sparse_dataset(tmp_path / "data", cases=1, sparse=1)
    titles = []
    import matplotlib.axes

    original = matplotlib.axes.Axes.set_title
    monkeypatch.setattr(
        matplotlib.axes.Axes,
        "set_title",
        lambda self, text, **kw: titles.append(text) or original(self, text, **kw),
    )
    label = root / "labelsTr" / "case_00.nii.gz"
    draw_case(
        root / "imagesTr" / "case_00.nii.gz",
        label,
        label,
        io.BytesIO(),
        title="",
        names={0: "background", 1: "bright", 2: "dim"},
    )
    assert titles[2] in {f"axial, slice {z}" for z in ANNOTATED}
