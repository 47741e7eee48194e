"""medssl beside nnU-Net: the same labeled patients, the same test cases, one measure.

    python benchmarks/nnunet.py FOLDER_OF_DATASET --output WORK [--iterations 1500] [--test]

Three trainings on one core: nnU-Net with its own plan at half its feature widths (`--unmodified`:
as it plans), medssl with labels alone and as many iterations, and medssl with the unlabeled scans
in as much processor time as nnU-Net took, by a step time that is measured. Each predicts without
and with mirroring, and `medssl evaluate` measures all on the scans' own grids. Printed are rows and
paired differences as Markdown; figures stay in ``WORK/figures.json``, and the same call goes on
where it was stopped.

The cases of the hippocampus are those of `development_cases.json`: its development cases are
measured, the test cases with `--test` alone. Other Decathlon folders need `--cases FILE`, such a
file of their own. nnU-Net 2.8.1 (``pip install "medssl[nnunet]"``) may stand in an environment of
its own: `--python` is its Python.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from measuring import children_seconds
from nnunet_side import NAME

import medssl
from medssl.evaluation.statistics import Interval, paired_interval
from medssl.evaluation.summary import read_cases_csv

HERE = Path(__file__).resolve().parent
CASES = HERE / "development_cases.json"
NNUNET, ALONE, SEMI = "nnU-Net", "medssl, labels alone", "medssl, with unlabeled scans"
WAYS = ("plain", "mirrored")
GROUP = "hippocampus-8-nnunet"
"""Where the evidence holds its figures: medssl's iterations are those of nnU-Net, or its time."""
PACE = (20, 60)
"""Iterations of the two short runs whose difference is the time of a step."""


@dataclass(frozen=True)
class Cases:
    """Which patients train and which are measured.

    Attributes:
        labeled: whose labels train.
        measured: whose predictions are measured; they take no part in any training.
        held_back: those and others that no training sees.
    """

    labeled: tuple[str, ...]
    measured: tuple[str, ...]
    held_back: tuple[str, ...]

    @classmethod
    def read(cls, path: Path, *, test: bool) -> Cases:
        """Read a file of the parts `labeled`, `development` and `test`."""
        parts = json.loads(path.read_text())
        measured = parts["test" if test else "development"]
        held_back = measured if test else [*measured, *parts["test"]]
        return cls(tuple(parts["labeled"]), tuple(measured), tuple(held_back))


