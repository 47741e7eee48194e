"""Losses over several scales: which voxels, which weights, and nothing where there is one scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medssl.ops.deep_supervision import (
    Outputs,
    finest,
    joined,
    over_scales,
    scale_weights,
    shrink,
)
from medssl.ops.losses import dice_and_ce, half_dice_half_ce, region_terms, supervised_loss
from medssl.ops.variants import WHOLE as _WHOLE


def logits_of(label: Tensor, classes: int) -> Tensor:
    """Return logits that are sure of a label; background where it is 255."""
    known = torch.where(label == 255, 0, label)
    return 40 * torch.nn.functional.one_hot(known, classes).movedim(-1, 1).float()


def test_weights_halve_and_sum_to_one() -> None:
    assert scale_weights(1) == [1.0]
    assert scale_weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_a_block_is_its_middle_voxel_along_each_axis() -> None:
    volume = torch.arange(6 * 4).reshape(1, 6, 4)
    assert shrink(volume, (2, 2)).tolist() == [[[5, 7], [17, 19]]]  # rows 1, 4; columns 1, 3
    assert shrink(volume, (6, 4)) is volume


def test_label_ignore_index_and_region_of_a_coarse_voxel_are_those_of_one_voxel() -> None:
    label = torch.tensor([[[0, 1, 2, 255], [0, 2, 1, 1]]])
    region = label == 2
    small, where = shrink(label, (1, 2)), shrink(region, (1, 2))
    assert small.tolist() == [[[2, 1]]]
    assert where.tolist() == [[[True, False]]]
    assert ((small == 2) == where).all()


def test_the_loss_is_the_weighted_mean_of_that_of_each_scale() -> None:
    g = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (2, 8, 4), generator=g)
    label[:, :, 0] = 255
    fine, coarse = (torch.randn(2, 3, n, n // 2, generator=g) for n in (8, 4))
    both, small = Outputs((fine, coarse)), shrink(label, (4, 2))
    for loss in (supervised_loss, lambda x, y: half_dice_half_ce(x, y, dice=_WHOLE)):
        expected = (2 * loss(fine, label) + loss(coarse, small)) / 3
        torch.testing.assert_close(loss(both, label), expected)
    regions = [label == 1, None]
    terms = [
        region_terms(x, y, [None if r is None else shrink(r, y.shape[1:]) for r in regions])
        for x, y in ((fine, label), (coarse, small))
    ]
    for k, found in enumerate(region_terms(both, label, regions)):
        for i, value in enumerate(found):
            torch.testing.assert_close(value, (2 * terms[0][k][i] + terms[1][k][i]) / 3)


def test_each_scale_that_reads_its_labels_has_no_loss() -> None:
    label = torch.randint(0, 3, (1, 8, 8), generator=torch.Generator().manual_seed(1))
    label[0, 0] = 255
    scales = tuple(logits_of(shrink(label, (n, n)), 3) for n in (8, 4, 2))
    dice, ce = dice_and_ce(Outputs(scales), label)
    assert float(dice) < 1e-4
    assert float(ce) < 1e-4
    other = Outputs((*scales[:2], scales[2].roll(1, 1)))
    assert float(dice_and_ce(other, label)[1]) > 1


def test_one_scale_is_the_loss_itself() -> None:
    seen = []

    def loss(x: Tensor, y: Tensor | None) -> Tensor:
        seen.append((x, y))
        return x.sum()

    x = torch.ones(1, 2, 4)
    assert over_scales(loss, x, None) == 8
    assert seen[0][0] is x


def test_patches_are_taken_and_put_together_at_every_scale() -> None:
    both = Outputs((torch.arange(4).view(4, 1, 1), torch.arange(4, 8).view(4, 1, 1)))
    assert len(both) == 4
    assert finest(both[1:3]).flatten().tolist() == [1, 2]
    parts = both.split([1, 3])
    assert [x.flatten().tolist() for x in parts[1].scales] == [[1, 2, 3], [5, 6, 7]]
    again = joined([*both.chunk(2)])
    assert isinstance(again, Outputs)
    assert all(torch.equal(a, b) for a, b in zip(again.scales, both.scales, strict=True))
    assert torch.equal(joined([torch.ones(1, 1), torch.zeros(1, 1)]), torch.tensor([[1.0], [0.0]]))
