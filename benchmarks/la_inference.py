"""Segment a scan of the left atrium with a V-Net: medssl beside others as they come.

The same network, scan and windows (each shares half with its neighbor, blended by a Gaussian), from
a file to a file: by medssl as its `predict` does it, by MONAI's `SlidingWindowInferer`, and by
nnU-Net's predictor without mirroring where `nnunetv2` is installed. Nothing of PyTorch's or the C
library's is tuned by this script. Each program runs in a process of its own. The network is
untrained; that takes as long. Without the data, the scan is synthetic and of usual size.

    python benchmarks/la_inference.py [--data FOLDER] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from harness import Row, SkipPart, dataset_folder, options_of, run_part
from measuring import PeakMemory, child_environment, clock_of, device_of
from torch import Tensor, nn

from medssl.device import resolve_precision
from medssl.networks.build import build_network

PATCH, QUICK_PATCH = (112, 112, 80), (32, 32, 16)
USUAL_SHAPE, QUICK_SHAPE = (176, 144, 88), (48, 40, 20)
OVERLAP = 0.5

Segment = Callable[[Path, Path], None]
"""Writes the label map of a scan; both are files."""


def untrained() -> nn.Module:
    """Return the network that all programs use, with the same weights."""
    torch.manual_seed(0)
    return build_network("vnet", spatial_dims=3, in_channels=1, num_classes=2, settings={}).eval()


def by_medssl(patch: tuple[int, ...], device: torch.device, precision: str) -> Segment:
    """Return how `medssl predict` segments, with its defaults."""
    from medssl.data.datasets.case import LabelMap
    from medssl.inference.predictor import Predictor
    from medssl.inference.task import Task
    from medssl.settings.recipe import InferenceSettings
    from medssl.settings.spec import DataSpec

    labels = LabelMap((0, 1), ("background", "left atrium"))
    predictor = Predictor(
        untrained(),
        Task(DataSpec(intensity={"rule": "none"}), labels, patch),
        InferenceSettings(overlap=OVERLAP),
        device=device,
        precision=resolve_precision(precision, device),
    )
    return lambda scan, target: void(predictor.predict_file(scan).save(target))


def by_monai(patch: tuple[int, ...], device: torch.device, precision: str) -> Segment:
    """Return MONAI's sliding window, with its defaults but for overlap and blending."""
    from monai.inferers import SlidingWindowInferer

    network = untrained().to(device)
    inferer = SlidingWindowInferer(patch, overlap=OVERLAP, mode="gaussian")

    @torch.no_grad()
    def segment(scan: Path, target: Path) -> None:
        image, affine = read(scan)
        write(inferer(image[None].to(device), network)[0], affine, target)

    return segment


