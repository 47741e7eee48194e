"""The study of mixing trains the same but for mixing, and keeps away from the test cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medssl.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parents[2]


def test_runs_differ_in_method_mixing_and_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import mixing

    runs = {}
    for name, recipe, *settings in mixing.planned(Path("root"), ["fixmatch"], [0, 1]):
        runs[name] = load_recipe(recipe, settings).recipe
    assert list(runs)[:3] == ["supervised_0", "fixmatch_none_0", "fixmatch_cutmix_0"]
    assert len(runs) == 6
    cases = json.loads((ROOT / "benchmarks" / "development_cases.json").read_text())
    for name, recipe in runs.items():
        assert len(recipe.data.labeled) == 4
        assert set(recipe.data.labeled) < set(cases["labeled"])
        assert set(recipe.data.excluded) == set(cases["test"])
        assert recipe.seed == int(name[-1])
        training = recipe.training.model_dump(exclude={"unlabeled_batch"})
        assert training == runs["supervised_0"].training.model_dump(exclude={"unlabeled_batch"})
        assert recipe.network == runs["supervised_0"].network
    ways = [run.method.settings["mixing"] for n, run in runs.items() if n.startswith("fixmatch")]
    assert ways == ["none", "cutmix"] * 2
