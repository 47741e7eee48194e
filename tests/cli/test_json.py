"""``--json``: one document on standard output, whose keys are those of docs/json.md."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import write_dataset
from run_folders import write_run
from small_model import write_small_run

from medssl import cli
from medssl.data.phantoms.dataset import write_phantom

DOCS = Path(__file__).parents[2] / "docs" / "json.md"
HEAD = {"schema", "command", "medssl"}


def documented(command: str) -> set[str]:
    """Return the keys that the documentation promises; those of its lists are not among them."""
    (row,) = re.findall(rf"^\| `{command}` \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    row = re.sub(r"\([^)]*\)|;.*|what `[^`]*` holds:", "", row)
    return set(re.findall(r"`(\w+)`", row.split(": a list")[0].split(": lists")[0]))


def document(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> Any:
    capsys.readouterr()
    assert cli.run([*map(str, arguments), "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    command = str(arguments[0])
    assert (found["schema"], found["command"]) == (1, command)
    if "what `" in DOCS.read_text().partition(f"| `{command}` | ")[2].partition("\n")[0]:
        assert documented(command) <= found.keys()
    else:
        assert documented(command) == found.keys() - HEAD
    return found


def test_info_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert "vnet" in document(capsys, "info")["networks"]
    found = document(capsys, "doctor", "--no-self-test")
    assert found["works"] is True
    assert {"versions", "memory", "cache"} <= {f["what"] for f in found["findings"]}


def test_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = write_phantom(tmp_path / "data", labeled=2, unlabeled=1, test=0, shape=(32, 32, 16))
    assert document(capsys, "check", data)["can_train"] is True
    assert document(capsys, "check", data, "--spec", "mr")["cases"]["labeled"] == 2
    (data / "labelsTr" / "mr_001.nii.gz").unlink()
    found = document(capsys, "check", data, code=2)
    assert "mr_001" in found["problems"][0]["file"]
    written = tmp_path / "found.json"
    assert cli.run(["check", str(data), "--json", str(written)]) == 2
    assert json.loads(written.read_text())["can_train"] is False


def test_plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = SimpleNamespace(
        method=SimpleNamespace(name="bcp"), training=SimpleNamespace(iterations=100)
    )
    plan = SimpleNamespace(
        loaded=SimpleNamespace(recipe=recipe, warnings=("w",)),
        spec=SimpleNamespace(name="mr", sentence="a guess"),
        memory=1e9,
        seconds=0.0,
        folds=4,
    )
    monkeypatch.setattr("medssl.planning.planner.plan", lambda *a, **k: plan)
    found = document(capsys, "plan", "data", "--method", "bcp", "--output", "a b.yaml")
    assert found["next"] == "medssl crossval 'a b.yaml'"
    assert found["seconds_per_iteration"] is None


def test_predict_and_evaluate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data, run = write_dataset(tmp_path / "data", cases=2), write_small_run(tmp_path / "run")
    (data / "imagesTr" / "case_01.nii.gz").write_bytes(b"no image")
    where = ("--output", tmp_path / "maps", "--device", "cpu")
    found = document(capsys, "predict", run, data / "imagesTr", *where, code=1)
    good, bad = found["cases"]
    assert (good["case"], good["error"], bad["path"]) == ("case_00", None, None)
    assert Path(good["path"]).is_file()
    assert [row["name"] for row in good["volumes"]["structures"]] == ["bright", "dim"]
    assert set(good) == {
        *("case", "path", "error", "seconds", "skipped", "note", "unusual", "volumes")
    }
    shutil.copytree(data / "labelsTr", tmp_path / "predicted")
    found = document(
        *(capsys, "evaluate", tmp_path / "predicted", data / "labelsTr"),
        *("--dataset", data / "dataset.json", "--output", tmp_path / "scores"),
    )
    assert found["overall"]["metrics"]["dice"]["mean"] == 1
    assert found["n_cases"] == 2


def test_compare(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", {"left": [0.5, 0.6, 0.7]})
    other = write_run(tmp_path / "b", {"left": [0.6, 0.7, 0.9]}, method="bcp")
    found = document(capsys, "compare", one, other)
    assert [e["name"] for e in found["experiments"]] != []
    assert "rows" not in found


def test_a_mistake_leaves_standard_output_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["compare", "nowhere", "there", "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "not a run folder" in said.err


def test_recipes_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipes", "--explain", "quickstart"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for key, value in (("training.iterations", "1000"), ("network.num_res_units", "0")):
        assert re.search(rf"{re.escape(key)} │ {value} │ \w", said)
    assert "method.preset" in said
    assert cli.run(["recipes", "--explain", "quickstrat"]) == 2


def test_the_shell_completes_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["medssl"])
    monkeypatch.setenv("_MEDSSL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "medssl pre")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert cli.run([]) == 0
    assert sorted(capsys.readouterr().out.split()) == ["predict", "preprocess"]