def by_nnunet(patch: tuple[int, ...], device: torch.device, precision: str) -> Segment:
    """Return nnU-Net's sliding window without mirroring, with its defaults otherwise."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP, use_mirroring=False, device=device, allow_tqdm=False
    )
    predictor.network = untrained()
    predictor.configuration_manager = SimpleNamespace(patch_size=patch)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=2)

    def segment(scan: Path, target: Path) -> None:
        image, affine = read(scan)
        write(predictor.predict_sliding_window_return_logits(image), affine, target)

    return segment


PROGRAMS = {"medssl": by_medssl, "MONAI": by_monai, "nnU-Net": by_nnunet}


def void(_: object) -> None:
    """Forget a result."""


def read(scan: Path) -> tuple[Tensor, np.ndarray]:
    """Return a scan ``(1, X, Y, Z)`` and its affine, as plainly as can be."""
    file = nib.load(scan)
    return torch.from_numpy(np.asarray(file.dataobj, dtype=np.float32)[None]), file.affine


def write(logits: Tensor, affine: np.ndarray, target: Path) -> None:
    """Write the label map of logits ``(K, X, Y, Z)``."""
    classes = logits.argmax(0).to(torch.uint8).cpu().numpy()
    nib.save(nib.Nifti1Image(classes, affine), target)


def write_scan(options: Namespace, target: Path) -> str:
    """Write a normalized scan; return which it is."""
    try:
        folder = None if options.quick else dataset_folder(options, "Task102_LeftAtrium")
    except SkipPart:
        folder = None
    if folder is None:
        shape = QUICK_SHAPE if options.quick else USUAL_SHAPE
        voxels, what = np.random.default_rng(0).normal(size=shape), "synthetic"
    else:
        path = sorted((folder / "imagesTr").glob("*.nii.gz"))[0]
        voxels, what = np.asarray(nib.load(path).dataobj, dtype=np.float32), "left atrium"
    voxels = ((voxels - voxels.mean()) / voxels.std()).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), target)
    return f"{what}, {' x '.join(map(str, voxels.shape))}"


def segment_here(options: Namespace) -> dict[str, float]:
    """Segment with one program in this process; return seconds and the peak of memory."""
    device = device_of(options)
    patch = QUICK_PATCH if options.quick else PATCH
    program, _, precision = options.program.partition(",")
    segment = PROGRAMS[program](patch, device, precision)
    scan, target = options.folder / "scan.nii.gz", options.folder / f"{options.program}.nii.gz"
    if device.type == "cuda":
        segment(scan, target)  # the first call chooses algorithms
    clock = clock_of(device)
    peak, started, wall = PeakMemory(device), clock(), time.perf_counter()
    segment(scan, target)
    return {
        "seconds": clock() - started,
        "wall_seconds": time.perf_counter() - wall,
        "peak_mib": peak.mib(),
    }


def in_process(options: Namespace, program: str, folder: Path) -> dict[str, Any]:
    """Segment with one program in a process of its own."""
    command = [sys.executable, __file__, "--device", options.device]
    command += ["--quick"] if options.quick else []
    command += ["--program", program, "--folder", str(folder)]
    done = subprocess.run(
        command, env=child_environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield what each program takes, and medssl's share of it."""
    device = device_of(options)
    precisions = dict.fromkeys(("fp32", resolve_precision("auto", device)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        what = write_scan(options, folder / "scan.nii.gz")
        own = {p: in_process(options, f"medssl,{p}", folder) for p in precisions}
        for precision, found in own.items():
            note = f"{what}; peak {found['peak_mib']:.0f} MiB above what was loaded"
            yield Row(f"medssl, {precision}", found["seconds"], "s", note=note, details=found)
        for other in ("MONAI", "nnU-Net"):
            if other == "nnU-Net" and find_spec("nnunetv2") is None:
                yield Row(other, None, note="nnunetv2 is not installed")
                continue
            theirs = in_process(options, other, folder)
            note = f"peak {theirs['peak_mib']:.0f} MiB above what was loaded"
            yield Row(other, theirs["seconds"], "s", note=note, details=theirs)
            for precision, found in own.items():
                yield from compared(folder, f"medssl,{precision}", found, other, theirs)


def compared(
    folder: Path, one: str, found: Mapping[str, float], other: str, theirs: Mapping[str, float]
) -> Iterator[Row]:
    """Yield the ratios of time and of memory, with the share of voxels that differ."""
    maps = [np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj) for name in (one, other)]
    differing = f"{100 * float((maps[0] != maps[1]).mean()):.3g} % of voxels differ"
    what = f"{one.replace(',', ', ')}, against {other}"
    time_share = found["seconds"] / theirs["seconds"]
    yield Row(f"{what}: time", time_share, "", "<= 0.7", note=differing)
    yield Row(f"{what}: memory", found["peak_mib"] / theirs["peak_mib"], "", "<= 1.3")


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--program", help="segment with one program alone, and print its figures")
    parser.add_argument("--folder", type=Path, help="of scan.nii.gz, for --program")
    chosen = parser.parse_known_args()[0]
    if chosen.program:
        print(json.dumps(segment_here(chosen)))
    else:
        run_part(parser, measure)
