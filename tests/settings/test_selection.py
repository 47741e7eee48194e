"""How many cases: what is read as a number of patients, and what is refused in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

import medssl
from medssl.errors import MedSSLError

RECIPE = "data: {root: phantom, labeled: %s}\nmethod: supervised\ntraining: {iterations: 1}\n"


def labeled(folder: Path, text: str) -> object:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE % text)
    return medssl.load_recipe(recipe).recipe.data.labeled


@pytest.mark.parametrize(
    ("text", "meant"),
    [("8", 8), ("'8'", 8), ("all", None), ("All", None), ("null", None), ("[a, b]", ["a", "b"])],
)
def test_what_is_read(text: str, meant: object, tmp_path: Path) -> None:
    assert labeled(tmp_path, text) == meant


@pytest.mark.parametrize("text", ["10%", "0.1", "1.0", "8.0", "true", "most", "-3%", "'0.5'"])
def test_a_share_is_refused_in_plain_words(text: str, tmp_path: Path) -> None:
    with pytest.raises(MedSSLError) as caught:
        labeled(tmp_path, text)
    said = str(caught.value)
    assert "`data.labeled`: must be a number of patients such as 8, `all`, a list of ids" in said
    assert "a share of them such as 10% or 0.1 is not read" in said
    assert "recipe.yaml:1" in said


def test_all_is_for_labeled_cases_alone(tmp_path: Path) -> None:
    with pytest.raises(MedSSLError, match="must be a number of patients such as 8, a list"):
        medssl.load_recipe("quickstart", ["data.test=all"])
