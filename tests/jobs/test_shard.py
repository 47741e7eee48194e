"""Parts of many cases: disjoint, together everything, and safe side by side in one folder."""

from __future__ import annotations

import csv
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import pytest
from helpers import AFFINE, blob_case, small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.data.datasets.shard import Shard, parse_shard
from medssl.errors import MedSSLError
from medssl.files import lock
from medssl.uncertainty import volumes_csv


def test_shards_are_counted_from_one() -> None:
    assert parse_shard("3/8") == Shard(3, 8)
    assert parse_shard(" 1/1 ") == Shard(1, 1)
    assert parse_shard(None) is None
    assert str(Shard(3, 8)) == "3/8"
    assert Shard(2, 3).of("abcdefgh") == ["b", "e", "h"]
    assert Shard(3, 3).of("ab") == []


@pytest.mark.parametrize("size", [0, 1, 7, 8, 30])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_shards_divide_a_list(size: int, count: int) -> None:
    parts = [Shard(i, count).of(range(size)) for i in range(1, count + 1)]
    assert sorted(n for part in parts for n in part) == list(range(size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0/8", ["no shard 0 of 8", "1/8 to 8/8", "--array=1-8"]),
        ("9/8", ["no shard 9 of 8", "1/8 to 8/8"]),
        ("2/1", ["no shard 2 of 1", "from 1: 1/1"]),
        ("0/0", ["no shard 0 of 0", "from 1: 1/1"]),
        ("/8", ["a variable is not set", "$SLURM_ARRAY_TASK_ID/8"]),
        ("3/", ["a variable is not set"]),
        ("3", ["cannot read '3'", "I/N"]),
        ("-1/8", ["cannot read '-1/8'"]),
        ("1.5/8", ["cannot read"]),
        ("", ["cannot read ''"]),
    ],
)
def test_what_is_no_shard(
    text: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before anything is opened: the run is but its recipe's name."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").touch()
    command = ["predict", str(tmp_path / "run"), str(tmp_path), "--output", str(tmp_path / "out")]
    assert cli.run([*command, f"--shard={text}"]) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in said), message
    assert len(message.strip().splitlines()) <= 4
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = write_dataset(folder / "data", cases=6)
    recipe = small_recipe(data, folder / "cache", method={"name": "supervised"})
    recipe["training"]["iterations"] = 2
    return medssl.train(write_recipe(folder / "recipe.yaml", recipe), output=folder / "run").path


def test_three_jobs_share_a_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels, out = (tmp_path / n for n in ("images", "labels", "out"))
    images.mkdir()
    labels.mkdir()
    for number in range(7):
        image, label = blob_case(number)
        nib.save(nib.Nifti1Image(image, AFFINE), images / f"c{number}.nii.gz")
        nib.save(nib.Nifti1Image(label, AFFINE), labels / f"c{number}.nii.gz")
    command = ["predict", str(run), str(images), "--output", str(out), "--uncertainty"]

    def predicted() -> set[str]:
        return {p.name.removesuffix(".nii.gz") for p in out.glob("*.nii.gz")}

    assert cli.run([*command, "--shard", "2/3"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "shard 2/3: 2 of 7 cases" in said
    assert predicted() == {"c1", "c4"}
    # What is there already must not move the borders of the others.
    assert cli.run([*command, "--shard", "1/3"]) == 0
    assert predicted() == {"c0", "c1", "c3", "c4", "c6"}
    assert cli.run([*command, "--shard", "3/3"]) == 0
    assert predicted() == {f"c{n}" for n in range(7)}
    capsys.readouterr()
    assert cli.run([*command, "--shard", "3/3"]) == 0
    assert "2 predictions" in capsys.readouterr().out
    for name in ("volumes.csv", "quality.csv"):
        with (out / name).open() as file:
            cases = [row["case"] for row in csv.DictReader(file)]
        assert sorted(set(cases)) == [f"c{n}" for n in range(7)]
    # The same as in one go.
    [whole] = medssl.predict(run, [images / "c4.nii.gz"], tmp_path / "whole")
    assert whole.path is not None
    assert whole.path.read_bytes() == (out / "c4.nii.gz").read_bytes()
    assert cli.run(["evaluate", str(out), str(labels), "--output", str(tmp_path / "figures")]) == 0
    with (tmp_path / "figures" / "cases.csv").open() as file:
        assert len({row["case"] for row in csv.DictReader(file)}) == 7


def test_more_shards_than_cases(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, _ = blob_case(1)
    nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "only.nii.gz")
    command = ["predict", str(run), str(tmp_path / "only.nii.gz"), "--output"]
    assert cli.run([*command, str(tmp_path / "out"), "--shard", "4/5", "--uncertainty"]) == 0
    assert "0 predictions" in capsys.readouterr().out


def test_predictions_among_the_images(run: Path, tmp_path: Path) -> None:
    image, _ = blob_case(1)
    nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "c.nii.gz")
    with pytest.raises(MedSSLError, match="take the predictions"):
        medssl.predict(run, [tmp_path], tmp_path, format="nrrd", shard="1/2")


@pytest.mark.skipif(not hasattr(os, "fork") or lock.fcntl is None, reason="needs fork and locks")
def test_a_slow_table_does_not_drop_the_rows_of_a_quick_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child reads the assessments, then waits; meanwhile another case and its table come."""
    folder = tmp_path / "uncertainty"
    folder.mkdir()

    def add(case: str) -> None:
        (folder / f"{case}.json").write_text("{}")

    def read(_: Path) -> dict[str, SimpleNamespace]:
        return {p.stem: SimpleNamespace(structures=()) for p in sorted(folder.glob("*.json"))}

    monkeypatch.setattr(volumes_csv, "read_assessments", read)
    row = {"label": 1, "name": "node"}
    monkeypatch.setattr(volumes_csv, "volume_rows", lambda case, *_: [{"case": case} | row])
    monkeypatch.setattr(volumes_csv, "quality_row", lambda case, *_: {"case": case})
    add("slow")
    (has_read, told), (go_on, release) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:

        def slow(path: Path) -> dict[str, SimpleNamespace]:
            found = read(path)
            os.write(told, b"x")
            os.read(go_on, 1)
            return found

        volumes_csv.read_assessments = slow
        try:
            volumes_csv.write_tables(tmp_path, None)
        finally:
            os._exit(0)
    os.read(has_read, 1)
    add("quick")
    waiting = threading.Thread(target=lambda: (time.sleep(0.3), os.write(release, b"x")))
    waiting.start()
    volumes_csv.write_tables(tmp_path, None)
    waiting.join()
    os.waitpid(pid, 0)
    for end in (has_read, told, go_on, release):
        os.close(end)
    for name in ("volumes.csv", "quality.csv"):
        lines = (tmp_path / name).read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["case", "quick", "slow"]
