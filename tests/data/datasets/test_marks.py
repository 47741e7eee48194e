"""A scan is recognized by its windows: cropped, padded, in another type; nobody else's is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medssl.data.datasets.marks import LEAST, MARKS, marks_of

SCAN = np.random.default_rng(0).normal(100, 30, (60, 70, 40)).astype(np.float32)


def shared(one: np.ndarray, other: np.ndarray, scale: float = 1.0, offset: float = 0.0) -> int:
    return len({*marks_of(one, scale, offset)} & {*marks_of(other)})


def test_marks_are_distinct_ascending_and_the_same_of_equal_values() -> None:
    marks = marks_of(SCAN)
    assert marks == sorted(set(marks))
    assert len(marks) == MARKS
    assert marks == marks_of(np.asfortranarray(SCAN)) == marks_of(SCAN.astype(np.float64))
    whole = np.round(SCAN).astype(np.int16)
    assert marks_of(whole) == marks_of(whole.astype(np.float64))
    assert marks_of(whole, 0.5, -7.0) == marks_of(whole * 0.5 - 7.0)


@pytest.mark.parametrize("share", [0.9, 0.7, 0.6])
def test_a_part_shares_as_many_as_lie_in_it(share: float) -> None:
    sides = [round(n * share) for n in SCAN.shape]
    begin = [(n - side) // 3 for n, side in zip(SCAN.shape, sides, strict=True)]
    part = SCAN[tuple(slice(b, b + side) for b, side in zip(begin, sides, strict=True))]
    windows = (sides[0] - 7) * (sides[1] - 7) * sides[2] / ((60 - 7) * (70 - 7) * 40)
    assert shared(SCAN, part) == pytest.approx(MARKS * windows, abs=10)
    assert shared(SCAN, part) >= LEAST


def test_padding_adds_hardly_any() -> None:
    padded = np.pad(SCAN, ((10, 3), (0, 20), (4, 4)))
    assert shared(SCAN, padded) >= MARKS * 3 // 4
    assert (
        shared(np.round(SCAN), np.pad(np.round(SCAN), 9, constant_values=-1024)) >= MARKS * 3 // 4
    )


def test_one_rare_pattern_that_recurs_is_one_mark() -> None:
    tile = np.random.default_rng(1).integers(0, 99, (16, 16, 1))
    tiled = np.tile(tile, (8, 8, 5))
    assert len(marks_of(tiled)) == len(set(marks_of(tiled))) <= 256


def test_nobody_else_shares_what_holds_little() -> None:
    def person(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        scan = np.zeros((64, 64, 20))  # masked, a plain ramp, then what is one's own
        scan[:, :16] = np.arange(64)[:, None, None] // 8
        scan[20:40, 20:40] = rng.integers(0, 40, (20, 20, 20))
        return scan

    for one, other in itertools.combinations(map(person, range(6)), 2):
        assert shared(one, other) == 0


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((40, 40, 3)),
        np.ones((7, 40, 3)),
        np.zeros((40, 40, 0)),
        np.full((20, 20, 2), np.nan),
        np.tile(np.arange(40.0), (40, 1))[..., None],
    ],
)
def test_what_has_no_detail_has_no_marks(data: np.ndarray) -> None:
    assert len(marks_of(data)) <= 1
