"""The API by example: the page runs as a script and in a notebook, docstrings run after it."""

from __future__ import annotations

import doctest
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from page_examples import called, examples_of

import medssl

FUNCTIONS = sorted(set(medssl.__all__) - {"__version__", "MedSSLError"})
BLOCKS = examples_of("python.md")


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the page was followed as a script."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "page.py").write_text("\n".join(BLOCKS))
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=folder,
        env=os.environ | {"MEDSSL_MODELS": str(folder / "models")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (folder / "output.txt").write_text(done.stdout)
    return folder


def test_the_page_calls_every_function() -> None:
    assert called("\n".join(BLOCKS)) == set(FUNCTIONS)


def test_the_page_runs_as_a_script(worked: Path) -> None:
    output = (worked / "output.txt").read_text().splitlines()
    assert output[0].startswith("True ")
    assert "2 of 2" in output  # the sweep
    assert (worked / "runs" / "mine" / "report.html").is_file()
    assert output[-3].startswith("unknown key `training.iteration`")


@pytest.mark.slow
def test_the_page_runs_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSSL_MODELS", str(tmp_path / "models"))
    nbformat = pytest.importorskip("nbformat", reason="needs the extra dev: nbclient, ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra dev: nbclient, ipykernel")
    pytest.importorskip("ipykernel", reason="needs the extra dev: nbclient, ipykernel")
    # Every function is called with what the script calls it with, but for a shorter training.
    long, short = "iterations: 20, validate_every: 10", "iterations: 4, validate_every: 4"
    code = "\0".join(BLOCKS)
    assert (code.count(long), code.count("iteration=20)")) == (1, 1)
    code = code.replace(long, short).replace("iteration=20)", "iteration=4)")
    cells = [nbformat.v4.new_code_cell(block) for block in code.split("\0")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises what a cell raises
    said = [output.text for cell in cells for output in cell.outputs if "text" in output]
    assert "unknown key `training.iteration`" in "".join(said)
    assert (tmp_path / "predictions" / "mr_011.nii.gz").is_file()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_example(name: str, worked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function = getattr(medssl, name)
    (example,) = doctest.DocTestFinder(recurse=False).find(
        function,
        name,
        module=importlib.import_module(function.__module__),
        globs={"medssl": medssl},
    )
    assert f"medssl.{name}(" in (example.docstring or "")
    assert example.examples
    for made in ("predictions", "measured", "bundle", "more", "ranking"):
        shutil.rmtree(worked / made, ignore_errors=True)
    monkeypatch.chdir(worked)
    monkeypatch.setenv("MEDSSL_MODELS", str(worked / "models"))
    said: list[str] = []
    result = doctest.DocTestRunner().run(example, out=said.append, clear_globs=False)
    assert result.failed == 0, "".join(said)
