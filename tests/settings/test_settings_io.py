"""Recipes with mistakes: what the user reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl.errors import MedSSLError
from medssl.settings.recipe import DataSettings, Recipe, SplitFile
from medssl.settings.yaml_file import (
    parse_yaml,
    read_yaml,
    set_override,
    validate_settings,
)


def problem(text: str, path: str = "r.yaml") -> MedSSLError:
    data, lines = parse_yaml(text, path)
    with pytest.raises(MedSSLError) as caught:
        validate_settings(Recipe, data, where=path, lines=lines)
    assert len(str(caught.value).splitlines()) <= 6
    return caught.value


def test_unknown_key_names_nearest_key_file_and_line() -> None:
    error = problem("name: x\ntraining:\n  iterations: 5\n  optimizer:\n    learning_rat: 0.1\n")
    assert error.where == "r.yaml:5"
    assert "training.optimizer.learning_rat" in error.what
    assert "did you mean 'lr'?" in (error.fix or "")


def test_unknown_key_with_a_close_match() -> None:
    error = problem("name: x\ntraining: {iteration: 5}\n")
    assert error.where == "r.yaml:2"
    assert "did you mean 'iterations'" in (error.fix or "")


def test_unknown_key_at_the_top() -> None:
    error = problem("nam: x\n")
    assert "unknown key `nam`" in error.what
    assert "did you mean 'name'" in (error.fix or "")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("name: x\ntraining:\n  iterations: many\n", 3, "training.iterations"),
        ("training:\n  patch: [1]\n", 2, "two or three positive numbers"),
        ("training: {precision: fp8}\n", 1, "fp32"),
        ("seed: -1\n", 1, "greater than or equal to 0"),
        ("data:\n  labeled: -4\n", 2, "0 or more"),
        ("data:\n  labeled: {file: s.json}\n", 2, "labeled"),
        ("spec: {intensity: {rule: window, lower: 5}}\n", 1, "needs lower and upper"),
        ("training: {augment: {scale: [1.2, 0.8]}}\n", 1, "smaller first"),
        ("training:\n  stages:\n    pretrain: {optimiser: {}}\n", 3, "optimiser"),
    ],
)
def test_wrong_values(text: str, line: int, words: str) -> None:
    error = problem(text)
    assert error.where == f"r.yaml:{line}"
    assert words in str(error)


def test_several_problems_are_counted() -> None:
    error = problem("seed: x\ntraining: {iterations: y}\n")
    assert "(and 1 more)" in error.what


def test_selections_of_every_kind_are_accepted() -> None:
    settings = validate_settings(
        DataSettings,
        {"labeled": 8, "validation": ["a", "b"], "test": {"file": "s.json", "key": "k"}},
        where="r",
    )
    assert settings.labeled == 8
    assert settings.validation == ["a", "b"]
    assert settings.test == SplitFile(file="s.json", key="k")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1, 2\nb: 3\n", "not valid YAML"),
        ("a: 1\na: 2\n", "appears twice"),
        ("- 1\n- 2\n", "expected a mapping"),
        ("a: !!python/object:os.system {}\n", "not valid YAML"),
        ("\tname: x\n", "not valid YAML"),
    ],
)
def test_broken_yaml(text: str, words: str) -> None:
    with pytest.raises(MedSSLError, match=words):
        parse_yaml(text, "r.yaml")


def test_broken_yaml_names_the_line() -> None:
    with pytest.raises(MedSSLError) as caught:
        parse_yaml("name: x\ntraining: {a: 1\nseed: 3\n", "r.yaml")
    assert caught.value.where is not None
    assert caught.value.where.startswith("r.yaml:")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(MedSSLError):
        parse_yaml("{a: " * 50 + "1" + "}" * 50, "r.yaml")


def test_missing_binary_and_large_files(tmp_path: Path) -> None:
    with pytest.raises(MedSSLError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(MedSSLError):
        read_yaml(tmp_path / "b.yaml")
    (tmp_path / "large.yaml").write_bytes(b"a" * 2_000_000)
    with pytest.raises(MedSSLError, match="bytes"):
        read_yaml(tmp_path / "large.yaml")


def test_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_text("\ufeffname: x\n", encoding="utf-8")
    assert read_yaml(tmp_path / "bom.yaml")[0] == {"name": "x"}


def test_overrides_reach_sections_and_shorthands() -> None:
    data = {"method": "bcp", "training": {"iterations": 5}}
    set_override(data, "training.iterations=2000")
    set_override(data, "training.optimizer.lr=0.1")
    set_override(data, "method.preset=official")
    set_override(data, "data.labeled=[a, b]")
    assert data == {
        "method": {"name": "bcp", "preset": "official"},
        "training": {"iterations": 2000, "optimizer": {"lr": 0.1}},
        "data": {"labeled": ["a", "b"]},
    }


@pytest.mark.parametrize("text", ["training.iterations", "=3", "a..b=3", "a=[1", "seed.x=3"])
def test_bad_overrides(text: str) -> None:
    with pytest.raises(MedSSLError):
        set_override({"seed": 3}, text)
