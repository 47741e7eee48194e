"""Label maps with voxels that nobody annotated: read, measured and trained on without them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import MapTransform
from torch import Tensor, nn

from medssl.ops.losses import supervised_loss

WHOLE = 1e-3
"""A value this close to a whole number is meant to be it."""


class ToClassesd(MapTransform):
    """Map label values to class indices, whole up to rounding.

    Args:
        keys: of label maps.
        values: label value of each class.
        ignore_value: of voxels that nobody annotated, None if there are none such.
        ignore_class: what these become.

    Raises:
        ValueError: a label map holds another value; names the file where it is known.
    """

    def __init__(
        self,
        keys: Sequence[str] | str,
        *,
        values: Sequence[int],
        ignore_value: int | None = None,
        ignore_class: int = 255,
    ) -> None:
        super().__init__(keys)
        self.classes = {value: index for index, value in enumerate(values)}
        if ignore_value is not None:
            self.classes[ignore_value] = ignore_class

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map each key."""
        out = dict(data)
        for key in self.key_iterator(out):
            label = out[key]
            classes = torch.full_like(label, -1)
            for value, index in self.classes.items():
                classes[(label - value).abs() <= WHOLE] = index
            wrong = label[classes < 0]
            if wrong.numel():
                name = getattr(label, "meta", {}).get("filename_or_obj", f"the label {key!r}")
                raise ValueError(
                    f"{name}: {wrong.numel()} voxels are {float(wrong[0]):g}, no label"
                )
            out[key] = classes
        return out


class WithoutIgnoredd(MapTransform):
    """Call voxels background that nobody annotated, in prediction and label alike.

    Then they count in no structure's Dice.
    """

    def __init__(
        self, keys: Sequence[str] | str, *, label_key: str = "label", ignore_class: int = 255
    ) -> None:
        super().__init__(keys)
        self.label_key, self.ignore_class = label_key, ignore_class

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Empty these voxels of each key."""
        out = dict(data)
        ignored = torch.as_tensor(out[self.label_key]) == self.ignore_class
        for key in self.key_iterator(out):
            out[key] = out[key].masked_fill(ignored, 0)
        return out


class AnnotatedLoss(nn.Module):
    """Dice and cross-entropy over the voxels that somebody annotated.

    Args:
        ignore_class: class index of the others in labels.
    """

    def __init__(self, ignore_class: int = 255) -> None:
        super().__init__()
        self.ignore_class = ignore_class

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of logits ``(B, K, *spatial)`` and a label ``(B, 1, *spatial)``."""
        target = torch.as_tensor(label)[:, 0].long()
        return supervised_loss(logits, target.masked_fill(target == self.ignore_class, 255))
