"""Near copies are found from sketches as by comparing all thumbnails with all."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medssl.data.checks.measures import THUMBNAIL, thumbnail
from medssl.data.checks.outliers import COMPANY, stand_alone
from medssl.data.checks.sketches import (
    FIRST,
    NEAR,
    NEAR_DETAIL,
    SIZE,
    detail,
    look,
    make_sketch,
    near_pairs,
)

SHAPE = (THUMBNAIL,) * 3


def all_pairs(flat: np.ndarray) -> set[tuple[int, int]]:
    """Multiply all thumbnails with all."""
    fine = np.stack([detail(t) for t in flat])
    near = (flat @ flat.T > NEAR) & (fine @ fine.T > NEAR_DETAIL)
    return {(int(i), int(j)) for i, j in np.argwhere(np.tril(near, -1))}


def unit(volume: np.ndarray) -> np.ndarray:
    flat = (volume - volume.mean()).astype(np.float32).ravel()
    return flat / np.linalg.norm(flat)


def noise(rng: np.random.Generator, blur: float) -> np.ndarray:
    return unit(
        ndimage.gaussian_filter(rng.normal(size=SHAPE), blur) if blur else rng.normal(size=SHAPE)
    )


def with_partners(rng: np.random.Generator, blur: float, count: int) -> np.ndarray:
    """Return thumbnails, half of them another one with more and more of something else."""
    base = [noise(rng, blur) for _ in range(count // 2)]
    shares = np.linspace(0.02, 0.6, len(base))
    return np.stack(
        [*base, *(unit(b + s * noise(rng, blur)) for b, s in zip(base, shares, strict=True))]
    )


def alike(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return scans of one anatomy that differ by about the limit, each from each."""
    body = noise(rng, 3)
    return np.stack([unit(body + s * noise(rng, 0.7)) for s in np.linspace(0.05, 0.4, count)])


def with_spots(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return one image in which one to twenty voxels are something quite else."""
    body = noise(rng, 1)
    out = []
    for number in range(count):
        other = body.copy()
        where = rng.choice(other.size, 1 + number // 5, replace=False)
        share = 0.03 + 0.3 * number / count
        other[where] += rng.choice([-1, 1], len(where)) * share / np.sqrt(len(where))
        out.append(unit(other))
    return np.stack(out)


def with_small_scans(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return thumbnails of scans smaller than these, and of rescaled and resampled copies."""
    scans = [ndimage.gaussian_filter(rng.normal(size=(24, 20, 12)), 1) for _ in range(count)]
    copies = [900 - 3 * s for s in scans[:5]] + [ndimage.zoom(s, 2, order=1) for s in scans[5:15]]
    return np.stack([thumbnail(s) for s in [*scans, *copies, *(5 * s for s in scans[20:30])]])


SETS = {
    "noise": lambda rng: with_partners(rng, 0, 120),
    "smooth": lambda rng: with_partners(rng, 2, 120),
    "a little smooth": lambda rng: with_partners(rng, 0.8, 120),
    "one anatomy": lambda rng: alike(rng, 100),
    "spots": lambda rng: with_spots(rng, 100),
    "small scans": lambda rng: with_small_scans(rng, 60),
    "equal": lambda rng: np.repeat(with_partners(rng, 2, 4), 20, axis=0),
    "one": lambda rng: alike(rng, 1),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_pairs_as_all_with_all(name: str, seed: int) -> None:
    flat = SETS[name](np.random.default_rng(seed))
    flat = flat[np.random.default_rng(seed + 9).permutation(len(flat))]
    truth = all_pairs(flat)
    sketches = [make_sketch(t) for t in flat]
    found = list(near_pairs(sketches, lambda i: flat[i]))
    assert [(i, j) for i, j, _ in found] == sorted(truth)
    for i, j, correlation in found:
        assert correlation == pytest.approx(float(flat[i] @ flat[j]), abs=1e-5)
    if name != "one":
        assert 0 < len(truth) < len(flat) * (len(flat) - 1) / 2  # else it shows nothing
    firsts = near_pairs(sketches, lambda i: flat[i], first_only=True)
    assert {i: j for i, j, _ in firsts} == dict(sorted(truth, reverse=True))


def test_no_scans_no_pairs() -> None:
    assert list(near_pairs([], lambda _: None)) == []


def test_few_thumbnails_are_read_again_and_each_once() -> None:
    rng = np.random.default_rng(0)
    flat = [noise(rng, b) for b in (0, 1, 2, 3) for _ in range(150)]
    flat[400] = unit(flat[17] + 0.05 * flat[3])
    flat[500] = flat[17]
    read: list[int] = []

    def reader(number: int) -> np.ndarray:
        read.append(number)
        return flat[number]

    found = list(near_pairs([make_sketch(t) for t in flat], reader))
    assert [(i, j) for i, j, _ in found] == [(400, 17), (500, 17), (500, 400)]
    assert sorted(read) == sorted(set(read))
    assert {17, 400, 500} <= set(read)
    assert len(read) < 10
    lost = near_pairs([make_sketch(t) for t in flat], lambda n: None if n == 400 else flat[n])
    assert [(i, j) for i, j, _ in lost] == [(500, 17)]
    passed = near_pairs([make_sketch(t) for t in flat], reader, pass_over=lambda i, j: i == 500)
    assert [(i, j) for i, j, _ in passed] == [(400, 17)]


def test_sketches_estimate_distances() -> None:
    """For a thousand pairs the estimate stays far from where a near pair would be passed over."""
    rng = np.random.default_rng(3)
    ratios, first_ratios = [], []
    for blur in (0, 0.7, 1.5, 3):
        flat = [noise(rng, blur) for _ in range(30)]
        sketches = [make_sketch(t).coarse for t in flat]
        for i in range(30):
            for j in range(i):
                truth = float(((flat[i] - flat[j]) ** 2).sum())
                apart = (sketches[i] - sketches[j]) ** 2
                ratios.append(float(apart.sum()) / truth)
                first_ratios.append(float(apart[:FIRST].sum()) * SIZE / FIRST / truth)
    assert np.mean(ratios) == pytest.approx(1, abs=0.02)
    assert np.std(ratios) < 1.3 * np.sqrt(2 / SIZE)
    assert max(ratios) < 1.35
    assert max(first_ratios) < 2.0


@pytest.mark.parametrize("n", [1, 2, 3, 7, 50, 51, 333])
@pytest.mark.parametrize("ties", [False, True])
def test_standing_alone_is_as_by_all_distances(n: int, ties: bool) -> None:
    values = np.random.default_rng(n).standard_t(1.5, (n, 3))
    values = np.round(values) if ties else values
    apart = np.abs(values[:, None] - values[None])
    apart[np.arange(n), np.arange(n)] = np.inf
    nearest = np.sort(apart, axis=1)[:, int(COMPANY * n)]
    expected = nearest > 0.5 * np.abs(values - np.median(values, axis=0))
    np.testing.assert_array_equal(stand_alone(values), expected)


def test_a_volume_without_numbers_or_detail_has_no_look() -> None:
    noise = np.random.default_rng(0).normal(size=(20, 24, 12))
    assert len(look(noise)) == 128
    assert look(np.full((20, 24, 12), 7)) == ""
    for value in (np.nan, np.inf):
        holed = noise.copy()
        holed[3, 4, 5] = value
        assert look(holed) == ""
