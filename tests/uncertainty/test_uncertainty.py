"""What predictions say of themselves, and what is made of it."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import AFFINE, blob_case, small_recipe, write_dataset, write_recipe
from torch import Tensor, nn

import medssl
from medssl import cli
from medssl.bundle.load import load_bundle
from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError
from medssl.inference.assessment import Assessment, StructureFindings
from medssl.inference.calibration import Calibrated, Calibration, VolumeError, read_calibration
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.inference.task import Task
from medssl.inference.unusual import learn_reference
from medssl.networks.ensemble import Ensemble, SideBySide
from medssl.runs.checkpoint import load_checkpoint, save_checkpoint
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec
from medssl.uncertainty.summary import draw_calibration, format_calibration
from medssl.uncertainty.triage import rank_cases
from medssl.uncertainty.volumes_csv import quality_row, volume_rows

LABELS = LabelMap((0, 7), ("background", "organ"))
RAW = {"orientation": None, "intensity": {"rule": "none"}, "flip_axes": [0]}
OF = Calibrated("last", False, False, ())


class Says(nn.Module):
    """Reads the probability of the structure, in percent, from the image; ``bias`` logits more."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        p = (x[:, :1] / 100).clamp(1e-4, 1 - 1e-4)
        return torch.cat((torch.zeros_like(p), torch.log(p / (1 - p)) + self.bias), dim=1)


def predictor(model: nn.Module, **inference) -> Predictor:
    return Predictor(
        model,
        Task(DataSpec(**RAW), LABELS, (8, 8, 8)),
        InferenceSettings(**inference),
        device=torch.device("cpu"),
    )


def scene() -> np.ndarray:
    """10 voxels at 90 %, 10 at 20 %, the rest at 1 %."""
    image = np.ones((12, 10, 8), np.int16)
    image[4, :, 3] = 90
    image[5, :, 3] = 20
    return image


def write(path: Path, image: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(image, AFFINE), path)
    return path


def test_expected_dice_and_volume_by_hand(tmp_path: Path) -> None:
    found = predictor(Says()).predict_file(write(tmp_path / "a.nii.gz", scene()), assess=True)
    (organ,) = found.assessment.structures
    # Inside are 10 x 0.9; expected in all 10 x 0.9 + 10 x 0.2. The 1 % are not suspected of it.
    assert organ.expected_dice == pytest.approx(2 * 9 / (10 + 11), abs=2e-3)
    assert found.assessment.quality == organ.expected_dice
    assert organ.volume == 20.0  # voxels of 2 mm3
    assert (organ.label, organ.name, organ.member_volumes) == (7, "organ", ())
    again = Assessment.from_dict(json.loads(json.dumps(found.assessment.as_dict())))
    assert again == found.assessment


def test_a_structure_that_is_nowhere_has_no_expected_dice(tmp_path: Path) -> None:
    image = write(tmp_path / "a.nii.gz", np.ones((8, 8, 8), np.int16))
    found = predictor(Says()).predict_file(image, assess=True).assessment
    assert found.structures[0].expected_dice is None
    assert found.quality is None
    assert found.structures[0].volume == 0


def test_calibration_changes_how_sure_but_not_what(tmp_path: Path) -> None:
    image = write(tmp_path / "a.nii.gz", scene())
    one = predictor(Says())
    asked = {"keep_probabilities": True, "entropy": True, "assess": True}
    before = one.predict_file(image, **asked)
    one.calibration = Calibration(2.0, OF)
    after = one.predict_file(image, **asked)
    np.testing.assert_array_equal(after.values, before.values)
    # 9 : 1 becomes 3 : 1, and 1 : 4 becomes 1 : 2.
    assert after.probabilities[1, 4, 0, 3] == pytest.approx(0.75, abs=1e-4)
    assert after.probabilities[1, 5, 0, 3] == pytest.approx(1 / 3, abs=1e-4)
    assert (after.entropy > before.entropy).all()
    expected = 2 * 7.5 / (10 + 7.5 + 10 / 3)
    assert after.assessment.structures[0].expected_dice == pytest.approx(expected, abs=2e-3)
    assert after.assessment.temperature == 2.0


