"""Patch samplers over small made-up cases."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from medssl.data.datasets.case import IGNORE_INDEX, CachedCase
from medssl.data.patches.augment import Augmenter
from medssl.data.patches.sampling import PatchSampler, PatchSettings, Stream
from medssl.data.preprocessing.cache_entry import class_indices
from medssl.settings.augment import AugmentSettings
from medssl.settings.spec import DataSpec

SPEC = DataSpec(
    flip_axes=[0, 1, 2], rot90_planes=[[0, 1]], rotate_planes=[[0, 1], [1, 2]], label_pairs=[[1, 2]]
)
FULL = AugmentSettings(
    rotate_degrees=20,
    rotate_probability=0.5,
    scale=(0.8, 1.2),
    scale_probability=0.5,
    intensity_probability=0.5,
)


def make_case(
    name: str, *, labeled: bool = True, channels: int = 2, shape: tuple[int, ...] = (22, 18, 12)
) -> Any:
    rng = np.random.default_rng(len(name))
    image = rng.normal(size=(channels, *shape)).astype(np.float16)
    label = rng.integers(0, 3, shape).astype(np.uint8)
    label[rng.random(shape) < 0.1] = IGNORE_INDEX
    indices = class_indices(label, seed=0)
    return CachedCase(name, name, image, label if labeled else None, indices if labeled else {})


def make_sampler(settings: AugmentSettings | None = FULL, **options: Any) -> PatchSampler:
    patch = options.setdefault("patch", (10, 8, 6))
    dims, labeled = len(patch), options.pop("labeled", True)
    augment = settings and Augmenter(settings, SPEC, spatial_dims=dims, label_pairs=[[1, 2]])
    channels = options.pop("channels", 2)
    cases = [make_case(n, labeled=labeled, channels=channels) for n in ("a", "bb", "ccc")]
    common = {"batch_size": 4, "seed": 3, "stream": "labeled", "foreground_fraction": 0.5}
    return sampler_of(cases, augment=augment, **{**common, **options})


def sampler_of(cases: list[CachedCase], *, stream: str, **options: Any) -> PatchSampler:
    """Return a sampler; the options are those of its stream and of its patches."""
    names = {f.name for f in fields(Stream)} & options.keys()
    own = Stream(stream, **{name: options.pop(name) for name in names})
    return PatchSampler(cases, own, PatchSettings(**options))
