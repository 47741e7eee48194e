"""The page of federations says what the file of the study's figures holds."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def federated(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import federated

    return federated


def row(arm: str, dice: list[float]) -> dict[str, Any]:
    both = {"Anterior": dice, "Posterior": [value - 0.02 for value in dice]}
    counts = {"labels": 4, "unlabeled": 50, "iterations": 1000}
    return {"group": "federated", "arm": arm, **counts, "precision": "bf16", "dice": both}


def test_the_page_is_that_of_its_file(federated: ModuleType) -> None:
    text = federated.PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- study:") == text.count("<!-- end of study -->") == 1
    rows = federated.read(federated.FIGURES)
    assert text == federated.renewed(text, rows)
    assert {r["arm"] for r in rows} <= {arm.name for arm in (*federated.ARMS, federated.EARLIER)}


def test_the_best_local_model_is_what_others_are_held_against(federated: ModuleType) -> None:
    rows = [
        row("federated", [0.84, 0.86, 0.88]),
        row("local A", [0.80, 0.82, 0.84]),
        row("local B", [0.81, 0.84, 0.87]),
        row("pooled", [0.85, 0.87, 0.89]),
    ]
    lines = federated.table(rows).splitlines()
    assert lines[0].endswith("| minus `local B` |")
    # Gains of 0.03, 0.02 and 0.01 over B; t with 2 degrees of freedom is 4.303.
    half = 4.3027 * 0.01 / np.sqrt(3)
    gain = f"+0.0200 [{0.02 - half:+.4f}, {0.02 + half:+.4f}]"
    assert lines[4] == f"| `federated` | A, B, C | 4 | 50 | 0.8500 [0.8003, 0.8997] | {gain} |"
    assert lines[3].endswith("0.8300 [0.7555, 0.9045] |  |"), "the best one itself"
    assert f"`federated` minus `local B` {gain}, `pooled` -0.0100 [" in lines[-1]
    assert "3 test patients, 1000 iterations at each site, bf16, one seed" in lines[-3]
    assert federated.table(rows[:1]) == ""


def test_sites_share_no_scan_and_no_test_patient(federated: ModuleType) -> None:
    root = ROOT.parent / "shared" / "data" / "Task04_Hippocampus"
    if not root.is_dir():
        pytest.skip("needs the hippocampus")
    study = federated.Study(root, Path("study"), 1000, 50)
    everyone = [name for scans in study.scans.values() for name in scans]
    assert (len(everyone), len(set(everyone) & set(study.test))) == (160, 0)
    assert len(set(everyone) | set(study.test)) == 200
    given = dict(line.partition("=")[::2] for line in study.data("C", judged=False))
    assert (given["data.labeled"], given["evaluation.splits"]) == ("0", "[]")
    assert all(name in given["data.excluded"] for name in study.scans["A"])
    labeled = dict(line.partition("=")[::2] for line in study.data("AB", judged=True))
    assert labeled["data.labeled"].count("hippocampus_") == 8
