"""Peak memory and time of segmenting a full-size CT with many classes, by one network and by five.

Writes a synthetic 512 x 512 x 600 int16 CT of 0.8 x 0.8 x 1 mm and has `medssl predict` segment it:
with a fold of a cross-validation that was trained for five iterations, and with all its folds. Each
prediction is a process of its own; its peak of resident memory is all that it ever used, libraries
included. Small cases are compared voxel by voxel with the textbook mean over windows in
``tests/inference/test_sliding_window.py``.

    python benchmarks/inference_memory.py [--members 5] [--spacing 1 1 1] [--uncertainty] [--quick]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from harness import Row, options_of, run_part
from measuring import child_environment
from synthetic import write_ellipsoids

import medssl

SPACING_MM = (0.8, 0.8, 1.0)
AFFINE = nib.affines.from_matvec(np.diag(SPACING_MM) * [-1, -1, 1], [200.0, 200.0, -300.0])


def write_ct(path: Path, shape: tuple[int, ...]) -> None:
    """Write a CT-like volume plane by plane: a body of soft tissue in air, with noise."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij")
    body = (x**2 + (1.4 * y) ** 2 < 0.7).astype(np.int16)
    volume = np.empty(shape, np.int16)
    for k in range(shape[2]):
        noise = rng.integers(-30, 30, shape[:2], dtype=np.int16)
        volume[..., k] = -1000 + body * np.int16(1040) + noise
    nib.save(nib.Nifti1Image(volume, AFFINE), path)


def train_members(options: Namespace, folder: Path) -> Path:
    """Return a cross-validation of as many folds as members are wanted, hardly trained."""
    patch = list(options.patch)
    data = write_ellipsoids(
        folder / "data",
        cases=max(options.members, 3),
        shape=patch,
        classes=options.classes,
        spacing=SPACING_MM,
    )
    recipe = {
        "name": "members",
        "data": {"root": str(data), "test": 0, "cache": str(folder / "cache")},
        "spec": {
            "modality": "MR",
            "spacing": list(options.spacing) if options.spacing else "native",
            "intensity": {"rule": "window", "lower": -160, "upper": 240},
        },
        "network": {
            "name": "unet",
            "channels": [4, 8, 16],
            "strides": [2, 2],
            "num_res_units": 0,
        },
        "method": {"name": "supervised"},
        "training": {"iterations": 5, "patch": patch, "labeled_batch": 1, "workers": 0},
        "inference": {"overlap": options.overlap, "memory_gb": options.memory_gb},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    output = folder / "folds"
    medssl.crossval(
        folder / "recipe.yaml",
        folds=max(options.members, 3),
        baseline="none",
        output=output,
        device=options.device,
        pictures=False,
    )
    return output


def predict(options: Namespace, model: Path, scan: Path, output: Path) -> tuple[float, float]:
    """Return the processor seconds of `medssl predict`, and its peak of resident memory in GB."""
    command = [sys.executable, "-m", "medssl", "predict", str(model), str(scan)]
    command += ["--output", str(output), "--device", options.device, "--force"]
    command += ["--uncertainty"] if options.uncertainty else []
    child = subprocess.Popen(command, env=child_environment())
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"medssl predict ended with {child.returncode}")
    written = nib.load(output / "ct.nii.gz")
    ct = nib.load(scan)
    if written.shape != ct.shape or not np.allclose(written.affine, AFFINE):
        raise ValueError(f"the output {written.shape} is not on the grid of the image {ct.shape}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield peak memory of one member and of all, and how their times compare."""
    shape = (160, 160, 120) if options.quick else tuple(options.shape)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folds, scan = train_members(options, folder), folder / "ct.nii.gz"
        write_ct(scan, shape)
        first = sorted(p.parent for p in folds.rglob("checkpoints") if p.is_dir())[0]
        seconds = {}
        wanted = [(1, first, "<= 6"), (options.members, folds, "<= 8")]
        for count, model, target in wanted:
            seconds[count], peak = predict(options, model, scan, folder / f"of_{count}")
            yield Row(
                f"peak resident memory, {shape}, {options.classes} classes, {count} member(s)",
                peak,
                "GB",
                target,
                f"{seconds[count]:.0f} s of processor; inference.memory_gb {options.memory_gb:g}",
                {"seconds": seconds[count], "patch": list(options.patch)},
            )
    share = seconds[options.members] / seconds[1]
    most = 1.04 * options.members
    yield Row(f"{options.members} members against one: time", share, "", f"<= {most:.3g}")


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 600))
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--patch", type=int, nargs=3, default=(96, 96, 96))
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--spacing", type=float, nargs=3, help="resample to this first, mm")
    parser.add_argument("--uncertainty", action="store_true", help="write it, too")
    parser.add_argument("--memory-gb", type=float, default=2.0)
    run_part(parser, measure)
