"""A cross-validation calibrated fold by fold, and what its folds then predict together."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import small_recipe, write_dataset, write_recipe
from monai_bundle import predicted_by_monai

import medssl
from medssl import cli
from medssl.bundle.load import load_bundle
from medssl.data.opened import open_dataset
from medssl.errors import MedSSLError
from medssl.inference.settings import PredictSettings
from medssl.models.loaded_run import load_ensemble, load_run
from medssl.progress import Display
from medssl.runs.members import chosen_members
from medssl.uncertainty.judged import judge_cases, sample_cases
from medssl.uncertainty.temperature import fit_temperature
from medssl.uncertainty.voxel_figures import Sample
from medssl.workflows.calibrate_folds import _others_temperatures, _temperatures

CPU = PredictSettings(device="cpu")
QUIET = Display(quiet=True)


@pytest.fixture(scope="module")
def crossval(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients in two folds that know two blobs a little, calibrated."""
    folder = tmp_path_factory.mktemp("folds")
    write_dataset(folder / "data", cases=6)
    recipe = small_recipe(folder / "data", folder / "cache", method={"name": "supervised"})
    recipe["data"] |= {"labeled": 4, "validation": 0}
    recipe["network"] = {"name": "unet", "channels": [4, 8], "strides": [2]}
    recipe["training"] |= {"iterations": 60, "optimizer": {"name": "adam", "lr": 0.01}}
    medssl.crossval(
        write_recipe(folder / "recipe.yaml", recipe),
        folds=2,
        baseline="none",
        output=folder / "cv",
        device="cpu",
        pictures=False,
    )
    medssl.calibrate(folder / "cv", device="cpu")
    return folder / "cv"


@pytest.fixture(scope="module")
def image(crossval: Path) -> Path:
    """A scan that no fold saw."""
    recipe = load_run(crossval / "fold_0", device="cpu").recipe
    return next((Path(recipe.data.root) / "imagesTr").glob(f"{recipe.data.excluded[0]}*"))


def content_of(crossval: Path) -> dict[str, Any]:
    return json.loads((crossval / "calibration.json").read_text())


def tempered_copy(crossval: Path, to: Path, *temperatures: float) -> Path:
    """Copy a cross-validation, with other temperatures."""
    shutil.copytree(crossval, to)
    content = content_of(to)
    content["folds"]["temperatures"] = list(temperatures)
    (to / "calibration.json").write_text(json.dumps(content))
    return to


def test_each_fold_is_calibrated_on_the_patients_it_left_out(crossval: Path) -> None:
    found = content_of(crossval)
    record = json.loads((crossval / "crossval.json").read_text())
    assert (found["n_cases"], found["n_patients"], found["temperature"]) == (4, 4, 1.0)
    assert found["folds"]["members"] == ["fold_0", "fold_1"]
    assert found["folds"]["looks"] == 2
    for number, temperature in enumerate(found["folds"]["temperatures"]):
        own = [p["patient"] for p in record["patients"] if p["fold"] == number]
        run = load_run(crossval / f"fold_{number}", device="cpu")
        assert not {*own} & {*json.loads((run.folder.path / "lineage.json").read_text())["labels"]}
        dataset = open_dataset(run.recipe.data, run.recipe.spec)
        cases = [c for c in dataset.training if c.id in own]
        samples = sample_cases(run, sorted(cases, key=lambda c: c.id), QUIET)
        expected = fit_temperature(
            np.concatenate([s.log_probs for s in samples]),
            np.concatenate([s.labels for s in samples]),
        )
        assert temperature == pytest.approx(expected, rel=1e-5)
    dice = found["folds"]["dice"]
    assert set(dice["slopes"]) == {"entropy", "volume", "mirrored"}
    assert dice["patients"] == 4
    errors = [abs(c["predicted"] - c["dice"]) for c in dice["cases"]]
    assert dice["error"] == pytest.approx(np.mean(errors))
    with (crossval / "evaluation" / "out_of_fold" / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    for case in dice["cases"]:
        true = np.mean([float(r["dice"]) for r in rows if r["case"] == case["case"]])
        assert case["dice"] == pytest.approx(true, abs=0.03)  # windows are tempered before the mean
    assert (crossval / "calibration.png").stat().st_size > 1000


def test_a_patient_alone_in_its_fold_is_measured_by_the_other_folds() -> None:
    def sample(right: int) -> Sample:
        """Voxels that are 90 % sure, so many of 100 rightly."""
        logs = np.log(np.tile([0.1, 0.9], (100, 1)))
        return Sample(logs, np.array([1] * right + [0] * (100 - right)))

    def fold(*patients: str) -> Any:
        return SimpleNamespace(cases=[SimpleNamespace(patient=p) for p in patients])

    half, fine = math.log(9) / math.log(3), 1.0  # 75 and 90 right of 100
    nothing = Sample(np.zeros((0, 2)), np.zeros(0, int))
    samples = [[sample(75)], [sample(90), sample(75)], [nothing]]
    folds = [fold("a"), fold("b", "c"), fold("d")]
    both = fit_temperature(
        np.concatenate([s.log_probs for s in samples[1]]),
        np.concatenate([s.labels for s in samples[1]]),
    )
    fitted = _temperatures(samples)
    assert fitted == pytest.approx([half, both, math.sqrt(half * both)], abs=1e-3)
    others = _others_temperatures(samples, folds)
    everybody = fit_temperature(
        np.concatenate([s.log_probs for own in samples for s in own]),
        np.concatenate([s.labels for own in samples for s in own]),
    )
    assert others == pytest.approx([both, half, fine, everybody], abs=1e-3)


def test_folds_are_averaged_with_their_temperatures(
    crossval: Path, image: Path, tmp_path: Path
) -> None:
    copy = tempered_copy(crossval, tmp_path / "cv", 3.0, 0.5)
    loaded = load_ensemble(copy, CPU)
    assert loaded.use_calibration() is None
    patch = torch.randn(1, 1, 16, 16, 8, generator=torch.Generator().manual_seed(0))
    networks = [load_run(copy / f"fold_{i}", device="cpu").predictor.model for i in (0, 1)]
    with torch.no_grad():
        each = [(n.eval()(patch) / t).softmax(1) for n, t in zip(networks, (3.0, 0.5), strict=True)]
        found = loaded.predictor.model.eval()(patch).exp()
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)

    for name, calibrated in (("with", True), ("without", False)):
        medssl.predict(copy, image, tmp_path / name, calibrated=calibrated, device="cpu")
    labels = {
        n: np.asarray(nib.load(tmp_path / n / image.name).dataobj) for n in ("with", "without")
    }
    np.testing.assert_array_equal(labels["with"], loaded.predictor.predict_file(image).values)
    plain = load_ensemble(copy, CPU).predictor.predict_file(image).values
    np.testing.assert_array_equal(labels["without"], plain)
    assert (labels["with"] != labels["without"]).any()
    model = next(iter(record_of(tmp_path / "with")["models"].values()))
    assert model["options"]["temperatures"] == [3.0, 0.5]
    with pytest.raises(MedSSLError, match="made with temperatures = "):
        medssl.predict(copy, image, tmp_path / "without", device="cpu")


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "predictions.json").read_text())


