"""Does choosing the next labels beat drawing them? Hippocampus with hidden labels.

    nice python benchmarks/next_labels.py --data FOLDER --output STUDY     # again: it goes on
    python benchmarks/next_labels.py --output STUDY --table                # what is there so far

Of the 200 scans, the recipe's 40 test scans take no part; of the other 160, the last 40 by name
judge every model and are never chosen; 120 are the pool. A start draws 4 scans of the pool; each
rule then adds 4 scans three times, chosen by its own last model, and trains anew from scratch each
time: the small network, augmentation and optimizer that methods are compared with, for about a
minute of one thread. The first run of a start is shared by its rules. A rule is judged by the mean
Dice over the 40 judging scans; pairs with `random` are of one start, and the interval is Student's
t over starts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from development import on_small_network
from harness import data_folder, write_json

import medssl
from medssl.data.datasets.case import Case, LabelMap
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.split import make_splits
from medssl.data.images.labels import read_label
from medssl.evaluation.overlap import confusion_matrix, dice_per_class
from medssl.evaluation.statistics import Interval, mean_interval
from medssl.inference.predictor import Predictor
from medssl.recipe.find import list_recipes
from medssl.recipe.load import load_recipe
from medssl.rounds.choose import RULES, Candidates, Rule, as_points, choose

RECIPE, METHOD = on_small_network("supervised")
FIRST, ADDED, ROUNDS, JUDGES = 4, 4, 3, 40
SIZES = tuple(FIRST + ADDED * r for r in range(ROUNDS + 1))


class Study:
    """All runs of the study, and the file that remembers them.

    Args:
        root: of the dataset.
        folder: of the study; what is in it is not done again.
        iterations: of each training.
    """

    def __init__(self, root: Path, folder: Path, iterations: int) -> None:
        self.folder, self.iterations = folder, iterations
        loaded = load_recipe(list_recipes()[RECIPE], [f"data.root={root}", *METHOD])
        self.dataset = read_dataset(root)
        splits = make_splits(self.dataset, loaded.recipe.data, uses_unlabeled=False)
        locked = {c.patient for c in splits.test}
        others = sorted((c for c in self.dataset.training if c.patient not in locked), key=_id)
        self.judges, self.pool = others[-JUDGES:], others[:-JUDGES]
        self.unused = sorted(c.id for c in splits.test)
        self.results = folder / "results.json"
        self.found: dict[str, Any] = read(self.results)

    def run(self, starts: int) -> None:
        """Do what is not done yet, start by start, so that whole starts can be compared."""
        for start in range(starts):
            rng = np.random.default_rng([20, start])
            first = sorted(self.pool[i].id for i in rng.permutation(len(self.pool))[:FIRST])
            self.measure(start, "first", first)
            for size in SIZES[1:]:
                for rule in RULES:
                    before = "first" if size == SIZES[1] else rule
                    self.measure(start, rule, self.extended(start, rule, before, size - ADDED))

    def extended(self, start: int, rule: Rule, before: str, size: int) -> list[str]:
        """Return the labeled ids of a run, and those that the rule adds to them."""
        known = self.found[key_of(start, before, size)]
        labeled = known["labeled"]
        free = [c for c in self.pool if c.id not in labeled]
        features = known["features"]
        points, there = as_points(
            [features.get(c.id, {}) for c in free], [features.get(i, {}) for i in labeled]
        )
        candidates = Candidates(
            errors=np.array([1 - known["quality"].get(c.id, 0.0) for c in free]),
            points=points,
            labeled=there,
            patients=[c.patient for c in free],
        )
        chosen = choose(rule, candidates, ADDED, seed=1000 * start + size)
        return [*labeled, *(free[i].id for i in chosen)]

    def measure(self, start: int, rule: str, labeled: Sequence[str]) -> None:
        """Train on some labels, judge the model, and keep what it says of the pool."""
        key = key_of(start, rule, len(labeled))
        if key in self.found:
            return
        run = self.folder / "runs" / key.replace("/", "-")
        shutil.rmtree(run, ignore_errors=True)  # of an interrupted call: a minute is lost
        started = time.process_time()
        predictor = self.train(run, start, labeled)
        trained = time.process_time()
        dice = {c.id: dice_of(predictor, c, self.dataset.labels) for c in self.judges}
        # Nothing is chosen by the last models of a start, nor by those of scans that were drawn.
        asked = () if rule == "random" or len(labeled) == SIZES[-1] else self.pool
        told = {c.id: predictor.predict_file(c.images, assess=True).assessment for c in asked}
        said = {name: a for name, a in told.items() if a is not None}
        self.found[key] = {
            "labeled": list(labeled),
            "dice": dice,
            "quality": {name: a.quality or 0.0 for name, a in said.items()},
            "features": {name: dict(a.features) for name, a in said.items()},
            "seconds": {
                "training": trained - started,
                "predicting": time.process_time() - trained,
            },
        }
        write_json(self.results, self.found)
        shutil.rmtree(run, ignore_errors=True)
        print(f"{key}: {mean(dice):.4f}, {time.process_time() - started:.0f} s", flush=True)

    def train(self, run: Path, start: int, labeled: Sequence[str]) -> Predictor:
        """Train on some labels alone."""
        changes = {
            "seed": start,
            "data.root": json.dumps(str(self.dataset.root)),
            "data.cache": json.dumps(str(self.folder / "cache")),
            "data.labeled": json.dumps(list(labeled)),
            "data.test": json.dumps([c.id for c in self.judges]),
            "data.excluded": json.dumps(self.unused),
            "training.iterations": self.iterations,
            "inference.overlap": 0.25,
            "evaluation.splits": "[]",
        }
        overrides = [*METHOD, *(f"{name}={value}" for name, value in changes.items())]
        medssl.train(list_recipes()[RECIPE], overrides=overrides, output=run, device="cpu")
        return medssl.load_run(run, checkpoint="last", device="cpu").predictor


def _id(case: Case) -> str:
    return case.id


def key_of(start: int, rule: str, size: int) -> str:
    """Return the key of a run in the file of results."""
    return f"{start}/{rule}/{size}"


def read(path: Path) -> dict[str, Any]:
    """Return the runs that are there."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def dice_of(predictor: Predictor, case: Case, labels: LabelMap) -> float:
    """Return the mean Dice over structures of a scan, one missing from both maps left out."""
    assert case.label is not None
    found = labels.to_classes(predictor.predict_file(case.images).values)
    truth = labels.to_classes(read_label(case.label)[0])
    dice = dice_per_class(confusion_matrix(found, truth, labels.num_classes))
    return float(np.nanmean(dice[1:]))


