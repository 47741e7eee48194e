"""Can the better of several runs, or checkpoints of one, be told without labels?

    python benchmarks/choosing_runs.py GROUP=RUN,RUN,... [GROUP=...] --output FILE.json

Finished runs of a group have the same test scans; they, and their last but one checkpoint where it
is kept, predict these again. Each criterion looks at images and the training's log alone; then it
is held against true Dice: Spearman's correlation within the groups, what the run that it likes best
falls short of the best (a run by chance is the other choice), and what taking the earlier
checkpoint where it likes that better gives over taking the last. Nothing is trained; a second call
goes on where the first was stopped. Seconds a checkpoint on scans of the hippocampus.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from medssl.data.opened import open_dataset
from medssl.files import write_json
from medssl.models.loaded_run import LoadedRun, load_run
from medssl.networks.taps import taps
from medssl.ops.pseudo_labels import confidence, hard_labels
from medssl.ops.selection import class_histogram, two_means, variance_of
from medssl.runs.folder import RunFolder

CRITERIA = {
    "separability": "between over within scatter of the last features, by predicted class",
    "margin": "distance of the two centres of confidence over its deviation, mean of structures",
    "confidence": "mean confidence where a structure is found",
    "consensus": "Dice with the majority of the group's runs",
    "stability": "Dice with its own earlier checkpoint",
    "agreement": "of student and teacher on unlabeled patches, as logged",
    "training loss": "of labeled patches at the end, negative",
}
LOGGED = 10
"""Lines of the log whose mean counts."""


@dataclass
class Scatter:
    """Sums of features by predicted class, of all windows that a network sees.

    Attributes:
        classes: K.
        sums: count, sum and sum of squares by class.
        histogram: of confidence, ``(K, 64)``.
    """

    classes: int
    sums: list[Tensor] = field(default_factory=list)
    histogram: Tensor | None = None

    def add(self, features: Tensor, logits: Tensor) -> None:
        """Count a pass in: features ``(B, C, *spatial)`` and logits ``(B, K, *spatial)``."""
        probs = logits.float().softmax(1)
        label, sure = hard_labels(probs), confidence(probs)
        flat = features.float().movedim(1, -1).flatten(0, -2).double()
        # Where the head is a transposed convolution, it sees coarser features than it makes logits.
        coarse = nn.functional.interpolate(label.unsqueeze(1).float(), features.shape[2:])
        one_hot = nn.functional.one_hot(coarse.long().flatten(), self.classes).double()
        new = [one_hot.sum(0), one_hot.T @ flat, one_hot.T @ (flat**2).sum(1)]
        self.sums = new if not self.sums else [a + b for a, b in zip(self.sums, new, strict=True)]
        counted = class_histogram(sure, label, self.classes)
        self.histogram = counted if self.histogram is None else self.histogram + counted

    def fisher(self) -> float:
        """Return tr(S_b) / tr(S_w)."""
        count, total, squares = self.sums
        means = total / count.clamp(min=1).unsqueeze(1)
        within = squares.sum() - (count * (means**2).sum(1)).sum()
        centre = total.sum(0) / count.sum()
        between = (count * ((means - centre) ** 2).sum(1)).sum()
        return float(between / within)

    def margin(self) -> float:
        """Return how far the two centres of confidence lie apart, in deviations."""
        assert self.histogram is not None
        low, high = two_means(self.histogram)[1:].T
        apart = (high - low) / variance_of(self.histogram)[1:].sqrt().clamp(min=1e-6)
        return float(apart[apart.isfinite()].mean())

    def sureness(self) -> float:
        """Return the mean confidence of structures."""
        assert self.histogram is not None
        found = self.histogram[1:].sum(0)
        centres = (torch.arange(len(found)) + 0.5) / len(found)
        return float((found * centres).sum() / found.sum().clamp(min=1))


def dice(one: np.ndarray, other: np.ndarray, classes: int) -> float:
    """Return the mean Dice of the structures that either has."""
    scores = []
    for k in range(1, classes):
        a, b = one == k, other == k
        if a.any() or b.any():
            scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(np.mean(scores)) if scores else math.nan


def predict(run: LoadedRun, images: Sequence[tuple[Path, ...]]) -> tuple[list[np.ndarray], Scatter]:
    """Predict scans; return label maps on their own grid, and what the network's features say."""
    scatter = Scatter(run.label_map.num_classes)
    model = run.predictor.model
    maps = []
    with torch.no_grad(), taps(model) as found:

        def look(_module: nn.Module, _inputs: object, out: Tensor) -> None:
            scatter.add(found.penultimate, out)

        handle = model.register_forward_hook(look)
        for paths in images:
            maps.append(run.predictor.predict_file(paths).values)
        handle.remove()
    return maps, scatter


def earlier(run: Path, folder: Path) -> Path | None:
    """Return a folder in which a run's last but one checkpoint is its last; None if it is gone."""
    before = RunFolder(run).previous
    if not before.is_file() or steps_of(before) == steps_of(RunFolder(run).last):
        return None
    (folder / "checkpoints").mkdir()
    for name in ("recipe.yaml", "manifest.json", "splits.json", "lineage.json"):
        (folder / name).symlink_to((run / name).resolve())
    (folder / "checkpoints" / "last.pt").symlink_to(before.resolve())
    return folder


def steps_of(checkpoint: Path) -> int:
    """Return after how many iterations a checkpoint was written."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(saved["step"])


def logged(run: Path, until: int) -> dict[str, float]:
    """Return the criteria of a run's log up to an iteration."""
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    lines = [x for x in lines if x["step"] <= until and "loss/labeled" in x][-LOGGED:]
    found = {"training loss": -float(np.mean([x["loss/labeled"] for x in lines]))}
    agreed = [x["pseudo/agreement"] for x in lines if "pseudo/agreement" in x]
    return found | ({"agreement": float(np.mean(agreed))} if agreed else {})