def test_a_single_fold_decides_as_without_its_temperature(
    crossval: Path, image: Path, tmp_path: Path
) -> None:
    copy = tempered_copy(crossval, tmp_path / "cv", 3.0, 0.5)
    asked = {"uncertainty": True, "device": "cpu"}
    medssl.predict(copy, image, tmp_path / "one", fold=1, **asked)
    medssl.predict(copy / "fold_1", image, tmp_path / "run", **asked)
    medssl.predict(copy, image, tmp_path / "first", members=1, **asked)
    labels = [np.asarray(nib.load(tmp_path / n / image.name).dataobj) for n in ("one", "run")]
    np.testing.assert_array_equal(*labels)
    entropy = [
        nib.load(tmp_path / n / "uncertainty" / image.name).get_fdata().mean()
        for n in ("one", "run")
    ]
    assert entropy[0] < entropy[1]  # T is 0.5
    for name, folds in (("one", ["fold_1"]), ("first", ["fold_0"])):
        (model,) = record_of(tmp_path / name)["models"].values()
        assert model["folds"] == folds
        assert model["model"] == str(copy / folds[0])
    with pytest.raises(MedSSLError, match="made by another model"):
        medssl.predict(copy, image, tmp_path / "one", device="cpu")


def test_what_cannot_be_chosen_is_refused(crossval: Path, tmp_path: Path) -> None:
    for wanted, message in (
        ({"members": 0, "fold": None}, "give 1 to 2"),
        ({"members": 3, "fold": None}, "has 2 folds"),
        ({"members": None, "fold": 2}, "give 0 to 1"),
        ({"members": None, "fold": -1}, "--fold -1"),
        ({"members": 1, "fold": 1}, "two different things"),
    ):
        with pytest.raises(MedSSLError, match=message):
            chosen_members(crossval, **wanted)
    with pytest.raises(MedSSLError, match="--members is for the folder of a cross-validation"):
        chosen_members(crossval / "fold_0", members=1, fold=None)
    for options, message in (
        ({"cases": ["case_00"]}, "leave out --cases"),
        ({"check": "test"}, "leave out --cases, --split and --check"),
        ({"ensemble": [crossval / "fold_0"]}, "without other runs"),
    ):
        with pytest.raises(MedSSLError, match=message):
            medssl.calibrate(crossval, **options)


