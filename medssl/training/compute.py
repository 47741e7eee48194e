"""On what a run computes, and how."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medssl.device import Precision
from medssl.training.distributed import ALONE, World


@dataclass(frozen=True)
class Compute:
    """On what a run computes.

    Attributes:
        device: of this process.
        precision: of forward passes.
        world: the processes that train the run together.
    """

    device: torch.device
    precision: Precision = "fp32"
    world: World = ALONE
