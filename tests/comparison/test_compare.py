"""Comparisons of hand-made results with known differences."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import case_names, result_row, write_run

import medssl
from medssl import cli
from medssl.comparison.output import format_comparison
from medssl.comparison.paired import count_outcomes
from medssl.comparison.verdict import NONE, PairedScores, verdict_over_patients
from medssl.errors import MedSSLError
from medssl.evaluation.statistics import mean_interval, paired_interval
from medssl.evaluation.surface_elements import DEFINITION

CASES = 12
BASE = np.linspace(0.6, 0.9, CASES)


def dice(shift: float | np.ndarray = 0.0, n: int = CASES) -> dict[str, list[float]]:
    """Dice of two structures, ``right`` always 0.05 better."""
    left = (BASE[:n] + shift).round(6)
    return {"left": left.tolist(), "right": (left + 0.05).round(6).tolist()}


def noise(seed: int, size: float = 0.02) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, size, CASES)
    return values - values.mean()


def text_of(result: dict[str, Any]) -> str:
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(format_comparison(result))
    return console.export_text()


def only(result: dict[str, Any]) -> dict[str, Any]:
    (verdict,) = result["verdicts"]
    return verdict


# ---------------------------------------------------------------------- verdicts


def test_constant_gain_is_found_exactly(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice())
    better = write_run(tmp_path / "better", dice(0.04), method="bcp")
    result = medssl.compare([better, base])
    (pair,) = result["comparisons"]
    # supervised though second
    assert (pair["experiment"], pair["baseline"]) == ("bcp", "supervised")
    for name in ("left", "right", "mean"):
        entry = pair["structures"][name]
        value = entry["metrics"]["dice"]
        assert value["difference"] == pytest.approx(0.04, abs=1e-6)
        # All gain alike: an interval of width 0 would claim too much. The signs decide.
        assert math.isnan(value["low"])
        assert math.isnan(value["high"])
        assert value["no_interval"] == "the 12 patients have the same value"
        assert value["p"] == 2 / 2**12
        assert (entry["win"], entry["tie"], entry["loss"]) == (CASES, 0, 0)
        # hd95 is 10 (1 - Dice): smaller by 0.4.
        assert entry["metrics"]["hd95_mm"]["difference"] == pytest.approx(-0.4, abs=1e-5)
        assert entry["metrics"]["hd95_mm"]["p"] == 2 / 2**12
    assert only(result)["code"] == "gain"
    assert only(result)["sentence"].startswith("Evidence of gain: bcp has a higher mean Dice")
    assert "12 patients, one run each" in only(result)["sentence"]
    assert any("one run only of bcp and of supervised" in c for c in only(result)["cautions"])


def test_harm_when_the_baseline_is_named(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice())
    better = write_run(tmp_path / "better", dice(0.04), method="bcp")
    for name in (better, str(better), "bcp"):
        result = medssl.compare([base, better], baseline=name)
        assert result["baseline"] == "bcp"
        assert only(result)["code"] == "harm"
        assert "lower mean Dice" in only(result)["sentence"]
    assert medssl.compare([base], baseline=better)["baseline"] == "bcp"
    with pytest.raises(MedSSLError, match="neither a run nor one of the experiments"):
        medssl.compare([base, better], baseline="uamt")


def test_no_evidence_where_the_interval_holds_zero(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice())
    other = write_run(tmp_path / "other", dice(noise(1) + 0.001), method="bcp")
    verdict = only(medssl.compare([base, other]))
    assert verdict["code"] == "none"
    assert verdict["sentence"].startswith("No evidence of a difference between bcp and supervised")


def test_runs_that_differ_by_seed_are_never_evidence(tmp_path: Path) -> None:
    """The second is better in every patient: without knowing the recipe this would be evidence."""
    first = write_run(tmp_path / "first", dice(), seed=0)
    second = write_run(tmp_path / "second", dice(0.02 + noise(1, 0.002)), seed=1)
    result = medssl.compare([first, second])
    assert result["same_experiment"]
    verdict = only(result)
    assert verdict["code"] == "none"
    assert verdict["sentence"].startswith("No evidence of a difference: the 2 runs are the same")
    assert "differ only by seed (0, 1)" in verdict["sentence"]
    assert any("excludes zero" in c for c in verdict["cautions"])
    (experiment,) = result["experiments"]
    mean = float(BASE.mean() + 0.025)
    assert experiment["dice_per_run"] == pytest.approx([mean, mean + 0.02], abs=1e-6)
    assert experiment["dice_std_over_runs"] == pytest.approx(0.02 / math.sqrt(2), abs=1e-6)
    assert "Evidence of" not in text_of(result)


def test_paths_logging_and_numbers_of_workers_make_no_other_experiment(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", dice(), seed=0)
    changes = {
        "training": {"log_every": 7, "workers": 2, "checkpoint_every": 9, "unlabeled_batch": 5},
        "data": {"cache": "elsewhere", "root": "moved"},
    }
    second = write_run(tmp_path / "second", dice(0.02), seed=1, changes=changes)
    assert medssl.compare([first, second])["same_experiment"]


def test_regions_of_interest_make_another_experiment_whatever_run_found_them(
    tmp_path: Path,
) -> None:
    def region(name: str, shift: float, **roi: Any) -> Path:
        seed = len(list(tmp_path.iterdir()))
        return write_run(tmp_path / name, dice(shift), seed=seed, changes={"data": {"roi": roi}})

    plain = write_run(tmp_path / "plain", dice(), seed=0)
    first, second = region("first", 0.0, run="runs/a"), region("second", 0.02, run="runs/b")
    wide = region("wide", 0.0, run="runs/a", margin_mm=20)
    assert medssl.compare([first, second])["same_experiment"]
    assert not medssl.compare([first, plain])["same_experiment"]
    names = [experiment["name"] for experiment in medssl.compare([first, wide])["experiments"]]
    assert names == [f"supervised (data.roi=margin_mm {n})" for n in ("10.0", "20.0")]


def test_the_spread_over_runs_and_patients_makes_the_interval(tmp_path: Path) -> None:
    shifts = {("supervised", 0): 0.0, ("supervised", 1): 0.03, ("bcp", 0): 0.02, ("bcp", 1): 0.05}
    runs, values = [], {}
    for number, ((method, seed), shift) in enumerate(shifts.items()):
        own = dice(shift + noise(number))
        values[method, seed] = np.mean([own["left"], own["right"]], axis=0)
        runs.append(write_run(tmp_path / f"{method}-{seed}", own, method=method, seed=seed))
    result = medssl.compare(runs)
    (pair,) = result["comparisons"]
    assert pair["n_runs"] == [2, 2]
    found = pair["structures"]["mean"]["metrics"]["dice"]
    stacks = [np.stack([values[m, s] for s in (0, 1)]) for m in ("bcp", "supervised")]
    expected = paired_interval(*stacks)
    assert found["difference"] == pytest.approx(expected.mean, abs=1e-6)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)
    # Both experiments move by 0.03 between their runs: a mean difference of 0.02 is no evidence.
    assert only(result)["code"] == "none"
    assert any("two runs of an experiment" in c for c in only(result)["cautions"])


def test_a_difference_within_the_spread_of_runs_is_no_evidence(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"s{seed}", dice(shift), seed=seed)
        for seed, shift in enumerate((-0.03, 0.0, 0.03))
    ]
    runs.append(write_run(tmp_path / "b", dice(0.04 + noise(0, 0.005)), method="bcp"))
    result = medssl.compare(runs)
    verdict = only(result)
    assert verdict["code"] == "none"
    # The one run of bcp is taken to vary like the three: 0.03 sqrt(1 + 1/3), 2 freedoms.
    found = result["comparisons"][0]["structures"]["mean"]["metrics"]["dice"]
    assert found["high"] - 0.04 > 4.3 * 0.0346
    said = "as if it varied like the other experiment's runs"
    assert any(said in c for c in verdict["cautions"])


@pytest.mark.parametrize(
    ("patients", "code", "caution"),
    [
        (2, "none", "only 2 patients: fewer than 6 agree"),
        (5, "gain", "only 5 patients: fewer than 6 agree"),
        (8, "gain", "only 8 patients: rare failures"),
    ],
)
def test_few_patients(tmp_path: Path, patients: int, code: str, caution: str) -> None:
    base = write_run(tmp_path / "base", dice(n=patients))
    gains = 0.04 + noise(0, 0.005)[:patients]
    better = write_run(tmp_path / "better", dice(gains, n=patients), method="bcp")
    verdict = only(medssl.compare([base, better]))
    assert verdict["code"] == code
    assert any(caution in c for c in verdict["cautions"])
    assert patients > 2 or not any("worse" in c or "better" in c for c in verdict["cautions"])


def test_one_patient_has_no_interval_and_gives_no_evidence(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice(n=1))
    better = write_run(tmp_path / "better", dice(0.3, n=1), method="bcp")
    result = medssl.compare([base, better], output=tmp_path / "out")
    assert only(result)["code"] == "none"
    assert "no interval from 1 patient" in only(result)["sentence"]
    assert "(a value of one patient only)" in only(result)["sentence"]
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert written["comparisons"][0]["structures"]["mean"]["metrics"]["dice"]["low"] is None


def test_small_gain_and_contrary_distance_are_cautioned(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice())
    own = dice(0.003 + noise(0, 0.001))
    far = [
        result_row(c, "left", d, hd95_mm=40.0 + i % 3)
        for i, (c, d) in enumerate(zip(case_names(CASES), own["left"], strict=True))
    ]
    better = write_run(tmp_path / "better", own, method="bcp", rows=far)
    verdict = only(medssl.compare([base, better]))
    assert verdict["code"] == "gain"
    assert any("hardly matters" in c for c in verdict["cautions"])
    assert any(c.startswith("hd95_mm is worse for left") for c in verdict["cautions"])


def test_more_labels_of_the_same_method_are_two_experiments(tmp_path: Path) -> None:
    few = write_run(tmp_path / "few", dice(), labeled=["a", "b"])
    many = write_run(tmp_path / "many", dice(0.04), labeled=["a", "b", "c", "d"])
    result = medssl.compare([few, many])
    assert result["baseline"] == "supervised (2 labeled)"
    verdict = only(result)
    assert (verdict["experiment"], verdict["code"]) == ("supervised (4 labeled)", "gain")
    assert any("data.labeled (4 cases / 2 cases)" in c for c in verdict["cautions"])


def test_other_labeled_cases_of_the_same_number_are_another_experiment(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", dice(), labeled=["a", "b"])
    other = write_run(tmp_path / "other", dice(0.04), labeled=["a", "c"])
    result = medssl.compare([one, other])
    assert not result["same_experiment"]
    assert any("2 cases / 2 other cases" in c for c in only(result)["cautions"])


def test_confounded_comparisons_name_the_keys(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice())
    changes = {
        "training": {"iterations": 500, "augment": {"rotate_degrees": 20}},
        "network": {"channels": [8, 16]},
        "spec": {"pieces": {1: 2, 3: 4}},
    }
    other = write_run(
        tmp_path / "other", dice(0.04), method="bcp", labeled=["l0", "l1", "l2"], changes=changes
    )
    result = medssl.compare([base, other])
    (caution,) = [c for c in only(result)["cautions"] if c.startswith("confounded")]
    for key in (
        "method (bcp / supervised)",
        "training.iterations (500 / 100)",
        "training.augment.rotate_degrees (20.0 / 0.0)",
        "network.channels ([8, 16] / [4, 8])",
        "spec.pieces (1: 2, 3: 4 / none)",
        "data.labeled (3 cases / 2 cases)",
    ):
        assert key in caution


def test_method_alone_is_not_confounded_by_what_only_it_reads(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice(), unlabeled=[])
    changes = {"training": {"unlabeled_batch": 7}, "method": {"name": "bcp", "ema_decay": 0.9}}
    other = write_run(tmp_path / "other", dice(0.04), changes=changes)
    (pair,) = medssl.compare([base, other])["comparisons"]
    assert pair["differs_in"] == ["method"]


# ---------------------------------------------------------------------- the pure function


def scores_of(gains: Any, **more: Any) -> PairedScores:
    """Two structures that gain alike; the second is absent in the last patient."""
    own = np.asarray(gains, float)
    baseline = np.linspace(0.6, 0.8, len(own))
    both = [np.stack((x, x + 0.1), axis=1)[None] for x in (baseline + own, baseline)]
    for x in both:
        x[:, -1, 1] = np.nan
    patients = [f"p{i}" for i in range(len(own))]
    return PairedScores(("bcp", "supervised"), patients, ("left", "right"), *both, **more)


def test_a_verdict_says_it_all_in_one_sentence() -> None:
    gains = [0.02, 0.04, 0.03, -0.01, 0.05, 0.03]
    found = verdict_over_patients(scores_of(gains, cost=1.72))
    expected = mean_interval(gains)
    assert (found.gain.low, found.gain.high) == pytest.approx((expected.low, expected.high))
    assert (found.code, found.gaining, found.losing, found.gain.n) == ("gain", 5, 1, 6)
    assert found.worst == ("p3", pytest.approx(-0.01))
    # Sums of the sizes 1 to 5 and 3 hundredths: the negative ones reach at most 1: {} and {1}.
    assert found.p == 4 / 64
    right = mean_interval(gains[:-1])
    assert found.structures["right"].n == 5
    assert found.structures["right"].low == pytest.approx(right.low)
    left, other = (found.structures[n] for n in ("left", "right"))
    assert found.sentence == (
        "Evidence of gain: bcp has a higher mean Dice than supervised: +0.0267, "
        f"95% interval [{expected.low:+.4f}, {expected.high:+.4f}] over 6 patients, one run each; "
        "5 of 6 patients gain and 1 lose (sign-flip p = 0.062); "
        f"left +0.0267 [{left.low:+.4f}, {left.high:+.4f}], "
        f"right +0.0260 [{other.low:+.4f}, {other.high:+.4f}] (5 patients); "
        "worst patient p3: -0.0100; 1.7 times the training time."
    )


def test_the_interval_alone_decides() -> None:
    assert verdict_over_patients(scores_of([0.02, 0.04, 0.03])).code == "gain"  # 0.005 to 0.055
    assert verdict_over_patients(scores_of([0.02, 0.04, -0.01])).code == "none"
    assert verdict_over_patients(scores_of([-0.02, -0.04, -0.03])).code == "harm"
    assert verdict_over_patients(scores_of([0.02, 0.0200001])).code == "none"  # two patients
    found = verdict_over_patients(scores_of([0.02, 0.04, 0.03]))
    assert math.isnan(found.p)
    assert "sign-flip" not in found.sentence
    assert "training time" not in found.sentence
    # An interval of another kind, as of repeated cross-validation, takes its place.
    wide = mean_interval([-1.0, 1.0, 0.09])
    other = verdict_over_patients(scores_of([0.02, 0.04, 0.03]), interval_of=lambda *_: wide)
    assert (other.code, other.gain) == (NONE, wide)


def test_patients_that_gain_alike_are_judged_by_their_signs() -> None:
    assert verdict_over_patients(scores_of([0.02] * 5)).code == "none"
    found = verdict_over_patients(scores_of([0.02] * 6))
    assert found.code == "gain"
    assert "no interval from 6 patients" in found.sentence
    assert verdict_over_patients(scores_of([0.0] * 9)).code == "none"


def test_of_many_structures_the_ends_are_named() -> None:
    values = np.random.default_rng(0).uniform(0.5, 0.9, (1, 8, 6))
    gains = np.linspace(-0.01, 0.04, 6)
    scores = PairedScores(
        ("a", "b"), [str(i) for i in range(8)], [f"s{i}" for i in range(6)], values + gains, values
    )
    text = verdict_over_patients(scores).sentence
    assert "6 structures, from s5 +0.0400 to s0 -0.0100" in text
    nothing = np.full((1, 2, 1), np.nan)
    with pytest.raises(ValueError, match="no patient"):
        verdict_over_patients(PairedScores(("a", "b"), ["p", "q"], ["s"], nothing, nothing))


def test_failures_and_measured_coverage_stand_beside_the_means(tmp_path: Path) -> None:
    low = dice()
    low["left"][0], low["right"][0] = 0.4, 0.3
    base = write_run(tmp_path / "base", low)
    better = write_run(tmp_path / "better", dice(0.04 + noise(0, 0.005)), method="bcp")
    result = medssl.compare([base, better])
    assert [a["failures"]["below"] for a in result["experiments"]] == [1, 0]
    assert "simulated studies of 12 patients" in result["coverage"]
    text = " ".join(text_of(result).split())
    assert "supervised: 1 of 12 patients below Dice 0.5; with 95% confidence at most 34%" in text
    assert "1/12" in text
    strict = {"evaluation": {"failure_dice": 0.7}}
    other = write_run(tmp_path / "other", low, method="uamt", changes=strict)
    (_, experiment) = medssl.compare([base, other])["experiments"]
    assert experiment["failures"]["below"] == sum(x + 0.025 < 0.7 for x in BASE[1:]) + 1


# ---------------------------------------------------------------------- cases


def test_outcomes_count_ties_below_the_threshold() -> None:
    changes = np.array([0.0051, 0.0049, 0.0, -0.0049, -0.0051, -0.5, np.nan])
    assert count_outcomes(changes) == {"win": 1, "tie": 3, "loss": 2}


def test_an_invented_structure_counts_against_the_run_that_invents_it(tmp_path: Path) -> None:
    """The reference of c00 has no ``left``: one run rightly predicts none, the other invents it."""
    own = {"left": [None, *BASE[1:].tolist()], "right": BASE.tolist()}
    invented = result_row(
        "c00",
        "left",
        0.0,
        hd95_mm=30.0,
        volume_reference_mm3=0.0,
        volume_prediction_mm3=50.0,
        status="false_positive",
    )
    right = write_run(tmp_path / "right", own, method="bcp")
    wrong = write_run(tmp_path / "wrong", own, rows=[invented])
    result = medssl.compare([right, wrong])
    (pair,) = result["comparisons"]
    left = pair["structures"]["left"]
    assert left["metrics"]["dice"]["difference"] == pytest.approx(1 / CASES)
    assert left["metrics"]["hd95_mm"]["difference"] == pytest.approx(-30 / CASES)
    assert (left["win"], left["tie"], left["loss"]) == (1, CASES - 1, 0)
    row = next(r for r in result["rows"] if r["case"] == "c00" and r["name"] == "mean")
    assert row["dice_difference"] == pytest.approx((1 + BASE[0]) / 2 - BASE[0] / 2)


def test_a_structure_absent_everywhere_has_no_value(tmp_path: Path) -> None:
    own = {"left": [None] * CASES, "right": BASE.tolist()}
    runs = [write_run(tmp_path / m, own, method=m) for m in ("supervised", "bcp")]
    result = medssl.compare(runs, output=tmp_path / "out")
    (pair,) = result["comparisons"]
    assert math.isnan(pair["structures"]["left"]["metrics"]["dice"]["difference"])
    assert pair["structures"]["mean"]["metrics"]["dice"]["difference"] == 0
    assert "left" in text_of(result)


def test_patients_and_not_cases_are_drawn(tmp_path: Path) -> None:
    """Six patients of two equal cases each: the interval is that of six values, not of twelve."""
    cases = [f"p{i // 2}_{'ab'[i % 2]}" for i in range(CASES)]
    shift = np.repeat(np.array([-0.02, 0.0, 0.02, 0.04, 0.06, 0.08]), 2)
    summary = {"n_patients": 6}
    changes = {"data": {"patient_pattern": r"(p\d)_"}}
    common = {"cases": cases, "summary": summary, "changes": changes}
    base = write_run(tmp_path / "base", dice(), **common)
    other = write_run(tmp_path / "other", dice(shift), method="bcp", **common)
    result = medssl.compare([base, other])
    assert result["n_patients"] == 6
    assert not result["warnings"]
    found = result["comparisons"][0]["structures"]["left"]["metrics"]["dice"]
    expected = mean_interval(shift[::2])
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-6)

    for path in (base, other):  # without the pattern there is no way to know
        recipe = path / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace("patient_pattern", "# patient_pattern"))
    result = medssl.compare([base, other])
    assert result["n_patients"] == CASES
    assert any("every case counts as a patient" in w for w in result["warnings"])


def test_different_cases_need_leave(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice(), cases=case_names(CASES))
    shifted = [f"c{i:02d}" for i in range(2, CASES + 2)]
    other = write_run(tmp_path / "other", dice(0.04), cases=shifted, method="bcp")
    with pytest.raises(MedSSLError, match=r"different test cases: 12 and 12 cases, 10 in common"):
        medssl.compare([base, other])
    result = medssl.compare([base, other], common=True)
    assert result["n_cases"] == 10
    assert any("compared on the 10 test cases" in w for w in result["warnings"])
    # c02 is third in one and first in the other.
    row = next(r for r in result["rows"] if r["case"] == "c02" and r["name"] == "left")
    assert row["dice_difference"] == pytest.approx(BASE[0] + 0.04 - BASE[2], abs=1e-6)


# ---------------------------------------------------------------------- refusals


def test_refusals(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice())
    micro = write_run(tmp_path / "micro", dice(), unit="um", method="bcp")
    with pytest.raises(MedSSLError, match="differ in spatial unit: mm and um"):
        medssl.compare([base, micro])
    foreign = write_run(tmp_path / "foreign", dice(), dataset_name="other", method="bcp")
    with pytest.raises(MedSSLError, match="differ in dataset: toy and other"):
        medssl.compare([base, foreign])
    fewer = write_run(tmp_path / "fewer", {"left": dice()["left"]}, method="bcp")
    with pytest.raises(MedSSLError, match="differ in structures"):
        medssl.compare([base, fewer])
    row = result_row("c03", "left", 0.7, volume_reference_mm3=1100.0)
    relabeled = write_run(tmp_path / "relabeled", dice(), rows=[row], method="bcp")
    with pytest.raises(MedSSLError, match=r"c03 .*different references: left has 1000 and 1100"):
        medssl.compare([base, relabeled])
    with pytest.raises(MedSSLError, match="one run alone"):
        medssl.compare([base])
    with pytest.raises(MedSSLError, match="named twice"):
        medssl.compare([base, tmp_path / "." / "base"])
    with pytest.raises(MedSSLError, match="not a run folder"):
        medssl.compare([base, tmp_path])


def test_a_missing_evaluation_says_how_to_make_it(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice())
    other = write_run(tmp_path / "other", dice(), method="bcp", status="stopped")
    (other / "evaluation" / "test" / "cases.csv").unlink()
    with pytest.raises(MedSSLError) as caught:
        medssl.compare([base, other])
    assert f"run `medssl evaluate {other} --split test`" in str(caught.value)
    assert "stopped" in str(caught.value)
    with pytest.raises(MedSSLError, match="name an evaluation that there is: test"):
        medssl.compare([base, other], split="tset")


def test_warnings(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice(), threads=2, git="aaa")
    copy = write_run(tmp_path / "copy", dice(), threads=2, git="aaa")
    other = write_run(
        tmp_path / "other",
        dice(),
        method="bcp",
        status="stopped",
        iterations_done=60,
        git="bbb",
        summary={"nsd_tolerance": 2.0},
    )
    result = medssl.compare([base, copy, other])
    text = "\n".join(result["warnings"])
    assert "other is not finished: status stopped, 60 iterations" in text
    assert "copy is left out: it repeats seed 0 of base" in text
    assert "threads differs (1, 2)" in text
    assert "different versions of medssl (git): aaa, bbb" in text
    assert "NSD is left out: it was measured with different tolerances (1, 2)" in text
    assert "nsd" not in result["metrics"]
    assert [len(a["runs"]) for a in result["experiments"]] == [1, 1]


def test_surface_dice_by_area_is_not_compared_with_counted_voxels(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old", dice())
    area = {"nsd_definition": DEFINITION}
    new = write_run(tmp_path / "new", dice(), method="bcp", summary=area)
    result = medssl.compare([old, new])
    assert "nsd" not in result["metrics"]
    assert any("counted surface voxels and not their area" in w for w in result["warnings"])
    both = [write_run(tmp_path / m, dice(), method=m, summary=area) for m in ("uamt", "cps")]
    assert "nsd" in medssl.compare(both)["metrics"]


def test_reused_stages_are_warned_of_and_are_no_other_experiment(tmp_path: Path) -> None:
    runs = [
        write_run(
            tmp_path / f"b{seed}",
            dice(0.01 * seed),
            seed=seed,
            method="bcp",
            changes={"training": {"stages": {"pretrain": {"reuse": f"runs/{seed}"}}}},
        )
        for seed in (0, 1)
    ]
    result = medssl.compare(runs)
    assert result["same_experiment"]
    assert any("bcp starts from 2 trained stages of other runs" in w for w in result["warnings"])
    empty = {"training": {"stages": {"pretrain": {"reuse": None}}}}
    plain = [
        write_run(tmp_path / "p0", dice(), method="bcp"),
        write_run(tmp_path / "p1", dice(), method="bcp", seed=1, changes=empty),
    ]
    assert medssl.compare(plain)["same_experiment"]


# ---------------------------------------------------------------------- outputs


def test_cost_stands_beside_accuracy(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", dice())
    gpu = {"host": 9e9, "device": 5_000_000_000}
    other = write_run(
        tmp_path / "other", dice(), method="bcp", training_seconds=200.0, peak_memory_bytes=gpu
    )
    first, second = medssl.compare([base, other])["experiments"]
    assert first["cost"] == {
        "training_seconds": 50.0,
        "seconds_per_iteration": 0.5,
        "iterations": 100,
        "peak_memory_bytes": 3e9,
        "parameters": 2e6,
    }
    assert second["cost"]["seconds_per_iteration"] == 2.0
    assert second["cost"]["peak_memory_bytes"] == 5e9


def test_files_and_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_run(tmp_path / "base", dice())
    other = write_run(tmp_path / "other", dice(0.04), method="bcp")
    third = write_run(tmp_path / "third", dice(-0.04), method="mean_teacher")
    out = tmp_path / "comparison"
    assert cli.run(["compare", str(base), str(other), str(third), "--output", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Evidence of gain: bcp" in printed
    assert "Evidence of harm: mean_teacher" in printed
    assert "not corrected for the number of comparisons" in printed
    with (out / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * CASES * 3  # two experiments, two structures and their mean
    assert {r["outcome"] for r in rows if r["experiment"] == "bcp"} == {"win"}
    assert float(rows[0]["dice_difference"]) == pytest.approx(0.04)
    written = json.loads((out / "compare.json").read_text())
    assert [v["code"] for v in written["verdicts"]] == ["gain", "harm"]
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")

    assert cli.run(["compare", str(base), str(tmp_path / "nothing")]) == 2
    assert "not a run folder" in capsys.readouterr().err
    before = sorted(p for p in tmp_path.rglob("*"))
    assert cli.run(["compare", str(base), str(other)]) == 0
    assert sorted(p for p in tmp_path.rglob("*")) == before  # no output asked for, none written
