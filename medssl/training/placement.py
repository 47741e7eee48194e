"""What of the data path is done on the device that trains, and what on the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from medssl.data.patches.device_cases import DeviceCases, held_bytes
from medssl.data.patches.sampling import Deliver
from medssl.errors import MedSSLError
from medssl.progress import Display
from medssl.settings.spec import DataSpec
from medssl.settings.training import TrainingSettings
from medssl.training.prepare import TrainingData

LARGEST_SHARE = 0.25
"""Share of the device's free memory that cases take unasked."""

SPARE = 1.1
"""So many times what a step is thought to need is left to it."""


@dataclass(frozen=True)
class Placement:
    """How patches come to the device: what samplers deliver, and the cases if they lie there."""

    deliver: Deliver
    resident: DeviceCases | None = None


def augments_on(device: torch.device, training: TrainingSettings) -> bool:
    """Return whether patches are warped and intensities changed on ``device``."""
    place = training.augment.place
    return place == "device" or (place == "auto" and device.type == "cuda")


def holds_cases(
    setting: bool | str,
    device: torch.device,
    *,
    needed: int,
    free: int | None,
    step_bytes: Callable[[], float],
) -> bool:
    """Return whether all training cases go into the device's memory.

    Args:
        setting: ``training.cache_on_device``.
        device: where to.
        needed: bytes of the cases.
        free: bytes free on the device; None where they are unknown.
        step_bytes: returns what training needs besides; takes seconds, so it is asked last.

    Raises:
        MedSSLError: they were asked to and do not fit.
    """
    if setting == "auto":
        if device.type != "cuda" or free is None or needed > LARGEST_SHARE * free:
            return False
        return needed + SPARE * step_bytes() <= free
    if setting and free is not None and needed > free:
        raise MedSSLError(
            f"the training cases take {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free "
            f"on {device}",
            where="training.cache_on_device",
            fix="set it to auto: the cases then stay on the host",
        )
    return bool(setting)


def place_cases(
    training: TrainingSettings,
    spec: DataSpec,
    data: TrainingData,
    device: torch.device,
    display: Display,
    *,
    step_bytes: Callable[[], float],
) -> Placement:
    """Decide how patches come to the device, and copy the cases there if they are to live there.

    Args:
        training, spec: sections of the recipe.
        data: its cases.
        device: that trains.
        display: shows progress.
        step_bytes: see `holds_cases`.

    Raises:
        MedSSLError: the cases were asked to lie on the device and do not fit.
    """
    streams = data.streams
    if training.augment.place == "loader":
        return Placement("finished")
    needed = held_bytes(streams.values())
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    if not holds_cases(
        training.cache_on_device, device, needed=needed, free=free, step_bytes=step_bytes
    ):
        return Placement("plain" if augments_on(device, training) else "finished")
    cases = {case.id for stream in streams.values() for case in stream}
    with display.counting(f"copying cases to {device}", len(cases)) as done:
        resident = DeviceCases(
            streams,
            device,
            slice_axis=None if training.spatial_dims == 3 else spec.slice_axis,
            swapped=data.plan.augmenter.swapped,
            on_progress=done,
        )
    display.say(f"note: the training cases ({needed / 2**20:.0f} MiB) are held on {device}")
    return Placement("places", resident)
