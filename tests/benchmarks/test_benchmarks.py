"""The benchmarks work, go on where they were stopped, and compare like with like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import harness  # noqa: E402
import run as command  # noqa: E402
from harness import DONE, FAILED, SKIPPED, STOPPED, Row, SkipPart  # noqa: E402
from measuring import exponent, text_of  # noqa: E402
from plain_loop import bcp_losses, follow, largest_piece  # noqa: E402
from scaling import Sent  # noqa: E402
from stretch import busy_seconds  # noqa: E402
from time_to_dice import seconds_to  # noqa: E402

from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch  # noqa: E402
from medssl.methods.bcp_mixing import draw_masks  # noqa: E402
from medssl.methods.registry import get_method, get_settings  # noqa: E402
from medssl.ops.components import begin_largest_components  # noqa: E402
from medssl.ops.ema import ema_update  # noqa: E402

# ---------------------------------------------------------------------- rows and tables


@pytest.mark.parametrize(
    ("value", "target", "met"),
    [
        (2.5, ">= 2.5", True),
        (2.4, ">= 2.5", False),
        (1.02, "<= 1.03", True),
        (1.04, "<= 1.03", False),
        (1.0, "", None),
        (None, ">= 2.5", None),
    ],
)
def test_a_row_knows_whether_its_target_is_met(
    value: float | None, target: str, met: bool | None
) -> None:
    assert Row("step", value, target=target).met is met


def test_a_target_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValueError, match="fast"):
        Row("step", 1.0, target="fast")


def entry_of(part: str, *rows: Row, status: str = DONE, **changes: Any) -> dict[str, Any]:
    entry = {
        "part": part,
        "device": "cpu",
        "version": "1",
        "commit": "abc",
        "options": {"quick": True},
        "status": status,
        "reason": "",
        "machine": {},
        "rows": [json.loads(json.dumps(row.__dict__)) for row in rows],
    }
    return {**entry, **changes}


def test_the_table_shows_figures_targets_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    harness.print_table(
        [
            entry_of("a", Row("step", 2.6, "times", ">= 2.5"), Row("more [x]", 1.0, "", ">= 2")),
            entry_of("b", status=FAILED, reason="does not fit"),
        ]
    )
    shown = capsys.readouterr().out
    for text in ("2.600 times", ">= 2.5", "met", "missed", "more [x]", "does not fit", "failed"):
        assert text in shown


def test_results_are_replaced_by_the_same_measurement_alone(tmp_path: Path) -> None:
    results = command.Results(tmp_path / "r.json")
    results.put(entry_of("growth", status=STOPPED))
    results.put(entry_of("growth"))
    results.put(entry_of("metrics", commit="other"))
    results.put(entry_of("metrics"))
    again = command.Results(tmp_path / "r.json")
    assert [(e["part"], e["commit"]) for e in again.entries] == [
        ("growth", "abc"),
        ("metrics", "other"),
        ("metrics", "abc"),
    ]
    assert again.find(entry_of("growth"))["status"] == DONE
    for key, value in {"device": "H100", "version": "2", "options": {"quick": False}}.items():
        assert again.find(entry_of("growth", **{key: value})) is None
    assert [e["part"] for e in again.newest()] == ["metrics", "growth"], "in the parts' order"
    assert again.newest()[0]["commit"] == "abc"


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("[1]")
    with pytest.raises(SystemExit, match="not a file of benchmark results"):
        command.Results(tmp_path / "r.json")


# ---------------------------------------------------------------------- a part on its own


def run_measure(
    monkeypatch: pytest.MonkeyPatch, output: Path, measure: Callable[..., Any]
) -> dict[str, Any]:
    argv = ["toy.py", "--device", "cpu", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", argv)
    harness.run_part(harness.options_of("toy"), measure)
    return json.loads(output.read_text())


def test_a_part_goes_on_with_the_rows_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured: list[str] = []

    def measure(options: Namespace, known: dict[str, Row]) -> Any:
        for name in ("one", "two"):
            if name in known:
                yield known[name]
                continue
            measured.append(name)
            if name == "two" and len(measured) == 2:
                raise KeyboardInterrupt
            yield Row(name, float(len(measured)))

    with pytest.raises(KeyboardInterrupt):
        run_measure(monkeypatch, tmp_path / "out.json", measure)
    left = json.loads((tmp_path / "out.json").read_text())
    assert left["status"] == STOPPED
    assert [row["what"] for row in left["rows"]] == ["one"]
    done = run_measure(monkeypatch, tmp_path / "out.json", measure)
    assert measured == ["one", "two", "two"]
    assert done["status"] == DONE
    assert [(row["what"], row["value"]) for row in done["rows"]] == [("one", 1.0), ("two", 3.0)]


def test_rows_of_a_method_are_told_from_those_of_others() -> None:
    rows = [Row(what, 1.0) for what in ("bcp, card", "bcp", "cps, bcp", "bcp2, card")]
    assert harness.left_of({row.what: row for row in rows}, "bcp") == rows[:2]


def test_a_part_says_why_it_is_skipped_or_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def skips(options: Namespace, known: dict[str, Row]) -> Any:
        yield from ()
        raise SkipPart("no such data")

    def breaks(options: Namespace, known: dict[str, Row]) -> Any:
        yield Row("one", 1.0)
        raise RuntimeError("CUDA out of memory")

    skipped = run_measure(monkeypatch, tmp_path / "skip.json", skips)
    assert (skipped["status"], skipped["reason"]) == (SKIPPED, "no such data")
    with pytest.raises(SystemExit):
        run_measure(monkeypatch, tmp_path / "fail.json", breaks)
    failed = json.loads((tmp_path / "fail.json").read_text())
    assert failed["status"] == FAILED
    assert failed["reason"].startswith("does not fit the device")
    assert len(failed["rows"]) == 1


def test_data_are_looked_for_where_one_says(tmp_path: Path) -> None:
    with pytest.raises(SkipPart, match="MEDSSL_DATA"):
        harness.dataset_folder(Namespace(data=None), "Task102_LeftAtrium")
    with pytest.raises(SkipPart, match="Task102_LeftAtrium"):
        harness.dataset_folder(Namespace(data=tmp_path), "Task102_LeftAtrium")


# ---------------------------------------------------------------------- the command

TOY = """
import json, os, sys, time
output = sys.argv[sys.argv.index("--output") + 1]
what = {what!r}
if what == "dies":
    os.kill(os.getpid(), 9)
