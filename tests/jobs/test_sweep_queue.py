"""Sweeps in a queue: what is asked of it, runs that are stopped and go on, results found later."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import fake_slurm
import pytest
from helpers import same_bits, small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.errors import MedSSLError
from medssl.jobs import queue as queue_module
from medssl.jobs import slurm as slurm_module
from medssl.jobs.slurm import QueuedCall
from medssl.jobs.slurm_options import parse_options
from medssl.runs.checkpoint import load_checkpoint
from medssl.training.engine import Engine
from medssl.workflows.train_job import TrainCall


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_dataset(folder / "data", cases=8)
    content = small_recipe(
        folder / "data",
        folder / "cache",
        data={"test": 3},
        method={"name": "mean_teacher"},
        training={"iterations": 4, "validate_every": 100},
    )
    return write_recipe(folder / "small.yaml", content)


# ---------------------------------------------------------------------- options


def test_options_become_those_of_submitit() -> None:
    given = ["partition=gpu", "time=1-02:30", "gpus-per-node=1", "cpus_per_task=6", "mem_gb=24"]
    given += ["exclusive", "constraint=a100|h100", "setup=module load cuda", "setup=source env"]
    assert parse_options(given) == {
        "timeout_min": 26 * 60 + 30,
        "gpus_per_node": 1,
        "cpus_per_task": 6,
        "mem_gb": 24.0,
        "slurm_signal_delay_s": 120,
        "slurm_setup": ["module load cuda", "source env"],
        "slurm_additional_parameters": {
            "requeue": True,
            "partition": "gpu",
            "exclusive": True,
            "constraint": "a100|h100",
        },
    }


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ("90:01", 91),
        ("12:00:00", 720),
        ("00:00:01", 1),
        ("2-12", 3600),
        ("1-00:05", 1445),
        ("1-01:01:30", 1502),
    ],
)
def test_times_as_sbatch_reads_them(text: str, minutes: int) -> None:
    assert parse_options([f"time={text}"])["timeout_min"] == minutes


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("time=soon", "it is no time"),
        ("time=0", "it is no time"),
        ("mem_gb=lots", "no positive number"),
        ("cpus_per_task=0", "no positive number"),
        ("nodes=2", "each run is one process"),
        ("array=1-8", "medssl sets it itself"),
        ("partition=", "it has no value"),
        ("=gpu", "cannot be read"),
        ("comment=a\n#SBATCH --uid=0", "cannot be read"),
        ("a b=c", "cannot be read"),
    ],
)
def test_options_that_cannot_work(option: str, said: str) -> None:
    with pytest.raises(MedSSLError, match=said):
        parse_options(["time=10", option])


def test_how_long_is_asked(
    recipe: Path, tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(recipe), "--labeled", "2", "--output", str(tmp_path / "out")]
    assert cli.run([*command, "--launcher", "submitit", "--slurm", "partition=gpu"]) == 2
    assert "--slurm time=12:00:00" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with the commands of SLURM; returns its folder."""
    pytest.importorskip("submitit")
    for name, value in fake_slurm.install(tmp_path / "slurm").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(queue_module, "POLL_SECONDS", 0.1)
    return tmp_path / "slurm"


