"""Left and right: which labels are exchanged, along which axis, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from helpers import small_recipe

from medssl.data.datasets.case import Case, LabelMap
from medssl.data.patches.augment import Augmenter, Geometry
from medssl.data.patches.sides import class_pairs, side_axis
from medssl.data.phantoms.dataset import write_phantom
from medssl.data.phantoms.kinds import KINDS
from medssl.errors import MedSSLError
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe, resolve, save_recipe
from medssl.settings.augment import AugmentSettings
from medssl.settings.spec import DataSpec
from medssl.settings.specs import load_spec
from medssl.training.cases import plan_cases
from medssl.training.prepare import prepare_cases
from medssl.workflows.train import train

FDI = load_spec("cbct_fdi")
WHERE = Path("dataset.json")


def labels_of(*values: int, names: dict[int, str] | None = None) -> LabelMap:
    given = names or {}
    return LabelMap((0, *values), ("background", *(given.get(v, f"tooth {v}") for v in values)))


def pairs_of(labels: LabelMap, *, mirrored: bool = True, spec: DataSpec = FDI) -> list[Any]:
    return class_pairs(spec, labels, mirrored=mirrored, where=WHERE)


def test_pairs_are_classes_and_may_be_few() -> None:
    assert pairs_of(labels_of(11, 12, 21, 22)) == [(1, 3), (2, 4)]
    assert pairs_of(labels_of(31, 41)) == [(2, 1)]
    every = pairs_of(labels_of(*KINDS["cbct"].choices["fdi"].keys() - {0}))
    assert len(every) == 16
    assert pairs_of(labels_of(1, 2)) == []


def test_half_a_pair_is_refused_where_sides_are_mirrored() -> None:
    with pytest.raises(MedSSLError, match="label 11 is declared but not 21") as caught:
        pairs_of(labels_of(11, 12, 22))
    assert "training.augment.flip" in str(caught.value)
    with pytest.raises(MedSSLError, match=r"label 47 is declared but not 37.*1 more such pairs"):
        pairs_of(labels_of(47, 48))
    assert pairs_of(labels_of(11, 12, 22), mirrored=False) == [(2, 3)]


def test_structures_named_left_and_right_are_pairs_where_a_spec_has_pairs() -> None:
    names = {3: "Left inferior canal", 4: "right inferior canal", 5: "left sinus", 11: "tooth"}
    assert pairs_of(labels_of(3, 4, 5, 11, 21, names=names)) == [(4, 5), (1, 2)]
    more = FDI.model_copy(update={"label_pairs": [*FDI.label_pairs, [4, 3]]})
    assert pairs_of(labels_of(3, 4, names=names), spec=more) == [(2, 1)]
    # In cine MR, the left ventricle is no mirror image of the right one.
    ventricles = labels_of(1, 2, names={1: "left ventricle", 2: "right ventricle"})
    assert pairs_of(ventricles, spec=load_spec("mr_cardiac")) == []


def test_the_axis_of_the_sides(tmp_path: Path) -> None:
    assert side_axis(FDI, []) == 0
    assert side_axis(DataSpec(orientation="SAL"), []) == 2
    # Stored axes: a sagittal stack has its sides along the last axis.
    sagittal = np.array([[0, 0, 2.0, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    files = {"a": sagittal, "b": np.eye(4)}
    for name, affine in files.items():
        nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine), tmp_path / f"{name}.nii")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii")), str(tmp_path / "c.mha"))
    cases = {n: Case(n[0], (tmp_path / n,), None, n[0]) for n in ("a.nii", "b.nii", "c.mha")}
    stored = DataSpec(orientation=None)
    assert side_axis(stored, [cases["a.nii"], cases["c.mha"]]) == 2
    assert side_axis(stored, [cases["b.nii"]]) == 0
    with pytest.raises(MedSSLError, match=r"axis 0 here but axis 2 in a\.nii"):
        side_axis(stored, list(cases.values()))


def test_labels_follow_the_side_axis_through_turns() -> None:
    spec = DataSpec(flip_axes=[0, 1, 2], rot90_planes=[[0, 1]])
    aug = Augmenter(AugmentSettings(), spec, spatial_dims=3, label_pairs=[[1, 2]], side_axis=1)
    label = np.zeros((4, 4, 4), np.uint8)
    label[0], label[3] = 1, 2
    image = label[None].astype(np.float32)

    def swapped(geometry: Geometry) -> bool:
        _, target = aug.move(image, label, geometry)
        assert target is not None
        plain = geometry.move(label, first_axis=0)
        changed = target.numpy() != plain
        assert changed.any() == changed[plain > 0].all()
        return bool(changed.any())

    assert swapped(Geometry(flips=(1,)))
    assert not swapped(Geometry(flips=(0, 2)))
    # After a quarter turn in the plane, left to right lies along the other axis.
    assert swapped(Geometry(turns=((0, 1, 1),), flips=(0,)))
    assert not swapped(Geometry(turns=((0, 1, 3),), flips=(1,)))
    assert swapped(Geometry(turns=((0, 1, 2),), flips=(1,)))


def fdi_recipe(tmp_path: Path, **spec: Any) -> LoadedRecipe:
    root = tmp_path / "jaws"
    if not root.exists():
        write_phantom(root, kind="cbct", labeled=6, unlabeled=0, test=0, shape=(40, 40, 24))
    recipe = small_recipe(root, tmp_path / "cache", method={"name": "supervised"})
    return resolve({**recipe, "spec": {"name": "cbct_fdi", **spec}}, path=tmp_path)


def test_a_mirrored_jaw_has_its_numbers_exchanged(tmp_path: Path) -> None:
    plan = plan_cases(fdi_recipe(tmp_path, spacing="native"), Display(quiet=True))
    dataset, aug, case = plan.dataset, plan.augmenter, plan.splits.labeled[0]
    values = np.asanyarray(nib.as_closest_canonical(nib.load(case.label)).dataobj)
    classes = dataset.labels.to_classes(values)
    image = classes[None].astype(np.float32)
    _, target = aug.move(image, classes, Geometry(flips=(0,)))
    assert target is not None
    mirrored = dataset.labels.to_values(target.numpy())
    present = set(np.unique(values)) - {0}
    partner = {1: 2, 2: 1, 3: 4, 4: 3}
    for value in present:
        other = 10 * partner[value // 10] + value % 10
        np.testing.assert_array_equal(mirrored == other, np.flip(values == value, 0))
    # The patient's right (quadrants 1 and 4) is still on the right: low first index in RAS is left.
    right = np.isin(mirrored // 10, (1, 4)).nonzero()[0].mean()
    left = np.isin(mirrored // 10, (2, 3)).nonzero()[0].mean()
    assert right > left


def test_half_a_pair_stops_before_any_work(tmp_path: Path) -> None:
    loaded = fdi_recipe(tmp_path, label_pairs=[[11, 99]])
    with pytest.raises(MedSSLError, match="label 11 is declared but not 99"):
        plan_cases(loaded, Display(quiet=True))
    recipe = loaded.recipe
    off = recipe.training.augment.model_copy(update={"flip": False})
    training = recipe.training.model_copy(update={"augment": off})
    changed = recipe.model_copy(update={"training": training})
    plan_cases(replace(loaded, recipe=changed), Display(quiet=True))


def test_predictions_return_to_fdi_numbers(tmp_path: Path) -> None:
    recipe = fdi_recipe(tmp_path, spacing="native").recipe
    root = Path(recipe.data.root)
    path = tmp_path / "recipe.yaml"
    save_recipe(recipe, path)
    run = train(path, output=tmp_path / "run", device="cpu").path
    names = json.loads((root / "dataset.json").read_text())["labels"]
    declared = {int(value) for value in names}
    with (run / "evaluation" / "test" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {int(row["label"]) for row in rows} == declared - {0}
    for file in (run / "predictions" / "test").glob("*.nii.gz"):
        assert set(np.unique(np.asanyarray(nib.load(file).dataobj)).tolist()) <= declared


def test_an_undeclared_number_stops_training_with_case_and_voxels(tmp_path: Path) -> None:
    loaded = fdi_recipe(tmp_path)
    path = Path(loaded.recipe.data.root) / "labelsTr" / "cbct_002.nii.gz"
    image = nib.load(path)
    label = np.asanyarray(image.dataobj).copy()
    label[0, 0, :3] = 60  # a deciduous quadrant that does not exist
    nib.save(nib.Nifti1Image(label, image.affine, image.header), path)
    display = Display(quiet=True)
    with pytest.raises(MedSSLError) as caught:
        prepare_cases(loaded, plan_cases(loaded, display), display)
    message = str(caught.value)
    assert "60 (3 voxels)" in message
    assert "cbct_002" in message
