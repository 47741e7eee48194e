"""Start networks from weights of two-dimensional ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from medssl.errors import MedSSLError

logger = logging.getLogger(__name__)


def load_2d_weights(networks: Iterable[nn.Module], path: Path) -> None:
    """Start every network's encoder from a file of torchvision's ResNet-18 weights.

    Raises:
        MedSSLError: the file is absent or something else, or the network has no 2D form.
    """
    fix = "give a file saved by torch.save(torchvision.models.resnet18(...).state_dict(), FILE)"
    if not path.is_file():
        raise MedSSLError(
            "method.pretrained_2d names a file that is not there", where=path, fix=fix
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything at all for a damaged file
        raise MedSSLError("this is not a file of weights", where=path, fix=fix) from error
    try:
        for network in networks:
            network.load_2d(state)  # type: ignore[operator]
    except (ValueError, TypeError, AttributeError) as error:
        raise MedSSLError(
            f"these are not the weights of a ResNet-18: {error}", where=path, fix=fix
        ) from error
    logger.info("encoders start from the 2D weights in %s", path)
