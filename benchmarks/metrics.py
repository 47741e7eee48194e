"""Time medssl's metrics against MONAI's on the same label maps, and check that the values agree.

    python benchmarks/metrics.py [--output metrics.json] [--repeats 3] [--very-noisy]

Ratios within one run are what counts; the seconds are CPU time of this process on one thread.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai
import numpy as np
import scipy
import torch
from monai.metrics import (
    DiceMetric,
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from rich.console import Console
from rich.table import Table

from medssl.data.case import LabelMap
from medssl.evaluation import confusion_matrix, dice_per_class, evaluate_case

SHAPE, SPACING, TOLERANCE = (256, 256, 100), (0.9, 0.9, 2.0), 2.0
ONE = LabelMap((0, 1), ("background", "ellipsoid"))
AGREEMENT = 1e-4  # relative; MONAI computes in float32


def ellipsoid(center: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """Return a solid ellipsoid as uint8, radii in voxels."""
    grid = np.indices(SHAPE, dtype=np.float32)
    return (sum(((g - c) / r) ** 2 for g, c, r in zip(grid, center, radii, strict=True)) <= 1) * 1


def make_pairs(very_noisy: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (prediction, reference) of one structure: good, and under salt noise."""
    reference = ellipsoid((128, 128, 50), (60, 50, 30)).astype(np.uint8)
    good = ellipsoid((130, 127, 51), (59, 51, 30)).astype(np.uint8)
    good[20:24, 20:24, 10:12] = 1
    rng = np.random.default_rng(0)
    pairs = {"good prediction": (good, reference)}
    for percent in (2, 30) if very_noisy else (2,):
        salt = rng.random(SHAPE) < percent / 100
        pairs[f"{percent} % salt noise"] = (good | salt, reference)
    return pairs


def ours(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Run evaluate_case: every metric of the row."""
    row = evaluate_case(
        prediction,
        reference,
        spacing=SPACING,
        label_map=ONE,
        case_id="benchmark",
        nsd_tolerance=TOLERANCE,
        voxel_metrics=False,
    )[0]
    return {key: row[key] for key in ("dice", "hd95_mm", "assd_mm", "nsd")}


def monais(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Run MONAI's functions for the same four numbers."""
    y_pred, y = (torch.from_numpy(a)[None, None] for a in (prediction, reference))
    options = {"include_background": True, "spacing": SPACING}
    return {
        "dice": compute_dice(y_pred, y).item(),
        "hd95_mm": compute_hausdorff_distance(y_pred, y, percentile=95, **options).item(),
        "assd_mm": compute_average_surface_distance(y_pred, y, symmetric=True, **options).item(),
        "nsd": compute_surface_dice(y_pred, y, class_thresholds=[TOLERANCE], **options).item(),
    }


def label_maps(num_classes: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Return two label maps of blocks, the prediction shifted and noisy."""
    blocks = np.indices(SHAPE) // np.array([64, 64, 25]).reshape(3, 1, 1, 1)
    reference = ((blocks[0] * 4 + blocks[1] + 3 * blocks[2]) % num_classes).astype(np.uint8)
    prediction = np.roll(reference, 3, axis=0)
    rng = np.random.default_rng(1)
    noise = rng.random(SHAPE) < 0.02
    prediction[noise] = rng.integers(0, num_classes, noise.sum())
    return prediction, reference


def our_dice(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Dice of 13 structures from one confusion matrix."""
    dice = dice_per_class(confusion_matrix(prediction, reference, 14))
    return {str(i): float(dice[i]) for i in range(1, 14)}


def monai_dice(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Dice of 13 structures by DiceMetric on label maps."""
    metric = DiceMetric(include_background=False, num_classes=14, reduction="none")
    y_pred, y = (torch.from_numpy(a)[None, None] for a in (prediction, reference))
    return {str(i + 1): float(v) for i, v in enumerate(metric(y_pred, y)[0])}


def best_time(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the least CPU seconds of a few runs, and the result."""
    times, result = [], None
    for _ in range(repeats):
        start = time.process_time()
        result = run()
        times.append(time.process_time() - start)
    return min(times), result


def compare(
    name: str,
    pair: tuple[np.ndarray, np.ndarray],
    functions: tuple[Callable[..., dict], Callable[..., dict]],
    repeats: int,
) -> dict[str, Any]:
    """Time both functions on a pair of maps and compare their values.

    Raises:
        SystemExit: a value differs although both state the same definition.
    """
    seconds, values = zip(
        *(best_time(lambda f=f: f(*pair), repeats) for f in functions), strict=True
    )
    for key, value in values[0].items():
        if not np.isclose(value, values[1][key], rtol=AGREEMENT, atol=1e-6):
            raise SystemExit(f"{name}: {key} is {value} here and {values[1][key]} in MONAI")
    return {
        "name": name,
        "medssl_cpu_s": seconds[0],
        "monai_cpu_s": seconds[1],
        "ratio": seconds[1] / seconds[0],
        "values": values[0],
    }


def main() -> None:
    """Run the comparison, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="where to write the figures as JSON")
    parser.add_argument("--repeats", type=int, default=3, help="best of N runs (default 3)")
    parser.add_argument("--very-noisy", action="store_true", help="add 30 %% noise (a minute)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    results = [
        compare(f"Dice, HD95, ASSD, NSD: {name}", pair, (ours, monais), arguments.repeats)
        for name, pair in make_pairs(arguments.very_noisy).items()
    ]
    results.append(
        compare("Dice of 13 structures", label_maps(), (our_dice, monai_dice), arguments.repeats)
    )
    table = Table(title=f"Metrics on {SHAPE} voxels, CPU seconds, values agree to {AGREEMENT:g}")
    for heading in ("what", "medssl", "MONAI", "MONAI / medssl"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for r in results:
        seconds = f"{r['medssl_cpu_s']:.3f}", f"{r['monai_cpu_s']:.3f}"
        table.add_row(r["name"], *seconds, f"{r['ratio']:.1f}")
    Console().print(table)
    if arguments.output:
        versions = {m.__name__: m.__version__ for m in (monai, np, scipy, torch)}
        versions["python"] = platform.python_version()
        arguments.output.write_text(
            json.dumps({"versions": versions, "results": results}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
