"""Time of the data path per batch, against a MONAI CacheDataset pipeline in the same run.

Both draw two labeled 96x96x48 patches of which half are centered on a structure, with random flips,
from synthetic 160x160x80 volumes: medssl from its memory-mapped cache on disk, MONAI from memory.

    python benchmarks/data_path.py [--output FILE.json] [--repeats 60] [--device auto]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, list_data_collate
from monai.transforms import (
    Compose,
    FgBgToIndicesd,
    RandCropByPosNegLabeld,
    RandFlipd,
)

from medssl.data.augment import Augmenter
from medssl.data.augment_batch import finish
from medssl.data.cache import CaseCache
from medssl.data.case import CachedCase, Case, LabelMap
from medssl.data.loader import StreamLoader
from medssl.data.preprocess import image_transforms
from medssl.data.sampling import Deliver, PatchSampler
from medssl.recipe_schema import AugmentSettings, DataSpec
from medssl.training.precision import resolve_device

SHAPE, PATCH, BATCH, CASES = (160, 160, 80), (96, 96, 48), 2, 4
TARGET_MS = 3.0
SPEC = DataSpec(flip_axes=[0, 1, 2], rot90_planes=[[0, 1]], rotate_planes=[[0, 1]])


def write_cases(folder: Path) -> list[Case]:
    """Write noisy volumes with two ellipsoids each."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    cases = []
    for number in range(CASES):
        label = np.zeros(SHAPE, np.uint8)
        for index, radius in ((1, 0.35), (2, 0.2)):
            center = rng.uniform(-0.4, 0.4, 3)[:, None, None, None]
            label[((grid - center) ** 2).sum(0) < radius**2] = index
        image = (label * 40 + rng.normal(100, 20, SHAPE)).astype(np.int16)
        paths = [folder / f"{name}{number}.nii.gz" for name in ("image", "label")]
        for path, array in zip(paths, (image, label), strict=True):
            nib.save(nib.Nifti1Image(array, np.eye(4)), path)
        cases.append(Case(f"case{number}", (paths[0],), paths[1], f"case{number}"))
    return cases


def make_sampler(
    cases: list[CachedCase], *, deliver: Deliver = "finished", **settings: Any
) -> PatchSampler:
    """Return the labeled stream."""
    return PatchSampler(
        cases,
        patch=PATCH,
        batch_size=BATCH,
        seed=0,
        stream="labeled",
        foreground_fraction=0.5,
        deliver=deliver,
        augment=Augmenter(AugmentSettings(**settings), SPEC, spatial_dims=3),
    )


def monai_batches(cases: list[Case], *, copy_cache: bool) -> Iterator[Any]:
    """Yield batches of the MONAI pipeline, forever."""
    keys = ["image", "label"]
    transforms = Compose(
        [
            *image_transforms(SPEC, with_label=True).transforms,
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


def measure(draw: Callable[[int], Any], repeats: int) -> dict[str, float]:
    """Return minimum and median of the milliseconds per call, after a warm-up."""
    times = []
    for number in range(repeats + 10):
        start = time.perf_counter()
        draw(number)
        times.append(1000 * (time.perf_counter() - start))
    return {"min_ms": min(times[10:]), "median_ms": float(np.median(times[10:]))}


def measure_device(
    sampler: PatchSampler, repeats: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Measure the share of the device in augmentation, from batches that were loaded before."""
    batches = [sampler.batch(number) for number in range(8)]

    def finished(number: int) -> None:
        finish(batches[number % 8], device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return {f"  its share of the device ({device})": measure(finished, repeats)}


def measure_workers(sampler: PatchSampler, repeats: int, workers: int) -> dict[str, float]:
    """Return the wait per batch of a loop that steps for 50 ms meanwhile."""
    waits = []
    with StreamLoader({"labeled": sampler}, start=0, stop=repeats, workers=workers) as loader:
        batches = iter(loader)
        for _ in range(repeats):
            start = time.perf_counter()
            next(batches)
            waits.append(1000 * (time.perf_counter() - start))
            time.sleep(0.05)
    return {"min_ms": min(waits[5:]), "median_ms": float(np.median(waits[5:]))}


def run(repeats: int, device: torch.device) -> dict[str, Any]:
    """Measure all pipelines."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = write_cases(Path(folder))
        cache = CaseCache(Path(folder) / "cache", SPEC, LabelMap((0, 1, 2), ("b", "x", "y")))
        cached = list(cache.prepare(cases).values())
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
        results = {
            "medssl flips and quarter turns": measure(plain.batch, repeats),
            "medssl with rotation, zoom, intensities": measure(warped.batch, repeats),
            "  its loader's share with a device": measure(crops.batch, repeats),
            "  the same, cases held on the device": measure(places.batch, repeats),
            **measure_device(crops, repeats, device),
            "medssl wait behind a 50 ms step, 1 worker": measure_workers(plain, repeats, 1),
        }
        for copy_cache in (True, False):
            batches = monai_batches(cases, copy_cache=copy_cache)
            results[f"MONAI CacheDataset, copy_cache={copy_cache}"] = measure(
                lambda _, batches=batches: next(batches), repeats
            )
    ours = results["medssl flips and quarter turns"]["median_ms"]
    return {
        "batch": f"{BATCH} labeled patches of {PATCH} from {SHAPE}",
        "target_ms": TARGET_MS,
        "results": results,
        "ratio_to_monai": {
            name: ours / value["median_ms"]
            for name, value in results.items()
            if name.startswith("MONAI")
        },
    }


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--device", default="auto", help="of augmentation: auto, cpu or cuda")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")
    figures = run(arguments.repeats, resolve_device(arguments.device))
    print(figures["batch"])
    for name, value in figures["results"].items():
        print(f"  {name:44s} min {value['min_ms']:6.2f} ms   median {value['median_ms']:6.2f} ms")
    for name, ratio in figures["ratio_to_monai"].items():
        print(f"  {ratio:.2f} of the time of {name}")
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
