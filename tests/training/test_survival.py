"""Nothing good is lost: damaged checkpoints, crashes while writing, and extended runs.

A resumed run must end with the same bits as one that was never interrupted.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import crash_after, same_bits, small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.runs import checkpoint
from medssl.runs.checkpoint import DamagedCheckpoint, load_checkpoint, save_checkpoint

STATE = {"method": "bcp", "w": torch.linspace(-1, 1, 40), "n": 3}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("survival")
    return write_dataset(folder / "data"), folder / "cache"


@pytest.fixture(scope="module")
def recipe(world: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A supervised run of 8 iterations with checkpoints after 3, 6 and 8, and no test cases."""
    changes = {"method": {"name": "supervised"}, "data": {"test": 0}}
    folder = tmp_path_factory.mktemp("recipe")
    return write_recipe(folder / "recipe.yaml", small_recipe(*world, **changes))


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupted."""
    return medssl.train(recipe, output=tmp_path_factory.mktemp("whole") / "run").path


def last(run: Path) -> Path:
    return run / "checkpoints" / "last.pt"


def previous(run: Path) -> Path:
    return run / "checkpoints" / "last-previous.pt"


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl without what the clock says."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    clock = ("iterations_per_second", "validation/seconds")
    return [{k: v for k, v in json.loads(x).items() if k not in clock} for x in lines]


def assert_same_run(one: Path, other: Path) -> None:
    same_bits(load_checkpoint(last(one)), load_checkpoint(last(other)))
    assert metrics(one) == metrics(other)


# ---------------------------------------------------------------- checksums


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(STATE, path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    # Every byte of the zip file's end and of the seal, and a sample of what lies before.
    places = [*range(len(good) - 110, len(good)), *rng.integers(0, len(good) - 110, 120).tolist()]
    for place in places:
        flipped = bytearray(good)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(DamagedCheckpoint):
            load_checkpoint(path)
    for length in (0, 1, 50, len(good) // 2, len(good) - 79, len(good) - 78, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(DamagedCheckpoint):
            load_checkpoint(path)
    path.write_bytes(good)
    assert torch.equal(load_checkpoint(path)["w"], STATE["w"])


def test_a_sealed_file_is_still_an_ordinary_one(tmp_path: Path) -> None:
    save_checkpoint(STATE, tmp_path / "x.pt")
    assert torch.equal(torch.load(tmp_path / "x.pt", weights_only=True)["w"], STATE["w"])


def test_a_checkpoint_without_checksum_is_read_if_it_is_old(tmp_path: Path) -> None:
    torch.save({"format": 1, **STATE}, tmp_path / "old.pt")
    assert load_checkpoint(tmp_path / "old.pt")["n"] == 3
    torch.save({"format": 2, **STATE}, tmp_path / "new.pt")
    with pytest.raises(DamagedCheckpoint, match="checksum is missing"):
        load_checkpoint(tmp_path / "new.pt")


@pytest.mark.parametrize("links", [True, False])
def test_one_generation_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(checkpoint.os, "link", refuse)
    path, before = tmp_path / "last.pt", tmp_path / "last-previous.pt"
    for n in range(3):
        save_checkpoint({**STATE, "n": n}, path, previous=before)
    assert [load_checkpoint(p)["n"] for p in (path, before)] == [2, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last-previous.pt", "last.pt"]


# ---------------------------------------------------------------- damaged files of a run


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink, lambda p: p.write_bytes(b"")])
def test_a_damaged_checkpoint_costs_one_interval(
    harm: Callable[[Path], object],
    recipe: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        crash_after(patch, 7)
        with pytest.raises(RuntimeError, match="power cut"):
            medssl.train(recipe, output=run)
    assert load_checkpoint(previous(run))["step"] == 3
    harm(last(run))
    assert cli.run(["train", str(run), "--resume"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "the run goes back to last-previous.pt, saved after 3 iterations" in said
    assert_same_run(whole, run)


def test_two_damaged_checkpoints_are_not_passed_over(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = medssl.train(recipe, output=tmp_path / "run").path
    flip(last(run))
    cut(previous(run))
    before = (last(run).read_bytes(), metrics(run))
    assert cli.run(["train", str(run), "--resume"]) == 2
    assert "last.pt" in capsys.readouterr().err
    assert (last(run).read_bytes(), metrics(run)) == before


def test_resuming_what_is_finished_keeps_both_generations(recipe: Path, tmp_path: Path) -> None:
    run = medssl.train(recipe, output=tmp_path / "run").path
    before = [p.read_bytes() for p in (last(run), previous(run))]
    medssl.train(run, resume=True)
    assert [p.read_bytes() for p in (last(run), previous(run))] == before


# ---------------------------------------------------------------- crashes while writing


class Crash(BaseException):
    """Ends everything at once: no handler of the package catches it, as kill -9 would."""


def die_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> list[str]:
    """Crash in the ``moment``-th step of writing checkpoints; returns the steps made so far."""
    made: list[str] = []

    def dying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            made.append(name)
            if len(made) == moment and name == "save":
                whole = io.BytesIO()
                function(arguments[0], whole)
                arguments[1].write(whole.getvalue()[: len(whole.getvalue()) // 3])
            if len(made) == moment:
                raise Crash(name)
            return function(*arguments, **options)

        return step

    for name in ("link", "replace", "fsync"):
        monkeypatch.setattr(checkpoint.os, name, dying(name, getattr(os, name)))
    monkeypatch.setattr(checkpoint.torch, "save", dying("save", torch.save))
    return made


@pytest.mark.slow
def test_a_crash_at_any_step_of_writing(recipe: Path, whole: Path, tmp_path: Path) -> None:
    seen = set()
    for moment in range(1, 60):
        run = tmp_path / f"at-{moment}"
        with pytest.MonkeyPatch.context() as patch:
            made = die_at(patch, moment)
            try:
                medssl.train(recipe, output=run)
            except Crash as crash:
                seen.add(str(crash))
        if len(made) < moment:
            break  # the run outlived its last write
        if not (run / "recipe.yaml").exists():
            medssl.train(recipe, output=run)  # it had not begun
        else:
            medssl.train(run, resume=True)
        assert_same_run(whole, run)
        assert not list((run / "checkpoints").glob("*.tmp"))
    assert seen == {"save", "fsync", "link", "replace"}
    assert moment > 20, "the loop must have covered three checkpoints"