@pytest.mark.parametrize("memory", [2.0, 1e-5])
def test_members_are_counted_each_by_itself(tmp_path: Path, memory: float) -> None:
    # 20 % and a bias of log 9 make 9 : 4, which the second member alone calls the structure.
    models = [Says(), Says(math.log(9))]
    image = torch.from_numpy(scene()[None].astype(np.float32))
    both = predictor(Ensemble(models), memory_gb=memory)
    assert both.members == 2
    file = write(tmp_path / "a.nii.gz", scene())
    found = both.predict_file(file, assess=True, keep_probabilities=True)
    assert found.assessment.structures[0].member_volumes == (20.0, 40.0)
    assert found.assessment.structures[0].volume == 20.0  # the mean of 20 % and 69 % is below half
    torch.testing.assert_close(found.probabilities, both.probabilities(image))
    for where, block in both.member_blocks(image):
        for member, own in zip(models, block, strict=True):
            expected = predictor(member).probabilities(image)[(slice(None), *where)]
            torch.testing.assert_close(own, expected)


def test_a_member_counts_in_the_terms_of_the_image(tmp_path: Path) -> None:
    """Preprocessed at half the voxel size, and back: members and their mean are comparable."""
    coarse = Predictor(
        Ensemble([Says(), Says(1e-3)]),
        Task(DataSpec(**RAW, spacing=[1.5, 1.5, 3.0]), LABELS, (8, 8, 8)),
        InferenceSettings(),
        device=torch.device("cpu"),
    )
    image = np.ones((24, 20, 16), np.int16)
    image[5:14, 4:13, 3:11] = 90
    found = coarse.predict_file(write(tmp_path / "a.nii.gz", image), assess=True)
    (organ,) = found.assessment.structures
    assert organ.volume > 0
    assert organ.volume % (1.5 * 1.5 * 3) != 0  # no whole number of preprocessed voxels
    assert organ.member_volumes == pytest.approx((organ.volume, organ.volume))


def test_side_by_side_is_one_distribution() -> None:
    x = torch.tensor([90.0, 20.0]).reshape(1, 1, 2)
    stacked = SideBySide(Ensemble([Says(), Says(1.0)]))(x).softmax(dim=1)
    assert stacked.shape == (1, 4, 2)
    torch.testing.assert_close(stacked[:, :2] * 2, Says()(x).softmax(dim=1))
    torch.testing.assert_close(stacked[:, 2:] * 2, Says(1.0)(x).softmax(dim=1))


def test_mirror_images_are_members(tmp_path: Path) -> None:
    mirrored = predictor(Says(), tta=True)
    assert mirrored.members == 2
    found = mirrored.predict_file(write(tmp_path / "a.nii.gz", scene()), assess=True)
    assert found.assessment.structures[0].member_volumes == (20.0, 20.0)


def case(volume: float, quality: float, noise: float, *, members=()) -> Assessment:
    organ = StructureFindings(7, "organ", volume, quality, members)
    features = {"noise": noise, "volume of organ": math.log1p(volume)}
    return Assessment("mm", 1.0, (organ,), features)


def usual_cases(n: int = 12) -> list[Assessment]:
    rng = np.random.default_rng(0)
    return [case(1000 * rng.uniform(0.9, 1.1), 0.8, rng.uniform(0.1, 0.3)) for _ in range(n)]


