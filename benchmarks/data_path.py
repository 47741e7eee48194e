"""Time of the data path per batch, against a MONAI CacheDataset pipeline in the same run.

Both draw two labeled 96x96x48 patches of which half are centered on a structure, with random flips,
from synthetic 160x160x80 volumes: medssl from its memory-mapped cache on disk, MONAI from memory.

    python benchmarks/data_path.py [--output FILE.json] [--repeats 60] [--device auto]
"""

from __future__ import annotations

import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Row, options_of, run_part
from measuring import device_of
from monai.data import CacheDataset, list_data_collate
from monai.transforms import (
    Compose,
    FgBgToIndicesd,
    RandCropByPosNegLabeld,
    RandFlipd,
)
from monai_preprocessing import image_transforms
from synthetic import write_ellipsoids

from medssl.data.datasets.case import CachedCase, Case
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.patches.augment import Augmenter
from medssl.data.patches.augment_batch import finish
from medssl.data.patches.loader import StreamLoader
from medssl.data.patches.sampling import Deliver, PatchSampler, PatchSettings, Stream
from medssl.data.preprocessing.cache import CaseCache
from medssl.settings.augment import AugmentSettings
from medssl.settings.spec import DataSpec

SHAPE, PATCH, BATCH, CASES = (160, 160, 80), (96, 96, 48), 2, 4
TARGET = "<= 3"
SPEC = DataSpec(flip_axes=[0, 1, 2], rot90_planes=[[0, 1]], rotate_planes=[[0, 1]])


def make_sampler(
    cases: list[CachedCase], *, deliver: Deliver = "finished", **settings: Any
) -> PatchSampler:
    """Return the labeled stream."""
    return PatchSampler(
        cases,
        Stream("labeled", 0, BATCH, foreground_fraction=0.5),
        PatchSettings(
            PATCH,
            augment=Augmenter(AugmentSettings(**settings), SPEC, spatial_dims=3),
            deliver=deliver,
        ),
    )


def monai_batches(cases: list[Case], *, copy_cache: bool) -> Iterator[Any]:
    """Yield batches of the MONAI pipeline, forever."""
    keys = ["image", "label"]
    transforms = Compose(
        [
            *image_transforms(SPEC).transforms,
            FgBgToIndicesd("label"),
            RandCropByPosNegLabeld(
                keys,
                label_key="label",
                spatial_size=PATCH,
                fg_indices_key="label_fg_indices",
                bg_indices_key="label_bg_indices",
            ),
            *[RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in range(3)],
        ]
    )
    items = [{"image": [case.images[0]], "label": case.label} for case in cases]
    data = CacheDataset(items, transforms, progress=False, copy_cache=copy_cache)
    order = np.random.default_rng(0)
    while True:
        samples = [data[int(order.integers(len(items)))] for _ in range(BATCH)]
        yield list_data_collate([one for sample in samples for one in sample])


def time_draws(draw: Callable[[int], Any], repeats: int) -> float:
    """Return the median of the milliseconds per call, after a warm-up."""
    times = []
    for number in range(repeats + 10):
        start = time.perf_counter()
        draw(number)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[10:]))


def time_device(sampler: PatchSampler, repeats: int, device: torch.device) -> float:
    """Return the device's share in augmentation, of batches that were loaded before."""
    batches = [sampler.batch(number) for number in range(8)]

    def finished(number: int) -> None:
        finish(batches[number % 8], device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return time_draws(finished, repeats)


def time_waits(sampler: PatchSampler, repeats: int) -> float:
    """Return the wait per batch of a loop that steps for 50 ms while one worker loads."""
    waits = []
    with StreamLoader({"labeled": sampler}, start=0, stop=repeats + 5, workers=1) as loader:
        batches = iter(loader)
        for _ in range(repeats + 5):
            start = time.perf_counter()
            next(batches)
            waits.append(1000 * (time.perf_counter() - start))
            time.sleep(0.05)
    return float(np.median(waits[5:]))


def measure(options: Namespace, known: Mapping[str, Row]) -> Iterator[Row]:
    """Yield the milliseconds of a batch, and MONAI's over ours."""
    device, repeats = device_of(options), 5 if options.quick else options.repeats
    warnings.filterwarnings("ignore", module="monai")
    with tempfile.TemporaryDirectory() as folder:
        root = write_ellipsoids(Path(folder) / "data", cases=CASES, shape=SHAPE, classes=3)
        dataset = read_dataset(root)
        cache = CaseCache(Path(folder) / "cache", SPEC, dataset.labels)
        cached = list(cache.prepare(dataset.training).values())
        plain = make_sampler(cached)
        many = {
            "rotate_degrees": 15,
            "rotate_probability": 1,
            "scale": (0.9, 1.1),
            "intensity_probability": 0.2,
        }
        warped, crops, places = (
            make_sampler(cached, deliver=deliver, **many)
            for deliver in ("finished", "plain", "places")
        )
        ours = time_draws(plain.batch, repeats)
        yield Row("flips and quarter turns", ours, "ms", TARGET)
        for name, sampler in (
            ("rotation, zoom, intensities", warped),
            ("the same, loader's share with a device", crops),
            ("the same, cases held on the device", places),
        ):
            yield Row(name, time_draws(sampler.batch, repeats), "ms")
        share = time_device(crops, repeats, device)
        yield Row(f"the same, share of the device ({device})", share, "ms")
        yield Row("wait behind a 50 ms step, 1 worker", time_waits(plain, repeats), "ms")
        for copy_cache in (True, False):
            batches = monai_batches(list(dataset.training), copy_cache=copy_cache)
            theirs = time_draws(lambda _, batches=batches: next(batches), repeats)
            yield Row(
                f"MONAI CacheDataset, copy_cache={copy_cache}",
                theirs / ours,
                "times flips and turns",
                ">= 1",
                f"{theirs:.1f} ms",
                {"ms": theirs},
            )


if __name__ == "__main__":
    parser = options_of(__doc__)
    parser.add_argument("--repeats", type=int, default=60)
    run_part(parser, measure)
