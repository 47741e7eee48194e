"""How often an interval of a mean over patients holds the true mean, by the number of patients.

    python benchmarks/coverage.py                                  # the table
    python benchmarks/coverage.py --write                          # and to the package and the docs
    python benchmarks/coverage.py --cases RUN/evaluation/test/cases.csv --cases compare.csv
    python benchmarks/coverage.py --keep NAME compare.csv          # add it to coverage_cases.csv

Studies of n patients are drawn from distributions whose mean is known; each gives a 95 % interval
by Student's t (what medssl uses), by the percentile bootstrap and by BCa; the share that holds the
true mean is the coverage. Rows of real results are drawn, with replacement, from the patients' Dice
and paired gains kept in ``coverage_cases.csv``, and from those of ``--cases``: the Dice of a
finished run (``cases.csv``) or the gains of a comparison (``compare.csv``). There the mean of the
file is the truth.

Every draw and every resample is addressed by the seed, the distribution and n, so the table repeats
itself. A figure of 20,000 studies is off by 0.2 points (one standard error where it is 90 %).

Source of BCa: Efron, Better bootstrap confidence intervals, JASA 82 (1987).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from medssl.evaluation.coverage import COVERAGE_FILE

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
"""From a generator and ``(studies, patients)`` to values of that shape."""

SIZES = (3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 40)
DRAWS, RESAMPLES = 20_000, 999
LEVEL = 0.95
METHODS = ("t", "percentile", "bca")
STORED = Path(__file__).with_name("coverage_cases.csv")
DOCS = Path(__file__).resolve().parents[1] / "docs" / "verdict.md"
START, END = "<!-- coverage: made by benchmarks/coverage.py --write -->", "<!-- end -->"
_BLOCK = 1000
"""Studies that share their resamples: a product of two matrices instead of a draw for each."""


@dataclass(frozen=True)
class Distribution:
    """Where the patients' values come from.

    Attributes:
        name: key in the file of figures.
        what: in words, for the table.
        truth: the mean.
        draw: draws studies.
    """

    name: str
    what: str
    truth: float
    draw: Draw


def _failing(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """One patient in ten fails: Beta(2, 8), mean 0.2; the others are Beta(20, 4)."""
    bad = rng.random(shape) < 0.1
    return np.where(bad, rng.beta(2, 8, shape), rng.beta(20, 4, shape))


DISTRIBUTIONS = (
    Distribution(
        "beta_20_4",
        "Dice as Beta(20, 4): mean 0.83, no failures",
        20 / 24,
        lambda rng, shape: rng.beta(20, 4, shape),
    ),
    Distribution(
        "beta_9_1",
        "Dice as Beta(9, 1): mean 0.90, skewed",
        0.9,
        lambda rng, shape: rng.beta(9, 1, shape),
    ),
    Distribution(
        "heavy_gains",
        "gains with heavy tails: 0.01 + 0.02 times a t of 3 degrees of freedom",
        0.01,
        lambda rng, shape: 0.01 + 0.02 * rng.standard_t(3, shape),
    ),
    Distribution(
        "one_in_ten_fails",
        "one patient in ten fails badly: Beta(2, 8), else Beta(20, 4)",
        0.1 * 0.2 + 0.9 * 20 / 24,
        _failing,
    ),
)


def t_ends(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of Student's t interval of each study ``(studies, patients)``.

    The formula of :func:`medssl.evaluation.statistics.mean_interval`, for all studies at once.
    """
    n = values.shape[1]
    half = student.ppf((1 + LEVEL) / 2, n - 1) * values.std(1, ddof=1) / math.sqrt(n)
    return values.mean(1) - half, values.mean(1) + half


