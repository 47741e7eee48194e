"""What is done on the device that trains, and what on the host."""

from __future__ import annotations

import torch

from medssl.recipe_schema import Recipe


def augments_on(device: torch.device, recipe: Recipe) -> bool:
    """Return whether patches are warped and intensities changed on ``device``."""
    place = recipe.training.augment.place
    return place == "device" or (place == "auto" and device.type == "cuda")
