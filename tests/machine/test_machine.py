"""The doctor finds what is wrong with a computer; cleaning deletes what can go and nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from small_model import write_small_run

import medssl
from medssl import cli
from medssl.errors import MedSSLError
from medssl.machine import doctor as doctors

DAY = 24 * 3600.0


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache, models and runs of which all that is old was last used 40 days ago."""
    monkeypatch.setenv("MEDSSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEDSSL_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    for name in ("a" * 64, "b" * 64, "phantom-0123456789ab", "files", "other", ".1-2.partial"):
        write(tmp_path / "cache" / name / "image.npy", 1000, old=name[0] not in "bfo")
    write(tmp_path / "outside" / "image.npy", 1000, old=True)
    (tmp_path / "cache" / ("c" * 64)).symlink_to(tmp_path / "outside")
    for status in ("finished", "running", "damaged"):
        run = write_small_run(tmp_path / "runs" / "group" / status)
        record = run / "manifest.json"
        record.write_text(record.read_text().replace("finished", status.replace("dam", "finish")))
        (run / "checkpoints" / "last-previous.pt").write_bytes(bytes(500))
        if status == "damaged":
            record.write_text(record.read_text().replace("finishaged", "finished"))
            (run / "checkpoints" / "last.pt").write_bytes(b"half")
    write(tmp_path / "runs" / "group" / ".7-8.tmp", 300, old=True)
    write(tmp_path / "runs" / "group" / ".9-9.tmp", 300, old=False)
    write(tmp_path / "runs" / ".5-6.partial" / "recipe.yaml", 200, old=True)
    return tmp_path


def write(path: Path, size: int, *, old: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    if old:
        os.utime(path, (time.time() - 40 * DAY,) * 2)


def everything(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


CAN_GO = {
    f"cache/{'a' * 64}/image.npy",
    "cache/phantom-0123456789ab/image.npy",
    "cache/.1-2.partial/image.npy",
    "runs/group/finished/checkpoints/last-previous.pt",
    "runs/group/.7-8.tmp",
    "runs/.5-6.partial/recipe.yaml",
}


def test_what_can_go_goes_when_it_is_told_and_nothing_else(
    places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(places)
    assert cli.run(["clean"]) == 0
    assert "to delete them, add --delete" in capsys.readouterr().out
    found = medssl.clean("runs")
    assert not found.deleted
    assert found.bytes == 3 * 1000 + 500 + 300 + 200
    assert everything(places) == before
    assert {"run (finished)", "run (running)"} <= {space.what for space in found.stays}
    assert cli.run(["clean", "--delete"]) == 0
    assert before - everything(places) == CAN_GO
    assert medssl.clean("runs").can_go == ()
    assert len(medssl.clean("runs", days=0).can_go) == 1


def test_the_doctor_names_what_is_wrong_and_what_to_do(
    places: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> str:
        raise MedSSLError("no training here")

    monkeypatch.setattr("medssl.machine.self_test.train_and_predict", broken)
    monkeypatch.setattr(doctors, "LITTLE_DISK", 1e18)
    found = {one.what: one for one in medssl.doctor().findings}
    assert found["self-test"].verdict == "problem"
    assert found["cache"].verdict == "warning"
    assert "MEDSSL_CACHE" in found["cache"].fix
    assert cli.run(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "no training here" in said
    assert "does not work here yet" in said


@pytest.mark.slow
def test_the_self_test_trains_and_leaves_nothing(places: Path) -> None:
    before = everything(places)
    found = medssl.doctor().findings[-1]
    assert (found.what, found.verdict) == ("self-test", "ok")
    assert "30 iterations and a prediction" in found.found
    assert everything(places) == before
