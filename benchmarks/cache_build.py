"""How fast scans are preprocessed, in one process and in two, against loading them with nibabel.

`medssl preprocess` fills an empty cache, then two of them, with ``--shard 1/2`` and ``2/2``, fill
another. What a second call takes, which finds everything there, is start-up and left out. With the
data it is the left atrium, else synthetic scans.

    python benchmarks/cache_build.py [--data FOLDER] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from harness import Row, SkipPart, dataset_folder, options_of, run_part
from measuring import child_environment, children_seconds
from synthetic import write_ellipsoids

from medssl.data.datasets.decathlon import read_dataset


@dataclass(frozen=True)
class Taken:
    """Seconds on the clock and of the processor."""

    wall: float
    processor: float


def fill(root: Path, cache: Path, shards: Sequence[str]) -> Taken:
    """Preprocess in as many processes as there are shards."""
    command = [sys.executable, "-m", "medssl", "preprocess", "la_bcp", "--device", "cpu"]
    for key, value in {"root": root, "cache": cache, "labeled": 2, "test": 0}.items():
        command += ["--set", f"data.{key}={value}"]
    command += ["--set", "training.patch=[32,32,16]"]
    started, before = time.perf_counter(), children_seconds()
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen([*command, "--shard", shard], env=child_environment(), **pipes)
        for shard in shards
    ]
    messages = [process.communicate()[1] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"medssl preprocess failed: {' '.join(messages)[-300:]}")
    return Taken(time.perf_counter() - started, children_seconds() - before)


def build(root: Path, cache: Path, shards: Sequence[str]) -> Taken:
    """Return what filling an empty cache takes beyond start-up."""
    first, again = (fill(root, cache, shards) for _ in range(2))
    # On a busy machine the difference of two times can be anything; it cannot be nothing.
    least = 0.01
    wall, processor = first.wall - again.wall, first.processor - again.processor
    return Taken(max(wall, least), max(processor, least))


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield cases per second."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            if options.quick:
                raise SkipPart
            root = dataset_folder(options, "Task102_LeftAtrium")
        except SkipPart:
            shape = (96, 96, 64) if options.quick else (176, 144, 88)
            count = 12 if options.quick else 24
            root = write_ellipsoids(folder / "data", cases=count, shape=shape)
        cases = read_dataset(root).training
        files = [path for case in cases[2:] for path in case.images]
        files += [path for case in cases[:2] for path in (*case.images, case.label)]
        started = time.process_time()
        for path in files:
            np.asarray(nib.load(path).dataobj)
        loading = (time.process_time() - started) / len(cases)
        yield Row("nibabel alone, 1 process", 1 / loading, "cases/s")
        one = build(root, folder / "one", ["1/1"])
        megabytes = sum(path.stat().st_size for path in (folder / "one").glob("*/*.npy")) / 1e6
        two = build(root, folder / "two", ["1/2", "2/2"])
        rate = len(cases) / one.processor
        yield Row(
            "medssl preprocess, 1 process",
            rate,
            "cases/s",
            note=f"{megabytes / one.processor:.0f} MB/s written, of processor time; "
            f"{1 / loading / rate:.1f} times loading alone",
            details={
                "cases": len(cases),
                "megabytes": megabytes,
                "wall_s": one.wall,
                "processor_s": one.processor,
            },
        )
        yield Row(
            "2 processes over 1",
            one.wall / two.wall,
            "times as fast",
            note=f"{len(cases) / two.wall:.1f} cases/s on the clock; processor time "
            f"{two.processor / one.processor:.2f} times that of one",
            details={"wall_s": two.wall, "processor_s": two.processor},
        )


if __name__ == "__main__":
    run_part(options_of(__doc__), measure)
