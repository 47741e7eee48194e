"""What a release needs beside the code: workflow, citation, archives and the list of licences."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_hosted_workflow() -> None:
    workflow: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert set(workflow) == {"name", True, "permissions", "concurrency", "env", "jobs"}
    assert set(workflow[True]) == {"push", "pull_request"}  # `on` is true in YAML 1.1
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    assert set(jobs) == {"lint", "tests", "docs", "package"}
    versions = jobs["tests"]["strategy"]["matrix"]["python-version"]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    for job in jobs.values():
        assert set(job) <= {"runs-on", "needs", "timeout-minutes", "strategy", "steps"}
        assert all(set(step) & {"uses", "run"} for step in job["steps"])
    said = {job: "\n".join(s.get("run", "") for s in jobs[job]["steps"]) for job in jobs}
    quick = ("ruff check", "ruff format", "lint-imports", "mypy")
    assert all(word in said["lint"] for word in quick)
    assert "mkdocs build --strict" in said["docs"]
    assert ".ci/package" in said["package"]
    assert (ROOT / ".ci/package").is_file()


def test_citation_is_complete() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    wanted = ("cff-version", "message", "title", "abstract", "authors", "license", "keywords")
    assert all(citation[key] for key in wanted)
    assert citation["references"][0]["doi"]


def test_archives_hold_what_the_wheel_is_made_from() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    included = build["targets"]["sdist"]["include"]
    assert {"medssl", "recipes", "data_specs", "docs", "website", "hatch_build.py"} <= set(included)
    assert all((ROOT / name).exists() for name in included)
    assert "custom" in build["hooks"]


def test_licences_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("packaging")
    monkeypatch.syspath_prepend(str(ROOT / "website"))
    import licence_pages

    needed = licence_pages.needed()
    assert needed["numpy"][1]
    assert not needed["pytest"][1]
    for name, (package, required) in needed.items():
        licence = licence_pages.licence_of(package)
        assert not required or "not stated" not in licence, name
        assert not required or "GPL" not in licence.replace("LGPL", ""), name
    assert "| torch |" in licence_pages.licence_page()[1]
    sys.modules.pop("licence_pages")
