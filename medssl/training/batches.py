"""From addressed tensors to a batch on the device, and the seed that belongs to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medssl.data.patches.augment_batch import finish, views_of
from medssl.data.patches.device_cases import DeviceCases
from medssl.data.patches.sampling import PatchSampler
from medssl.methods.base import Batch, LabeledBatch, Method, Progress, UnlabeledBatch
from medssl.training.distributed import World


def to_batch(
    arrays: Mapping[str, Mapping[str, Tensor]],
    device: torch.device,
    resident: DeviceCases | None = None,
) -> Batch:
    """Move the loader's tensors to ``device`` as a :class:`Batch`, and finish plain crops there.

    Places are cut out of the ``resident`` cases.
    """
    if resident is not None:
        arrays = {name: resident.cut(name, rows) for name, rows in arrays.items()}
    streams = {name: finish(tensors, device) for name, tensors in arrays.items()}
    labeled = unlabeled = masks = None
    if "labeled" in streams:
        source = streams["labeled"]
        labeled = LabeledBatch(source["image"], source["label"].long(), source["case"])
    if "unlabeled" in streams:
        source = streams["unlabeled"]
        unlabeled = UnlabeledBatch(source["image"], views_of(source), source["case"])
    if "masks" in streams:
        masks = streams["masks"]["label"].long()
    return Batch(labeled, unlabeled, masks)


def whole_batch(batch: Batch, sizes: Mapping[str, int], world: World) -> Batch:
    """Put a batch together of which each process has loaded its rows.

    Args:
        batch: the rows here.
        sizes: of each stream's whole batch.
    """
    if world.alone:
        return batch

    def whole(stream: str, rows: Tensor) -> Tensor:
        return world.whole(rows, sizes[stream])

    labeled, unlabeled, masks = batch.labeled, batch.unlabeled, batch.masks
    if labeled is not None:
        parts = (labeled.image, labeled.label, labeled.case)
        labeled = LabeledBatch(*(whole("labeled", part) for part in parts))
    if unlabeled is not None:
        unlabeled = UnlabeledBatch(
            whole("unlabeled", unlabeled.image),
            tuple(whole("unlabeled", view) for view in unlabeled.views),
            whole("unlabeled", unlabeled.case),
        )
    return Batch(labeled, unlabeled, None if masks is None else whole("masks", masks))


def torch_seed(progress: Progress) -> int:
    """Return torch's seed for an iteration."""
    key = f"{progress.seed}/{progress.stage}/{progress.iteration}/{progress.micro}/torch"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1


def batch_numbers(method: Method, stage: str, accumulate: int, iteration: int) -> list[int]:
    """Return which batches of its streams a 0-based iteration of a stage is made of."""
    first = iteration * accumulate
    return [method.batch_address(stage, number) for number in range(first, first + accumulate)]


def batch_addresses(
    method: Method,
    samplers: Mapping[str, PatchSampler],
    stage: str,
    accumulate: int,
    iteration: int,
) -> list[dict[str, Any]]:
    """Say of which patches the batches of a 0-based iteration consist; no image is read.

    Returns:
        For each batch its ``number``, and by stream what :meth:`PatchSampler.addresses` gives.
    """
    return [
        {"number": number, **{name: s.addresses(number) for name, s in samplers.items()}}
        for number in batch_numbers(method, stage, accumulate, iteration)
    ]
