"""The demo: one command, one page that needs nothing else; it goes on, and spares other files."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import CHROMIUM, look_at

import medssl
from medssl import cli
from medssl.machine import demo as demos


@pytest.mark.slow
def test_the_demo_writes_one_page_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = ("network.channels=[4,8]", "network.strides=[2]", "training.iterations=4")
    monkeypatch.setattr(demos, "SETTINGS", (*demos.SETTINGS[:-1], *tiny))
    monkeypatch.setattr(demos, "UNLABELED", 2)
    monkeypatch.setattr(demos, "NEW", 1)
    folder = tmp_path / "shown"
    first = medssl.demo(folder, device="cpu")
    page = first.path.read_text()
    assert first.verdict in page.replace("&#39;", "'")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert page.count("<iframe") == 2
    assert page.count("data:image/") >= 3
    trained = sorted(folder.rglob("last.pt"))
    assert len(trained) == 6
    before = [path.stat().st_mtime_ns for path in trained]
    (folder / "index.html").unlink()
    assert medssl.demo(folder, device="cpu").verdict == first.verdict
    assert [path.stat().st_mtime_ns for path in trained] == before
    if CHROMIUM:
        found = look_at(first.path, 400, tmp_path)
        assert (found["broken"], found["small"]) == (0, 0)
        assert found["overflow"] <= 0


def test_a_folder_of_someone_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert cli.run(["demo", "--output", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
