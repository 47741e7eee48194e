"""Several processes give the result of one: for every method, on any number of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import HEAVY, as_torchrun_does, command, forks
from helpers import small_recipe, write_dataset, write_recipe
from torch import nn

import medssl
from medssl.errors import MedSSLError
from medssl.methods.registry import get_settings, list_methods
from medssl.networks import whole_batch
from medssl.networks.whole_batch import Rows, prepare, seeing
from medssl.ranks import place
from medssl.runs.checkpoint import load_checkpoint
from medssl.training.distributed import ALONE, World, own_device, rows_of

HERE = Path(__file__).resolve().parents[1] / "support"
ROOT = Path(__file__).resolve().parents[2]
UNCOMPARED = ("iterations_per_second", "validation/seconds")
# A reward is the difference of two losses that are nearly equal.
LOOSE = ("policy/improvement", "policy/reward")


def launch(processes: int, code: str) -> str:
    """Run code in several processes, with one thread each; return what they print."""
    ended = forks(*HEAVY).together(code, as_torchrun_does(processes))
    told = "".join(one.output for one in ended)
    assert all(one.code == 0 for one in ended), told[-4000:]
    return told


def train_together(folder: Path, names: Sequence[str]) -> str:
    """Return the code that trains recipes one after another."""
    argv = ["train_together.py", str(folder), *names]
    return (
        f"import runpy, sys\nsys.argv = {argv!r}\n"
        f"runpy.run_path({str(HERE / argv[0])!r}, run_name='__main__')\n"
    )


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same_curve(one: Path, other: Path) -> None:
    """Compare everything logged within float tolerance."""
    first, second = lines_of(one), lines_of(other)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - set(UNCOMPARED):
            if isinstance(a[key], float):
                near = 1e-2 if key in LOOSE else 1e-4
                assert math.isclose(a[key], b[key], rel_tol=near, abs_tol=1e-6), (key, a, b)
            else:
                assert a[key] == b[key]


def same_weights(one: Path, other: Path, *, near: float = 1e-5) -> None:
    """Compare the last checkpoints' weights and optimizers within float tolerance."""
    first, second = (load_checkpoint(run / "checkpoints" / "last.pt") for run in (one, other))
    for name, weight in first["method_state"].items():
        other_weight = second["method_state"][name]
        assert torch.allclose(weight.float(), other_weight.float(), rtol=1e-3, atol=near), name


