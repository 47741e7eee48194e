"""How often intervals of real cross-validations hold the truth: many small ones, all of it known.

    python benchmarks/crossval_coverage.py ROWS.csv                 # go on until all draws are made
    python benchmarks/crossval_coverage.py ROWS.csv --write         # to the package and the docs

Simulated studies (``coverage.py``) draw the patients' scores independently of each other. Those of
a cross-validation are not: patients of a fold share a model, and models share patients. So here
each draw makes eight new patients of a toy task, cross-validates a method and its labeled-only twin
on them as ``medssl crossval`` does, and takes the intervals that it states: of the gain (the
verdict's) and of each method's Dice. The truth is the mean over the draw's fold models on 200 other
patients, the same for all draws.

The toy task: a ball in noise, its size, place and contrast the patient's own, beside a smaller
distractor. A volume is one window, so all hidden patients pass in one batch; that this is what the
run's own evaluation computes is checked on the patients it was measured on. A draw takes about 8 s.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml

from medssl.comparison.experiments import read_run
from medssl.cross_validation.deal import CrossvalSettings
from medssl.cross_validation.plan import CrossvalPlan, PlannedFold, plan_crossval
from medssl.cross_validation.pool import OUT_OF_FOLD, SPLIT
from medssl.cross_validation.summary import summarize_crossval
from medssl.evaluation.coverage import COVERAGE_FILE
from medssl.evaluation.failures import upper_bound
from medssl.models.loaded_run import load_run
from medssl.progress import Display
from medssl.runs.folder import RunFolder
from medssl.workflows import training_run
from medssl.workflows.train import train

SHAPE = (16, 16, 8)
PATIENTS, UNLABELED, HIDDEN, DRAWS = 8, 12, 200, 100
_HIDDEN_SEED = 10**6
DOCS = Path(__file__).resolve().parents[1] / "docs" / "verdict.md"
START, END = "<!-- crossval: made by benchmarks/crossval_coverage.py --write -->", "<!-- end -->"
COLUMNS = ("draw", "what", "truth", "mean", "low", "high", "seconds")
WHAT = {
    "gain": "gain of `mean_teacher` over `supervised`",
    "mean_teacher": "Dice of `mean_teacher`",
    "supervised": "Dice of `supervised`",
}


def toy_patient(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return image ``SHAPE`` float32 and label uint8 of a patient."""
    rng = np.random.default_rng([seed, 20])
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1)

    def ball(center: np.ndarray, radius: float) -> np.ndarray:
        return (((grid - center) / (radius * np.array([1, 1, 0.6]))) ** 2).sum(-1) <= 1

    middle = np.array(SHAPE) / 2
    center = middle + rng.uniform(-1, 1, 3) * (3, 3, 1)
    label = ball(center, rng.uniform(3, 5))
    other = ball(np.array(SHAPE) * rng.uniform(0.1, 0.9, 3), rng.uniform(1.5, 2.5)) & ~label
    contrast = max(rng.normal(2.0, 0.6), 0.5)
    image = contrast * label + 0.7 * contrast * other + rng.normal(0, 1, SHAPE)
    return image.astype(np.float32), label.astype(np.uint8)


def write_patients(root: Path, first: int) -> None:
    """Write a draw's patients, with labels and without, as a Decathlon folder."""
    for folder in ("imagesTr", "labelsTr", "imagesUn"):
        (root / folder).mkdir(parents=True)
    items = []
    for i in range(PATIENTS + UNLABELED):
        image, label = toy_patient(first + i)
        name = f"case_{i:02d}.nii.gz"
        folder = "imagesTr" if i < PATIENTS else "imagesUn"
        nib.save(nib.Nifti1Image(image, np.eye(4)), root / folder / name)
        if i < PATIENTS:
            nib.save(nib.Nifti1Image(label, np.eye(4)), root / "labelsTr" / name)
            items.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    labels = {"0": "background", "1": "ball"}
    header = {"name": "toy", "modality": {"0": "MRI"}, "labels": labels, "training": items}
    (root / "dataset.json").write_text(json.dumps(header))


def recipe_of(root: Path, seed: int) -> dict[str, Any]:
    """Return the recipe of a draw."""
    return {
        "name": "toy",
        "seed": seed,
        "data": {"root": str(root / "data"), "labeled": None, "cache": str(root / "cache")},
        "spec": {"intensity": {"rule": "none"}, "orientation": None, "flip_axes": [0, 1]},
        "network": {"name": "unet", "channels": [6, 12], "strides": [2]},
        "method": {"name": "mean_teacher", "ema_decay": 0.9, "mixing": "none"},
        "training": {
            "iterations": 30,
            "patch": list(SHAPE),
            "optimizer": {"name": "adam", "lr": 0.02},
            "log_every": 30,
            "validate_every": 1000,
            "checkpoint_every": 1000,
            "precision": "fp32",
            "workers": 0,
        },
    }


