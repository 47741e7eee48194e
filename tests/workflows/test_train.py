"""Training resolves, splits, checks and sets up: in that order, each once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import small_recipe, write_dataset, write_recipe

import medssl
from medssl.errors import MedSSLError
from medssl.training import cases
from medssl.training.engine import Engine
from medssl.workflows import training_order, training_run


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    data = write_dataset(tmp_path / "data", cases=6)
    content = small_recipe(data, tmp_path / "cache", method={"name": "mean_teacher"})
    content["training"]["iterations"] = 2
    return write_recipe(tmp_path / "recipe.yaml", content)


def test_what_is_wrong_with_the_networks_is_said_before_a_scan_is_read(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every scan is damaged too, and nobody gets to see that."""

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise MedSSLError("the network has no dropout", where="network", fix="choose another")

    monkeypatch.setattr("medssl.workflows.training_run.create_method", refuse)
    for scan in (tmp_path / "data" / "imagesTr").iterdir():
        scan.write_bytes(b"no scan")
    with pytest.raises(MedSSLError, match="no dropout"):
        medssl.train(recipe, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()
    monkeypatch.undo()
    with pytest.raises(MedSSLError, match="case_0"):
        medssl.train(recipe, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_each_part_is_entered_once_and_in_order(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def note(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def noted(*args: Any, **options: Any) -> Any:
            seen.append(name)
            return function(*args, **options)

        monkeypatch.setattr(owner, name, noted)

    first, then = ["load_recipe", "plan_cases"], ["create_method", "prepare_cases", "make_feed"]
    note(training_order, "load_recipe")
    note(cases, "plan_cases")
    for name in then:
        note(training_run, name)
    note(Engine, "fit")
    medssl.train(recipe, output=tmp_path / "run")
    assert seen == [*first, *then, "fit"]