def measure(group: str, runs: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield a row for each checkpoint of a group's runs: true Dice, and all criteria."""
    images, truth = _cases(runs[0])
    rows, maps = list[dict[str, Any]](), list[list[np.ndarray]]()
    for number, path in enumerate(runs):
        with tempfile.TemporaryDirectory() as temporary:
            before = earlier(path, Path(temporary))
            own: list[list[np.ndarray]] = []
            for place in (p for p in (before, path) if p is not None):
                run = load_run(place, checkpoint="last", device="cpu")
                found, scatter = predict(run, images)
                classes, step = run.label_map.num_classes, steps_of(RunFolder(place).last)
                row = {"group": group, "run": number, "step": step, "last": place == path}
                row["method"] = run.recipe.method.name
                row["dice"] = _mean(found, truth, classes)
                row["separability"], row["margin"] = scatter.fisher(), scatter.margin()
                row["confidence"] = scatter.sureness()
                row |= logged(path, step)
                if own and place == path:
                    row["stability"] = _mean(found, own[0], classes)
                rows.append(row)
                maps.append(found)
                own.append(found)
    whole = [m for row, m in zip(rows, maps, strict=True) if row["last"]]
    votes = [_majority([m[k] for m in whole], classes) for k in range(len(images))]
    for row, found in zip(rows, maps, strict=True):
        yield row | {"consensus": _mean(found, votes, classes)}


def _cases(run: Path) -> tuple[list[tuple[Path, ...]], list[np.ndarray]]:
    loaded = load_run(run, checkpoint="last", device="cpu")
    dataset = open_dataset(loaded.recipe.data, loaded.recipe.spec)
    wanted = json.loads((run / "splits.json").read_text("utf-8"))["test"]
    cases = {case.id: case for case in (*dataset.training, *dataset.test)}
    chosen = [cases[name] for name in wanted]
    return (
        [tuple(map(Path, case.images)) for case in chosen],
        [np.asarray(nib.load(case.label).dataobj) for case in chosen if case.label],
    )


def _mean(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], classes: int) -> float:
    pairs = zip(ours, theirs, strict=True)
    return float(np.nanmean([dice(a, b, classes) for a, b in pairs]))


def _majority(maps: Sequence[np.ndarray], classes: int) -> np.ndarray:
    return np.argmax([np.sum([m == k for m in maps], axis=0) for k in range(classes)], axis=0)


# ---------------------------------------------------------------------- what it says


def correlation(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return Spearman's correlation of a criterion with Dice, of ranks within each group."""
    ours: list[float] = []
    theirs: list[float] = []
    for group in sorted({row["group"] for row in rows}):
        own = [row for row in rows if row["group"] == group and name in row]
        if len(own) > 1:
            for values, into in (("dice", theirs), (name, ours)):
                ranks = np.argsort(np.argsort([row[values] for row in own])) / (len(own) - 1)
                into.extend(ranks - ranks.mean())
    return float(spearmanr(ours, theirs).statistic) if len(ours) > 2 else math.nan


def regret(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float]:
    """Return what the liked run of each group falls short of the best, and a run by chance."""
    liked, chance = [], []
    for group in sorted({row["group"] for row in rows}):
        own = [row for row in rows if row["group"] == group and name in row]
        if len(own) > 1:
            best = max(row["dice"] for row in own)
            liked.append(best - max(own, key=lambda row: row[name])["dice"])
            chance.append(best - np.mean([row["dice"] for row in own]))
    return (float(np.mean(liked)), float(np.mean(chance))) if liked else (math.nan, math.nan)


def over_the_last(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float, int, int]:
    """Return what the liked checkpoint of each run has over the last, how often it is an earlier
    one, and the number of runs with two.
    """
    gains = []
    for key in sorted({(row["group"], row["run"]) for row in rows}):
        own = [r for r in rows if (r["group"], r["run"]) == key and name in r]
        if len(own) == 2:
            liked = max(own, key=lambda row: row[name])
            (last,) = (row for row in own if row["last"])
            gains.append((liked["dice"] - last["dice"], liked is not last))
    if not gains:
        return math.nan, 0, 0
    return float(np.mean([g for g, _ in gains])), sum(moved for _, moved in gains), len(gains)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the criteria in Markdown."""
    last = [row for row in rows if row["last"]]
    lines = [
        "| criterion | runs | rank correlation with Dice | its run short of the best "
        "| by chance | its checkpoint minus the last (earlier taken) |",
        "|---|---|---|---|---|---|",
    ]
    for name, what in CRITERIA.items():
        short, chance = regret(last, name)
        gain, moved, pairs = over_the_last(rows, name)
        count = sum(name in row for row in last)
        end = f"{gain:+.4f} ({moved} of {pairs})" if pairs else "-"
        lines.append(
            f"| {name}: {what} | {count} | {correlation(last, name):+.2f} | {short:.4f} "
            f"| {chance:.4f} | {end} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP=RUN,RUN", help="runs to measure")
    parser.add_argument("--output", type=Path, required=True, help="file of the figures")
    asked = parser.parse_args(arguments)
    rows = json.loads(asked.output.read_text("utf-8")) if asked.output.is_file() else []
    for given in asked.groups:
        group, _, names = given.partition("=")
        if any(row["group"] == group for row in rows):
            continue
        rows += measure(group, [Path(name) for name in names.split(",")])
        write_json(asked.output, rows)
    print(*table(rows), sep="\n")


if __name__ == "__main__":
    main()
