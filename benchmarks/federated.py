"""Three hospitals with few labels: what training together is worth, and what a site without labels.

    nice python benchmarks/federated.py run --data FOLDER --output STUDY     # again: it goes on
    python benchmarks/federated.py page                                      # docs/federated.md

The recipe `hippocampus_self_training` (the small network, half resolution). Its 40 test patients
judge every model and take part in nothing; the other 160 are divided among sites A, B and C. A and
B have 4 labels each, C none; all other scans of a site are unlabeled there. Each training, at each
site, has the same number of iterations. A common model is judged once, at A, where all have the
same. Arms, budget and comparisons stand before the first run; nothing is chosen by its scores.

`run` adds the figures of every finished model to `docs/federated.json` (Dice of each test patient,
no name); `page` makes the table of `docs/federated.md` anew from it. Sites and server are processes
of the ordinary commands, on one machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from evidence import figures_of, keep, read
from evidence_page import between, gain, patients, said
from harness import ROOT

import medssl
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.split import make_splits
from medssl.evaluation.statistics import mean_interval
from medssl.federation.create import Terms, federate_init
from medssl.files.formats import write_text
from medssl.recipe.find import list_recipes
from medssl.recipe.load import load_recipe
from medssl.runs.folder import RunFolder

FIGURES, PAGE = ROOT / "docs" / "federated.json", ROOT / "docs" / "federated.md"
LABELED = {"A": 4, "B": 4, "C": 0}
LABELS = "background,anterior,posterior"
GROUP = "federated"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: as in the table.
        sites: whose scans are used.
        method: the recipe's section.
        together: whether the sites meet in a folder, or there is one training on all their scans.
    """

    name: str
    sites: str
    method: str
    together: bool


RECIPE = "hippocampus_self_training"
MIXED, FEDLABEL = (f"{{name: self_training, preset: {p}}}" for p in ("mixed", "fedlabel"))
SUPERVISED = "{name: supervised}"
OURS, WITHOUT_C, POOLED = "federated", "federated, without C", "pooled"
LABELS_ONLY = "federated, labels only"
ARMS = (
    Arm("local A", "A", MIXED, together=False),
    Arm("local B", "B", MIXED, together=False),
    Arm(OURS, "ABC", FEDLABEL, together=True),
    Arm(WITHOUT_C, "AB", FEDLABEL, together=True),
    Arm(POOLED, "ABC", MIXED, together=False),
    Arm(LABELS_ONLY, "AB", SUPERVISED, together=True),
)
"""In the order in which they are trained. Preset ``fedlabel`` is ``mixed`` with the common model as
a second teacher, which there is in a federation alone."""
EARLIER = Arm("federated, C in full at once", "ABC", FEDLABEL, together=True)
"""As it was at commit b63ecd0, where guesses of a site without labels counted from the first round
as much as labels; its figures are kept, and it is not trained again."""


class Study:
    """All models of the study.

    Args:
        root: of the dataset.
        folder: of the study; what is in it is not done again.
        iterations: of each training.
        every: of a round.
    """

    def __init__(self, root: Path, folder: Path, iterations: int, every: int) -> None:
        self.root, self.folder = root, folder
        self.iterations, self.every = iterations, every
        loaded = load_recipe(list_recipes()[RECIPE], [f"data.root={root}"])
        dataset = read_dataset(root)
        splits = make_splits(dataset, loaded.recipe.data)
        self.test = sorted(c.id for c in splits.test)
        others = sorted(c.id for c in dataset.training if c.id not in set(self.test))
        shuffled = np.random.default_rng(19).permutation(others).tolist()
        self.scans = {s: shuffled[i :: len(LABELED)] for i, s in enumerate(LABELED)}

    def data(self, sites: str, *, judged: bool) -> list[str]:
        """Return the settings of one training on the scans of some sites."""
        labeled = [name for s in sites for name in self.scans[s][: LABELED[s]]]
        away = [name for s in self.scans if s not in sites for name in self.scans[s]]
        return [
            f"data.root={json.dumps(str(self.root))}",
            f"data.cache={json.dumps(str(self.folder / 'cache'))}",
            f"data.labeled={json.dumps(labeled) if labeled else 0}",
            f"data.test={json.dumps(self.test)}",
            f"data.excluded={json.dumps(away)}",
            f"evaluation.splits={'[test]' if judged else '[]'}",
        ]

    def common(self, arm: Arm) -> list[str]:
        """Return what every training of an arm has in common."""
        budget = [f"training.iterations={self.iterations}", "training.precision=bf16"]
        return [f"method={arm.method}", *budget, "training.workers=0"]

    def run(self, arm: Arm, figures: Path) -> None:
        """Train an arm where it is not finished, and keep its figures."""
        home = self.folder / arm.name.replace(",", "").replace(" ", "_")
        if arm.together:
            self.meet(arm, home)
            run = home / arm.sites[0]
        else:
            run = home
            medssl.train(
                RECIPE,
                overrides=[*self.data(arm.sites, judged=True), *self.common(arm)],
                output=run,
                resume_or_start=True,
                device="cpu",
            )
        row = {"group": GROUP, "arm": arm.name, "seed": 0, **figures_of(run)}
        row["labels"] = sum(LABELED[s] for s in arm.sites)
        row["unlabeled"] = sum(len(self.scans[s]) - LABELED[s] for s in arm.sites)
        if arm.method == SUPERVISED:
            row["unlabeled"] = 0
        keep(row, figures)

    def meet(self, arm: Arm, home: Path) -> None:
        """Let the sites of an arm train, each in a process of its own, and serve them here."""
        shared, server = home / "shared", home / "server"
        if not server.is_dir():
            federate_init(
                shared,
                server,
                list_recipes()[RECIPE],
                sites=list(arm.sites),
                labels=LABELS.split(","),
                terms=Terms(every=self.every),
                overrides=self.common(arm),
            )
        medssl_ = [sys.executable, "-m", "medssl", "--quiet", "federate"]
        commands = {"the server": [*medssl_, "server", str(shared), "--server", str(server)]}
        for number, site in enumerate(arm.sites):
            run = home / site
            if run.is_dir() and RunFolder(run).is_finished():
                continue
            own = [*self.data(site, judged=number == 0), *self.common(arm), f"seed={number}"]
            key = server / "sites" / f"{site}.json"
            commands[f"site {site}"] = [
                *(*medssl_, "site", str(shared), RECIPE, "--key", str(key), "--output", str(run)),
                *("--resume-or-start", "--device", "cpu"),
                *(part for setting in own for part in ("--set", setting)),
            ]
        at_once(commands)


