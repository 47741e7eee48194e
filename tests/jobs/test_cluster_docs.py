"""The batch files of docs/cluster.md, run on a queue that is a machine of one."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import fake_slurm
import pytest
from typer.main import get_command

from medssl.cli import app
from medssl.runs.folder import RunFolder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
BLOCKS = re.findall(r"```(?:bash)?\n(.*?)```", PAGE.read_text(), re.DOTALL)
FILES = {
    re.search(r"--job-name=(\w+)", b)[1] + ("-nodes" if "--nodes=2" in b else ""): b
    for b in BLOCKS
    if b.startswith("#!")
}

MEDSSL = r"""#!/bin/bash
# Notes what it is called with, and ends with the next of the codes it is to end with.
echo "$(basename "$0") $*" >> "$FAKE_SLURM/called"
[ -s "$FAKE_SLURM/codes" ] || exit 0
code=$(head -n 1 "$FAKE_SLURM/codes")
sed -i 1d "$FAKE_SLURM/codes"
mkdir -p runs/la_8
[ $code -eq 0 ] && echo '{"status": "finished"}' > runs/la_8/manifest.json
[ $code -eq 138 ] && echo '{"status": "stopped"}' > runs/la_8/manifest.json
exit $code
"""


@pytest.fixture
def submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Submit a file, wait until its job has ended for good, and return what was called."""
    folder = tmp_path / "slurm"
    for name, value in fake_slurm.install(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    for name in ("medssl", "torchrun"):
        (folder / "bin" / name).write_text(MEDSSL)
        (folder / "bin" / name).chmod(0o755)

    def run(text: str, codes: list[int], *, jobs: int = 1) -> list[str]:
        (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
        (tmp_path / "job.sh").write_text(text)
        assert subprocess.run(["sbatch", "job.sh"], check=True, capture_output=True).stdout
        deadline = time.monotonic() + 60
        while True:
            ended = [p for p in folder.glob("state-*") if p.read_text().strip() in ENDED]
            if len(ended) == jobs:
                return (folder / "called").read_text().splitlines()
            assert time.monotonic() < deadline, "the job has not ended"
            time.sleep(0.05)

    return run


ENDED = ("COMPLETED", "FAILED")


def test_every_batch_file_is_there() -> None:
    assert set(FILES) == {"la_8", "predict", "preprocess", "la_8-nodes"}


@pytest.mark.parametrize("text", BLOCKS)
def test_every_block_is_a_shell_script(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("text", BLOCKS)
def test_every_command_has_the_options_it_is_given(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medssl.runs.folder.open_run", RunFolder)  # there is no run of the page's
    text = text.replace("\\\n", " ")
    for call in re.findall(r"\bmedssl ((?:train|predict|preprocess|sweep|evaluate) .*)", text):
        name, *words = shlex.split(re.sub(r"\$[A-Z_]+", "1", call), comments=True)
        command = get_command(app).commands[name]
        command.make_context(name, words, resilient_parsing=False)


@pytest.mark.parametrize("name", ["la_8", "la_8-nodes"])
def test_a_run_is_requeued_until_it_is_done(
    name: str, submit: Callable[..., list[str]], tmp_path: Path
) -> None:
    called = submit(FILES[name], [138, 138, 0])
    assert len(called) == 3
    assert len(set(called)) == 1, "every start has the same command"
    assert "train recipe.yaml --output runs/la_8 --resume-or-start" in called[0]
    assert (tmp_path / "slurm" / "requeued").read_text().split() == ["71", "71"]


def test_an_error_is_not_requeued(submit: Callable[..., list[str]], tmp_path: Path) -> None:
    assert len(submit(FILES["la_8"], [2])) == 1
    assert not (tmp_path / "slurm" / "requeued").exists()


@pytest.mark.parametrize(("name", "count"), [("predict", 8), ("preprocess", 16)])
def test_an_array_calls_every_shard_once(
    name: str, count: int, submit: Callable[..., list[str]]
) -> None:
    called = submit(FILES[name], [], jobs=count)
    shards = [line.split("--shard ")[1] for line in called]
    assert shards == [f"{i}/{count}" for i in range(1, count + 1)]