def recipe_of(folder: Path, method: str, **training: Any) -> dict[str, Any]:
    """Return a recipe with all that looks across a batch: BatchNorm, dropout, odd batch sizes."""
    recipe = small_recipe(folder / "data", folder / "cache", method={"name": method})
    recipe["network"] = {
        "name": "unet",
        "channels": [4, 8],
        "strides": [2],
        "dropout": 0.2,
        "norm": "batch",
    }
    recipe["data"] |= {"labeled": 4, "validation": 2, "test": 0}
    recipe["training"] |= {"log_every": 1, "unlabeled_batch": 3, "iterations": 6, **training}
    if get_settings(method).taught:
        recipe["method"]["teacher"] = str(folder / "alone-bcp")  # trained before
    if method == "umct":
        recipe["method"] |= {"views": 3, "allow_anisotropic": True}
        recipe["training"]["patch"] = [8, 8, 8]
    return recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train every method in this process, in two, and some in three."""
    folder = tmp_path_factory.mktemp("together")
    write_dataset(folder / "data", cases=10)
    for method in list_methods():
        recipe = recipe_of(folder, method)
        write_recipe(folder / f"{method}.yaml", recipe)
        medssl.train(folder / f"{method}.yaml", output=folder / f"alone-{method}")
    launch(2, train_together(folder, list_methods()))
    three = ["supervised", "bcp", "pseudo_supervisor"]
    for method in three:
        write_recipe(folder / f"three-{method}.yaml", recipe_of(folder, method))
    launch(3, train_together(folder, [f"three-{m}" for m in three]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("method", list_methods())
def test_two_processes_give_the_curve_of_one(runs: Path, method: str) -> None:
    same_curve(runs / f"alone-{method}", runs / f"together-{method}")
    same_weights(runs / f"alone-{method}", runs / f"together-{method}")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["supervised", "bcp", "pseudo_supervisor"])
def test_three_processes_give_the_curve_of_one(runs: Path, method: str) -> None:
    # Two labeled patches are fewer than the processes: those are not divided.
    same_curve(runs / f"alone-{method}", runs / f"together-three-{method}")
    same_weights(runs / f"alone-{method}", runs / f"together-three-{method}")


@pytest.mark.slow
def test_the_manifest_says_how_many_trained(runs: Path) -> None:
    manifest = json.loads((runs / "together-bcp" / "manifest.json").read_text())
    assert manifest["processes"] == 2
    assert manifest["status"] == "finished"
    assert manifest["iterations_done"] == 6


@pytest.mark.slow
def test_command_is_launched_stopped_and_resumed_on_another_number(
    runs: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(runs, "bcp", iterations=12, workers=1, labeled_batch=4)
    recipe["data"]["test"] = 1
    file = write_recipe(tmp_path / "bcp.yaml", recipe)
    medssl.train(file, output=tmp_path / "alone")

    # Half of the way with two processes, which a signal to one of them ends.
    stop = tmp_path / "sitecustomize.py"
    stop.write_text(
        "import os, signal\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from medssl.training.engine import Engine\n"
        "    step = Engine._step\n"
        "    def stepping(self, *arguments):\n"
        "        step(self, *arguments)\n"
        "        if self.state.step == 6:\n"
        "            os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    Engine._step = stepping\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", "-m", "medssl", "train", str(file)]
    torchrun += ["--output", str(tmp_path / "run")]
    paths = os.pathsep.join([str(tmp_path), str(ROOT), str(HERE)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        torchrun, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode != 0
    assert "stopped by SIGUSR1 after 7 iterations" in done.stderr
    assert done.stderr.count("the state is saved") == 1, "the first process alone speaks"
    result = medssl.train(tmp_path / "run", resume=True)
    assert result.summaries
    same_curve(tmp_path / "alone", tmp_path / "run")
    same_weights(tmp_path / "alone", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["dataset", "image", "patch"])
def test_an_error_is_told_once(runs: Path, tmp_path: Path, broken: str) -> None:
    recipe = recipe_of(runs, "bcp")
    data = tmp_path / "data"
    if broken != "dataset":
        write_dataset(data, cases=10)
    if broken == "image":
        image = data / "imagesTr" / "case_03.nii.gz"
        image.write_bytes(image.read_bytes()[:200])
    if broken == "patch":
        recipe["training"]["patch"] = [64, 64, 64]
    recipe["data"]["root"] = str(data)
    file = write_recipe(tmp_path / "bcp.yaml", recipe)
    with pytest.raises(AssertionError) as caught:
        launch(2, command("train", file, "--output", tmp_path / "run"))
    assert str(caught.value).count("error: ") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("method", ["supervised", "bcp", "rail"])
def test_two_cards_give_the_curve_of_one(runs: Path, tmp_path: Path, method: str) -> None:
    recipe = recipe_of(runs, method)
    recipe["network"]["dropout"] = 0.0  # fused kernels draw other numbers for other shapes
    file = write_recipe(tmp_path / "recipe.yaml", recipe)
    medssl.train(file, output=tmp_path / "one", device="cuda")
    launch(2, command("train", file, "--output", tmp_path / "two", "--device", "cuda"))
    first, second = (lines_of(tmp_path / name) for name in ("one", "two"))
    for a, b in zip(first, second, strict=True):
        for key in a.keys() & {"loss/total", "loss/labeled", "loss/unlabeled"}:
            assert math.isclose(a[key], b[key], rel_tol=2e-2), (key, a, b)


def test_rows_are_a_partition_in_order() -> None:
    for count in range(2, 12):
        for size in range(1, count + 1):
            rows = [i for rank in range(size) for i in rows_of(count, rank, size)]
            assert rows == list(range(count))
    assert rows_of(2, 1, 3) == range(2), "fewer rows than processes are not divided"


def test_place_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert place() == (0, 1, 0)
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_LOCALID", "1")
    assert place() == (0, 1, 0), "tasks that have no meeting place work for themselves"
    monkeypatch.setenv("MASTER_ADDR", "node1")
    assert place() == (3, 4, 1)
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    assert place() == (3, 4, 0), "a task that is shown one card counts it as the first"
    monkeypatch.setenv("SLURM_PROCID", "x")
    with pytest.raises(MedSSLError, match="not numbers"):
        place()


def test_processes_without_a_card_of_their_own_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert own_device("cpu", World(1, 2, 1)) == "cpu"
    assert own_device("cuda:1", ALONE) == "cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert own_device("cuda", World(0, 2, 0)) == "cuda:0"
    with pytest.raises(MedSSLError, match="has no card"):
        own_device("cuda", World(1, 2, 1))
    with pytest.raises(MedSSLError, match="cannot share"):
        own_device("cuda:0", World(1, 2, 1))


@pytest.mark.parametrize("dims", [2, 3])
def test_layers_see_the_whole_batch(dims: int) -> None:
    """Two halves of a batch, added up by hand, against the whole."""
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    torch.manual_seed(0)
    plain, shared = norm(3), norm(3)
    prepare(shared)
    assert isinstance(shared, norm)
    assert list(shared.state_dict()) == list(plain.state_dict())
    x = torch.randn(5, 3, *[4] * dims) * 3 + 1
    expected = plain(x)

    whole: list[torch.Tensor] = [x.mean([0, *range(2, x.ndim)])]
    whole.append((x - whole[0].view(1, -1, *[1] * dims)).square().mean([0, *range(2, x.ndim)]))
    sums = iter(whole * 2)

    def add_up(tensor: torch.Tensor) -> None:
        tensor.copy_(next(sums))

    parts = []
    for start, stop in ((0, 2), (2, 5)):
        with seeing(Rows(start, stop, 5, add_up, 2)):
            parts.append(shared(x[start:stop]))
            shared.running_mean.zero_() if start == 0 else None
            shared.running_var.fill_(1) if start == 0 else None
    torch.testing.assert_close(torch.cat(parts), expected)
    torch.testing.assert_close(shared.running_mean, plain.running_mean)
    torch.testing.assert_close(shared.running_var, plain.running_var)
    assert conv  # both kinds of network meet these layers


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d, nn.Dropout3d, whole_batch.DropPath])
def test_dropout_draws_for_the_whole_batch(kind: type[nn.Module]) -> None:
    layer = nn.Sequential(kind(0.5))
    x = torch.randn(4, 6, *[3] * (2 if kind is nn.Dropout2d else 3))
    torch.manual_seed(5)
    expected, after = layer(x), torch.rand(1)
    prepare(layer)
    parts = []
    for rank in range(2):
        rows = rows_of(4, rank, 2)
        torch.manual_seed(5)
        with seeing(Rows(rows.start, rows.stop, 4, lambda _: None, 2)):
            parts.append(layer(x[rows.start : rows.stop]))
        assert torch.equal(torch.rand(1), after), "generators stay in step"
    assert torch.equal(torch.cat(parts), expected)


def test_a_layer_that_cannot_be_divided_is_named() -> None:
    with pytest.raises(ValueError, match=r"1 \(AlphaDropout\)"):
        prepare(nn.Sequential(nn.Conv2d(1, 1, 1), nn.AlphaDropout(0.1)))