def bootstrap_ends(
    values: np.ndarray, rng: np.random.Generator, resamples: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the ends of the percentile and the BCa bootstrap interval of each study."""
    n = values.shape[1]
    times = rng.multinomial(n, np.full(n, 1 / n), resamples).astype(np.float32) / n
    centered = values - values.mean(1, keepdims=True)
    means = np.sort(centered.astype(np.float32) @ times.T, axis=1)  # (studies, resamples)
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # Means below the one seen; ties, which few patients make often, count half.
    eps = 1e-6 * np.abs(means).max(1, keepdims=True)
    below = (means < -eps).sum(1) + 0.5 * (np.abs(means) <= eps).sum(1)
    shift = norm.ppf(np.clip(below / resamples, 1 / resamples, 1 - 1 / resamples))
    size = (centered**2).sum(1)
    skew = (centered**3).sum(1) / (6 * np.maximum(size, 1e-30) ** 1.5)
    moved = shift[:, None] + norm.ppf(tails)
    corrected = norm.cdf(shift[:, None] + moved / (1 - skew[:, None] * moved))
    found = {}
    for name, levels in (("percentile", np.broadcast_to(tails, moved.shape)), ("bca", corrected)):
        ends = _quantiles(means, levels) + values.mean(1, keepdims=True)
        found[name] = (ends[:, 0], ends[:, 1])
    return found


def _quantiles(ordered: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return quantiles of ``(studies, resamples)``, sorted, at ``(studies, 2)`` levels each."""
    place = levels * (ordered.shape[1] - 1)
    low = np.clip(np.floor(place).astype(int), 0, ordered.shape[1] - 2)
    share = place - low
    first, second = (np.take_along_axis(ordered, low + step, axis=1) for step in (0, 1))
    return first * (1 - share) + second * share


def coverage_of(
    distribution: Distribution,
    n: int,
    *,
    draws: int = DRAWS,
    resamples: int = RESAMPLES,
    methods: Sequence[str] = METHODS,
) -> dict[str, float]:
    """Return the share of studies of n patients whose interval holds the truth, by method."""
    hits = dict.fromkeys(methods, 0)
    rng = np.random.default_rng([zlib.crc32(distribution.name.encode()), n])
    done = 0
    while done < draws:
        size = min(_BLOCK, draws - done)
        values = distribution.draw(rng, (size, n))
        ends = {"t": t_ends(values)}
        if set(methods) - {"t"}:
            ends |= bootstrap_ends(values, rng, resamples)
        for name in methods:
            low, high = ends[name]
            hits[name] += int(((low <= distribution.truth) & (distribution.truth <= high)).sum())
        done += size
    return {name: count / draws for name, count in hits.items()}


def table_of(
    distributions: Sequence[Distribution], sizes: Sequence[int] = SIZES, *, draws: int = DRAWS
) -> dict[str, dict[str, dict[str, float]]]:
    """Return coverage by distribution, number of patients and method."""
    return {
        one.name: {
            str(n): {k: round(v, 4) for k, v in coverage_of(one, n, draws=draws).items()}
            for n in sizes
        }
        for one in distributions
    }


def read_results(path: Path) -> dict[str, np.ndarray]:
    """Return the patients' values in a file of results, by what they are.

    A patient's value is the mean over its cases and structures; of ``cases.csv`` each case counts
    as a patient.

    Returns:
        ``Dice`` of ``cases.csv``; ``Dice`` (of the baseline) and ``gain`` of ``compare.csv``.

    Raises:
        ValueError: the file is neither, or compares several methods.
    """
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = set(rows[0]) if rows else set()
    found: dict[str, dict[str, list[float]]] = {}
    experiments = {row.get("experiment", row.get("arm")) for row in rows}  # "arm": of 0.1.0
    if "dice_difference" in columns and len(experiments) == 1:
        rows = [row for row in rows if row["name"] == "mean" and row["dice_difference"]]
        for row in rows:
            for what, column in (("Dice", "dice_baseline"), ("gain", "dice_difference")):
                own = found.setdefault(what, {}).setdefault(row["patient"], [])
                own.append(float(row[column]))
    elif {"case", "dice", "status"} <= columns:
        for row in rows:
            if row["dice"]:
                found.setdefault("Dice", {}).setdefault(row["case"], []).append(float(row["dice"]))
    if not found:
        raise ValueError(f"{path} is neither cases.csv nor compare.csv of two methods")
    return {what: np.array([np.mean(v) for v in own.values()]) for what, own in found.items()}


def stored_results() -> list[Distribution]:
    """Return the distributions of the results that are kept in ``coverage_cases.csv``."""
    if not STORED.is_file():
        return []
    with open(STORED, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    out = []
    for name in dict.fromkeys(row["set"] for row in rows):
        for what in ("Dice", "gain"):
            values = np.array([float(row[what]) for row in rows if row["set"] == name])
            out.append(resampled(f"{name}: {what}", values))
    return out


def resampled(name: str, values: np.ndarray) -> Distribution:
    """Return the distribution of draws with replacement from the values of patients."""
    what = f"{name} of {len(values)} patients, resampled"
    return Distribution(
        name, what, float(values.mean()), lambda rng, shape: rng.choice(values, shape)
    )


def keep_results(name: str, path: Path) -> None:
    """Add the patients of a ``compare.csv`` to the results that are kept, without their ids."""
    values = read_results(path)
    new = not STORED.is_file()
    with open(STORED, "a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(("set", "Dice", "gain"))
        for dice, gain in zip(values["Dice"], values["gain"], strict=True):
            writer.writerow((name, f"{dice:.5f}", f"{gain:.5f}"))


def markdown(
    table: Mapping[str, Mapping[str, Mapping[str, float]]], what: Mapping[str, str]
) -> str:
    """Lay the table out: a row per distribution and method, a column per number of patients."""
    sizes = list(next(iter(table.values())))
    lines = [f"| patients | | {' | '.join(sizes)} |", f"|---|---|{'---|' * len(sizes)}"]
    titles = {"t": "**t**", "percentile": "percentile", "bca": "BCa"}
    for name, rows in table.items():
        for method in METHODS:
            cells = " | ".join(f"{100 * rows[n][method]:.1f}" for n in sizes)
            text = what[name] if method == METHODS[0] else ""
            lines.append(f"| {text} | {titles[method]} | {cells} |")
    return "\n".join(lines)


def write(table: Mapping[str, Mapping[str, Mapping[str, float]]], what: dict[str, str]) -> None:
    """Store the figures in the package, and the table in the docs."""
    before = json.loads(COVERAGE_FILE.read_text(encoding="utf-8"))
    content = {
        "made_by": "benchmarks/coverage.py --write",
        "draws": DRAWS,
        "level": LEVEL,
        "what": what,
        "coverage": table,
        "crossval": before["crossval"],  # of crossval_coverage.py
    }
    COVERAGE_FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    page = DOCS.read_text(encoding="utf-8")
    head, rest = page.split(START)
    after = rest.split(END, 1)[1]
    DOCS.write_text(f"{head}{START}\n\n{markdown(table, what)}\n\n{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=DRAWS, help="studies per figure")
    parser.add_argument("--cases", type=Path, action="append", default=[], help="more results")
    parser.add_argument("--keep", nargs=2, metavar=("NAME", "FILE"), help="keep a compare.csv")
    parser.add_argument("--write", action="store_true", help="to the package and docs/verdict.md")
    asked = parser.parse_args(arguments)
    if asked.write and (asked.draws != DRAWS or asked.cases):
        parser.error(f"--write stores fixed and kept distributions with {DRAWS} draws, no others")
    if asked.keep:
        keep_results(asked.keep[0], Path(asked.keep[1]))
    started = time.process_time()
    chosen = [*DISTRIBUTIONS, *stored_results()]
    for path in asked.cases:
        chosen += [resampled(f"{path}: {k}", v) for k, v in read_results(path).items()]
    table = table_of(chosen, draws=asked.draws)
    what = {one.name: one.what for one in chosen}
    print(markdown(table, what))
    seconds = time.process_time() - started
    print(f"\n{asked.draws} draws a figure, {seconds:.0f} s of processor time")
    if asked.write:
        write(table, what)


if __name__ == "__main__":
    main()
