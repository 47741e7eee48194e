"""Members, students and atlases: what is kept of them, and of whom."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import members

    return members


def write_run(folder: Path, minutes: float) -> None:
    folder.mkdir(parents=True)
    record = {"iterations_done": 30, "training_seconds": 60 * minutes, "precision": "fp32"}
    record |= {"cases": {"labeled": 4}}
    (folder / "manifest.json").write_text(json.dumps(record))


def write_cases(file: Path, dice: dict[str, float]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{case},{name},{value}" for case, value in dice.items() for name in ("Front", "Back")]
    file.write_text("\n".join(["case,name,dice", *rows]) + "\n")


def test_an_arm_counts_all_that_was_trained_for_it_and_names_nobody(
    members: ModuleType, tmp_path: Path
) -> None:
    first, second = sorted(members.PARTS["development"])[:2]
    hidden = members.PARTS["test"][0]
    dice = {second: 0.7, hidden: 0.1, first: 0.8}
    plain = tmp_path / members.PLAIN
    runs = {plain / "members" / f"seed_{n}" / members.WHOLE: 2.0 for n in range(members.SEEDS)}
    runs |= {plain / "round_1" / "pseudo" / members.WHOLE: 5.0}
    runs |= {plain / "round_1" / members.WHOLE: 1.0}
    for folder, minutes in runs.items():
        write_run(folder, minutes)
        write_cases(members.tested(folder), dice)
    found = {(arm.name, arm.seed): arm for arm in members.arms(tmp_path)}
    assert sum(name == members.ONE_MEMBER for name, _ in found) == members.SEEDS
    assert not any("round 2" in name or "voting" in name for name, _ in found)

    student = members.row_of(
        found["student of round 1", 0], members.PARTS["development"], "some-development"
    )
    assert student["dice"] == {"Back": [0.8, 0.7], "Front": [0.8, 0.7]}
    assert (student["iterations"], student["minutes"]) == (150, 12.0)
    assert not any(case in json.dumps(student) for case in dice)
    tested = members.row_of(found[members.ONE_MEMBER, 1], members.PARTS["test"], "some")
    assert tested["dice"] == {"Back": [0.1], "Front": [0.1]}
    assert (tested["minutes"], tested["seed"]) == (2.0, 1)


def test_a_distilled_student_costs_its_members_and_itself(
    members: ModuleType, tmp_path: Path
) -> None:
    import distilled

    dice = dict.fromkeys(members.PARTS["development"], 0.5)
    for name in (*(f"member_{seed}" for seed in range(distilled.COUNT)), "student"):
        write_run(tmp_path / name, 2.0)
        write_cases(members.tested(tmp_path / name), dice)
    write_cases(tmp_path / "together" / "cases.csv", dice)
    rows = [
        members.row_of(arm, members.PARTS["development"], "g") for arm in distilled.arms(tmp_path)
    ]
    minutes = [(row["arm"], row["minutes"]) for row in rows]
    alone = [("one member", 2.0)] * 5
    assert minutes == [*alone, ("five together", 10.0), ("distilled from five", 12.0)]
    assert {row["labels"] for row in rows} == {4}
    assert all(len(row["dice"]["Front"]) == 40 for row in rows)


def test_nobody_who_is_measured_is_labeled(members: ModuleType) -> None:
    assert not set(members.MEASURED) & set(members.PARTS["labeled"])
    assert len(members.MEASURED) == len(set(members.MEASURED)) == 80