def at_once(commands: Mapping[str, Sequence[str]]) -> None:
    """Let commands run until all have ended; where one fails, end the others."""
    running = {name: subprocess.Popen(command) for name, command in commands.items()}
    try:
        while any(process.poll() is None for process in running.values()):
            failed = [name for name, p in running.items() if p.poll() not in (None, 0)]
            if failed:
                raise SystemExit(f"{failed[0]} failed")
            time.sleep(1)
    finally:
        for process in running.values():
            if process.poll() is None:
                process.terminate()
        for process in running.values():
            process.wait()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the study in Markdown: Dice of each arm, its gain over the best local model."""
    found = {row["arm"]: row for row in rows if row["group"] == GROUP}
    local = [row for name, row in found.items() if name.startswith("local")]
    if not local:
        return ""
    best = max(local, key=lambda row: float(patients([row]).mean()))
    lines = [
        f"| trained | sites | labels | unlabeled | Dice [95 %] | minus `{best['arm']}` |",
        "|---|---|---|---|---|---|",
    ]
    for arm in (*ARMS, EARLIER):
        if arm.name in found:
            row = found[arm.name]
            own = mean_interval(patients([row])[0], bounds=(0.0, 1.0))
            cells = [
                *(f"`{arm.name}`", ", ".join(arm.sites), str(row["labels"])),
                *(str(row["unlabeled"]), f"{own.mean:.4f} [{own.low:.4f}, {own.high:.4f}]"),
                "" if row is best else said(gain([row], [best])),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *verdict(found, best)]
    return "\n".join(lines)


def verdict(found: Mapping[str, Mapping[str, Any]], best: Mapping[str, Any]) -> list[str]:
    """Return what the common model was asked: against a local one, without C, and pooled."""
    count, budget = patients([best]).shape[1], best["iterations"]
    lines = [
        f"{count} test patients, {budget} iterations at each site, {best['precision']}, one seed; "
        "intervals are over patients, paired in differences."
    ]
    for name in (OURS, WITHOUT_C):
        others = [best["arm"], WITHOUT_C, POOLED, LABELS_ONLY, EARLIER.name]
        told = [
            f"`{other}` {said(gain([found[name]], [found[other]]))}"
            for other in others
            if other != name and {name, other} <= found.keys()
        ]
        if told:
            lines += ["", f"`{name}` minus {', '.join(told)}."]
    return lines


def write_page(rows: Sequence[Mapping[str, Any]], page: Path = PAGE) -> None:
    """Make the table of the page anew."""
    write_text(page, renewed(page.read_text(encoding="utf-8"), rows))


def renewed(text: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page's text with its table made anew."""
    return between(text, "study", [table(rows)], Path(__file__).name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, or make the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("run", "page"))
    parser.add_argument("--data", type=Path, help="folder of Task04_Hippocampus")
    parser.add_argument("--output", type=Path, help="of the study")
    parser.add_argument("--iterations", type=int, default=1000, help="of each training")
    parser.add_argument("--every", type=int, default=50, help="iterations of a round")
    parser.add_argument("--arms", nargs="*", default=[], help="names; by default all")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="file of the figures")
    asked = parser.parse_args(arguments)
    if asked.command == "run":
        import torch

        torch.set_num_threads(1)
        study = Study(
            (asked.data / "Task04_Hippocampus").resolve(),
            asked.output.resolve(),
            asked.iterations,
            asked.every,
        )
        for arm in ARMS:
            if not asked.arms or arm.name in asked.arms:
                study.run(arm, asked.figures)
        print(table(read(asked.figures)))
    else:
        write_page(read(asked.figures))


if __name__ == "__main__":
    main()
