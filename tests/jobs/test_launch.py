"""Jobs that train nothing: in what order they are done, what becomes of those that fail or stop."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path

import pytest

from medssl.errors import MedSSLError, Stopped
from medssl.jobs.job import Job
from medssl.jobs.launch import Launcher, choose_launcher, launch
from medssl.progress import Display
from medssl.workflows.train_job import TrainCall, train_job

QUIET = Display(quiet=True)


def job_of(name: str, done: list[str], error: BaseException | None = None) -> Job:
    """Return a job that notes its name, or raises."""

    def call(display: Display) -> None:
        if error is not None:
            raise error
        done.append(name)

    return Job(name, call, ("methods",), lambda: name in done)


def test_jobs_are_done_in_order_and_a_failing_one_stops_no_other(tmp_path: Path) -> None:
    done: list[str] = []
    wrong = MedSSLError("no scans", where="there", fix="add some")
    jobs = [
        job_of("a", done),
        job_of("b", done, wrong),
        job_of("c", done, RuntimeError("first\nsecond")),
        job_of("d", done),
    ]
    outcome = launch(jobs, Launcher(), folder=tmp_path, display=QUIET)
    assert done == ["a", "d"]
    assert outcome.failures == {"b": str(wrong), "c": "RuntimeError: first"}
    assert (outcome.stopped, outcome.queued) == (None, 0)


@pytest.mark.parametrize(
    ("error", "signum"),
    [(Stopped(signal.SIGTERM, 3, Path("run")), signal.SIGTERM), (KeyboardInterrupt(), 2)],
)
def test_a_stop_is_for_all(error: BaseException, signum: int, tmp_path: Path) -> None:
    done: list[str] = []
    jobs = [job_of("a", done), job_of("b", done, error), job_of("c", done)]
    outcome = launch(jobs, Launcher(), folder=tmp_path, display=QUIET)
    assert done == ["a"]
    assert (outcome.stopped, outcome.failures) == (signum, {})


def test_nothing_to_do_asks_for_no_queue(tmp_path: Path) -> None:
    outcome = launch([], Launcher("submitit"), folder=tmp_path, display=QUIET)
    assert (outcome.failures, outcome.stopped, outcome.queued) == ({}, None, 0)


def test_processes_call_the_command_line(tmp_path: Path) -> None:
    """One that works and one that does not; the calls of the jobs are not used."""
    done: list[str] = []
    missing = ("train", str(tmp_path / "missing.yaml"))
    good, bad = job_of("good", done), job_of("bad", done)
    jobs = [good, Job("bad", bad.call, missing, bad.is_finished)]
    outcome = launch(jobs, Launcher(at_once=2), folder=tmp_path, display=QUIET)
    assert done == []
    assert list(outcome.failures) == ["bad"]
    assert "there is no such recipe" in outcome.failures["bad"]
    assert not outcome.failures["bad"].startswith("error: ")


def test_a_launcher_that_cannot_work_is_refused() -> None:
    assert choose_launcher("local", at_once=3) == Launcher("local", 3)
    assert not choose_launcher("local").elsewhere
    for words, options in (
        ("0 runs at a time", {"at_once": 0}),
        ("--slurm has no meaning", {"slurm": ["time=5"]}),
    ):
        with pytest.raises(MedSSLError, match=words):
            choose_launcher("local", **options)
    with pytest.raises(MedSSLError, match="no launcher 'ray'"):
        choose_launcher("ray")


def test_the_call_of_a_run_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue's job starts in a folder of its own, from a pickle."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("")
    call = TrainCall("mine.yaml", ("seed=1",), "runs/a", "cpu", "bf16")
    far = train_job("a", call, elsewhere=True).call
    assert pickle.loads(pickle.dumps(far)) == far
    assert far == TrainCall(
        str(tmp_path / "mine.yaml"), ("seed=1",), str(tmp_path / "runs" / "a"), "cpu", "bf16"
    )
    assert train_job("a", call).call == call
    shipped = TrainCall("quickstart", (), "runs/b")
    assert shipped.from_everywhere().recipe == "quickstart"


def test_the_arguments_of_a_run_are_its_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line, given a job's arguments, trains what the call trains."""
    import medssl
    from medssl import cli

    seen: list[dict[str, object]] = []

    def train(recipe: str, **options: object) -> None:
        del options["display"]
        seen.append({"recipe": recipe, "resume": False, "verify_cache": False, **options})
        raise MedSSLError("enough")

    monkeypatch.setattr("medssl.workflows.train_job.train", train)
    monkeypatch.setattr(medssl, "train", train, raising=False)
    call = TrainCall("mine.yaml", ("seed=1", "data.test=2"), str(tmp_path / "a"), "cpu", "bf16")
    with pytest.raises(MedSSLError, match="enough"):
        call(QUIET)
    cli.run(["--quiet", *train_job("a", call).arguments])
    one, other = ({**s, "overrides": tuple(s["overrides"])} for s in seen)
    assert one == other
    assert one["resume_or_start"] is True
