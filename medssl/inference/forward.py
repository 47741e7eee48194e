"""One forward pass of a network, with its failures in the user's words."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from medssl.device import Precision, autocast, is_out_of_memory
from medssl.errors import MedSSLError

# How PyTorch says that a convolution got an image of another number of channels.
_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")


def forward_logits(
    windows: Tensor,
    *,
    model: nn.Module,
    classes: int,
    device: torch.device,
    precision: Precision,
) -> Tensor:
    """Return the logits ``(N, classes, *patch)`` of windows ``(N, C, *patch)``.

    Args:
        windows: on ``device``.
        model: image in, logits out.
        classes: how many the logits must have.
        device: where the model is.
        precision: of the forward pass.

    Raises:
        MedSSLError: memory ran out, or the model takes other channels or gives other classes.
    """
    try:
        with autocast(device, precision):
            logits = model(windows)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise _too_large(windows, device, precision) from error
        if found := _CHANNELS.search(str(error)):
            raise wrong_channels(int(found[1]), int(found[2])) from error
        raise
    if logits.shape[1] != classes:
        raise MedSSLError(
            f"the network gives {logits.shape[1]} classes, the label map has {classes}",
            fix="use the label map the network was trained with",
        )
    return logits


def _too_large(windows: Tensor, device: torch.device, precision: Precision) -> MedSSLError:
    """Return the error of windows that do not fit into a device's memory."""
    count, size = windows.shape[0], tuple(windows.shape[2:])
    if count > 1:
        fix = f"set inference.window_batch to {count // 2}"
    elif device.type == "cpu":
        fix = "close other programs, or use a machine with more memory"
    else:
        fix = "predict with --device cpu"
        fix += " or --precision bf16" if precision == "fp32" else ""
    plural = "windows" if count > 1 else "window"
    return MedSSLError(
        f"{count} {plural} of {size} voxels do not fit into the memory of {device}", fix=fix
    )


def wrong_channels(expected: int, got: int) -> MedSSLError:
    """Return the error of an image of other channels than the network takes."""
    fix = "give one file per channel, named CASE_0000, CASE_0001, ..., or one multi-channel file"
    if got > expected:
        fix = f"keep the {expected} it was trained on; split a time series into one file each"
    return MedSSLError(
        f"the network takes {expected} image channel(s), this image has {got}", fix=fix
    )
