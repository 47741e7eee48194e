"""Tell what memory and disk preprocessing will need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from medssl.data.checks.case_facts import CaseFacts
from medssl.data.datasets.problem import Problem
from medssl.settings.spec import DataSpec

BYTES_PER_VOXEL = 40
"""Peak of preprocessing per voxel and channel of the larger of the stored and the resampled grid.

Measured on 4 to 8 million voxels: 14 (z-score) to 37 (resampling a case with label).
"""

GB = 1e9


@dataclass(frozen=True)
class Resources:
    """What a dataset needs.

    Attributes:
        case: the case that needs the most.
        ram_gb: memory while that case is preprocessed.
        cache_gb: disk for all preprocessed cases.
        free_ram_gb, free_disk_gb: what this machine has left.
        disk: where the cache is written.
    """

    case: str
    ram_gb: float
    cache_gb: float
    free_ram_gb: float
    free_disk_gb: float
    disk: Path

    def to_json(self) -> dict[str, Any]:
        """Return plain values, rounded to megabytes."""
        values = asdict(self) | {"disk": str(self.disk)}
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in values.items()}


def estimate_resources(
    facts: Sequence[CaseFacts], spec: DataSpec | None, cache_root: Path
) -> Resources | None:
    """Estimate from the grids of all cases; None if none could be read.

    Args:
        spec: gives the spacing that cases are resampled to; None: they are not.
        cache_root: folder of the cache; need not exist.
    """
    read = [f for f in facts if f.shape]
    if not read:
        return None
    peaks, cache = [], 0.0
    for f in read:
        stored = float(np.prod(f.shape))
        final = stored
        if spec is not None and isinstance(spec.spacing, list):
            target = [
                own if wanted is None else wanted
                for own, wanted in zip(f.spacing, spec.spacing, strict=True)
            ]
            final = stored * float(np.prod(f.spacing)) / float(np.prod(target))
        peaks.append(BYTES_PER_VOXEL * f.channels * max(stored, final))
        # float16 image and uint8 label
        cache += final * (2 * f.channels + (f.role == "labeled"))
    existing = next((p for p in (cache_root, *cache_root.parents) if p.exists()), Path(os.sep))
    largest = int(np.argmax(peaks))
    return Resources(
        case=read[largest].case.id,
        ram_gb=peaks[largest] / GB,
        cache_gb=cache / GB,
        free_ram_gb=psutil.virtual_memory().available / GB,
        free_disk_gb=shutil.disk_usage(existing).free / GB,
        disk=cache_root,
    )


def resource_problems(memory: Resources, file: Path) -> list[Problem]:
    """Warn where this machine has less than is needed.

    Args:
        file: image of the case that needs the most.
    """
    found = []
    if memory.ram_gb > memory.free_ram_gb:
        found.append(
            Problem(
                "warning",
                file,
                f"preprocessing this case needs about {memory.ram_gb:.1f} GB of memory, "
                f"{memory.free_ram_gb:.1f} GB are free",
                "choose a coarser spec.spacing, crop the scan, or use another machine",
                "memory",
                memory.case,
            )
        )
    if memory.cache_gb > memory.free_disk_gb:
        found.append(
            Problem(
                "warning",
                memory.disk,
                f"the cache needs about {memory.cache_gb:.1f} GB, {memory.free_disk_gb:.1f} GB are "
                "free on that disk",
                "free some space, or set data.cache to another disk",
                "disk",
            )
        )
    return found
