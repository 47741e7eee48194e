"""Peak memory and time of segmenting a full-size CT with many classes.

Writes a synthetic 512 x 512 x 600 int16 CT of 0.8 x 0.8 x 1 mm, predicts it with an untrained
14-class network on its own grid, and prints the peak resident memory of the process beside that of
the imports alone. Small cases are compared voxel by voxel with the textbook mean over windows in
``tests/test_sliding_window.py``.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from harness import Row, options_of, run_part
from measuring import forget_peak, peak_resident_mib, resident_mib

from medssl.data.datasets.case import LabelMap
from medssl.device import resolve_device
from medssl.inference.predictor import Predictor
from medssl.inference.task import Task
from medssl.networks.build import build_network
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec

AFFINE = np.array([[-0.8, 0, 0, 200.0], [0, -0.8, 0, 200.0], [0, 0, 1.0, -300.0], [0, 0, 0, 1]])


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


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield peak memory and seconds of one prediction."""
    torch.manual_seed(0)
    shape = (160, 160, 120) if options.quick else tuple(options.shape)
    network = build_network(
        "unet",
        spatial_dims=3,
        in_channels=1,
        num_classes=options.classes,
        settings={"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 0},
    )
    spec = DataSpec(
        modality="CT",
        spacing=list(options.spacing) if options.spacing else "native",
        intensity={"rule": "window", "lower": -160, "upper": 240},
    )
    classes = range(options.classes)
    predictor = Predictor(
        network,
        Task(
            spec,
            LabelMap(tuple(classes), tuple(f"class {k}" for k in classes)),
            tuple(options.patch),
        ),
        InferenceSettings(overlap=options.overlap, memory_gb=options.memory_gb),
        device=resolve_device(options.device),
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "ct.nii.gz"
        write_ct(source, shape)
        # The volume was in memory while it was written; only what comes after counts.
        forget_peak()
        before = resident_mib() / 1024
        started = time.perf_counter()
        written = nib.load(predictor.predict_file(source).save(Path(folder) / "out.nii.gz"))
        seconds, peak = time.perf_counter() - started, peak_resident_mib() / 1024
    if written.shape != shape or not np.allclose(written.affine, AFFINE):
        raise ValueError(f"the output {written.shape} is not on the grid of the image {shape}")
    yield Row(
        f"peak resident memory, {shape}, {options.classes} classes",
        peak,
        "GiB",
        "<= 6",
        f"{seconds:.0f} s; {before:.2f} GiB before; inference.memory_gb {options.memory_gb:g}",
        {"seconds": seconds, "before_gib": before, "patch": list(options.patch)},
    )


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 600))
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--patch", type=int, nargs=3, default=(96, 96, 96))
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--spacing", type=float, nargs=3, help="resample to this first, mm")
    parser.add_argument("--memory-gb", type=float, default=2.0)
    run_part(parser, measure)