entry = json.load(open(output)) if os.path.exists(output) else {{"rows": []}}
entry["rows"].append({{"what": "row", "value": 1.0}})
json.dump({{**entry, "status": "stopped", "reason": ""}}, open(output, "w"))
if what == "slow":
    time.sleep(60)
json.dump({{**entry, "status": "done", "reason": ""}}, open(output, "w"))
"""


def toy_options(**changes: Any) -> Namespace:
    return Namespace(**{"device": "cpu", "quick": True, "data": None, "minutes": None, **changes})


def use_toys(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"{name}.py").write_text(TOY.format(what=name))
    monkeypatch.setattr(command, "HERE", folder)
    monkeypatch.setattr(command, "PARTS", {n: command.Part(f"{n}.py") for n in names})


def test_a_part_that_dies_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_toys(monkeypatch, tmp_path, "dies", "fine")
    results = command.Results(tmp_path / "r.json")
    assert command.run_all(["dies", "fine"], toy_options(), results)
    dead, fine = json.loads((tmp_path / "r.json").read_text())["results"]
    assert dead["status"] == FAILED
    assert "signal 9" in dead["reason"]
    assert (fine["status"], len(fine["rows"])) == (DONE, 1)
    assert command.run_all(["fine"], toy_options(), results)
    assert len(results.find(fine)["rows"]) == 1, "measured again"


def test_time_that_is_up_keeps_what_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_toys(monkeypatch, tmp_path, "slow", "fine")
    results = command.Results(tmp_path / "r.json")
    for rows in (1, 2):  # the second call hands on what the first has left
        assert not command.run_all(["slow", "fine"], toy_options(minutes=0.03), results)
        (slow,) = json.loads((tmp_path / "r.json").read_text())["results"]
        assert slow["status"] == STOPPED
        assert "time was up" in slow["reason"]
        assert len(slow["rows"]) == rows


def test_all_parts_are_there_and_described() -> None:
    readme = (BENCHMARKS / "README.md").read_text()
    for name, part in command.PARTS.items():
        assert (BENCHMARKS / part.script).is_file()
        assert f"`{name}`" in readme, f"{name} is not in benchmarks/README.md"


# ---------------------------------------------------------------------- what is measured


def event(start: float, end: float, device: str = "CUDA", note: bool = False) -> Any:
    return SimpleNamespace(
        time_range=SimpleNamespace(start=start, end=end),
        device_type=getattr(torch.autograd.DeviceType, device),
        is_user_annotation=note,
    )


def test_a_card_is_busy_where_anything_runs_on_it() -> None:
    events = [
        event(5e6, 6e6),
        event(0, 2e6),
        event(1e6, 3e6),  # another stream at the same time
        event(1e6, 1.5e6),
        event(0, 9e6, device="CPU"),
        event(0, 9e6, note=True),
    ]
    assert busy_seconds(events) == pytest.approx(4.0)
    assert busy_seconds([]) == 0


def test_exponents_of_growth() -> None:
    assert exponent([1, 10, 100], [3, 30, 300]) == pytest.approx(1)
    assert exponent([2, 5, 14], [7, 7, 7]) == pytest.approx(0)


def test_seconds_to_a_dice_leave_validations_out() -> None:
    records = [
        {"step": 10, "iterations_per_second": 5.0},
        {"step": 20, "iterations_per_second": 2.0},
        {"step": 20, "validation/dice": 0.5, "validation/seconds": 100.0},
        {"step": 30, "iterations_per_second": 10.0},
        {"step": 30, "validation/dice": 0.8, "validation/seconds": 100.0},
    ]
    assert seconds_to(records, 0.5) == (7.0, 20)
    assert seconds_to(records, 0.75) == (8.0, 30)
    assert seconds_to(records, 0.9) is None


def test_settings_are_written_as_the_command_line_takes_them() -> None:
    assert [text_of(v) for v in (None, True, 3, [64, None], "auto")] == [
        "null",
        "true",
        "3",
        "[64, null]",
        "auto",
    ]


def test_bytes_of_collectives_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    dist = torch.distributed
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op=None: None)
    monkeypatch.setattr(dist, "all_gather", lambda parts, tensor: None)
    sent = Sent()
    dist.all_reduce(torch.zeros(3), op=None)
    dist.all_gather([torch.zeros(9)] * 2, torch.zeros(2, 2, dtype=torch.float64))
    assert sent.bytes == 3 * 4 + 4 * 8


class Tiny(nn.Module):
    """Two convolutions with BatchNorm."""

    def __init__(self, dims: int, classes: int) -> None:
        super().__init__()
        conv, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[dims - 2]
        self.body = nn.Sequential(conv(1, 4, 3, padding=1), norm(4), nn.ReLU(), conv(4, classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@pytest.mark.parametrize(("variant", "dims", "classes"), [("la", 3, 2), ("acdc", 2, 4)])
def test_the_plain_loop_computes_the_loss_it_is_compared_with(
    variant: str, dims: int, classes: int
) -> None:
    torch.manual_seed(0)
    method = get_method("bcp")(
        get_settings("bcp")(preset="official", variant=variant),
        lambda **_: Tiny(dims, classes),
        num_classes=classes,
        spatial_dims=dims,
    ).train()
    method.start_stage("self_train")
    shape = (12, 9, 10)[:dims]
    image, label = torch.randn(8, 1, *shape), torch.randint(0, classes, (4, *shape))
    progress = Progress("self_train", 5, 100)
    rng, device = progress.rng("box"), image.device
    mask = draw_masks(image.shape[2:], 2, method.settings, rng, device)[0]
    batch = Batch(LabeledBatch(image[:4], label), UnlabeledBatch(image[4:]))
    ours = sum(method.training_step(batch, progress).losses())
    plain = bcp_losses(method, {"image": image[:4], "label": label}, {"image": image[4:]}, mask)
    torch.testing.assert_close(sum(plain), ours)


def test_the_plain_loop_cleans_and_follows_as_the_package_does() -> None:
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (2, 9, 8, 7)))
    assert torch.equal(
        largest_piece(label, 3, 3), begin_largest_components(label, 3, connectivity=3)()
    )
    student, teacher, other = Tiny(2, 2), Tiny(2, 2), Tiny(2, 2)
    other.load_state_dict(teacher.state_dict())
    follow(teacher, student, 0.9)
    ema_update(other, student, 0.9, buffers="keep")
    for one, two in zip(teacher.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


# ---------------------------------------------------------------------- scripts


def bash(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("script", ["gpu_suite.sh", "literature_run.sh"])
def test_scripts_are_valid(script: str) -> None:
    done = bash("-n", str(BENCHMARKS / script))
    assert done.returncode == 0, done.stderr
    assert os.access(BENCHMARKS / script, os.X_OK)


def test_a_literature_run_asks_for_setting_and_data(tmp_path: Path) -> None:
    script = str(BENCHMARKS / "literature_run.sh")
    asked = bash(script)
    assert (asked.returncode, "usage" in asked.stderr) == (2, True)
    missing = bash(script, "la", MEDSSL_DATA=str(tmp_path))
    assert missing.returncode == 2
    assert "there is no Task102_LeftAtrium" in missing.stderr


# ---------------------------------------------------------------------- all of it


@pytest.mark.slow
def test_parts_run_are_resumed_and_written(tmp_path: Path) -> None:
    output = tmp_path / "r.json"
    call = [sys.executable, str(BENCHMARKS / "run.py"), "metrics", "growth", "time_to_dice"]
    call += ["--quick", "--device", "cpu", "--data", str(tmp_path), "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run_it(*more: str) -> str:
        done = subprocess.run(
            [*call, *more], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run_it()
    first = json.loads(output.read_text())["results"]
    assert [(e["part"], e["status"]) for e in first] == [
        ("metrics", DONE),
        ("growth", DONE),
        ("time_to_dice", SKIPPED),
    ]
    assert "Task04_Hippocampus" in first[2]["reason"]
    for row in (Row(**row) for entry in first for row in entry["rows"]):
        assert row.value is not None
        assert np.isfinite(row.value)  # an exponent of times at toy size may be anything
    assert all(entry["machine"]["torch"] == torch.__version__ for entry in first)
    shown = run_it()
    assert shown.count("in the file already") == 2
    assert json.loads(output.read_text())["results"][:2] == first[:2]
    table = run_it("--table")
    assert "cases: a draw" in table
    assert "skipped" in table
