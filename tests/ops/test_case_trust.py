"""Counts of patches, figures of scans and frequencies of classes, by hand."""

from __future__ import annotations

import pytest
import torch

from medssl.ops.case_trust import (
    FIXED,
    familiarity,
    figures,
    pooled,
    prior_shift,
    prior_step,
    remembered_cases,
    tally,
)


def test_what_is_counted_of_a_patch() -> None:
    first = torch.tensor([[[0, 1, 1, 2, 2]]])
    second = torch.tensor([[[1, 1, 2, 2, 0]]])
    kept = torch.tensor([[[True, True, False, True, False]]])
    # All five show a structure to either; three are kept; two are the same; four of each.
    assert tally(first, second, kept, 3).tolist() == [[1, 5, 5, 3, 4, 8, 2, 2]]


def test_scans_that_are_seen_forget_others_stay() -> None:
    table = torch.tensor([[2.0, 10.0], [3.0, 20.0], [4.0, 40.0]])
    new = torch.tensor([[1.0, 5.0], [1.0, 6.0], [1.0, 7.0]])
    found = remembered_cases(table, new, torch.tensor([0, 2, 0]), 0.5)
    assert found.tolist() == [[4, 17], [3, 20], [5, 26]]


def scan(
    *, patches: float = 9, sure: float = 80, both: float = 90, one: float = 60, two: float = 40
) -> list[float]:
    """Return the row of a scan of 1000 voxels, 100 of which show a structure."""
    return [patches, 1000, 100, sure, both, 100, one, two]


def test_figures_of_scans() -> None:
    rows = [
        *(scan() for _ in range(6)),
        scan(sure=40),  # half as sure
        scan(both=9),  # a tenth of the agreement
        scan(one=0, two=200),  # other structures
        scan(sure=0, patches=3),  # seen too rarely
        [9, 1000, 0, 0, 0, 0, 0, 0],  # nothing is found
    ]
    found = figures(torch.tensor(rows))
    assert found["believed"].tolist() == pytest.approx([0.8] * 6 + [0.4, 0.8, 0.8, 0, 0])
    assert found["agreement"].tolist() == pytest.approx([0.9] * 7 + [0.09, 0.9, 0.9, 0])
    likeness = 40 / (60 + 200)
    assert found["likeness"].tolist() == pytest.approx([1] * 8 + [likeness, 1, 0])
    # The median scan is a good one; each figure is one of three in a geometric mean.
    half, tenth, other = (value ** (1 / 3) for value in (0.5, 0.1, likeness))
    assert found["trust"].tolist() == pytest.approx([1] * 6 + [half, tenth, other, 1, 0])
    assert found["patches"].tolist() == [9] * 9 + [3, 9]


def test_a_patch_is_described_by_mean_and_deviation_of_each_channel() -> None:
    fine = torch.tensor([[[1.0, 3.0], [5.0, 5.0]]])
    coarse = torch.tensor([[[7.0]]])
    assert pooled([fine, coarse]).tolist() == [[1, 1, 2, 5, 1, 0, 7, 0]]


def test_scans_far_from_every_labeled_one_are_not_familiar() -> None:
    def rows(values: list[float], patches: float = 8) -> torch.Tensor:
        # What is remembered is divided by its own weight: sums of half a patch here.
        return torch.tensor([[patches, 0.5, v / 2, 0.5] for v in values])

    labeled = rows([0.0, 10.0])
    unlabeled = rows([-1.0, 1.0, 9.0, 11.0, 12.0, 14.0])
    # Median of all 5.0 (lower of 1 and 9 would be 1): sorted -1 0 1 9 10 11 12 14, lower is 9.
    # Off: 10 9 8 0 1 2 3 5, lower median 3; the second feature is the same in all.
    near = familiarity(unlabeled, labeled)
    # Nearest labeled: 1 1 1 1 2 4 away, lower median 1; so halves and quarters to the fourth.
    assert near.tolist() == pytest.approx([1, 1, 1, 1, 1 / 16, 1 / 256])
    unknown = torch.cat([unlabeled, rows([99.0], patches=3)])
    assert familiarity(unknown, labeled)[-1] == 1, "seen too rarely"
    assert familiarity(unlabeled, torch.zeros(2, 4)).tolist() == [1] * 6, "no label was seen"
    alone = familiarity(unlabeled, torch.cat([labeled, torch.zeros(1, 4)]))
    assert torch.equal(alone, near), "a labeled scan that was not seen is not at zero"


