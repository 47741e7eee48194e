"""Updates as differences from their base, the form in which NVIDIA FLARE's filters take them.

Differences are float32: where a number stays within a factor of two of its base they are exact, and
else the sum is off by less than 6e-8 of the difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medssl.federation.messages import Header, Message, as_bytes, packed

NO_UPDATE = b"no update"
"""What takes the place of an answer that cannot be made an update of; it is refused by its form."""


def differences(update: Message, base: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return by name how far an update went from its base, float32."""
    return {name: (tensor - base[name]).numpy() for name, tensor in update.tensors.items()}


def restored(
    header: str, found: Mapping[str, Any], base: Mapping[str, Tensor], *, site: str, key: bytes
) -> bytes:
    """Return the update of a site as it would lie in a folder.

    Whoever carried it says which site it is of, and vouches for it: it is authenticated anew. What
    is wrong with it is refused later, like any update.

    Args:
        header: JSON, as the site wrote it.
        found: differences from ``base`` by name.
        base: the newest model.
        site: who sent it.
        key: of the site.
    """
    try:
        said = Header.model_validate({**json.loads(header), "site": site})
        tensors = {}
        for name, own in base.items():
            moved = torch.from_numpy(np.array(found[name], dtype=np.float64))
            tensors[name] = (own.double() + moved.reshape(own.shape)).float()
        if len(found) != len(base):
            return NO_UPDATE
        payload = as_bytes(tensors, {name: list(t.shape) for name, t in base.items()})
    except (ValueError, TypeError, KeyError, RuntimeError, RecursionError):
        return NO_UPDATE
    return packed(said, payload, [key])
