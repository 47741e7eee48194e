"""Votes of warped atlases, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.atlases.fusion import WarpedAtlas, fuse, local_error, weight_of
from medssl.atlases.settings import AtlasSettings

SETTINGS = AtlasSettings(window=1)
SHAPE = (3, 2, 2)


def atlas(difference: float, label: int, classes: int = 3, known: float | None = None):
    """An atlas of one label everywhere, whose image is off by a constant from a scan of zeros."""
    shares = np.zeros((classes, *SHAPE), np.float32)
    shares[label] = 1
    annotated = None if known is None else np.full(SHAPE, known, np.float32)
    return WarpedAtlas(np.full((1, *SHAPE), difference, np.float32), shares, annotated)


def votes(*atlases: WarpedAtlas) -> np.ndarray:
    """The probabilities of one voxel."""
    found = fuse(np.zeros((1, *SHAPE), np.float32), atlases, SETTINGS)
    assert np.allclose(found, found[:, :1, :1, :1])
    return found[:, 0, 0, 0]


@pytest.mark.parametrize(("error", "weight"), [(0.0, 1e6), (1.0, 0.998)])
def test_a_vote_weighs_by_the_square_of_the_difference(error: float, weight: float) -> None:
    assert weight_of(np.array(error), SETTINGS) == pytest.approx(weight, rel=1e-3)


def test_three_atlases_share_a_voxel_by_their_differences() -> None:
    found = votes(*(atlas(e**0.5, k) for k, e in enumerate((0.01, 0.02, 0.04))))
    assert found == pytest.approx([0.743, 0.204, 0.053], abs=1e-3)


def test_equally_good_atlases_count_alike_and_one_counts_alone() -> None:
    assert votes(atlas(0.3, 0), atlas(0.3, 1), atlas(0.3, 1)) == pytest.approx([1 / 3, 2 / 3, 0])
    assert votes(atlas(5.0, 2)) == pytest.approx([0, 0, 1])


def test_neither_the_order_nor_doubling_all_matters() -> None:
    some = [atlas(0.1, 0), atlas(0.2, 1), atlas(0.4, 2)]
    assert votes(*some) == pytest.approx(votes(*some[::-1]), abs=1e-7)
    assert votes(*some) == pytest.approx(votes(*some, *some), abs=1e-7)


def test_what_an_atlas_does_not_know_is_no_vote() -> None:
    assert votes(atlas(0.1, 1, known=0.0), atlas(0.1, 2)) == pytest.approx([0, 0, 1])
    assert votes(atlas(0.1, 1, known=0.5), atlas(0.1, 2)) == pytest.approx([0, 1 / 3, 2 / 3])
    assert votes(atlas(0.1, 1, known=0.0)) == pytest.approx([1, 0, 0])


def test_the_difference_is_a_mean_over_window_and_channels() -> None:
    image, other = np.zeros((2, 5, 5, 5), np.float32), np.zeros((2, 5, 5, 5), np.float32)
    other[0, 2, 2, 2] = 3
    found = local_error(image, other, 3)
    assert found[2, 2, 2] == pytest.approx(9 / 2 / 27)
    assert found[1, 3, 1] == pytest.approx(9 / 2 / 27)
    assert found[0, 2, 2] == 0