def test_a_fold_that_saw_a_patient_it_left_out_is_not_calibrated(
    crossval: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "cv"
    shutil.copytree(crossval, copy)
    before = (copy / "calibration.json").read_bytes()
    lineage = copy / "fold_1" / "lineage.json"
    content = json.loads(lineage.read_text())
    record = json.loads((copy / "crossval.json").read_text())
    content["labels"] += [p["patient"] for p in record["patients"] if p["fold"] == 1][:1]
    lineage.write_text(json.dumps(content))
    with pytest.raises(MedSSLError, match="left-out patients cannot be scored"):
        medssl.calibrate(copy, device="cpu")
    record["patients"][0]["predictions"] = {"nobody": "x"}
    (copy / "crossval.json").write_text(json.dumps(record))
    with pytest.raises(MedSSLError, match="'nobody' is no labeled case"):
        medssl.calibrate(copy, device="cpu")
    assert (copy / "calibration.json").read_bytes() == before


def test_the_bundle_averages_with_the_temperatures_in_monai_alone(
    crossval: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tempered_copy(crossval, tmp_path / "cv", 3.0, 0.5)
    medssl.export(copy, tmp_path / "bundle", torchscript=False)
    text = (tmp_path / "bundle" / "configs" / "metadata.json").read_text()
    assert "case_" not in text
    ours = load_ensemble(copy, CPU)
    ours.use_calibration()
    expected = ours.predictor.predict_file(image, assess=True, keep_probabilities=True)
    theirs = load_bundle(tmp_path / "bundle", CPU)
    found = theirs.predict_file(image, assess=True, keep_probabilities=True)
    torch.testing.assert_close(found.probabilities, expected.probabilities)
    np.testing.assert_array_equal(found.values, expected.values)
    assert [*found.assessment.members[1]] == [*expected.assessment.members[1]]
    for one, other in zip(found.assessment.members, expected.assessment.members, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert theirs.calibration.dice == ours.predictor.calibration.dice
    assert theirs.calibration.of_folds
    plain = load_bundle(tmp_path / "bundle", PredictSettings(device="cpu", calibrated=False))
    untempered = load_ensemble(copy, CPU).predictor.predict_file(image).values
    np.testing.assert_array_equal(plain.predict_file(image).values, untempered)
    in_monai = predicted_by_monai(tmp_path / "bundle", image, monkeypatch)
    np.testing.assert_array_equal(in_monai, expected.values)
    assert (in_monai != untempered).any()

    medssl.export(copy, tmp_path / "one", torchscript=False, fold=1)
    alone = load_bundle(tmp_path / "one", CPU)
    assert (alone.members, alone.temperature) == (1, 0.5)
    with pytest.raises(MedSSLError, match="a bundle predicts with all its members"):
        medssl.predict(tmp_path / "bundle", image, tmp_path / "out", members=1)


def test_triage_ranks_by_agreement_and_says_what_dice_to_expect(
    crossval: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_run(crossval / "fold_0", device="cpu").recipe
    images = Path(recipe.data.root) / "imagesTr"
    command = ["--quiet", "triage", str(crossval), "--input", str(images), "--device", "cpu"]
    assert cli.run([*command, "-o", str(tmp_path / "a.csv")]) == 0
    said = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert len(rows) == 6
    usual = [r for r in rows if not r["flag"]]
    worst = min(usual, key=lambda r: float(r["agreement"]))
    dice = content_of(crossval)["folds"]["dice"]
    line = f"the folds agree to a Dice of {float(worst['agreement']):.2f}, lowest of {len(usual)}"
    assert line in said
    assert (
        f"to be expected {float(worst['predicted_dice']):.2f}, give or take {dice['error']:.2f}"
        in said
    )
    quality = {r["case"]: r for r in csv.DictReader((tmp_path / "a" / "quality.csv").open())}
    for row in rows:
        for key in ("predicted_dice", "agreement"):
            assert 0 <= float(row[key]) <= 1
            assert float(quality[row["case"]][key]) == pytest.approx(float(row[key]))

    few = tmp_path / "few"
    shutil.copytree(crossval, few)
    content = content_of(few)
    content["folds"] |= {"dice": None, "looks": 1, "no_dice": "fewer than 4 patients"}
    (few / "calibration.json").write_text(json.dumps(content))
    one = str(next(images.glob("*.nii.gz")))
    command = ["triage", str(few), "--input", one, "-o", str(tmp_path / "b.csv"), "--device", "cpu"]
    assert cli.run(command) == 0
    assert "no Dice is predicted" in capsys.readouterr().err
    (row,) = csv.DictReader((tmp_path / "b.csv").open())
    assert row["predicted_dice"] == ""
    assert 0 <= float(row["agreement"]) <= 1


def test_the_numbers_of_a_member_are_those_its_fold_was_calibrated_by(crossval: Path) -> None:
    """As one of several, a fold says of a patient what it said when it was calibrated alone."""
    loaded = load_ensemble(crossval, CPU)
    loaded.use_calibration()
    record = json.loads((crossval / "crossval.json").read_text())
    fold_of = {p["patient"]: p["fold"] for p in record["patients"]}
    dataset = open_dataset(loaded.recipe.data, loaded.recipe.spec)
    known = {c["case"]: c for c in content_of(crossval)["folds"]["dice"]["cases"]}
    cases = [c for c in dataset.training if c.id in known][:2]
    for judged in judge_cases(loaded, cases, QUIET):
        own = judged.assessment.members[fold_of[judged.case.id]]
        for name in ("entropy", "volume", "mirrored"):
            assert own[name] == pytest.approx(known[judged.case.id][name], abs=1e-4)
