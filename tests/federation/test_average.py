"""Weights, means and lengths, with truths made by hand."""

from __future__ import annotations

import pytest
import torch

from medssl.federation.average import averaged, length, site_weights, too_long


def test_a_weighted_mean() -> None:
    zero, one = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(averaged([zero, one], [0.25, 0.75]), torch.full((2, 3), 0.75))


@pytest.mark.parametrize("how", ["mean", "median", "trimmed"])
def test_one_site_comes_back_bit_for_bit(how: str) -> None:
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 1e-3
    assert torch.equal(averaged([tensor], [1.0], how), tensor)


def test_median_and_trimmed_mean_bear_one_of_five() -> None:
    honest = [torch.tensor([v]) for v in (1.0, 2.0, 3.0, 4.0)]
    lie = torch.tensor([1e6])
    shares = [0.2] * 5
    assert averaged([*honest, lie], shares).item() == pytest.approx(200002.0)
    assert averaged([*honest, lie], shares, "median").item() == 3.0
    assert averaged([*honest, lie], shares, "trimmed", 0.2).item() == 3.0
    assert averaged(honest, shares[:4], "median").item() == 2.5
    assert averaged(honest, shares[:4], "trimmed", 0.2).item() == 2.5, "no whole site to leave out"


def test_equal_weights_by_iterations() -> None:
    figures = {"A": {"iterations": 50}, "B": {"iterations": 50}, "C": {"iterations": 25}}
    assert site_weights("iterations", figures) == {"A": 0.4, "B": 0.4, "C": 0.2}
    assert site_weights("iterations", {"A": {"iterations": 0}, "B": {}}) == {"A": 0.5, "B": 0.5}


def test_a_site_without_labels_keeps_its_equal_share() -> None:
    figures = {
        n: {"labeled_patients": c, "iterations": 50} for n, c in zip("ABC", (3, 1, 0), strict=True)
    }
    weights = site_weights("labeled", figures)
    assert weights == pytest.approx({"A": 0.5, "B": 1 / 6, "C": 1 / 3})
    none = {n: {"labeled_patients": 0, "iterations": 50} for n in "AB"}
    assert site_weights("labeled", none) == {"A": 0.5, "B": 0.5}
    figures["C"]["iterations"] = 10  # its guesses count a fifth yet: 0.2 of 2.2
    weights = site_weights("labeled", figures)
    assert weights == pytest.approx({"A": 1.5 / 2.2, "B": 0.5 / 2.2, "C": 0.2 / 2.2})
    assert site_weights("iterations", figures)["C"] == 10 / 110


def test_lengths() -> None:
    base = {"a": torch.zeros(2), "b": torch.ones(1)}
    assert length({"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([5.0])}, base) == 5.0
    lengths = {"A": 1.0, "B": 1.2, "C": 3.5}
    assert set(too_long(lengths, [], 3.0)) == set(), "median 1.2 of this round: 3.6 may be"
    assert set(too_long({**lengths, "C": 3.7}, [], 3.0)) == {"C"}
    assert too_long({"A": 1.0, "C": 100.0}, [], 3.0) == {}, "two cannot say which is unusual"
    assert set(too_long(lengths, [[50.0], [1.0], [1.0], [1.0]], 3.0)) == {"C"}, "three rounds count"
    assert too_long(lengths, [[0.0]], 3.0) == {}
