"""What members agree on, against hand-made truths."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from medssl.pseudo_labels.vote import agreement, alike, left_out, undecided, vote
from medssl.runs.unlabeled_csv import write_unlabeled

ONE = np.array([[[0, 1, 1, 2, 0]]], np.uint8)
TWO = np.array([[[0, 1, 2, 2, 1]]], np.uint8)
THREE = np.array([[[0, 1, 0, 1, 2]]], np.uint8)


def test_two_of_three_decide_and_nobody_else() -> None:
    found = vote([ONE, TWO, THREE], share=2 / 3, ignore=3)
    assert found.tolist() == [[[0, 1, 3, 2, 3]]]
    assert found.dtype == np.uint8
    assert vote([THREE, ONE, TWO], share=2 / 3, ignore=3).tolist() == found.tolist()
    assert vote([ONE, TWO, THREE], share=1.0, ignore=3).tolist() == [[[0, 1, 3, 3, 3]]]
    # four of five: the smallest number that is at least two thirds
    five = [ONE, ONE, ONE, TWO, THREE]
    assert vote(five, share=2 / 3, ignore=3).tolist() == [[[0, 1, 3, 2, 3]]]
    assert undecided(found, [ONE, TWO, THREE], 3) == 2 / 4


def test_a_single_member_and_equal_ones_decide_all() -> None:
    assert vote([ONE], share=2 / 3, ignore=3).tolist() == ONE.tolist()
    assert vote([ONE, ONE], share=2 / 3, ignore=3).tolist() == ONE.tolist()
    assert agreement([ONE]) == agreement([ONE, ONE, ONE]) == 1.0


def test_values_of_the_dataset_and_of_nobody_fit_their_type() -> None:
    tall = np.array([[[0, 300]]], np.uint16)
    assert vote([tall, tall * 0], share=1.0, ignore=301).tolist() == [[[0, 301]]]
    assert vote([tall], share=1.0, ignore=301).dtype == np.uint16


@pytest.mark.parametrize("share", [0.5, 0.0, 1.1])
def test_a_share_with_which_two_labels_could_win_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="above one half"):
        vote([ONE, TWO], share=share, ignore=3)


def test_agreement_is_the_mean_dice_of_all_pairs() -> None:
    # class 1: 2*1/(2+2), class 2: 2*1/(1+2)
    assert alike(ONE, TWO) == pytest.approx((1 / 2 + 2 / 3) / 2)
    # class 1: 2*1/(2+2), class 2: in both, nowhere together
    assert alike(ONE, THREE) == pytest.approx((1 / 2 + 0) / 2)
    pairs = [alike(ONE, TWO), alike(ONE, THREE), alike(TWO, THREE)]
    assert agreement([ONE, TWO, THREE]) == pytest.approx(sum(pairs) / 3)
    assert alike(ONE * 0, TWO * 0) == 1.0
    assert alike(ONE, np.where(ONE == 0, 9, ONE), ignore=9) == 1.0
    assert alike(ONE, np.where(ONE == 1, 9, ONE), ignore=9) == 0.5  # what nobody decides is missed


def test_scans_are_left_out_relative_to_the_others_and_never_many() -> None:
    found = {f"s{n}": n / 20 for n in range(20)}
    assert left_out(found, 0.1) == {"s0", "s1"}
    assert left_out(found, 0.9) == {"s0", "s1", "s2", "s3", "s4"}
    assert left_out({"a": 0.1, "b": 0.9}, 0.25) == set()


def test_the_worst_scan_stands_first(tmp_path: Path) -> None:
    rows = [
        {"case": "good", "weight": 1, "agreement": 0.9},
        {"case": "bad", "weight": 0, "agreement": 0.25},
        {"case": "unknown", "weight": 0.5, "agreement": math.nan},
        {"case": "a tie", "weight": 1, "agreement": 0.25},
    ]
    with write_unlabeled(tmp_path, rows, by="agreement").open(newline="") as file:
        found = list(csv.reader(file))
    assert found[0] == ["case", "weight", "agreement"]
    assert [row[0] for row in found[1:]] == ["unknown", "bad", "a tie", "good"]
    assert found[2] == ["bad", "0", "0.25"]
