"""`medssl preprocess`: what training finds in the cache afterwards, alone and in many jobs."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.data.datasets import integrity
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.preprocessing import cache as cache_module
from medssl.data.preprocessing.cache import CaseCache
from medssl.errors import MedSSLError
from medssl.files import remove_abandoned
from medssl.inference.search_box import RegionFinder
from medssl.settings.spec import DataSpec


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "data", cases=8, unlabeled=2)


def recipe_in(folder: Path, dataset: Path, **changes: Any) -> Path:
    return write_recipe(folder / "recipe.yaml", small_recipe(dataset, folder / "cache", **changes))


def entries(folder: Path) -> set[str]:
    """Return the names of what is in the cache, but for what is known of files."""
    found = {p.name for p in folder.glob("cache/*")}
    return found - {"checked", "files"}


def no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing is preprocessed and no region is looked for."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(cache_module, "preprocess_case", refuse)
    monkeypatch.setattr(RegionFinder, "region_of", refuse)


def test_jobs_fill_the_cache_and_training_uses_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_in(tmp_path, data, data={"validation": 1})
    command = ["preprocess", str(recipe), "--set", "seed=5"]
    seen: list[set[str]] = []
    for shard, cases in (("3/3", 2), ("1/3", 3), ("2/3", 3)):
        before = entries(tmp_path)
        assert cli.run([*command, "--shard", shard]) == 0
        said = capsys.readouterr()
        assert f"{cases} cases preprocessed, 0 were there already" in said.out
        assert f"shard {shard}: {cases} of 8 cases" in said.err  # of 10, two are for the test
        seen.append(entries(tmp_path) - before)
        assert len(seen[-1]) == cases
    no_more(monkeypatch)
    assert cli.run(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0 cases preprocessed, 8 were there already" in said
    files = [p for name in entries(tmp_path) for p in (tmp_path / "cache" / name).iterdir()]
    size = sum(p.stat().st_size for p in files)
    assert f"cache: {tmp_path / 'cache'}, {size / 1000:.1f} kB" in said
    assert medssl.preprocess(recipe).bytes == size
    monkeypatch.setattr(integrity, "check_case", lambda *_, **__: 1 / 0)  # reads no file again
    medssl.train(recipe, output=tmp_path / "run")
    assert len(entries(tmp_path)) == 8


def test_cases_without_use_are_left_out(data: Path, tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, data, method={"name": "supervised"})
    result = medssl.preprocess(recipe)
    assert (result.cases, result.there, result.total) == (3, 0, 3)


def test_regions_of_interest(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "coarse").mkdir()
    coarse = recipe_in(tmp_path / "coarse", data, method={"name": "supervised"})
    run = medssl.train(coarse, output=tmp_path / "coarse" / "run").path
    changes = {"method": {"name": "mean_teacher"}, "data": {"roi": {"run": str(run)}}}
    recipe = recipe_in(tmp_path, data, **changes)
    for shard in ("1/2", "2/2"):
        assert cli.run(["preprocess", str(recipe), "--shard", shard, "--device", "cpu"]) == 0
    assert "4 cases preprocessed, 0 were there already" in capsys.readouterr().out
    assert len(entries(tmp_path) - {"regions"}) == 8
    no_more(monkeypatch)
    assert medssl.preprocess(recipe).there == 8
    prepared: list[Any] = []
    holds = CaseCache._open_or_build

    def noted(self: CaseCache, case: Any) -> Any:
        prepared.append(case.id)
        return holds(self, case)

    monkeypatch.setattr(CaseCache, "_open_or_build", noted)
    monkeypatch.setattr("medssl.workflows.training_run.Engine.fit", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # all that comes before is done
        medssl.train(recipe, output=tmp_path / "fine")
    assert len(prepared) == 8


def test_a_bad_file_is_refused_before_the_first_case(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    recipe = recipe_in(tmp_path, copy)
    broken = copy / "imagesUn" / "case_09.nii.gz"
    broken.write_bytes(broken.read_bytes()[:3000])
    assert cli.run(["preprocess", str(recipe)]) == 2
    said = capsys.readouterr().err
    assert str(broken) in said
    assert "fix:" in said
    assert not entries(tmp_path)
    # The other jobs of an array do their part; the one with the bad file says so.
    codes = [cli.run(["preprocess", str(recipe), "--shard", f"{i}/2"]) for i in (1, 2)]
    assert sorted(codes) == [0, 2]
    assert len(entries(tmp_path)) == 4


@pytest.mark.parametrize("shard", ["0/4", "x"])
def test_a_bad_shard_is_refused_first(
    shard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["preprocess", str(tmp_path / "nothing.yaml"), "--shard", shard]) == 2
    assert "--shard" in capsys.readouterr().err


def test_a_cache_that_cannot_be_made(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recipe = recipe_in(tmp_path, data)
    with pytest.raises(MedSSLError, match="cache cannot be written") as error:
        medssl.preprocess(recipe, overrides=[f"data.cache={tmp_path / 'file'}"])
    assert "data.cache=FOLDER" in str(error.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_at_once_in_one_cache(data: Path, tmp_path: Path) -> None:
    """Four processes make and mend the same entries; none may trip over another."""
    dataset = read_dataset(data)
    cases = dataset.training

    def make() -> CaseCache:
        return CaseCache(tmp_path / "cache", DataSpec(), dataset.labels)

    make().prepare(cases)
    for case in cases[:4]:
        (make().root / make().key(case) / "image.npy").write_bytes(b"damaged")
    for case in cases[4:6]:
        shutil.rmtree(make().root / make().key(case))
    children = []
    go, start = os.pipe()
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                torch.set_num_threads(1)
                os.close(start)
                os.read(go, 1)  # all at once: the end of the pipe is closed
                make().prepare(cases)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    os.close(go)
    os.close(start)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0, 0]
    assert all(make().holds(case) for case in cases)
    assert len(entries(tmp_path)) == len(cases)


def test_an_entry_that_another_process_has_just_replaced(data: Path, tmp_path: Path) -> None:
    cache = CaseCache(tmp_path / "cache", DataSpec(), read_dataset(data).labels)
    cache.root.mkdir()
    cache._discard(cache.root / "gone")
    assert not entries(tmp_path)


def test_what_killed_jobs_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    for name in (".building-old", ".1-2.partial", ".1-3.partial", "0123"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.npy").write_bytes(b"x")
    old = time.time() - 2 * 24 * 3600
    for name in (".building-old", ".1-2.partial", "0123"):
        os.utime(tmp_path / name, (old, old))
    remove_abandoned(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".1-3.partial", "0123"]
    remove_abandoned(tmp_path / "nothing")
