"""The notebooks: kept without results, short cells with words, and every cell runs."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LENGTH = re.compile(r"^ITERATIONS = (\d+)\b", re.MULTILINE)
"""The one line that says how long trainings are."""


def cells_of(path: Path, kind: str) -> list[dict[str, Any]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == kind]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_there_are_three() -> None:
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_without_results(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    code = cells_of(path, "code")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert all(cell["metadata"] == {} for cell in content["cells"])
    assert path.stat().st_size < 20_000
    assert source(content["cells"][0]).startswith(f"# {path.name[0]}. ")
    # A file of its own, which a magic writes, may be longer.
    assert all(len(cell["source"]) <= 20 for cell in code if "%%writefile" not in source(cell))
    assert len(LENGTH.findall("\n".join(map(source, code)))) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_words_lead_somewhere(path: Path) -> None:
    text = "\n".join(map(source, cells_of(path, "markdown")))
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra notebooks")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra notebooks")
    pytest.importorskip("ipykernel", reason="needs the extra notebooks")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where a notebook writes
    monkeypatch.setenv("MEDSSL_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = LENGTH.sub("ITERATIONS = 8", cell.source)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises what a cell raises
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    said = "".join(o.text for o in outputs if "text" in o)
    shown = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(shown) == sum(source_of.count("plt.show()") for source_of in sources(path))
    assert all(set(o.data) <= {"image/png", "text/plain"} for o in outputs if "data" in o), said
    for word in SAID[path.name[0]]:
        assert word in said


def sources(path: Path) -> list[str]:
    return [source(cell) for cell in cells_of(path, "code")]


SAID = {
    "1": ("can be trained on: True", "out of fold in 2 folds", "gain ", "report.html"),
    "2": ("unknown key `training.iteration`", "method confident", "'resume'", "host", "confident"),
    "3": ("Dice", "not found", "quality", "gallery.html"),
}
"""What a reader must have seen at the end."""


def test_code_is_python() -> None:
    for path in NOTEBOOKS:
        for text in sources(path):
            ast.parse(re.sub(r"^%%writefile .*\n", "", text))