def test_one_feature_that_is_off_without_bound_does_not_decide_alone() -> None:
    labeled = torch.tensor([[8.0, 1, *[v] * 4] for v in (0.0, 1.0)])
    usual = torch.tensor([[8.0, 1, *[v] * 4] for v in (0.2, 0.4, 0.5, 0.6, 0.8)])
    odd = torch.tensor([[8.0, 1, 1e6, 0.5, 0.5, 0.5], [8.0, 1, 9, 9, 9, 9]])
    near = familiarity(torch.cat([usual, odd]), labeled)
    assert 0 < near[6] < near[5] < near[:5].min(), "many count more than one"


def test_what_is_not_familiar_is_trusted_less() -> None:
    found = figures(torch.tensor([scan()] * 5), torch.tensor([1.0, 1, 1, 0.5, 0.1]))
    assert found["trust"].tolist() == pytest.approx([1, 1, 1, 0.5, 0])
    assert found["familiar"].tolist() == pytest.approx([1, 1, 1, 0.5, 0.1])
    assert figures(torch.tensor([scan()]))["familiar"].tolist() == [1], "nobody can be asked"


def test_as_long_as_little_is_known_all_that_is_familiar_is_trusted() -> None:
    assert figures(torch.zeros(3, FIXED + 1))["trust"].tolist() == [1, 1, 1]
    empty = torch.tensor([[9.0, 1000, 0, 0, 0, 0, 0, 0]] * 2 + [scan()])
    assert figures(empty)["trust"].tolist() == [1, 1, 1]
    near = torch.tensor([1.0, 0.5, 0.1])
    assert figures(empty, near)["trust"].tolist() == [1, 0.5, 0], "features are known sooner"


def test_the_frequency_of_classes_is_estimated_by_steps_of_em() -> None:
    """Of labels half is background; unlabeled ones, guessed with doubt, have three quarters."""
    label = torch.tensor([[[0, 0, 1, 2]]])
    sure = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2]])
    # A classifier right for labels of these shares: q(k | x) as in label patches.
    kinds = torch.tensor([0, 0, 0, 1])
    probs = sure[kinds].T[None, :, None, :]
    prior = torch.full((2, 3), 1 / 3)
    for _ in range(400):
        prior = prior_step(prior, probs, label, 0.9)
    assert prior[0].tolist() == pytest.approx([0.5, 0.25, 0.25], abs=1e-4)
    assert prior[1].sum().item() == pytest.approx(1, abs=1e-5)
    # The fixed point of EM: the mean of what the guesses are under the new frequencies.
    ratio = prior[1] / prior[0]
    again = (sure * ratio) / (sure * ratio).sum(1, keepdim=True)
    torch.testing.assert_close(again[kinds].mean(0), prior[1], atol=1e-4, rtol=0)
    assert prior[1][1] > prior[1][2]
    shares = prior[1][1:] / prior[1][1:].sum()
    assert prior_shift(prior).item() == pytest.approx((shares[0] - 0.5).item(), abs=1e-4)


def test_patches_without_a_label_leave_the_labels_frequencies() -> None:
    prior = torch.tensor([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1]])
    probs = torch.full((1, 3, 2, 2), 1 / 3)
    found = prior_step(prior, probs, torch.full((1, 2, 2), 255), 0.5)
    torch.testing.assert_close(found[0], prior[0])
