"""log.txt holds what the terminal showed; what is to be copied can be."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

import pytest
from helpers import crash_after, small_recipe, write_dataset, write_recipe

from medssl import cli
from medssl.paths import command
from medssl.progress import Display, _Left
from medssl.runs.log import log_to_file, remembered

STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) ", re.MULTILINE)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    data = write_dataset(tmp_path / "data", cases=6, unlabeled=2)
    content = small_recipe(data, tmp_path / "cache", method={"name": "supervised"})
    content["data"] |= {"unlabeled": ["imagesUn"], "validation": 1}
    return write_recipe(tmp_path / "recipe.yaml", content)


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_the_log_holds_what_the_terminal_showed(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a run"
    assert cli.run(["train", str(recipe), "--output", str(run)]) == 0
    said = capsys.readouterr()
    shown = [*lines_of(said.err), *lines_of(said.out)]
    # Before there was a folder, while it trained, and what stands at the end.
    assert any(line.startswith("warning: data.unlabeled is not read") for line in shown)
    assert any("validation Dice" in line for line in shown)
    assert any(line.startswith("bright") for line in shown)
    assert shown[-4].startswith("finished in ")
    assert "medssl predict" in shown[-2]
    assert "medssl report" in shown[-1]
    log = STAMP.sub("", (run / "log.txt").read_text())
    missing = [line for line in shown if line not in lines_of(log)]
    assert missing == []


def test_a_failure_is_in_the_log(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, 2)
        assert cli.run(["train", str(recipe), "--output", str(tmp_path / "run")]) == 1
    assert "power cut" in capsys.readouterr().err
    assert "error: power cut" in (tmp_path / "run" / "log.txt").read_text()


def test_what_is_remembered_is_written_once(tmp_path: Path) -> None:
    display = Display(quiet=True)
    with remembered():
        display.say("before")
        for name in ("one", "two"):
            handler = log_to_file(tmp_path / name)
            display.say(f"in {name}")
            handler.close()
            logging.getLogger("medssl").removeHandler(handler)
    one, two = (STAMP.sub("", (tmp_path / n).read_text()) for n in ("one", "two"))
    assert (one, two) == ("before\nin one\n", "in two\n")


def test_a_command_to_copy_is_quoted() -> None:
    words = ["train", "runs/Mayer's first run", "--set", "network.channels=[4, 8]"]
    assert shlex.split(command(*words)) == ["medssl", *words]
    assert command("train", Path("runs/mine"), "--resume") == "medssl train runs/mine --resume"


def test_what_is_to_be_copied_is_on_one_line(
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    deep = tmp_path / ("a long name [1] " * 6).strip() / "run"
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, 5)
        cli.run(["train", str(recipe), "--output", str(deep)])
    capsys.readouterr()
    assert cli.run(["report", str(deep)]) == 2
    [line] = [x for x in capsys.readouterr().err.splitlines() if "medssl evaluate" in x]
    asked = re.search(r"`(.*)`", line)
    assert asked is not None
    assert shlex.split(asked[1]) == ["medssl", "evaluate", str(deep), "--split", "test"]
    assert cli.run(["train", str(deep), "--resume"]) == 0
    assert f": {deep}\n" in capsys.readouterr().out
    assert cli.run(["train", str(deep), "--resume", "--set", "network.channels=[4,16]"]) == 2
    said = capsys.readouterr().err
    assert "the run is finished" in said


def test_the_time_that_is_left_counts_the_stages_to_come(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", logger="medssl")
    monkeypatch.setattr("medssl.progress.QUIET_SECONDS", -1.0)
    display = Display(quiet=True)
    with display.stage("pretrain", 100, 0, later=300):
        display.numbers("pretrain", 40, 100, 2.0, {})
    with display.stage("self_train", 300, 0):
        display.numbers("self_train", 60, 300, 2.0, {})
    assert "pretrain 40/100  2.00 it/s  3.0 min left" in caplog.text  # (60 + 300) / 2 s
    assert "self_train 60/300  2.00 it/s  2.0 min left" in caplog.text

    class Bar:
        speed, remaining = 2.0, 60

    assert _Left(300).render(Bar()).plain == "0:03:00"  # type: ignore[arg-type]
    Bar.speed = None  # type: ignore[assignment]
    assert _Left(300).render(Bar()).plain == "-:--:--"  # type: ignore[arg-type]
