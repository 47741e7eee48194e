"""The page of evidence and README say what the file of figures holds."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from medssl.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import evidence

    return evidence


def row(arm: str, seed: int, dice: list[float]) -> dict[str, Any]:
    both = {"Anterior": dice, "Posterior": [value - 0.02 for value in dice]}
    return {
        "group": "hippocampus-8",
        "arm": arm,
        "seed": seed,
        "labels": 8,
        "iterations": 1500,
        "minutes": 8.0,
        "precision": "fp32",
        "dice": both,
    }


def test_the_page_and_readme_are_those_of_the_file(evidence: ModuleType) -> None:
    rows = evidence.read(evidence.FIGURES)
    assert evidence.PAGE.exists() == bool(rows)
    if rows:
        assert evidence.PAGE.read_text(encoding="utf-8") == evidence.page(rows)
    readme = evidence.README.read_text(encoding="utf-8")
    if evidence.BEGIN in readme:
        assert readme == evidence.with_table(readme, rows)


def test_a_table_says_the_paired_gain(evidence: ModuleType) -> None:
    alone = [0.80, 0.82, 0.84]
    rows = [row("bcp", s, [0.83, 0.84, 0.85]) for s in (0, 1)]
    rows += [row("supervised", s, alone) for s in (0, 1)]
    first, second = evidence.table(rows)[2:]
    assert first.startswith("| `supervised` | 8 | 0.8100 (0.8100, 0.8100) |  |")
    # Gains of 0.03, 0.02 and 0.01; t with 2 degrees of freedom is 4.303.
    half = 4.3027 * 0.01 / np.sqrt(3)
    assert f"| +0.0200 [{0.02 - half:+.4f}, {0.02 + half:+.4f}] |" in second
    assert "Anterior +0.020, Posterior +0.020" in second


def test_figures_of_other_runs_stay(evidence: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    for one in (row("bcp", 1, [0.8]), row("bcp", 0, [0.7]), row("bcp", 1, [0.9])):
        evidence.keep(one, path)
    kept = json.loads(path.read_text())
    assert [(r["seed"], r["dice"]["Anterior"]) for r in kept] == [(0, [0.7]), (1, [0.9])]


def test_readme_changes_between_its_marks_alone(evidence: ModuleType) -> None:
    readme = f"before\n{evidence.BEGIN}\nold\n{evidence.END}\nafter\n"
    made = evidence.with_table(readme, [row("supervised", 0, [0.8, 0.9])])
    assert made.startswith(f"before\n{evidence.BEGIN}\n| arm |")
    assert made.endswith(f"|\n{evidence.END}\nafter\n")
    assert "old" not in made
    assert evidence.with_table(made, [row("supervised", 0, [0.8, 0.9])]) == made


def test_arms_are_recipes_that_differ_in_method_alone(evidence: ModuleType) -> None:
    groups: dict[str, list[Any]] = {}
    for arm in evidence.arms():
        made = load_recipe(arm.recipe, ["data.root=root", *arm.settings]).recipe
        if not arm.group.endswith("-development"):
            groups.setdefault(arm.group, []).append(made)
    for recipes in groups.values():
        assert recipes[0].method.name == evidence.ALONE
        for other in recipes[1:]:
            assert other.network == recipes[0].network
            assert other.data == recipes[0].data
            assert other.training.augment == recipes[0].training.augment
            assert other.training.iterations == recipes[0].training.iterations