def test_volumes_come_with_the_interval_that_is_there() -> None:
    reference = learn_reference([one.features for one in usual_cases()])
    known = Calibration(1.0, OF, {"organ": VolumeError(0.8, 1.25, 0.9, 19)}, reference)

    def row(one: Assessment, calibration: Calibration | None) -> tuple:
        (found,) = volume_rows("a", one, calibration)
        return found["low_mm3"], found["high_mm3"], found["how"]

    assert row(case(1000, 0.8, 0.2), known) == (
        800,
        1250,
        "90% of true volumes, from 19 calibration cases",
    )
    strange = row(case(1000, 0.8, 9.0), known)
    assert math.isnan(strange[0])
    assert "unlike the calibration cases" in strange[2]
    members = case(1000, 0.8, 0.2, members=(900.0, 1100.0, 950.0))
    how = "range of 3 members and their mean, no promise"
    assert row(members, None) == (900, 1100, how)
    assert row(members, known)[:2] == (800, 1250)
    # The volume lies inside its own range, whatever the members or the calibration say.
    assert row(case(800, 0.8, 0.2, members=(900.0, 1100.0)), None) == (
        *(800, 1100),
        "range of 2 members and their mean, no promise",
    )
    assert row(case(0, 0.0, 0.2, members=(0.0, 40.0)), None)[:2] == (0, 40)
    assert row(case(0, 0.0, 0.2, members=(0.0, 0.0)), None)[2] == "not found"
    assert row(case(0, 0.0, 0.2, members=(0.0, 40.0)), known)[2] == "not found"
    small = Calibration(1.0, OF, {"organ": VolumeError(1.1, 1.3, 0.9, 19)}, reference)
    assert row(case(1000, 0.8, 0.2), small)[:2] == (1000, 1300)
    assert "medssl calibrate" in row(case(1000, 0.8, 0.2), None)[2]
    assert row(case(0, 0.0, 0.2), known)[2] == "not found"


def test_what_is_unusual_is_named_with_what_is_usual() -> None:
    usual = usual_cases()
    reference = learn_reference([one.features for one in usual])
    assert max(reference.score(one.features) for one in usual) < reference.threshold
    noisy, tiny = case(1000, 0.9, 2.0), case(20, 0.9, 0.2)
    assert reference.score(noisy.features) > reference.threshold
    found = quality_row("a", noisy, Calibration(1.0, OF, {}, reference))
    assert found["flag"] == "unusual"
    assert found["why"].startswith("noise is 2, in the calibration cases 0.1")
    assert reference.reason(tiny.features).startswith("volume of organ is 20, in")
    assert quality_row("a", usual[0], Calibration(1.0, OF, {}, reference))["flag"] == ""
    assert type(reference).from_dict(json.loads(json.dumps(reference.as_dict()))) == reference
    with pytest.raises(ValueError, match="three cases"):
        learn_reference([one.features for one in usual[:2]])


def test_the_deviation_is_in_standard_deviations() -> None:
    reference = learn_reference([{"noise": v} for v in (1.0, 2.0, 3.0)])
    (step,) = reference.deviations({"noise": 4.0, "other": 1.0}).values()
    assert step == pytest.approx(2 / math.sqrt(4 / 3))
    assert reference.score({"noise": 4.0}) == pytest.approx(step)
    # Each case against the other two: the outer ones are 1.5 from the mean of two 1 apart.
    expected = 1.25 * 1.5 / math.sqrt(0.5) / math.sqrt(1.5)
    assert reference.threshold == pytest.approx(expected)


