"""Whole trainings that meet in a folder."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import begin
from forks import HEAVY, command, forks
from helpers import crash_after, same_bits, small_recipe, write_dataset, write_recipe

import medssl
from medssl.errors import MedSSLError
from medssl.federation.create import Created
from medssl.federation.server import Server
from medssl.federation.site import site_exchange
from medssl.progress import Display
from medssl.runs.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("federation")
    return write_dataset(folder / "anna_data"), folder / "cache"


def recipe_file(world: tuple[Path, Path], folder: Path, **changes: Any) -> Path:
    plain = {
        "method": {"name": "mean_teacher"},
        "network": {"norm": "batch"},
        "evaluation": {"splits": []},
    }
    return write_recipe(folder / "mine.yaml", small_recipe(*world, **{**plain, **changes}))


@contextmanager
def served(found: Created) -> Iterator[None]:
    """Let a server work in the background."""
    ended = threading.Event()
    work = Server(found.folder, found.server, Display(quiet=True))

    def serve() -> None:
        while not ended.is_set() and len(work.rounds) < work.federation.rounds:
            work.close(patience_over=False)
            time.sleep(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def last(run: Path) -> dict[str, Any]:
    content = load_checkpoint(run / "checkpoints" / "last.pt")
    content["state"].pop("exchanged")
    return content


def test_one_site_in_a_folder_equals_plain_training_bit_for_bit(
    world: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(world, tmp_path)
    plain = medssl.train(recipe, output=tmp_path / "plain").path
    found = begin(tmp_path, "A", recipe=recipe, every=3)
    assert found.rounds == 3
    run = tmp_path / "run"

    def site(what: Path, resume: bool = False) -> None:
        key, say = found.keys["A"], lambda _: None
        exchange = site_exchange(found.folder, key, what, say=say, poll_seconds=0.01)
        medssl.train(what, output=run, resume=resume, exchange=exchange)

    with served(found):
        with monkeypatch.context() as patch:
            crash_after(patch, 5)
            with pytest.raises(RuntimeError, match="power cut"):
                site(recipe)
        site(run, resume=True)
    same_bits(last(plain), last(run))
    taken = [json.loads(line) for line in (run / "federated.jsonl").read_text().splitlines()]
    assert [(t["step"], t["round"]) for t in taken] == [(3, 1), (6, 2), (8, 3)]
    # What left the site: no name of a file, a folder, a case or a patient.
    for path in found.folder.iterdir():
        content = path.read_bytes()
        for word in (b"case_", b"anna", b".nii", str(tmp_path).encode(), b"imagesTr"):
            assert word not in content, (path.name, word)
    lineage = json.loads((run / "lineage.json").read_text())
    assert [a["how"] for a in lineage["ancestors"]] == ["federated"]


def test_another_recipe_or_dataset_is_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    recipe = recipe_file(world, tmp_path)
    found = begin(tmp_path, "A", recipe=recipe)
    for override, what in (
        ("training.optimizer.lr=0.5", "agreed on training.optimizer.lr"),
        ("network.channels=[4,16]", "agreed on network.channels"),
        ("method=supervised", "agreed on method.name"),
    ):
        with pytest.raises(MedSSLError, match=what):
            site_exchange(found.folder, found.keys["A"], recipe, overrides=[override], say=print)


@pytest.mark.slow
def test_two_sites_a_server_and_one_that_never_answers(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    method = {"name": "self_training", "preset": "fedlabel"}
    recipe = recipe_file(world, tmp_path, method=method)
    found = begin(tmp_path, "A", "B", "C", recipe=recipe, every=4, wait_minutes=0.25, proximal=0.01)
    code = "import os\nROLE = os.environ['ROLE']\n"
    jobs = {"S": command("federate", "server", found.folder, "--server", found.server)}
    for site, own in (("A", "seed=1"), ("B", "data.labeled=0")):
        jobs[site] = command(
            *("--quiet", "federate", "site", found.folder, recipe, "--key", found.keys[site]),
            *("--output", tmp_path / site, "--set", own),
        )
    for role, one in jobs.items():
        code += f"if ROLE == {role!r}:\n" + "".join(f"    {line}\n" for line in one.splitlines())
    ended = forks(*HEAVY).together(code, [{"ROLE": role} for role in jobs])
    assert [one.code for one in ended] == [0, 0, 0], [one.output[-500:] for one in ended]
    rounds = json.loads((found.server / "rounds.json").read_text())["rounds"]
    assert [r["missing"] for r in rounds] == [["C"], ["C"]]
    assert [set(r["weights"]) for r in rounds] == [{"A", "B"}] * 2
    states = [last(tmp_path / site)["method_state"] for site in "AB"]
    for name, tensor in states[0].items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(tensor, states[1][name], err_msg=name)
