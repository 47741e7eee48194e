"""The coverage of intervals: the docs, the package and the script agree."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from medssl.evaluation.coverage import COVERAGE_FILE
from medssl.evaluation.statistics import mean_interval

ROOT = Path(__file__).resolve().parents[2]

# By its path: a well-known package has the same name.
_spec = importlib.util.spec_from_file_location(
    "interval_coverage", ROOT / "benchmarks" / "coverage.py"
)
assert _spec is not None
assert _spec.loader is not None
script = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = script
_spec.loader.exec_module(script)

FIGURES = json.loads(COVERAGE_FILE.read_text())
BY_NAME = {one.name: one for one in script.DISTRIBUTIONS}


@pytest.mark.parametrize(
    ("name", "n"),
    [("beta_20_4", 3), ("beta_9_1", 8), ("heavy_gains", 20), ("one_in_ten_fails", 8)],
)
def test_the_stored_figures_come_out_again(name: str, n: int) -> None:
    draws = 2000
    found = script.coverage_of(BY_NAME[name], n, draws=draws, resamples=499)
    for method, share in FIGURES["coverage"][name][str(n)].items():
        error = math.sqrt(share * (1 - share) * (1 / draws + 1 / FIGURES["draws"]))
        assert found[method] == pytest.approx(share, abs=4 * error + 0.005), method


def test_the_page_shows_the_stored_figures() -> None:
    page = (ROOT / "docs" / "verdict.md").read_text(encoding="utf-8")
    table = page.split(script.START)[1].split(script.END)[0].strip()
    assert table == script.markdown(FIGURES["coverage"], FIGURES["what"])
    assert FIGURES["draws"] == script.DRAWS == 20_000
    assert list(FIGURES["coverage"]) == [
        one.name for one in (*script.DISTRIBUTIONS, *script.stored_results())
    ]


def test_what_the_page_says_of_the_table_is_true() -> None:
    t = {k: [row["t"] for row in rows.values()] for k, rows in FIGURES["coverage"].items()}
    boot = {
        k: [row["percentile"] for n, row in rows.items() if int(n) < 20]
        for k, rows in FIGURES["coverage"].items()
    }
    assert all(0.935 <= x <= 0.965 for x in (*t["beta_20_4"], *t["heavy_gains"]))
    assert all(0.895 <= x <= 0.945 for x in t["beta_9_1"])
    assert all(0.755 <= x <= 0.925 for x in t["one_in_ten_fails"])
    assert all(
        0.70 <= x <= 0.915 for k in ("beta_20_4", "beta_9_1", "heavy_gains") for x in boot[k]
    )


def test_the_scripts_t_is_the_one_medssl_uses() -> None:
    values = np.random.default_rng(0).beta(9, 1, (5, 7))
    low, high = script.t_ends(values)
    for row, one, other in zip(values, low, high, strict=True):
        found = mean_interval(row)
        assert (one, other) == pytest.approx((found.low, found.high))


def test_bootstraps_by_hand() -> None:
    # Two patients, 0 and 1: resampled means are 0, 0.5 or 1, one, two and one in four.
    ends = script.bootstrap_ends(np.array([[0.0, 1.0]]), np.random.default_rng(0), 999)
    assert ends["percentile"] == pytest.approx((0.0, 1.0))
    # Symmetric: nothing to correct.
    assert ends["bca"] == pytest.approx((0.0, 1.0))
    skewed = np.array([[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 10.0]])
    ends = script.bootstrap_ends(skewed, np.random.default_rng(0), 4999)
    assert ends["bca"][1] > ends["percentile"][1]  # BCa leans to the long tail
    assert ends["percentile"] == pytest.approx((0.0, 3.0))


def test_results_are_read_and_kept_without_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = tmp_path / "cases.csv"
    cases.write_text(
        "case,name,dice,status\na,left,0.8,ok\na,right,0.6,ok\nb,left,0.9,ok\nb,right,,absent\n"
    )
    assert script.read_results(cases)["Dice"] == pytest.approx([0.7, 0.9])
    compared = tmp_path / "compare.csv"
    rows = [
        ("p1", "a", "mean", 0.80, 0.02),
        ("p1", "b", "mean", 0.70, 0.04),
        ("p2", "c", "mean", 0.9, -0.01),
    ]
    with compared.open("w", newline="") as file:
        writer = csv.writer(file)
        columns = ("patient", "case", "name", "dice_baseline", "dice_difference", "experiment")
        writer.writerow(columns)
        writer.writerows([*((*row, "bcp") for row in rows), ("p1", "a", "left", 0.1, 0.5, "bcp")])
    found = script.read_results(compared)
    assert found["gain"] == pytest.approx([0.03, -0.01])
    monkeypatch.setattr(script, "STORED", tmp_path / "kept.csv")
    script.keep_results("hearts", compared)
    kept = (tmp_path / "kept.csv").read_text()
    assert kept == "set,Dice,gain\nhearts,0.75000,0.03000\nhearts,0.90000,-0.01000\n"
    dice, gain = script.stored_results()
    assert (gain.name, gain.truth) == ("hearts: gain", pytest.approx(0.01))
    drawn = dice.draw(np.random.default_rng(0), (3, 5))
    assert drawn.shape == (3, 5)
    assert set(np.unique(drawn)) == {0.75, 0.9}
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="neither"):
        script.read_results(tmp_path / "other.csv")