def test_strange_cases_come_first_then_unsure_and_different_ones() -> None:
    reference = learn_reference([one.features for one in usual_cases()])
    cases = {
        "fine": case(1000, 0.95, 0.20),
        "unsure": case(1080, 0.60, 0.28),
        "unsure_copy": case(1080, 0.61, 0.28),
        "other": case(930, 0.70, 0.12),
        "noisy": case(1000, 0.99, 3.0),
        "noisier": case(1000, 0.99, 9.0),
    }
    ranked = rank_cases(cases, reference)
    assert [r.case for r in ranked[:4]] == ["noisier", "noisy", "unsure", "other"]
    assert [r.flag for r in ranked] == ["unusual", "unusual", "", "", "", ""]
    assert ranked[-1].case == "unsure_copy"
    assert ranked[-1].similar_to == "unsure"
    assert ranked[2].why == "expected Dice 0.60, lowest of 4"
    assert ranked[3].why == "expected Dice 0.70, 3rd lowest of 4"
    assert ranked[-1].why.endswith("much like unsure, which comes first")
    assert rank_cases({}, reference) == []


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    """A run that knows two blobs, calibrated on six cases, and its dataset."""
    folder = tmp_path_factory.mktemp("uncertainty")
    data = write_dataset(folder / "data", cases=13)
    recipe = small_recipe(data, folder / "cache", method={"name": "supervised"})
    recipe["data"] |= {"labeled": 3, "test": 3, "validation": 0}
    recipe["network"] = {"name": "unet", "channels": [8, 16], "strides": [2]}
    recipe["training"] |= {"iterations": 60, "optimizer": {"name": "adam", "lr": 0.01}}
    run = medssl.train(write_recipe(folder / "recipe.yaml", recipe), output=folder / "run").path
    splits = json.loads((run / "splits.json").read_text())
    taken = {*splits["labeled"], *splits["test"]}
    others = [f"case_{i:02d}" for i in range(13) if f"case_{i:02d}" not in taken][:6]
    return run, data, medssl.calibrate(run, cases=others, check="test")


def test_the_file_holds_what_is_promised(calibrated: tuple[Path, Path, dict]) -> None:
    run, _, found = calibrated
    written = json.loads((run / "calibration.json").read_text())
    assert written["temperature"] == pytest.approx(found["temperature"])
    assert 0.1 < written["temperature"] < 10
    assert (written["n_cases"], written["cases_from"]) == (6, "named cases")
    assert written["ece"]["bins"] == len(written["reliability"]["after"]) == 15
    voxels = [sum(b["count"] for b in written["reliability"][k]) for k in ("before", "after")]
    assert voxels == [written["voxels"]] * 2
    gaps = [
        b["count"] * abs(b["accuracy"] - b["confidence"])
        for b in written["reliability"]["before"]
        if b["count"]
    ]
    assert sum(gaps) / voxels[0] == pytest.approx(written["ece"]["before"])
    assert written["nll"]["after"] < written["nll"]["before"] + 0.01
    assert len(written["quality"]["cases"]) == 6
    assert -1 <= written["quality"]["spearman"] <= 1
    assert written["quality"]["low"] is None
    assert written["quality"]["no_interval"] == "fewer than 8 patients"
    assert written["volume"]["bright"]["level"] == pytest.approx(5 / 7)
    assert written["held_out"]["n_cases"] == 3
    assert written["held_out"]["cases_from"] == "test"
    assert set(written["held_out"]["volume"]) == {"bright", "dim"}
    assert read_calibration(run / "calibration.json").reference.n == 6
    assert (run / "calibration.png").stat().st_size > 1000
    lines = format_calibration(written).splitlines()
    assert lines[0] == f"temperature {written['temperature']:.3f}"
    assert lines[1] == "6 cases (named cases):"
    assert "3 cases (test):" in lines
    assert sum(line.endswith("(no interval: fewer than 8 patients)") for line in lines) == 2
    low, high = (written["volume"]["dim"][f"{end}_factor"] for end in ("low", "high"))
    start = f"true volume of dim: {low:.2f} to {high:.2f} times the predicted one in 71%"
    assert lines[-1].startswith(start)


def test_the_report_of_the_run_shows_it(calibrated: tuple[Path, Path, dict]) -> None:
    run, _, found = calibrated
    page = medssl.report(run, output=run.with_name("page.html"), pictures=False).read_text()
    ece = found["held_out"]["ece"]
    assert "3 cases (test). On the diagonal" in page
    assert f"error {ece['before']:.3f} before, {ece['after']:.3f} after" in page
    assert "from 3 cases, no interval." in page


def test_figures_that_do_not_exist_are_shown_as_such(calibrated: tuple[Path, Path, dict]) -> None:
    run, _, found = calibrated
    quality = found["quality"] | {"spearman": None, "low": None, "high": None}
    none = found | {"quality": quality, "held_out": None}
    assert "of quality and Dice - (no interval: fewer than 8" in format_calibration(none)
    draw_calibration(none, run / "none.png")
    (run / "none.png").unlink()


