"""Five members of one method, together, and one network of a member's size that learned from them.

    python benchmarks/distilled.py run --data FOLDER --output WORK [--set section.key=value ...]
    python benchmarks/distilled.py keep --output WORK

`run` trains five seeds of `bcp` with the small network and 4 labels, puts them into a bundle, and
distills that into one network in as many iterations as three members take; no test patient takes
part. A second call goes on where the first was stopped. `keep` adds Dice of the 40 development
patients to `docs/evidence.json` and makes the page. Time and iterations are those of all trainings
that an arm needs; how long predicting takes is printed by `run`.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import evidence
from arms import TABLES, four_labels
from development import development_settings, on_small_network
from evidence_page import DISTILLED, ONE_MEMBER
from members import PARTS, Arm, row_of, tested

import medssl
from medssl.progress import Display
from medssl.runs.folder import RunFolder

METHOD, COUNT, ITERATIONS = "bcp", 5, 3000
STUDENT = "distilled from five"


def train(recipe: str, overrides: Sequence[str], output: Path) -> None:
    """Train what is not finished."""
    if not RunFolder(output).is_finished():
        medssl.train(
            recipe, overrides=overrides, output=output, resume_or_start=True, display=Display()
        )


def run(data: Path, work: Path, more: Sequence[str]) -> None:
    """Train and predict what is missing."""
    root = (data / "Task04_Hippocampus").resolve()
    common = [*development_settings(root), *four_labels()]
    recipe, own = on_small_network(METHOD)
    members = [work / f"member_{seed}" for seed in range(COUNT)]
    for seed, member in enumerate(members):
        train(recipe, [*common, *own, f"seed={seed}", *more], member)
    teacher = work / "bundle"
    if not teacher.exists():
        medssl.export(members[0], teacher, ensemble=members[1:], checkpoint="last")
    learns = [f"method={{name: distill, teacher: {teacher}}}", f"training.iterations={ITERATIONS}"]
    train("hippocampus_self_training", [*common, *learns, *more], work / "student")

    truth = work / "truth"
    truth.mkdir(exist_ok=True)
    for case in PARTS["development"]:
        shutil.copy(root / "labelsTr" / f"{case}.nii.gz", truth)
    images = [root / "imagesTr" / f"{case}.nii.gz" for case in PARTS["development"]]
    for name, others in (("together", members[1:]), ("alone", ())):
        output = work / name
        begun = time.process_time()
        medssl.predict(members[0], images, output / "maps", ensemble=others, overwrite=True)
        print(f"{name}: {time.process_time() - begun:.1f} s of processor time to predict")
        medssl.evaluate(output / "maps", truth, output, dataset_json=root / "dataset.json")


def arms(work: Path) -> Iterator[Arm]:
    """Yield what there is to measure."""
    members = tuple(work / f"member_{seed}" for seed in range(COUNT))
    for seed, member in enumerate(members):
        yield Arm(ONE_MEMBER, tested(member), (member,), seed)
    yield Arm("five together", work / "together" / "cases.csv", members)
    yield Arm(STUDENT, tested(work / "student"), (*members, work / "student"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, or keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("command", choices=("run", "keep"))
    parser.add_argument("--data", type=Path, help="folder of the Decathlon datasets")
    parser.add_argument("--output", type=Path, required=True, help="work folder")
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value of all trainings")
    asked = parser.parse_args(arguments)
    work = asked.output.resolve()
    if asked.command == "run":
        run(asked.data, work, asked.set)
        return
    for arm in arms(work):
        row = row_of(arm, PARTS["development"], DISTILLED)
        evidence.keep(row, evidence.DOCS / TABLES["evidence"].figures)
    evidence.write_pages()


if __name__ == "__main__":
    main()
