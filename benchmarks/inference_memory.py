"""Peak memory and time of segmenting a full-size CT with many classes.

Writes a synthetic 512 x 512 x 600 int16 CT of 0.8 x 0.8 x 1 mm, predicts it with an untrained
14-class network on its own grid, and prints the peak resident memory of the process beside that of
the imports alone. Small cases are compared voxel by voxel with the textbook mean over windows in
``tests/test_sliding_window.py``.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from medssl.data.case import LabelMap
from medssl.inference.predictor import Predictor
from medssl.networks import build_network
from medssl.recipe_schema import DataSpec, InferenceSettings

AFFINE = np.array([[-0.8, 0, 0, 200.0], [0, -0.8, 0, 200.0], [0, 0, 1.0, -300.0], [0, 0, 0, 1]])


def peak_gb() -> float:
    """Return the largest resident memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


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


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 600))
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--patch", type=int, nargs=3, default=(96, 96, 96))
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--spacing", type=float, nargs=3, help="resample to this first, mm")
    parser.add_argument("--memory-gb", type=float, default=2.0)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.manual_seed(0)
    network = build_network(
        "unet",
        spatial_dims=3,
        in_channels=1,
        num_classes=options.classes,
        options={"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 0},
    )
    spec = DataSpec(
        modality="CT",
        spacing=list(options.spacing) if options.spacing else "native",
        intensity={"rule": "window", "lower": -160, "upper": 240},
    )
    predictor = Predictor(
        network,
        spec=spec,
        label_map=LabelMap(
            tuple(range(options.classes)), tuple(f"class {k}" for k in range(options.classes))
        ),
        patch=options.patch,
        inference=InferenceSettings(overlap=options.overlap, memory_gb=options.memory_gb),
        device=torch.device("cpu"),
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "ct.nii.gz"
        write_ct(source, tuple(options.shape))
        # The volume was in memory while it was written; only what comes after counts.
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_now()
        started = time.perf_counter()
        prediction = predictor.predict_file(source)
        written = nib.load(prediction.save(Path(folder) / "out.nii.gz"))
        seconds = time.perf_counter() - started
        result = {
            "shape": list(options.shape),
            "classes": options.classes,
            "patch": list(options.patch),
            "memory_gb_setting": options.memory_gb,
            "resident_before_gb": round(before, 2),
            "peak_resident_gb": round(peak_now(), 2),
            "seconds": round(seconds, 1),
            "aligned": written.shape == tuple(options.shape)
            and bool(np.allclose(written.affine, AFFINE)),
        }
    for key, value in result.items():
        print(f"{key:20} {value}")
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def peak_now() -> float:
    """Return the peak resident memory since it was last cleared, in GiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    return peak_gb()


if __name__ == "__main__":
    main()