def test_predict_uses_it_and_says_so_in_tables(
    calibrated: tuple[Path, Path, dict], tmp_path: Path
) -> None:
    run, data, found = calibrated
    images = [data / "imagesTr" / f"case_{i:02d}.nii.gz" for i in (0, 1)]
    for name, asked in (("with", True), ("without", False)):
        medssl.predict(run, images, tmp_path / name, uncertainty=True, calibrated=asked)
    rows = {
        name: list(csv.DictReader((tmp_path / name / "volumes.csv").open()))
        for name in ("with", "without")
    }
    assert list(rows["with"][0]) == [
        *("case", "label", "name", "volume_mm3", "low_mm3", "high_mm3", "how"),
        "unusual",
    ]
    assert len(rows["with"]) == 4
    row = rows["with"][0]
    factor = found["volume"]["bright"]["low_factor"]
    assert float(row["low_mm3"]) == pytest.approx(factor * float(row["volume_mm3"]), rel=1e-4)
    assert rows["without"][0]["low_mm3"] == ""
    entropy = {
        name: nib.load(tmp_path / name / "uncertainty" / "case_00.nii.gz").get_fdata().mean()
        for name in rows
    }
    assert (entropy["with"] > entropy["without"]) == (found["temperature"] > 1)
    labels = [np.asanyarray(nib.load(tmp_path / n / "case_00.nii.gz").dataobj) for n in rows]
    np.testing.assert_array_equal(*labels)
    quality = list(csv.DictReader((tmp_path / "with" / "quality.csv").open()))
    assert [q["case"] for q in quality] == ["case_00", "case_01"]
    assert 0 < float(quality[0]["quality"]) <= 1
    # A second call with other calibration makes what is outdated again, and nothing else.
    again = medssl.predict(run, images, tmp_path / "with", uncertainty=True)
    assert all(r.skipped for r in again)
    again = medssl.predict(run, images, tmp_path / "with", uncertainty=True, calibrated=False)
    assert not any(r.skipped for r in again)


def test_triage_puts_planted_bad_cases_on_top_and_resumes(
    calibrated: tuple[Path, Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = calibrated
    folder = tmp_path / "new"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for seed in range(100, 105):
        write(folder / f"good_{seed}.nii.gz", blob_case(seed)[0])
    image = blob_case(105)[0].astype(np.float32)
    half = image.copy()
    half[:, 12:] = 0
    write(folder / "bad_noise.nii.gz", image + rng.normal(0, 150, image.shape).astype(np.float32))
    write(folder / "bad_half.nii.gz", half)
    write(folder / "bad_inverted.nii.gz", image.max() + image.min() - image)
    (folder / "cut.nii.gz").write_bytes(b"nothing")
    table = tmp_path / "list.csv"
    command = ["--quiet", "triage", str(run), "--input", str(folder), "-o", str(table)]
    assert cli.run([*command, "--show", "2"]) == 1  # one file cannot be read
    rows = list(csv.DictReader(table.open()))
    assert [r["case"] for r in rows[:1]] == ["cut"]
    assert {r["case"] for r in rows[1:4]} == {"bad_noise", "bad_half", "bad_inverted"}
    assert [r["flag"] for r in rows[:4]] == ["failed", "unusual", "unusual", "unusual"]
    assert len(rows) == 9
    assert all(r["why"] and "\n" not in r["why"] for r in rows)
    assert "  1  cut: not predicted" in capsys.readouterr().out
    assert (tmp_path / "list" / "volumes.csv").is_file()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "list").glob("*.nii.gz")}
    assert len(before) == 8
    assert cli.run(command) == 1
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_the_bundle_carries_the_calibration_but_no_case(
    calibrated: tuple[Path, Path, dict], tmp_path: Path
) -> None:
    run, _, found = calibrated
    medssl.export(run, tmp_path / "bundle", torchscript=False)
    loaded = load_bundle(tmp_path / "bundle", PredictSettings(device="cpu"))
    own = read_calibration(run / "calibration.json")
    assert loaded.temperature == pytest.approx(found["temperature"])
    assert loaded.calibration.reference == own.reference
    assert loaded.calibration.volumes == own.volumes
    assert "case_0" not in (tmp_path / "bundle" / "configs" / "metadata.json").read_text()
    assert (
        load_bundle(tmp_path / "bundle", PredictSettings(device="cpu", tta=True)).calibration
        is None
    )


