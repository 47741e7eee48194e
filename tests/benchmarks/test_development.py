"""The development set keeps away from labeled and test cases."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CASES = json.loads((ROOT / "benchmarks" / "development_cases.json").read_text())


def test_no_case_has_two_parts() -> None:
    assert {part: len(set(cases)) for part, cases in CASES.items()} == {
        "labeled": 8,
        "test": 40,
        "development": 40,
    }
    assert len({case for cases in CASES.values() for case in cases}) == 88


def test_the_settings_hold_the_test_cases_back(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import development

    settings = [line.partition("=") for line in development.development_settings(Path("root"))]
    found = {key: yaml.safe_load(value) for key, _, value in settings}
    assert found["data.excluded"] == CASES["test"]
    assert found["data.test"]["key"] == "development"
    assert found["data.labeled"]["key"] == "labeled"
