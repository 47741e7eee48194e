"""Members that err differently: seeds of the default, together, their students, with atlases.

    python benchmarks/members.py run --data FOLDER --output WORK [--set section.key=value ...]
    python benchmarks/members.py keep --output WORK [--test]

`run` trains three seeds of `hippocampus_bcp` with 8 labels, lets them label the other scans in two
rounds of `medssl selftrain --whole`, once more with atlases as a further member, and predicts with
members and atlases as one. Neither the 40 development nor the 40 test patients of
`development_cases.json` take part; a second call goes on where the first was stopped. `keep` adds
Dice of the development patients to `docs/evidence.json` and makes the page; `--test` adds that of
the test patients, which is for once the choice stands. Time and iterations are those of all
trainings that an arm needs.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import evidence
from arms import TABLES
from development import CASES
from evidence_page import MEMBERS, ONE_MEMBER

import medssl
from medssl.progress import Display
from medssl.recipe.load import load_recipe
from medssl.runs.folder import RunFolder

RECIPE, SEEDS, ROUNDS, WHOLE = "hippocampus_bcp", 3, 2, "whole"
PLAIN, WITH_ATLAS = "rounds", "rounds-atlas"
PARTS = json.loads(CASES.read_text(encoding="utf-8"))
MEASURED = [*PARTS["development"], *PARTS["test"]]


@dataclass(frozen=True)
class Arm:
    """What is measured.

    Attributes:
        name: as in the table.
        cases: file of its figures.
        runs: all that had to be trained for it.
        seed: of several that are called alike.
    """

    name: str
    cases: Path
    runs: tuple[Path, ...] = ()
    seed: int = 0


def settings(data: Path, more: Sequence[str]) -> list[str]:
    """Return what all trainings have in common."""
    return [
        f"data.root={(data / 'Task04_Hippocampus').resolve()}",
        f"data.labeled={{file: {CASES}, key: labeled}}",
        f"data.test=[{', '.join(MEASURED)}]",
        *more,
    ]


def run(data: Path, work: Path, more: Sequence[str]) -> None:
    """Train and predict what is missing."""
    own, display = settings(data, more), Display()
    first = load_recipe(RECIPE, own).recipe.seed
    asked = {"rounds": ROUNDS, "members": f"seeds:{SEEDS}", "whole": True, "overrides": own}
    medssl.selftrain(RECIPE, output=work / PLAIN, display=display, **asked)
    atlas = work / "atlas"
    medssl.atlas(RECIPE, overrides=own, output=atlas, display=display)
    if not (work / WITH_ATLAS).exists():
        shutil.copytree(work / PLAIN / "members", work / WITH_ATLAS / "members")
    medssl.selftrain(RECIPE, output=work / WITH_ATLAS, with_atlas=atlas, display=display, **asked)

    members = [work / PLAIN / "members" / f"seed_{first + n}" / WHOLE for n in range(SEEDS)]
    root = data / "Task04_Hippocampus"
    truth = work / "truth"
    truth.mkdir(exist_ok=True)
    for case in MEASURED:
        shutil.copy(root / "labelsTr" / f"{case}.nii.gz", truth)
    images = [root / "imagesTr" / f"{case}.nii.gz" for case in MEASURED]
    for name, others, voting in (
        ("together", members[1:], None),
        ("together-atlas", members[1:], atlas),
        ("member-atlas", (), atlas),
    ):
        maps, output = work / name / "maps", work / name
        medssl.predict(members[0], images, maps, ensemble=others, with_atlas=voting)
        medssl.evaluate(maps, truth, output, dataset_json=root / "dataset.json")


def arms(work: Path) -> Iterator[Arm]:
    """Yield what there is to measure."""
    members = tuple(sorted((work / PLAIN / "members").glob(f"seed_*/{WHOLE}")))
    for seed, member in enumerate(members):
        yield Arm(ONE_MEMBER, tested(member), (member,), seed)
    yield Arm("a member and atlases", work / "member-atlas" / "cases.csv", members[:1])
    yield Arm("members together", work / "together" / "cases.csv", members)
    yield Arm("members and atlases together", work / "together-atlas" / "cases.csv", members)
    yield Arm("atlases alone", tested(work / "atlas"))
    for folder, voting in ((PLAIN, ""), (WITH_ATLAS, ", atlases voting")):
        trained = members
        for number in range(1, ROUNDS + 1):
            place = work / folder / f"round_{number}"
            trained = (*trained, place / "pseudo" / WHOLE, place / WHOLE)
            if (place / WHOLE).is_dir():  # a round that changed no label is the last
                yield Arm(f"student of round {number}{voting}", tested(place / WHOLE), trained)


def tested(folder: Path) -> Path:
    """Return the file of a run's test figures."""
    return folder / "evaluation" / "test" / "cases.csv"


def row_of(arm: Arm, patients: Sequence[str], group: str) -> dict[str, Any]:
    """Return what the evidence keeps of an arm: Dice of some patients, no name of a case."""
    with arm.cases.open(encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row["case"] in patients]
    found.sort(key=lambda row: (row["name"], row["case"]))
    records = [RunFolder(path).read_manifest() for path in arm.runs]
    return {
        "group": group,
        "arm": arm.name,
        "seed": arm.seed,
        "labels": records[0]["cases"]["labeled"] if records else len(PARTS["labeled"]),
        "iterations": sum(record["iterations_done"] for record in records),
        "minutes": round(sum(record["training_seconds"] for record in records) / 60, 1),
        "precision": records[0]["precision"] if records else "none",
        "dice": {
            name: [round(float(row["dice"]), 6) for row in rows]
            for name, rows in groupby(found, key=lambda row: row["name"])
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, or keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("command", choices=("run", "keep"))
    parser.add_argument("--data", type=Path, help="folder of the Decathlon datasets")
    parser.add_argument("--output", type=Path, required=True, help="work folder")
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value of the recipe")
    parser.add_argument("--test", action="store_true", help="keep the test patients' figures")
    asked = parser.parse_args(arguments)
    if asked.command == "run":
        run(asked.data, asked.output.resolve(), asked.set)
        return
    part, group = ("test", MEMBERS) if asked.test else ("development", f"{MEMBERS}-development")
    for arm in arms(asked.output.resolve()):
        row = row_of(arm, PARTS[part], group)
        evidence.keep(row, evidence.DOCS / TABLES["evidence"].figures)
    evidence.write_pages()


if __name__ == "__main__":
    main()