def test_every_volume_lies_inside_its_own_range(
    calibrated: tuple[Path, Path, dict], tmp_path: Path
) -> None:
    run, data, _ = calibrated
    for name, more in (("mirrored", {"tta": True}), ("calibrated", {})):
        out = tmp_path / name
        medssl.predict(run, [data / "imagesTr"], out, uncertainty=True, **more)
        rows = list(csv.DictReader((out / "volumes.csv").open()))
        ends = [(float(r["low_mm3"]), float(r["volume_mm3"]), float(r["high_mm3"])) for r in rows]
        assert len(rows) == 26
        assert all(low <= volume <= high for low, volume, high in ends)


def test_a_run_is_no_second_member_of_its_own_ensemble(
    calibrated: tuple[Path, Path, dict], tmp_path: Path
) -> None:
    run, data, _ = calibrated
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    state = load_checkpoint(run / "checkpoints" / "last.pt")
    save_checkpoint(state | {"note": 1}, copy / "checkpoints" / "last.pt")  # other bytes
    images, out = [data / "imagesTr" / "case_00.nii.gz"], tmp_path / "out"
    for other, words in ((run, "named twice"), (copy, "has the same weights as")):
        with pytest.raises(MedSSLError, match=words):
            medssl.predict(run, images, out, ensemble=[other])
        with pytest.raises(MedSSLError, match="second member of its own"):
            medssl.calibrate(run, cases=["case_00", "case_01"], ensemble=[other])
    assert not out.exists()
    name = next(k for k, v in state["method_state"].items() if v.is_floating_point())
    state["method_state"][name] += 1e-4
    save_checkpoint(state, copy / "checkpoints" / "last.pt")
    assert len(medssl.predict(run, images, out, ensemble=[copy])) == 1


def test_a_calibration_for_something_else_is_left_out(
    calibrated: tuple[Path, Path, dict], tmp_path: Path
) -> None:
    run, data, _ = calibrated
    loaded = medssl.load_run(run, tta=True)
    assert loaded.use_calibration() == "prediction without --tta"
    assert loaded.predictor.calibration is None
    other = Calibrated("last", False, False, ("other",))
    assert other.difference(OF) == "1 run(s), not 0"
    assert other.difference(Calibrated("best", False, False, ("another",))) == "other weights"
    with pytest.raises(MedSSLError, match="not calibrated for this: its calibration is for"):
        medssl.triage(run, [data / "imagesTr"], tmp_path / "a.csv", tta=True)


def test_cases_that_would_flatter_are_refused(calibrated: tuple[Path, Path, dict]) -> None:
    run, _, found = calibrated
    splits = json.loads((run / "splits.json").read_text())
    before = (run / "calibration.json").read_bytes()
    for role, reason in (("labeled", "learned from its label"), ("test", "decide nothing")):
        with pytest.raises(MedSSLError, match=reason):
            medssl.calibrate(run, cases=splits[role])
    with pytest.raises(MedSSLError, match="no validation cases"):
        medssl.calibrate(run)
    free = found["quality"]["cases"][0]["case"]
    with pytest.raises(MedSSLError, match="two patients"):
        medssl.calibrate(run, cases=[free])
    with pytest.raises(MedSSLError, match="neither a case nor a patient"):
        medssl.calibrate(run, cases=["nobody"])
    assert (run / "calibration.json").read_bytes() == before
