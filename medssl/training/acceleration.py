"""What makes a method's networks fast on the device that trains them."""

from __future__ import annotations

from collections.abc import Callable

from medssl.device import speed_up
from medssl.methods.base import Method
from medssl.settings.training import TrainingSettings
from medssl.training.compilation import compile_networks
from medssl.training.compute import Compute
from medssl.training.cudnn_versions import warn_of_cudnn
from medssl.training.memory_format import use_channels_last


def accelerate(
    method: Method, training: TrainingSettings, compute: Compute, say: Callable[[str], None]
) -> None:
    """Switch on what is fast on a device, and say what is not usual.

    Args:
        method: its networks are laid out and compiled in place.
        training: what the recipe wants.
        compute: what trains.
        say: tells the user.
    """
    device, precision = compute.device, compute.precision
    speed_up(device)
    trouble = warn_of_cudnn(device, spatial_dims=training.spatial_dims, precision=precision)
    if trouble:
        say(f"warning: {trouble}")
    if use_channels_last(method, training.channels_last, device=device, precision=precision):
        say("note: the networks are laid out channels last")
    compile_networks(
        method,
        training.compile,
        device=device,
        batches=training.iterations * training.accumulate,
        alone=compute.world.alone,
        say=say,
    )
