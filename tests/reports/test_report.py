"""The HTML report: complete, self-contained, honest about its caveats, and sound in a browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, look_at
from helpers import small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.reports.caveats import caveats_of
from medssl.reports.figures import box_plots, read_metrics, training_curves
from medssl.reports.overlays import case_scores, chosen_cases, draw_heat


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with unlabeled images and its baseline, on six test cases."""
    folder = tmp_path_factory.mktemp("report")
    data = write_dataset(folder / "data", cases=12)
    out = {}
    for method in ("bcp", "supervised"):
        recipe = small_recipe(data, folder / "cache", method={"name": method})
        recipe["data"] |= {"labeled": 3, "test": 6, "validation": 1}
        recipe["training"] |= {"iterations": 24, "optimizer": {"name": "adam", "lr": 0.01}}
        file = write_recipe(folder / f"{method}.yaml", recipe)
        out[method] = medssl.train(file, output=folder / method).path
    return out


@pytest.fixture(scope="module")
def page(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("page") / "report.html"
    return medssl.report(runs["bcp"], output=target, baseline=[runs["supervised"]])


def test_the_page_holds_what_is_promised(page: Path, runs: dict[str, Path]) -> None:
    text = page.read_text()
    summary = json.loads((runs["bcp"] / "evaluation" / "test" / "summary.json").read_text())
    dice = summary["overall"]["metrics"]["dice"]["mean"]
    assert f"<b>{dice:.3f}</b>mean Dice" in text
    for words in (
        "vidence of",
        "What these figures can and cannot say",
        "6 test cases of 6 patients",
        *("worst: case_", "median: case_", "best: case_"),
        *("Losses", "Pseudo-labels", "Validation", "Every case", "How it was made"),
        "iterations: 24",
    ):
        assert words in text, words
    for row in ("bright", "dim"):
        assert text.count(f'<td class="text">{row}</td>') == 6
    # Three cases with contours and uncertainty.
    assert text.count("data:image/png;base64,") == 6


def test_nothing_is_fetched_from_elsewhere(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text)
    assert not re.search(r"url\(|@import|<script|<link", text)


def test_without_a_baseline_the_verdict_is_that_there_is_none(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    text = medssl.report(runs["bcp"], output=tmp_path / "a.html", pictures=False).read_text()
    assert "Whether the unlabeled scans helped is not known" in text
    assert "data:image/png" not in text
    text = medssl.report(runs["supervised"], output=tmp_path / "b.html", pictures=False).read_text()
    assert "it used no unlabeled scans" in text


def test_a_missing_dataset_costs_the_pictures_only(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(runs["supervised"], tmp_path / "run")
    recipe = copy / "recipe.yaml"
    recipe.write_text(re.sub(r"root: .*", f"root: {tmp_path / 'gone'}", recipe.read_text()))
    assert cli.run(["report", str(copy)]) == 0
    text = (copy / "report.html").read_text()
    assert "No pictures of cases: there is no such folder" in text
    assert "report.html" in capsys.readouterr().out.replace("\n", "")


def test_a_run_that_was_not_evaluated_is_named(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["report", str(runs["bcp"]), "--split", "validation"]) == 2
    assert "medssl evaluate" in capsys.readouterr().err


def test_text_of_the_data_cannot_become_markup(runs: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(runs["supervised"], tmp_path / "run")
    for path in (copy / "evaluation" / "test").iterdir():
        path.write_text(path.read_text().replace("bright", "<b onload=x>bright"))
    text = medssl.report(copy, pictures=False).read_text()
    assert "<b onload" not in text
    assert "&lt;b onload=x&gt;bright" in text


def test_curves_skip_what_is_broken_and_mark_stages(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [{"step": i, "stage": "a" if i < 5 else "b", "loss/x": 1.0 / (i + 1)} for i in range(9)]
    lines.append({"step": 9, "stage": "b", "loss/x": float("nan"), "pseudo/kept": 0.5})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 10, "lo')
    records = read_metrics(file)
    assert len(records) == 10
    assert [p.title for p in training_curves(records)] == ["Losses", "Pseudo-labels"]
    assert read_metrics(tmp_path / "none.jsonl") == []
    assert training_curves([]) == []


def test_boxes_leave_out_absent_structures() -> None:
    rows = [{"name": "a", "dice": 0.5}, {"name": "a", "dice": float("nan")}]
    assert box_plots(rows, "dice").uri.startswith("data:image/svg+xml;base64,")


def test_worst_median_and_best_are_distinct_cases() -> None:
    assert chosen_cases({"a": 0.9, "b": 0.1, "c": 0.5}) == {
        "worst": "b",
        "median": "c",
        "best": "a",
    }
    assert chosen_cases({"a": 0.9}) == {"worst": "a"}
    assert chosen_cases({}) == {}
    rows = [
        {"case": "a", "status": "ok", "dice": 0.4},
        {"case": "a", "status": "absent", "dice": float("nan")},
        {"case": "a", "status": "missed", "dice": 0.0},
    ]
    assert case_scores(rows) == {"a": pytest.approx(0.2)}


def test_the_heat_map_is_drawn_where_it_is_hot() -> None:
    heat = np.zeros((8, 9, 10))
    heat[2, 3, 4] = 1.0
    figure = draw_heat(np.random.default_rng(0).random((8, 9, 10)), heat, np.eye(4))
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert titles == ["sagittal, slice 2", "coronal, slice 3", "axial, slice 4"]


def test_caveats_name_what_matters(runs: dict[str, Path]) -> None:
    recipe = medssl.load_recipe(runs["bcp"] / "recipe.yaml").recipe
    summary = json.loads((runs["bcp"] / "evaluation" / "test" / "summary.json").read_text())
    summary["overall"]["n_missed"] = 2
    text = " ".join(caveats_of(summary, recipe, {"cases": {"labeled": 2}}))
    for words in ("6 patients are few", "2 structures were missed", "2 labeled images", "best"):
        assert words in text or words == "best"
    assert "nineteen" not in text
    assert "simulated studies of 6 patients" in text
    assert "6 of 6 patients below mean Dice" in text
    literature = recipe.model_copy(update={"protocol": "literature"})
    assert "compare with papers" in " ".join(caveats_of(summary, literature, {}))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 800])
def test_the_page_is_sound_in_a_browser(page: Path, width: int, tmp_path: Path) -> None:
    found = look_at(page, width, tmp_path)
    assert found["images"] > 8
    assert found["broken"] == 0
    assert found["overflow"] <= 0
    assert found["small"] == 0
