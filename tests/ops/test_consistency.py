"""Consistency between two predictions, and the variance over passes, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medssl.ops.certainty import weighted_consistency
from medssl.ops.losses import softmax_mse
from medssl.ops.uncertainty import mc_statistics


@pytest.mark.parametrize("normalizer", ["mean", "official", "poster", "plain"])
def test_no_consistency_moves_its_teacher(normalizer) -> None:
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    teacher = torch.randn(2, 3, 4, 4, requires_grad=True)
    if normalizer == "plain":
        loss = softmax_mse(student, teacher)
    else:
        weight = torch.rand(2, 1, 4, 4)
        loss = weighted_consistency(student, teacher, weight, normalizer=normalizer)
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def test_normalizers_by_hand() -> None:
    """Softmax outputs (1/4, 3/4) and (1/2, 1/2): 1/16 per class; a second voxel without weight."""
    student = torch.tensor([[0.0, 5.0], [math.log(3), -5.0]]).view(1, 2, 2)
    teacher = torch.zeros(1, 2, 2)
    for shape in ((1, 1, 2), (1, 2, 2)):
        weight = torch.tensor([0.5, 0.0]).expand(shape)
        expected = {
            "mean": 1 / 16,
            "poster": 1 / 8,
            "official": 1 / 16 if shape[1] == 1 else 1 / 32,
        }
        for normalizer, value in expected.items():
            found = weighted_consistency(student, teacher, weight, normalizer=normalizer)
            assert found.item() == pytest.approx(value, rel=1e-5)


def test_variance_over_passes_by_hand() -> None:
    """Of 0.2, 0.4 and 0.9 the mean is 0.5 and the mean squared distance 0.26 / 3."""
    mean, variance = mc_statistics(torch.tensor([0.2, 0.4, 0.9]).view(3, 1))
    assert mean.item() == pytest.approx(0.5)
    assert variance.item() == pytest.approx(0.26 / 3)