def mean(dice: Mapping[str, float]) -> float:
    """Return the mean over scans."""
    return float(np.mean(list(dice.values())))


def table(found: Mapping[str, Any]) -> str:
    """Return Dice and gain over `random` by rule and number of labels, over finished starts."""
    starts = sorted(
        {int(key.partition("/")[0]) for key in found}
        - {
            s
            for s in {int(key.partition("/")[0]) for key in found}
            for size in SIZES[1:]
            for rule in RULES
            if key_of(s, rule, size) not in found
        }
    )
    lines = [f"starts: {len(starts)}; runs: {len(found)}", ""]
    lines += ["| rule | " + " | ".join(f"{size} labels" for size in SIZES[1:]) + " |"]
    lines += ["|---|" + "---|" * ROUNDS]
    for rule in RULES:
        cells = []
        for size in SIZES[1:]:
            own = [mean(found[key_of(s, rule, size)]["dice"]) for s in starts]
            drawn = [mean(found[key_of(s, "random", size)]["dice"]) for s in starts]
            cell = shown(mean_interval(own), "{:.4f}")
            if rule != "random":
                gain = mean_interval(np.subtract(own, drawn))
                cell += f"; {shown(gain, '{:+.4f}')} over random"
            cells.append(cell)
        lines.append(f"| {rule} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(interval: Interval, form: str) -> str:
    """Return a mean with its interval, where there is one."""
    text = form.format(interval.mean)
    if interval.none:
        return text
    return f"{text} [{form.format(interval.low)}, {form.format(interval.high)}]"


def main() -> None:
    """Run the study, or print what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of datasets")
    parser.add_argument("--output", type=Path, default=Path("next_labels"), help="of the study")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=300, help="of each training")
    parser.add_argument("--table", action="store_true", help="print what is there only")
    options = parser.parse_args()
    if not options.table:
        import torch

        torch.set_num_threads(1)
        study = Study(options.data / "Task04_Hippocampus", options.output, options.iterations)
        study.run(options.starts)
    print(table(read(options.output / "results.json")))


if __name__ == "__main__":
    main()
