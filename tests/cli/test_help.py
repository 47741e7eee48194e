"""What a newcomer reads first: the list of commands, and where a mistyped key stands."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from medssl import cli
from medssl.cli.console import PANELS, app
from medssl.errors import MedSSLError
from medssl.recipe.load import load_recipe


def test_help_puts_every_command_below_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    group: Any = typer.main.get_command(app)
    named = " ".join(PANELS.values()).split()
    assert len(named) == len(set(named))
    assert set(named) == set(group.commands)
    assert cli.run(["--help"]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"─ {panel} ─") for panel in PANELS]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown


def test_a_typed_key_is_looked_for_where_it_was_typed() -> None:
    for key in ("training.iteration", "spec.spacin", "method.mask", "colour"):
        with pytest.raises(MedSSLError) as caught:
            load_recipe("quickstart", [f"{key}=5", "training.iterations=9"])
        assert caught.value.where == f"--set {key}"
    with pytest.raises(MedSSLError) as caught:
        load_recipe("quickstart", ["training.iterations=9", "training.patch=[0, 0, 0]"])
    assert caught.value.where == "--set training.patch"


def test_a_recipe_that_is_not_there_is_written_or_chosen() -> None:
    with pytest.raises(MedSSLError, match="medssl plan"):
        load_recipe("mine.yaml")
    with pytest.raises(MedSSLError, match="did you mean 'quickstart'"):
        load_recipe("quikstart")
