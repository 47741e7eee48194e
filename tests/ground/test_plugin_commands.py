"""A method in a file of the user's own, by every command that trains or opens a run."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import HEAVY, as_torchrun_does, command, forks
from helpers import small_recipe, write_dataset, write_recipe

from medssl import plugins
from medssl.methods import registry
from medssl.testing import check_method

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
STOPPED = 128 + signal.SIGTERM
STOP = """
import os, signal
from medssl.training.engine import Engine
step = Engine._step
def stepping(self, *arguments):
    step(self, *arguments)
    if self.state.step == 5:
        os.kill(os.getpid(), signal.SIGTERM)
Engine._step = stepping
"""


def example(name: str) -> str:
    """Return the file of that name on the page of examples."""
    found = re.search(rf"```python\n# {name}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


class Folder:
    """A folder of the user's own, with a plugin, data and a recipe, and a command line in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "my_method.py").write_text(example("my_method.py"))
        write_dataset(path / "data", cases=7, unlabeled=2)
        recipe = small_recipe(path / "data", path / "cache", method={"name": "mirror_teacher"})
        write_recipe(path / "r.yaml", recipe)

    def run(self, *words: str, code: int = 0, first: str = "") -> str:
        """Run a command in a process of its own, after other code; return what it printed."""
        done = forks(*HEAVY).run(first + command(*words), cwd=self.path)
        assert done.code == code, done.output
        return done.output


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the weights that a run ended with."""
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["method_state"]
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


@pytest.mark.slow
def test_a_plugin_by_every_command(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    own = "--plugin", "my_method.py"
    folder.run(*own, "train", "r.yaml", "--output", "whole")
    # Interrupted, and gone on with: the same weights.
    stopped = "train", "r.yaml", "--output", "cut", *own
    told = folder.run(*stopped, code=STOPPED, first=STOP)
    assert "the state is saved" in told
    folder.run("train", "cut", "--resume", *own)
    first, again = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(first[name], again[name]) for name in first)
    # Jobs inherit the plugin.
    methods = "--methods", "mirror_teacher", "--seeds", "1", "--jobs", "2"
    told = folder.run("sweep", "r.yaml", "--labeled", "3", *methods, "-o", "s", *own)
    assert "mirror_teacher" in told
    runs = sorted(str(p.parent.relative_to(tmp_path)) for p in tmp_path.glob("s/**/recipe.yaml"))
    assert len(runs) == 2, "with the labeled-only baseline"
    told = folder.run("compare", *runs, *own)
    assert "mirror_teacher" in told
    folder.run("predict", "whole", "data/imagesUn", "--output", "p", *own)
    assert len(list((tmp_path / "p").glob("*.nii.gz"))) == 2
    # The network is MONAI's: its bundle needs no plugin any more.
    folder.run("export", "whole", "bundle", *own)
    folder.run("predict", "bundle", "data/imagesUn", "--output", "q")
    told = folder.run("predict", "whole", "data/imagesUn", "--output", "r", code=2)
    assert "add --plugin my_method.py" in told


@pytest.mark.slow
def test_a_plugin_in_two_processes(tmp_path: Path) -> None:
    Folder(tmp_path)
    plugin = {plugins.PLUGINS: str(tmp_path / "my_method.py")}
    processes = as_torchrun_does(2)
    started = forks(*HEAVY)
    alone = started.run(command("train", "r.yaml", "--output", "one"), cwd=tmp_path, **plugin)
    train = command("train", "r.yaml", "--output", "two")
    both = started.together(train, [plugin | p for p in processes], cwd=tmp_path)
    assert [p.code for p in (alone, *both)] == [0, 0, 0], [alone, *both]
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor, second[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_teacher_with_a_gradient_fails_the_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))  # of this test alone
    # The two change places, so that the loss moves the teacher towards the student.
    source = example("my_method.py").replace("with torch.no_grad():", "with torch.enable_grad():")
    source = source.replace(
        "softmax_mse(logits[count:], target)", "softmax_mse(target, logits[count:])"
    )
    source = source.replace('set_mode(self.teacher, "eval")', "self.teacher.requires_grad_(True)")
    file = tmp_path / "bad_method.py"
    file.write_text(source.replace('"mirror_teacher"', '"bad_teacher"'))
    plugins.load_plugin(file)
    with pytest.raises(AssertionError, match=r"teacher\..* has no gradient"):
        check_method("bad_teacher", dims=[3], classes=[3], only=["gradients"])
