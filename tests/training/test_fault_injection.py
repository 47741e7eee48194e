"""Faults from outside: after each, nothing good is lost and the resumed run has the same bits."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import AFFINE, crash_after, same_bits, small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.data.patches.sampling import PatchSampler
from medssl.runs.checkpoint import load_checkpoint
from medssl.training.engine import Engine


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A dataset, its recipe, and the run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("faults")
    changes = {"method": {"name": "mean_teacher"}}
    content = small_recipe(write_dataset(folder / "data"), folder / "cache", **changes)
    recipe = write_recipe(folder / "recipe.yaml", content)
    return folder / "data", recipe, medssl.train(recipe, output=folder / "whole").path


def last(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints" / "last.pt")


def train(recipe: Path, run: Path, *more: str) -> int:
    return cli.run(["--quiet", "train", str(recipe), "--output", str(run), *more])


def resume_equals(clean: tuple[Path, Path, Path], run: Path, *more: str) -> None:
    assert cli.run(["--quiet", "train", str(run), "--resume", *more]) == 0
    same_bits(last(clean[2]), last(run))
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "finished"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room; return the file that takes it."""
    with (disk / "others").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**12))
    return disk / "others"


def test_a_disk_that_fills_up(
    clean: tuple[Path, Path, Path], disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step, done = Engine._step, []

    def filling(self: Engine, *arguments: Any) -> None:
        step(self, *arguments)
        done.append(1)
        if len(done) == 4:  # after the first checkpoint
            fill(disk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_step", filling)
        assert train(clean[1], disk / "run") == 2
    message = capsys.readouterr().err
    assert "No space left" in message or "cannot read or write" in message
    assert last(disk / "run")["step"] == 3
    (disk / "others").unlink()
    resume_equals(clean, disk / "run")


def test_a_disk_of_the_cache_that_is_full(
    clean: tuple[Path, Path, Path], disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["preprocess", str(clean[1]), "--set", f"data.cache={disk / 'cache'}"]
    assert cli.run([*command, "--shard", "1/3"]) == 0
    made = sorted((disk / "cache").iterdir())
    others = fill(disk)
    capsys.readouterr()
    assert cli.run(command) == 2
    message = capsys.readouterr().err
    assert "the preprocessing cache cannot be written (No space left" in message
    assert "data.cache=FOLDER" in message
    assert sorted((disk / "cache").iterdir()) == made, "no half of an entry stays"
    others.unlink()
    assert cli.run(command) == 0
    assert "2 were there already" in capsys.readouterr().out


def test_a_cache_on_a_disk_that_becomes_read_only(
    clean: tuple[Path, Path, Path], disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_there = ["--set", f"data.cache={disk / 'cache'}"]
    assert cli.run(["preprocess", str(clean[1]), *cache_there, "--shard", "1/2"]) == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    capsys.readouterr()
    assert train(clean[1], tmp_path / "run", *cache_there) == 2
    assert "Read-only file system" in capsys.readouterr().err
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert cli.run(["preprocess", str(clean[1]), *cache_there]) == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert cli.run(["preprocess", str(clean[1]), *cache_there]) == 0
    assert train(clean[1], tmp_path / "run", *cache_there) == 0
    same_bits(last(clean[2]), last(tmp_path / "run"))


def test_a_cache_that_cannot_be_written(
    clean: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make = os.mkdir

    def refuse(path: Path, *options: Any) -> None:
        if str(path).endswith(".partial"):
            raise OSError(errno.EROFS, "Read-only file system")
        make(path, *options)

    monkeypatch.setattr(os, "mkdir", refuse)
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        crash_after(patch, 5)
        train(clean[1], run)
    resume_equals(clean, run)  # what is in the cache already is enough
    capsys.readouterr()
    empty = ["--set", f"data.cache={tmp_path / 'other'}"]
    assert train(clean[1], tmp_path / "new", *empty) == 2
    assert "data.cache=" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_file_that_vanishes(
    clean: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, recipe, whole = clean
    roles = json.loads((whole / "splits.json").read_text())
    gone = data / "imagesTr" / f"{roles['test'][0]}.nii.gz"
    step, run = Engine._step, tmp_path / "run"

    def vanishing(self: Engine, *arguments: Any) -> None:
        if self.state.step == 5:
            shutil.move(gone, tmp_path / gone.name)
        step(self, *arguments)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "_step", vanishing)
            assert train(recipe, run) == 2, "it cannot be tested on that case"
        assert gone.name.split(".")[0] in capsys.readouterr().err
        same_bits(last(whole), last(run))  # but it was trained to the end
        assert train(recipe, run, "--resume") == 2
        assert gone.name in capsys.readouterr().err
    finally:
        shutil.move(tmp_path / gone.name, gone)
    resume_equals(clean, run)


def test_a_file_of_the_training_that_vanishes(
    clean: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is in the cache is trained on to the end, even if the cache goes as well."""
    data, recipe, whole = clean
    labeled = json.loads((whole / "splits.json").read_text())["labeled"][0]
    gone, step = data / "imagesTr" / f"{labeled}.nii.gz", Engine._step
    own = ["--set", f"data.cache={tmp_path / 'cache'}"]

    def vanishing(self: Engine, *arguments: Any) -> None:
        if self.state.step == 5:
            shutil.move(gone, tmp_path / gone.name)
            shutil.rmtree(tmp_path / "cache")
        step(self, *arguments)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "_step", vanishing)
            assert train(recipe, tmp_path / "run", *own) == 2, "a dataset with holes is not read"
        assert gone.name in capsys.readouterr().err
        same_bits(last(whole), last(tmp_path / "run"))  # but it was trained to the end
    finally:
        shutil.move(tmp_path / gone.name, gone)
    resume_equals(clean, tmp_path / "run", *own)


def test_a_cache_that_is_emptied(
    clean: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["--set", f"data.cache={tmp_path / 'cache'}"]
    with monkeypatch.context() as patch:
        crash_after(patch, 5)
        train(clean[1], tmp_path / "run", *own)
    shutil.rmtree(tmp_path / "cache")
    resume_equals(clean, tmp_path / "run", *own)


def test_an_image_that_becomes_nan(
    clean: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, recipe, whole = clean
    labeled = json.loads((whole / "splits.json").read_text())["labeled"][0]
    image, run = data / "imagesTr" / f"{labeled}.nii.gz", tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        crash_after(patch, 7)
        train(recipe, run)
    before, stat = image.read_bytes(), image.stat()
    try:
        voxels = np.asarray(nib.load(image).dataobj).astype(np.float32)
        voxels[0, 0, 0] = np.nan
        nib.save(nib.Nifti1Image(voxels, AFFINE), image)
        capsys.readouterr()
        assert train(recipe, run, "--resume") == 2
        message = capsys.readouterr().err
        assert image.name in message
        assert "NaN" in message
        assert last(run)["step"] == 6
    finally:
        image.write_bytes(before)
        os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    resume_equals(clean, run)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_a_loader_process_that_dies(
    clean: tuple[Path, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    batch, main, run = PatchSampler.batch, os.getpid(), tmp_path / "run"

    def dying(
        self: PatchSampler, iteration: int, rows: range | None = None
    ) -> dict[str, torch.Tensor]:
        if iteration == 7 and os.getpid() != main:
            time.sleep(1.0)  # let the first checkpoint be written
            os.kill(os.getpid(), signal.SIGKILL)
        return batch(self, iteration, rows)

    with monkeypatch.context() as patch:
        patch.setattr(PatchSampler, "batch", dying)
        assert train(clean[1], run, "--set", "training.workers=2") == 2
    message = capsys.readouterr().err
    assert "loader process ended unexpectedly" in message
    assert "training.workers=0" in message
    resume_equals(clean, run, "--set", "training.workers=0")


def test_a_clock_that_goes_backwards(
    clean: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [2e9]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        crash_after(patch, 5)
        train(clean[1], run)
    resume_equals(clean, run)
    assert json.loads((run / "manifest.json").read_text())["wall_seconds"] > 0
    assert last(run)["state"]["seconds"] > 0
