"""One writer per run folder, whatever became of the last one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from helpers import small_recipe, write_dataset, write_recipe

from medssl import cli
from medssl.errors import MedSSLError
from medssl.runs import lock as run_lock
from medssl.runs.lock import only_writer

HOLD = """
import sys, time
from pathlib import Path
from medssl.runs.lock import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def other_process(folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that holds the lock of ``folder``, and wait until it does."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def write_holder(folder: Path, **changes: object) -> None:
    holder = {"host": socket.gethostname(), "pid": os.getppid(), "start": "x", "beat": 0}
    (folder / ".lock").write_text(json.dumps({**holder, **changes}))


def test_a_live_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = small_recipe(write_dataset(tmp_path / "data"), tmp_path / "cache")
    run = tmp_path / "run"
    run.mkdir()
    write_recipe(run / "recipe.yaml", recipe)
    before = (run / "recipe.yaml").read_bytes()
    process = other_process(run)
    try:
        assert cli.run(["--quiet", "train", str(run), "--resume"]) == 2
        message = capsys.readouterr().err
        assert f"process {process.pid} on {socket.gethostname()}" in message
        assert "fix:" in message
        assert {p.name for p in run.iterdir()} == {"recipe.yaml", ".lock"}
        assert (run / "recipe.yaml").read_bytes() == before
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=20)
        said: list[str] = []
        with only_writer(run, said.append):
            assert f"process {process.pid}" in said[0]
    finally:
        process.kill()
        process.wait()


def test_two_runs_of_one_process(tmp_path: Path) -> None:
    with only_writer(tmp_path):
        with pytest.raises(MedSSLError, match=f"process {os.getpid()} "), only_writer(tmp_path):
            pass
        # The refused one must not have dropped the lock of the first.
        with pytest.raises(MedSSLError), only_writer(tmp_path):
            pass
    with only_writer(tmp_path):
        pass


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), only_writer(tmp_path):
        raise ZeroDivisionError
    assert (tmp_path / ".lock").read_bytes() == b""


@pytest.fixture
def no_kernel_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that keeps no locks: what the file says has to do."""
    monkeypatch.setattr("medssl.files.lock.fcntl", None)
    monkeypatch.setattr(run_lock, "WATCH_SECONDS", 0.5)


@pytest.mark.usefixtures("no_kernel_locks")
def test_the_process_decides_not_its_number(tmp_path: Path) -> None:
    write_holder(tmp_path, start=run_lock._start(os.getppid()))
    with pytest.raises(MedSSLError, match=str(os.getppid())), only_writer(tmp_path):
        pass
    # Another process has got the number since.
    write_holder(tmp_path, start="another boot/123")
    with only_writer(tmp_path):
        pass
    write_holder(tmp_path, pid=2**22 + 5)
    with only_writer(tmp_path):
        pass


@pytest.mark.usefixtures("no_kernel_locks")
def test_another_host_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    write_holder(tmp_path, host="node17")
    with only_writer(tmp_path, said.append):
        pass
    assert "node17" in said[0]
    write_holder(tmp_path, host="node17")
    # Its heart beats while it is watched.
    beating = partial(write_holder, tmp_path, host="node17", beat=1)
    monkeypatch.setattr(run_lock.time, "sleep", lambda _: beating())
    with pytest.raises(MedSSLError, match="node17"), only_writer(tmp_path):
        pass


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.02)
    with only_writer(tmp_path):
        deadline = time.monotonic() + 20
        while json.loads((tmp_path / ".lock").read_text())["beat"] < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": "x"}', b"\xff\xfe"])
def test_a_lock_that_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".lock").write_bytes(content)
    with only_writer(tmp_path):
        pass
