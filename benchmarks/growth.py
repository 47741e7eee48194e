"""How cost grows with the number of cases, of classes, and with the patch.

Cases: the time to draw a batch, of 10, 100 and 1000 cases; it must stay flat. Classes: a step of
``supervised`` and ``bcp`` with 2, 5 and 14 classes. Patch: a step with cubes of 32 to 96 voxels a
side; the exponent is that of the number of voxels, and 1 is proportional. Check: processor time and
peak memory of ``medssl check`` on 1000, 5000 and 20,000 scans of 24 x 20 x 12 voxels.

    python benchmarks/growth.py [--quick] [--output FILE.json]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from harness import Row, attempt, options_of, run_part
from measuring import device_of, exponent
from method_steps import SteppedMethod, random_batch
from synthetic import write_ellipsoids

from medssl.data.datasets.case import CachedCase
from medssl.data.patches.augment import Augmenter
from medssl.data.patches.sampling import PatchSampler, PatchSettings, Stream
from medssl.data.preprocessing.cache_entry import class_indices
from medssl.device import resolve_precision
from medssl.settings.augment import AugmentSettings
from medssl.settings.spec import DataSpec

NETWORK = {"name": "unet", "channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 0}
METHODS = ("supervised", "bcp")
FILES, SIDE = 10, 64


def make_cases(folder: Path) -> list[CachedCase]:
    """Write a few volumes, and return them as memory-mapped cases."""
    rng, cases = np.random.default_rng(0), []
    for number in range(FILES):
        label = np.zeros((SIDE,) * 3, np.uint8)
        label[tuple(slice(a, a + 16) for a in rng.integers(SIDE - 16, size=3))] = 1
        arrays = {"image": rng.normal(size=(1, *label.shape)).astype(np.float16), "label": label}
        for name, array in arrays.items():
            np.save(folder / f"{name}{number}.npy", array)
        image, label = (np.load(folder / f"{n}{number}.npy", mmap_mode="r") for n in arrays)
        indices = class_indices(label, seed=number)
        cases.append(CachedCase(str(number), str(number), image, label, indices))
    return cases


def draw_ms(cases: list[CachedCase], count: int, draws: int) -> float:
    """Return the median of the milliseconds to draw a batch from ``count`` cases."""
    from statistics import median
    from time import perf_counter

    spec = DataSpec(flip_axes=[0, 1, 2])
    sampler = PatchSampler(
        [cases[i % len(cases)] for i in range(count)],
        Stream("labeled", 0, 4, foreground_fraction=0.5),
        PatchSettings((32, 32, 32), augment=Augmenter(AugmentSettings(), spec, spatial_dims=3)),
    )
    times = []
    for number in range(draws):
        started = perf_counter()
        sampler.batch(number)
        times.append(1000 * (perf_counter() - started))
    return median(times)


def step_s(stepped: SteppedMethod, side: int, classes: int, steps: int) -> float:
    """Return the least seconds of a step."""
    batch = random_batch([side] * 3, 2, classes=classes, device=stepped.device)
    stepped.step(batch)
    return min(stepped.step(batch) for _ in range(steps))


def growth_row(
    what: str, sizes: list[int], cost: Callable[[int], float], *, power: int, target: str = ""
) -> Row:
    """Return the exponent at which a cost grows with ``size ** power``."""
    costs = [cost(size) for size in sizes]
    value = exponent([size**power for size in sizes], costs)
    listed = ", ".join(f"{n}: {1000 * c:.3g} ms" for n, c in zip(sizes, costs, strict=True))
    return Row(what, value, "exponent", target, listed, {"sizes": sizes, "seconds": costs})


COUNTED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""
"""A small process in between: a child's peak memory begins at that of whoever starts it."""


def check_cost(root: Path) -> tuple[float, float]:
    """Return processor seconds and peak memory in MiB of a check of a dataset."""
    command = [sys.executable, "-m", "medssl", "--quiet", "check", str(root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    counted = [sys.executable, "-c", COUNTED, *command]
    shown = subprocess.run(counted, stdout=subprocess.PIPE, env=environment, check=True, text=True)
    code, seconds, mib = shown.stdout.split()
    if code != "0":
        raise RuntimeError(f"the check of {root} ended with exit code {code}")
    return float(seconds), float(mib)


def check_rows(folder: Path, *, quick: bool) -> Iterator[Row]:
    """Yield how the cost of a check grows with the number of scans."""
    counts, seconds, mib = ([40, 80] if quick else [1000, 5000, 20000]), [], []
    for count in counts:
        root = write_ellipsoids(folder / str(count), cases=count, shape=(24, 20, 12))
        spent, peak = check_cost(root)
        seconds.append(spent)
        mib.append(peak)
    listed = ", ".join(f"{n}: {s:.0f} s" for n, s in zip(counts, seconds, strict=True))
    target = "" if quick else "<= 1.1"
    details = {"cases": counts, "seconds": seconds, "mib": mib}
    growth = exponent(counts, seconds)
    yield Row("check: time against cases", growth, "exponent", target, listed, details)
    listed = ", ".join(f"{n}: {m:.0f} MiB" for n, m in zip(counts, mib, strict=True))
    target = "" if quick else "<= 1430"
    yield Row(f"check: memory of {counts[-1]} cases", mib[-1], "MiB", target, listed, details)


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield the ratio of draws, and exponents of steps."""
    device = device_of(options)
    precision = resolve_precision("auto", device)
    draws, steps = (100, 1) if options.quick else (1000, 3)
    with tempfile.TemporaryDirectory() as folder:
        cases, counts = make_cases(Path(folder)), [10, 100, 1000]
        draw_ms(cases, 10, 50)
        times = [draw_ms(cases, count, draws) for count in counts]
    listed = ", ".join(f"{n}: {t:.2f} ms" for n, t in zip(counts, times, strict=True))
    details = {"cases": counts, "ms": times}
    yield Row(
        "cases: a draw from 1000 over one from 10",
        times[-1] / times[0],
        "",
        "" if options.quick else "<= 1.2",
        listed,
        details,
    )
    with tempfile.TemporaryDirectory() as folder:
        yield from check_rows(Path(folder), quick=options.quick)
    side, sides = (16, [16, 24, 32]) if options.quick else (48, [32, 48, 64, 96])
    for method in METHODS:

        def method_of(side: int, classes: int, method: str = method) -> SteppedMethod:
            return SteppedMethod(
                method,
                patch=[side] * 3,
                network=NETWORK,
                classes=classes,
                device=device,
                precision=precision,
            )

        def of_classes(classes: int, method_of: Callable[..., SteppedMethod] = method_of) -> float:
            return step_s(method_of(side, classes), side, classes, steps)

        def of_side(side: int, method_of: Callable[..., SteppedMethod] = method_of) -> float:
            return step_s(method_of(side, 2), side, 2, steps)

        what = f"{method}: a step against classes"
        yield attempt(
            what, lambda w=what, f=of_classes: growth_row(w, [2, 5, 14], f, power=1, target="<= 1")
        )
        what = f"{method}: a step against voxels"
        target = "" if options.quick else "<= 1.1"
        yield attempt(
            what,
            lambda w=what, f=of_side, t=target: growth_row(w, sides, f, power=3, target=t),
        )


if __name__ == "__main__":
    run_part(options_of(__doc__), measure)