def dice_of(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the Dice ``(patients,)`` of masks ``(patients, *SHAPE)``."""
    axes = (1, 2, 3)
    shared = (predicted & truth).sum(axes)
    return 2 * shared / (predicted.sum(axes) + truth.sum(axes))


@torch.no_grad()
def scores_of(run: PlannedFold, first: int, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the Dice of a run's model on patients ``(patients, *SHAPE)``, all in one batch.

    Args:
        run: trained and measured.
        first: number of the draw's first patient.
        images, labels: of the patients.

    Raises:
        RuntimeError: such a batch does not give what the run's own evaluation measured.
    """
    measured = {case: row["dice"] for (case, _), row in read_run(run.path, SPLIT).rows.items()}
    own = [toy_patient(first + int(case.split("_")[1])) for case in measured]
    model = load_run(run.path, checkpoint="last", device="cpu").predictor.model.eval()
    both = np.concatenate([np.stack([image for image, _ in own]), images])
    truth = np.concatenate([np.stack([label for _, label in own]), labels])
    logits = model(torch.from_numpy(both)[:, None])
    found = dice_of(logits.argmax(1).numpy() > 0, truth > 0)
    if not np.allclose(found[: len(own)], [float(v) for v in measured.values()], atol=2e-5):
        raise RuntimeError(f"{run.path}: {found[: len(own)]} instead of {measured}")
    return found[len(own) :]


def truths_of(
    plan: CrossvalPlan, first: int, images: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Return the mean Dice over fold models and hidden patients of each method, and the gain."""
    found = {
        method: float(np.mean([scores_of(r, first, images, labels) for r in plan.of(method, 0)]))
        for method in plan.methods
    }
    one, other = found.values()
    return {"gain": one - other, **found}


def one_draw(draw: int, images: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Cross-validate new patients; return a row for the gain and for the Dice of each method."""
    started, first = time.process_time(), draw * (PATIENTS + UNLABELED)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_patients(root / "data", first)
        recipe = root / "toy.yaml"
        recipe.write_text(yaml.safe_dump(recipe_of(root, draw)))
        quiet = Display(quiet=True)
        plan = plan_crossval(recipe, CrossvalSettings(), output=root / "cv", display=quiet)
        for run in plan.runs:
            train(recipe, overrides=run.overrides, output=run.path, device="cpu")
        summary = summarize_crossval(plan)
        truths = truths_of(plan, first, images, labels)
        files = {m: RunFolder(plan.division_folder(m, 0)) for m in plan.methods}
        wholes = {
            method: json.loads((file.evaluation(OUT_OF_FOLD) / "summary.json").read_text())
            for method, file in files.items()
        }
    seconds = time.process_time() - started
    gain = summary["comparisons"][0]["structures"]["mean"]["metrics"]["dice"]
    stated = {"gain": (gain["difference"], gain["low"], gain["high"])}
    for method, whole in wholes.items():
        dice = whole["overall"]["metrics"]["dice"]
        stated[method] = (dice["mean"], dice["low"], dice["high"])
    return [
        dict(zip(COLUMNS, (draw, what, truths[what], *stated[what], seconds), strict=True))
        for what in WHAT
    ]


def make_rows(path: Path, draws: int) -> None:
    """Make the draws that a file of rows lacks, and append them."""
    torch.set_num_threads(1)
    # Pictures take two thirds of so short a run, and nobody looks at them.
    training_run.write_previews = lambda *_, **__: None
    hidden = [toy_patient(_HIDDEN_SEED + i) for i in range(HIDDEN)]
    images, labels = (np.stack(parts) for parts in zip(*hidden, strict=True))
    done = {int(row["draw"]) for row in read_rows(path)}
    for draw in range(draws):
        if draw in done:
            continue
        rows = one_draw(draw, images, labels)
        new = not path.is_file()
        with open(path, "a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows made so far."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def figures_of(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return what the package keeps: how many of the intervals held the truth, and their bias."""
    found: dict[str, Any] = {}
    for what in WHAT:
        own = [row for row in rows if row["what"] == what]
        truth, mean, low, high = (
            np.array([float(row[key]) for row in own]) for key in ("truth", "mean", "low", "high")
        )
        held = int(((low <= truth) & (truth <= high)).sum())
        found[what] = {
            "draws": len(own),
            "held": held,
            "truth": round(float(truth.mean()), 4),
            "bias": round(float((mean - truth).mean()), 4),
            "error": round(float(np.sqrt(((mean - truth) ** 2).mean())), 4),
            "width": round(float((high - low).mean()), 4),
        }
    return {"patients": PATIENTS, "folds": 4, "hidden": HIDDEN, "what": found}


def markdown(figures: Mapping[str, Any]) -> str:
    """Lay the figures out."""
    lines = [
        "| interval of | draws | held the truth | true mean | out-of-fold mean minus truth: mean, "
        "root mean square | mean width |",
        "|---|---|---|---|---|---|",
    ]
    for what, row in figures["what"].items():
        n, held = row["draws"], row["held"]
        low, high = (
            1 - upper_bound(n - held, n, confidence=0.975),
            upper_bound(held, n, confidence=0.975),
        )
        lines.append(
            f"| {WHAT[what]} | {n} | **{100 * held / n:.0f} %** ({100 * low:.0f} to "
            f"{100 * high:.0f}) | {row['truth']:+.3f} | {row['bias']:+.4f}, {row['error']:.4f} | "
            f"{row['width']:.3f} |"
        )
    return "\n".join(lines)


def write(figures: Mapping[str, Any]) -> None:
    """Store the figures in the package, and the table in the docs."""
    content = json.loads(COVERAGE_FILE.read_text(encoding="utf-8"))
    content["crossval"] = figures
    COVERAGE_FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    before, rest = DOCS.read_text(encoding="utf-8").split(START)
    after = rest.split(END, 1)[1]
    DOCS.write_text(f"{before}{START}\n\n{markdown(figures)}\n\n{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", type=Path, help="CSV file of the draws, which is added to")
    parser.add_argument("--draws", type=int, default=DRAWS, help="how many there shall be")
    parser.add_argument("--write", action="store_true", help="to the package and docs/verdict.md")
    asked = parser.parse_args(arguments)
    make_rows(asked.rows, asked.draws)
    figures = figures_of(read_rows(asked.rows))
    print(markdown(figures))
    if asked.write:
        write(figures)


if __name__ == "__main__":
    main()