def convert(dataset: Path, cases: Cases, raw: Path) -> None:
    """Write a Decathlon folder as nnU-Net's raw dataset: one file per channel.

    Args:
        dataset: the Decathlon folder.
        cases: the labeled ones become ``imagesTr`` and ``labelsTr``, the measured ones
            ``imagesTs`` and ``labelsTs``.
        raw: folder of the dataset, which is made.
    """
    described = json.loads((dataset / "dataset.json").read_text())
    for part, ids in (("Tr", cases.labeled), ("Ts", cases.measured)):
        for kind in ("images", "labels"):
            (raw / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
        for case in ids:
            shutil.copy(dataset / "labelsTr" / f"{case}.nii.gz", raw / f"labels{part}")
            _write_channels(dataset / "imagesTr" / f"{case}.nii.gz", raw / f"images{part}")
    names = {value: int(number) for number, value in described["labels"].items()}
    nnunet = {
        "channel_names": described["modality"],
        "labels": {"background" if number == 0 else name: number for name, number in names.items()},
        "numTraining": len(cases.labeled),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(nnunet, indent=2))


def _write_channels(image: Path, folder: Path) -> None:
    case, scan = image.name.removesuffix(".nii.gz"), nib.load(image)
    if scan.ndim == 3:
        shutil.copy(image, folder / f"{case}_0000.nii.gz")
        return
    for channel in range(scan.shape[3]):
        one = nib.Nifti1Image(np.asarray(scan.dataobj[..., channel]), scan.affine)
        nib.save(one, folder / f"{case}_{channel:04}.nii.gz")


class Study:
    """The runs of one work folder; what is in its figures is not made again."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.folder = asked, asked.output.resolve()
        self.cases = Cases.read(asked.cases, test=asked.test)
        self.raw = self.folder / "nnUNet_raw" / NAME
        self.file = self.folder / "figures.json"
        self.figures: dict[str, Any] = {"of": self._settings()}
        if self.file.is_file():
            self.figures = json.loads(self.file.read_text())
            if self.figures["of"] != self._settings():
                what = "the folder holds figures of another call"
                fix = "give the same options again, or another --output"
                raise medssl.MedSSLError(what, where=str(self.folder), fix=fix)

    def run(self) -> None:
        """Make what is missing, one row after the other."""
        if not (self.raw / "dataset.json").is_file():
            convert(self.asked.dataset, self.cases, self.raw)
        iterations = self.asked.iterations
        if NNUNET not in self.figures:
            self._keep(NNUNET, self._nnunet(iterations))
        if "pace" not in self.figures:
            self._keep("pace", {name: self._pace(name) for name in (ALONE, SEMI)})
        fitting = max(1, round(self.figures[NNUNET]["seconds"] / self.figures["pace"][SEMI]))
        for name, count in ((ALONE, iterations), (SEMI, fitting)):
            if name not in self.figures:
                self._keep(name, self._medssl(name, count))

    def _nnunet(self, iterations: int) -> dict[str, Any]:
        seconds, folder = self.folder / "nnunet_seconds.json", self.folder / NNUNET
        side = partial(call_side, self.asked.python, self.folder)
        if not (self.folder / "planned").is_file():
            side("plan", "--widths", "1" if self.asked.unmodified else "0.5")
            (self.folder / "planned").touch()
        if not list(self.folder.glob("nnUNet_results/**/checkpoint_final.pth")):
            length = ("--iterations", iterations, "--seconds", seconds)
            side("train", *length, "--seed", self.asked.seed)
        images, count = self.raw / "imagesTs", ("--iterations", iterations)
        side("predict", *count, "--images", images, "--output", folder)
        return self._measured(folder, iterations, json.loads(seconds.read_text()))

    def _pace(self, name: str) -> float:
        """Return the processor seconds of one iteration, by two runs of different lengths."""
        took = []
        for count in (PACE[0], *PACE):  # the first fills the cache of preprocessed scans
            run = self.folder / "pace"
            shutil.rmtree(run, ignore_errors=True)
            began = time.process_time() + children_seconds()
            self._train(name, count, run)
            took.append(time.process_time() + children_seconds() - began)
        return max(took[2] - took[1], 1e-3) / (PACE[1] - PACE[0])

    def _medssl(self, name: str, iterations: int) -> dict[str, Any]:
        folder = self.folder / name.replace(", ", "_").replace(" ", "_")
        self._train(name, iterations, folder / "run")
        images = self.raw / "imagesTs"
        for way in WAYS:
            medssl.predict(folder / "run", images, folder / way, tta=way == "mirrored")
        return self._measured(folder, iterations, iterations * self.figures["pace"][name])

    def _train(self, name: str, iterations: int, run: Path) -> None:
        overrides = (
            f"data.root={self.asked.dataset.resolve()}",
            f"data.labeled={json.dumps(self.cases.labeled)}",
            "data.test=0",
            f"data.excluded={json.dumps(self.cases.held_back)}",
            f"data.cache={self.folder / 'cache'}",
            f"training.iterations={iterations}",
            f"seed={self.asked.seed}",
            *(("method=supervised",) if name == ALONE else ()),
            *self.asked.set,
        )
        medssl.train(self.asked.recipe, overrides=overrides, output=run, resume_or_start=True)

    def _measured(self, folder: Path, iterations: int, seconds: float) -> dict[str, Any]:
        dice = {}
        for way in WAYS:
            measures = folder / f"{way}_measures"
            predictions = folder / f"{way}_maps"  # nnU-Net lays other files beside its own
            predictions.mkdir(exist_ok=True)
            for path in (folder / way).glob("*.nii.gz"):
                shutil.copy(path, predictions)
            labels, names = self.raw / "labelsTs", self.asked.dataset / "dataset.json"
            medssl.evaluate(predictions, labels, measures, dataset_json=names)
            dice[way] = dice_of(read_cases_csv(measures / "cases.csv"))
        return {"iterations": iterations, "seconds": seconds, "dice": dice}

    def _settings(self) -> dict[str, Any]:
        kept = ("iterations", "unmodified", "recipe", "set", "seed")
        own = {name: getattr(self.asked, name) for name in kept}
        cases = {"labeled": list(self.cases.labeled), "measured": list(self.cases.measured)}
        return own | {"dataset": self.asked.dataset.name} | cases

    def _keep(self, name: str, figures: Mapping[str, Any]) -> None:
        self.figures[name] = dict(figures)
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.figures, indent=2))
        new.replace(self.file)


def call_side(python: str, folder: Path, *arguments: object) -> str:
    """Run nnU-Net's half in its own Python; return what it printed last.

    Raises:
        MedSSLError: nnU-Net is not there, or it failed; names the log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ("raw", "preprocessed", "results")
    own = {f"nnUNet_{kind}": str(folder / f"nnUNet_{kind}") for kind in kinds}
    threads = "1" if arguments[0] == "plan" else "0"  # training makes patches in its own process
    own |= {"nnUNet_n_proc_DA": threads, "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    log, asks = folder / "nnunet.log", arguments[0] in ("version", "pace")
    with log.open("a") as file:
        done = subprocess.run(
            [python, str(HERE / "nnunet_side.py"), *map(str, arguments)],
            env=os.environ | own,
            stdout=subprocess.PIPE if asks else file,
            stderr=file,
            text=True,
        )
    if done.returncode:
        raise medssl.MedSSLError(
            "no nnU-Net is there"
            if arguments == ("version",)
            else f"nnU-Net's step '{arguments[0]}' failed",
            where=str(log),
            fix='pip install "medssl[nnunet]", or give --python of an environment that has it',
        )
    return (done.stdout or "").strip()


def dice_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean Dice over structures of each case."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["case"], []).append(float(row["dice"]))
    return {case: float(np.nanmean(found)) for case, found in values.items()}


def table(figures: Mapping[str, Any]) -> str:
    """Return rows and paired differences as Markdown."""
    lines = ["| | iterations | processor s | Dice | Dice, mirrored |", "|---|---|---|---|---|"]
    for name in (NNUNET, ALONE, SEMI):
        if name in figures:
            row = figures[name]
            means = [f"{np.mean(list(row['dice'][way].values())):.4f}" for way in WAYS]
            cells = [name, str(row["iterations"]), f"{row['seconds']:.0f}", *means]
            lines.append(f"| {' | '.join(cells)} |")
    for name, equal in ((ALONE, "iterations"), (SEMI, "processor time")):
        if name in figures and NNUNET in figures:
            for way in WAYS:
                found = difference(figures[name]["dice"][way], figures[NNUNET]["dice"][way])
                lines += [
                    "",
                    f"{name}, minus nnU-Net, equal {equal}, {way}: {found.mean:+.4f} "
                    f"({found.low:+.4f} to {found.high:+.4f}, {found.n} cases)",
                ]
    return "\n".join(lines)


def difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Interval:
    """Return the mean paired difference over cases, with its interval."""
    cases = sorted(theirs)
    one, other = ([dice[case] for case in cases] for dice in (ours, theirs))
    return paired_interval(np.array([one]), np.array([other]), bounds=(-1.0, 1.0))


def rows_of(figures: Mapping[str, Any], seed: int) -> list[dict[str, Any]]:
    """Return what the file of evidence keeps of a study: the mirrored rows, one an arm."""
    arms = {ALONE: "supervised", SEMI: "bcp", NNUNET: NNUNET}
    return [
        {
            "group": f"{GROUP}-unmodified" if figures["of"]["unmodified"] else GROUP,
            "arm": arm,
            "seed": seed,
            "labels": len(figures["of"]["labeled"]),
            "iterations": figures[name]["iterations"],
            "minutes": round(figures[name]["seconds"] / 60, 1),
            "precision": "fp32" if name == NNUNET else precision_of(figures["of"]["set"]),
            "dice": {
                "mean": [dice for _, dice in sorted(figures[name]["dice"]["mirrored"].items())]
            },
        }
        for name, arm in arms.items()
        if name in figures
    ]


def precision_of(settings: Sequence[str]) -> str:
    """Return the precision that medssl was told, ``fp32`` where it was told none."""
    told = dict(line.split("=", 1) for line in settings)
    return told.get("training.precision", "fp32")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, help="a Decathlon folder")
    parser.add_argument("--output", type=Path, required=True, help="work folder")
    parser.add_argument("--cases", type=Path, default=CASES, help="labeled, development, test")
    parser.add_argument("--test", action="store_true", help="measure the test cases")
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0, help="of the weights that both start from")
    parser.add_argument("--unmodified", action="store_true", help="nnU-Net at its own widths")
    parser.add_argument(
        "--recipe", default="hippocampus_bcp", help="medssl's, with unlabeled scans"
    )
    parser.add_argument("--keep", action="store_true", help="add the rows to docs/evidence.json")
    parser.add_argument("--set", nargs="*", default=[], help="section.key=value of the recipe")
    parser.add_argument("--python", default=sys.executable, help="of nnU-Net's environment")
    asked = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        study = Study(asked)
        print(f"nnU-Net {call_side(asked.python, study.folder, 'version')}")
        study.run()
    except medssl.MedSSLError as error:
        raise SystemExit(str(error)) from None
    print(table(study.figures))
    if asked.keep:
        import evidence

        for row in rows_of(study.figures, asked.seed):
            evidence.keep(row, evidence.DOCS / evidence.TABLES["evidence"].figures)
        evidence.write_pages()


if __name__ == "__main__":
    main()
