"""A method in a file of the user's own, by every command that trains or opens a run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import small_recipe, write_dataset, write_recipe

from medssl import plugins
from medssl.testing import check_method

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
STOPPED = 128 + signal.SIGTERM
STOP = """
import os, signal
if os.environ.get("STOP_AFTER"):
    from medssl.training.engine import Engine
    step = Engine._step
    def stepping(self, *arguments):
        step(self, *arguments)
        if self.state.step == int(os.environ["STOP_AFTER"]):
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
        (path / "site").mkdir()
        (path / "site" / "sitecustomize.py").write_text(STOP)
        write_dataset(path / "data", cases=7, unlabeled=2)
        recipe = small_recipe(path / "data", path / "cache", method={"name": "mirror_teacher"})
        write_recipe(path / "r.yaml", recipe)

    def run(self, *words: str, code: int = 0, **environment: str) -> str:
        """Run a command in a process of its own; return what it printed."""
        paths = os.pathsep.join([str(self.path / "site"), str(ROOT)])
        given = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment}
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.path,
            env=given,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the weights that a run ended with."""
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["method_state"]
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}


@pytest.mark.slow
def test_a_plugin_by_every_command(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    own = "--plugin", "my_method.py"
    folder.run("medssl", *own, "train", "r.yaml", "--output", "whole")
    # Interrupted, and gone on with: the same weights.
    told = folder.run(
        *("medssl", "train", "r.yaml", "--output", "cut", *own), code=STOPPED, STOP_AFTER="5"
    )
    assert "the state is saved" in told
    folder.run("medssl", "train", "cut", "--resume", *own)
    first, again = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(first[name], again[name]) for name in first)
    # Jobs inherit the plugin.
    methods = "--methods", "mirror_teacher", "--seeds", "1", "--jobs", "2"
    told = folder.run("medssl", "sweep", "r.yaml", "--labeled", "3", *methods, "-o", "s", *own)
    assert "mirror_teacher" in told
    runs = sorted(str(p.parent.relative_to(tmp_path)) for p in tmp_path.glob("s/**/recipe.yaml"))
    assert len(runs) == 2, "with the labeled-only baseline"
    told = folder.run("medssl", "compare", *runs, *own)
    assert "mirror_teacher" in told
    folder.run("medssl", "predict", "whole", "data/imagesUn", "--output", "p", *own)
    assert len(list((tmp_path / "p").glob("*.nii.gz"))) == 2
    # The network is MONAI's: its bundle needs no plugin any more.
    folder.run("medssl", "export", "whole", "bundle", *own)
    folder.run("medssl", "predict", "bundle", "data/imagesUn", "--output", "q")
    told = folder.run("medssl", "predict", "whole", "data/imagesUn", "--output", "r", code=2)
    assert "add --plugin my_method.py" in told


@pytest.mark.slow
def test_a_plugin_in_two_processes(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    plugin = {plugins.PLUGINS: str(tmp_path / "my_method.py")}
    folder.run("medssl", "train", "r.yaml", "--output", "one", **plugin)
    two = "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "medssl"
    folder.run(*two, "train", "r.yaml", "--output", "two", **plugin)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor, second[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_teacher_with_a_gradient_fails_the_checks(tmp_path: Path) -> None:
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
