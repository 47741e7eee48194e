"""The version is stated once; who cites it finds the same."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import yaml

import medssl

ROOT = Path(__file__).parents[2]


def test_the_citation_agrees() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == medssl.__version__


def test_the_build_reads_the_version_from_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "medssl/_version.py"


def test_no_other_module_states_one() -> None:
    stating = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "medssl").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and any("version" in ast.unparse(target).lower() for target in _targets(node))
    ]
    files = {place.partition(":")[0] for place in stating}
    # A bundle has a version of its own.
    assert files == {"medssl/_version.py", "medssl/bundle/metadata.py"}, stating


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]
