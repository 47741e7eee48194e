"""Time medssl's metrics against MONAI's on the same label maps, and check that the values agree.

    python benchmarks/metrics.py [--repeats 3] [--very-noisy] [--output FILE.json]

Ratios within one run are what counts; the seconds are CPU time of this process on one thread.
"""

from __future__ import annotations

import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from harness import Row, options_of, run_part
from monai.metrics import (
    DiceMetric,
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)

from medssl.data.datasets.case import LabelMap
from medssl.evaluation.case_metrics import Measures, evaluate_case
from medssl.evaluation.overlap import confusion_matrix, dice_per_class

SHAPE, QUICK_SHAPE = (256, 256, 100), (96, 96, 40)
SPACING, TOLERANCE = (0.9, 0.9, 2.0), 2.0
ONE = LabelMap((0, 1), ("background", "ellipsoid"))
AGREEMENT = 1e-4  # relative; MONAI computes in float32


def ellipsoid(shape: tuple[int, ...], center: list[float], radii: list[float]) -> np.ndarray:
    """Return a solid ellipsoid as uint8; center and radii in voxels."""
    grid = np.indices(shape, dtype=np.float32)
    inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, center, radii, strict=True)) <= 1
    return inside.astype(np.uint8)


def make_pairs(
    shape: tuple[int, ...], very_noisy: bool
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (prediction, reference) of one structure: good, and under salt noise."""
    center = [n / 2 for n in shape]
    radii = [n * share for n, share in zip(shape, (0.23, 0.2, 0.3), strict=True)]
    reference = ellipsoid(shape, center, radii)
    shifted = [c + d for c, d in zip(center, (2, -1, 1), strict=True)]
    good = ellipsoid(shape, shifted, [r - d for r, d in zip(radii, (1, -1, 0), strict=True)])
    good[2:6, 2:6, 1:3] = 1
    rng = np.random.default_rng(0)
    pairs = {"good prediction": (good, reference)}
    for percent in (2, 30) if very_noisy else (2,):
        salt = rng.random(shape) < percent / 100
        pairs[f"{percent} % salt noise"] = (good | salt, reference)
    return pairs


def ours(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Run evaluate_case: every metric of the row."""
    row = evaluate_case(
        prediction,
        reference,
        Measures(TOLERANCE),
        spacing=SPACING,
        label_map=ONE,
        case_id="benchmark",
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
        "nsd": compute_surface_dice(
            y_pred, y, class_thresholds=[TOLERANCE], use_subvoxels=True, **options
        ).item(),
    }


def label_maps(shape: tuple[int, ...], num_classes: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Return two label maps of blocks, the prediction shifted and noisy."""
    blocks = np.indices(shape) // np.array([n // 4 for n in shape]).reshape(3, 1, 1, 1)
    reference = ((blocks[0] * 4 + blocks[1] + 3 * blocks[2]) % num_classes).astype(np.uint8)
    prediction = np.roll(reference, 3, axis=0)
    rng = np.random.default_rng(1)
    noise = rng.random(shape) < 0.02
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
) -> Row:
    """Time both functions on a pair of maps and compare their values.

    Raises:
        ValueError: a value differs although both state the same definition.
    """
    seconds, values = zip(
        *(best_time(lambda f=f: f(*pair), repeats) for f in functions), strict=True
    )
    for key, value in values[0].items():
        if not np.isclose(value, values[1][key], rtol=AGREEMENT, atol=1e-6):
            raise ValueError(f"{name}: {key} is {value} here and {values[1][key]} in MONAI")
    return Row(
        name,
        seconds[1] / seconds[0],
        "times as fast",
        ">= 1",
        f"{seconds[0]:.3f} s, MONAI {seconds[1]:.3f} s; values agree to {AGREEMENT:g}",
        {"medssl_s": seconds[0], "monai_s": seconds[1], "values": values[0]},
    )


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield MONAI's time over medssl's."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
    shape, repeats = (QUICK_SHAPE, 1) if options.quick else (SHAPE, options.repeats)
    for name, pair in make_pairs(shape, options.very_noisy).items():
        yield compare(f"Dice, HD95, ASSD, NSD: {name}", pair, (ours, monais), repeats)
    yield compare("Dice of 13 structures", label_maps(shape), (our_dice, monai_dice), repeats)


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="best of N runs (default 3)")
    parser.add_argument("--very-noisy", action="store_true", help="add 30 %% noise (a minute)")
    run_part(parser, measure)
