"""Seconds to segment a scan of the left atrium as the literature does: V-Net, stride 18 x 18 x 4.

Against a plain reference loop: window after window, each alone through the network in float32, its
probabilities added up on the host. medssl uses its defaults for the device: batches of windows, and
half precision on a card. The network is untrained; that takes as long. Without the data, the scan
is synthetic and of usual size.

    python benchmarks/la_inference.py [--data FOLDER] [--quick] [--output FILE.json]
"""

from __future__ import annotations

import itertools
import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence

import nibabel as nib
import numpy as np
import torch
from harness import Row, SkipPart, dataset_folder, options_of, run_part
from measuring import PeakMemory, clock_of, device_of
from plain_loop import untuned
from torch import Tensor, nn

from medssl.data.datasets.case import LabelMap
from medssl.device import resolve_precision, speed_up
from medssl.inference.predictor import Predictor
from medssl.inference.task import Task
from medssl.networks.build import build_network
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec

PATCH, STRIDE = (112, 112, 80), (18, 18, 4)
QUICK_PATCH, QUICK_STRIDE = (32, 32, 16), (8, 8, 2)
USUAL_SHAPE, QUICK_SHAPE = (176, 144, 88), (48, 40, 20)


@torch.no_grad()
def plain(
    image: Tensor,
    network: nn.Module,
    patch: Sequence[int],
    stride: Sequence[int],
    device: torch.device,
) -> np.ndarray:
    """Return the class of each voxel, ``(X, Y, Z)``; the image is no smaller than a window."""
    shape = image.shape[1:]
    score, count = np.zeros((2, *shape), np.float32), np.zeros(shape, np.float32)
    steps = [math.ceil((n - p) / s) + 1 for n, p, s in zip(shape, patch, stride, strict=True)]
    for place in itertools.product(*map(range, steps)):
        where = tuple(
            slice(start, start + p)
            for start, p in (
                (min(k * s, n - p), p)
                for k, n, p, s in zip(place, shape, patch, stride, strict=True)
            )
        )
        window = image[(slice(None), *where)][None].to(device)
        score[(slice(None), *where)] += torch.softmax(network(window), 1)[0].cpu().numpy()
        count[where] += 1
    return (score / count).argmax(0)


def read_scan(options: Namespace) -> tuple[Tensor, str]:
    """Return a scan ``(1, X, Y, Z)``, and which it is."""
    try:
        folder = None if options.quick else dataset_folder(options, "Task102_LeftAtrium")
    except SkipPart:
        folder = None
    if folder is None:
        shape = QUICK_SHAPE if options.quick else USUAL_SHAPE
        voxels, what = np.random.default_rng(0).normal(size=shape), "synthetic"
    else:
        path = sorted((folder / "imagesTr").glob("*.nii.gz"))[0]
        voxels, what = np.asarray(nib.load(path).dataobj), "left atrium"
    image = torch.as_tensor(voxels.astype(np.float32))[None]
    return (image - image.mean()) / image.std(), f"{what}, {' x '.join(map(str, voxels.shape))}"


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield the seconds of the plain loop, and how many times as fast medssl is."""
    device = device_of(options)
    patch, stride = (QUICK_PATCH, QUICK_STRIDE) if options.quick else (PATCH, STRIDE)
    torch.manual_seed(0)
    network = build_network("vnet", spatial_dims=3, in_channels=1, num_classes=2, settings={})
    network.to(device).eval()
    image, what = read_scan(options)
    clock = clock_of(device)

    def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, dict[str, float]]:
        if device.type == "cuda":
            run()  # the first call chooses algorithms
        peak, started, wall = PeakMemory(device), clock(), time.perf_counter()
        result = run()
        seconds = clock() - started
        return result, {
            "seconds": seconds,
            "wall_seconds": time.perf_counter() - wall,
            "peak_mib": peak.mib(),
        }

    with untuned():
        reference, slow = timed(lambda: plain(image, network, patch, stride, device))
    yield Row("plain loop", slow["seconds"], "s", note=what, details=slow)
    speed_up(device)
    best = resolve_precision("auto", device)
    for precision in dict.fromkeys(("fp32", best)):
        predictor = Predictor(
            network,
            Task(DataSpec(), LabelMap((0, 1), ("background", "left atrium")), tuple(patch)),
            InferenceSettings(stride=list(stride), blend="constant"),
            device=device,
            precision=precision,
        )
        result, fast = timed(lambda predictor=predictor: predictor.classes(image))
        differing = float((result != reference).mean())
        yield Row(
            f"medssl, {precision}",
            slow["seconds"] / fast["seconds"],
            "times as fast",
            ">= 1",
            f"{fast['seconds']:.1f} s; {100 * differing:.3g} % of voxels differ",
            {**fast, "differing": differing},
        )


if __name__ == "__main__":
    run_part(options_of(__doc__), measure)