def test_what_is_missing_is_named_first(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["sweep", str(recipe), "--labeled", "2", "--output", str(tmp_path / "out")]
    assert cli.run([*command, "--launcher", "ray"]) == 2
    assert "use one of: local, submitit" in capsys.readouterr().err
    assert cli.run([*command, "--slurm", "time=5"]) == 2
    assert "add --launcher submitit" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        assert cli.run([*command, "--launcher", "submitit", "--slurm", "time=5"]) == 2
        assert 'pip install "medssl[slurm]"' in capsys.readouterr().err
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.run([*command, "--launcher", "submitit", "--slurm", "time=5"]) == 2
    assert "`sbatch` is not found" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- the queue


class FakeQueue:
    """Runs a job when it is asked whether it has ended, if the machine is on."""

    def __init__(self) -> None:
        self.calls: dict[str, Callable[[], Any]] = {}
        self.ended: set[str] = set()
        self.on = True

    def submit(self, calls: Sequence[Callable[[], Any]]) -> list[str]:
        ids = [f"{len(self.calls)}_{i}" for i in range(len(calls))]
        self.calls |= dict(zip(ids, calls, strict=True))
        return ids

    def job(self, job_id: str) -> FakeJob:
        return FakeJob(self, job_id)

    @property
    def names(self) -> list[str]:
        return [Path(queued.call.output).name for queued in self.calls.values()]


class FakeJob:
    def __init__(self, queue: FakeQueue, job_id: str) -> None:
        self.queue, self.job_id = queue, job_id

    def done(self) -> bool:
        if self.queue.on and self.job_id not in self.queue.ended:
            self.queue.ended.add(self.job_id)
            with suppress(RuntimeError):
                self.queue.calls[self.job_id]()
        return self.job_id in self.queue.ended

    def describe(self) -> str:
        return f"job {self.job_id} (NODE_FAIL)"


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    made = FakeQueue()
    monkeypatch.setattr("medssl.jobs.launch.check_slurm", lambda: None)
    monkeypatch.setattr("medssl.jobs.launch.SlurmQueue", lambda *_, **__: made)
    monkeypatch.setattr(queue_module, "POLL_SECONDS", 0.01)
    return made


def command_of(recipe: Path, out: Path) -> list[str]:
    words = ["sweep", str(recipe), "--labeled", "2", "--seeds", "1", "--output", str(out)]
    return [*words, "--launcher", "submitit", "--slurm", "time=60"]


def test_queued_now_and_collected_later(
    recipe: Path, tmp_path: Path, queue: FakeQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    command = command_of(recipe, tmp_path / "out")
    queue.on = False
    assert cli.run([*command, "--no-wait"]) == 0
    said = capsys.readouterr()
    assert "queued: 2 runs as job 0" in said.err
    assert "2 runs go on in the queue, 0 of 2 are finished" in " ".join(said.out.split())
    assert cli.run([*command, "--no-wait"]) == 0
    assert "2 runs are in the queue since an earlier call" in capsys.readouterr().err
    assert queue.names == ["supervised-2-0", "mean_teacher-2-0"]  # not again
    queue.on = True
    assert cli.run(command) == 0
    assert queue.names == ["supervised-2-0", "mean_teacher-2-0"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["n_runs"] == {"finished": 2, "planned": 2}
    assert "gain" in summary["points"][1]
    capsys.readouterr()
    assert cli.run(command) == 0  # nothing is left to do
    assert "2 of them finished" in capsys.readouterr().err
    assert len(queue.calls) == 2


def test_a_failed_job_is_reported_and_queued_again(
    recipe: Path,
    tmp_path: Path,
    queue: FakeQueue,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = medssl.train

    def failing(*args: Any, **options: Any) -> Any:
        if options["output"].name == "supervised-2-0":
            raise RuntimeError("out of luck")
        return train(*args, **options)

    command = command_of(recipe, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("medssl.workflows.train_job.train", failing)
        assert cli.run(command) == 1
    assert "failed: supervised-2-0: job 0_0 (NODE_FAIL)" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [r["status"] for r in summary["runs"]] == ["failed", "finished"]
    assert cli.run(command) == 0
    assert queue.names == ["supervised-2-0", "mean_teacher-2-0", "supervised-2-0"]


def test_ctrl_c_leaves_the_jobs(
    recipe: Path,
    tmp_path: Path,
    queue: FakeQueue,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    queue.on = False
    monkeypatch.setattr(queue_module.time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGINT))
    assert cli.run(command_of(recipe, tmp_path / "out")) == 130
    said = " ".join(capsys.readouterr().err.split())
    assert "stopped by SIGINT: 2 runs go on in the queue" in said
    assert "The same command waits" in said


def test_a_damaged_record_of_jobs(tmp_path: Path) -> None:
    for text in ("", "[]", "{", '"x"'):
        (tmp_path / "jobs.json").write_text(text)
        assert queue_module._read(tmp_path / "jobs.json") == {}


# ---------------------------------------------------------------------- one job


class Requeued(BaseException):
    """What submitit does at the end of its handler: the process exits."""


@pytest.fixture
def job() -> Iterator[Callable[[QueuedCall], list[int]]]:
    """Start a run as submitit does: with its handler installed. Returns what that was called for.

    The handler is what the job's process ends with when it is requeued.
    """
    before = {s: signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGUSR2)}

    def start(run: QueuedCall) -> list[int]:
        calls: list[int] = []

        def handler(signum: int, _frame: Any) -> None:
            calls.append(signum)
            raise Requeued

        signal.signal(slurm_module.PREEMPTION, handler)
        with suppress(Requeued):
            run()
        return calls

    yield start
    for signum, earlier in before.items():
        signal.signal(signum, earlier)


def run_of(recipe: Path, folder: Path) -> QueuedCall:
    return QueuedCall(TrainCall(str(recipe), ("data.labeled=2",), str(folder), "cpu"))


def last(folder: Path) -> dict[str, Any]:
    return load_checkpoint(folder / "checkpoints" / "last.pt")


def announce(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGUSR2, signal.SIGUSR1])
def test_a_preempted_run_saves_itself_first(
    signum: signal.Signals,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: Callable[[QueuedCall], list[int]],
) -> None:
    """By the signal that submitit uses, and by the other one that it may be told to use."""
    monkeypatch.setattr(slurm_module, "PREEMPTION", signum)
    assert job(run_of(recipe, tmp_path / "whole")) == []
    run = run_of(recipe, tmp_path / "run")
    step = Engine._step

    def announced(self: Engine, *arguments: Any) -> None:
        step(self, *arguments)
        if self.state.step % 2:
            announce(signum)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_step", announced)
        for done in (2, 4):
            assert job(run) == [signum]
            assert last(tmp_path / "run")["step"] == done
    # Outside of the loop there is nothing to save: the job goes back at once.
    with monkeypatch.context() as patch:
        patch.setattr("medssl.workflows.training_run._evaluate_splits", lambda *_: announce(signum))
        assert job(run) == [signum]
    assert job(run) == []
    same_bits(last(tmp_path / "whole"), last(tmp_path / "run"))
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "finished"


def test_a_cancelled_run_is_not_requeued(
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: Callable[[QueuedCall], list[int]],
) -> None:
    """scancel sends SIGTERM, as does a preemption, after which the queue itself starts it again."""
    step = Engine._step

    def cancelled(self: Engine, *arguments: Any) -> None:
        step(self, *arguments)
        announce(signal.SIGTERM)

    run = run_of(recipe, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_step", cancelled)
        with pytest.raises(SystemExit) as end:  # which submitit does not take for a result
            job(run)
    assert end.value.code == 143
    assert last(tmp_path / "run")["step"] == 1
    assert job(run) == []


def test_what_the_job_calls_when_it_starts_again(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    run = run_of(recipe, tmp_path)
    assert run.checkpoint().function == run


# ---------------------------------------------------------------------- real jobs


def test_sbatch_refuses(
    recipe: Path, tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (slurm / "refuse").touch()
    assert cli.run([*command_of(recipe, tmp_path / "out"), "--slurm", "partition=nowhere"]) == 2
    said = capsys.readouterr().err
    assert "the queue refuses the jobs: sbatch: error: invalid partition" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_an_array_of_real_jobs(
    recipe: Path, tmp_path: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes started by submitit; the first is preempted once, and goes on."""
    out = tmp_path / "out"
    awaited = out / "supervised-2-0" / "metrics.jsonl"
    (slurm / "preempt").write_text(f"USR2 {awaited}\n")
    command = command_of(recipe, out)
    command += ["--set", "training.iterations=150", "--set", "training.checkpoint_every=1000"]
    command += ["--slurm", "partition=gpu", "--slurm", "gpus_per_node=1", "--jobs", "1"]
    assert cli.run(command) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    assert "queued: 2 runs as job 71" in said.err
    assert "finished: mean_teacher-2-0" in said.err
    script = (slurm / "71.sh").read_text()
    for line in ("partition=gpu", "gpus-per-node=1", "time=60", "array=0-1%1", "requeue"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --signal=USR2@120\n" in script
    assert (slurm / "requeued").read_text() == "71_0\n"
    assert (slurm / "ended").read_text().count("71_0 ") == 2
    log = (out / "slurm" / "71_0_0_log.out").read_text()
    assert "resuming stage" in log
    steps = [json.loads(x).get("step", 0) for x in awaited.read_text().splitlines()]
    assert steps == sorted(steps)
    assert max(steps) == 150
    assert json.loads((out / "summary.json").read_text())["n_runs"]["finished"] == 2
