"""Where a network predicts at coarser scales too, its heads learn, and labels go along."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from medssl.networks.build import build_network
from medssl.ops.deep_supervision import Outputs, Prediction, shrink
from medssl.testing.contract import NotApplicable
from medssl.testing.gradients import check_training_moves_what_is_trainable
from medssl.testing.precision import check_losses_under_autocast
from medssl.testing.processes import check_two_processes_are_one
from medssl.testing.resume import check_a_resumed_stage_is_bit_equal
from medssl.testing.subject import Subject
from medssl.testing.travel import LabelReader, expect_labels_travel


def deep_network(
    dims: int,
    classes: int,
    *,
    in_channels: int | None = None,
    num_classes: int | None = None,
    **overrides: Any,
) -> nn.Module:
    """Build a small network with deep supervision."""
    settings = {"filters": [2, 4, 4], "norm": "batch", "dropout": 0.1, "deep_supervision": True}
    return build_network(
        "dynunet",
        spatial_dims=dims,
        in_channels=in_channels or 1,
        num_classes=num_classes or classes,
        settings={**settings, **overrides},
    )


class DeepReader(LabelReader):
    """A reader of labels that reads at half the resolution, too, while it trains."""

    def forward(self, image: Tensor) -> Prediction:  # type: ignore[override]  # as networks do
        """Return logits of ``(B, 1, *spatial)``, or those of two scales."""
        logits = super().forward(image)
        half = [n // 2 for n in image.shape[2:]]
        return Outputs((logits, shrink(logits, half))) if self.training else logits


def check_coarser_scales_are_trained(subject: Subject) -> None:
    """A method that takes several scales keeps the contract with a network that has them.

    Every head has a gradient; in half precision, after a resume and in two processes; and where
    images are mixed the labels of coarser scales are those of their voxels.
    """
    if not subject.resolved().takes_scales:
        raise NotApplicable("trains at full resolution alone")
    deep = replace(subject, network=deep_network)
    check_training_moves_what_is_trainable(deep)
    check_losses_under_autocast(deep, dtype=torch.bfloat16)
    check_a_resumed_stage_is_bit_equal(deep)
    check_two_processes_are_one(deep)
    expect_labels_travel(subject, lambda _, classes, **__: DeepReader(classes))
