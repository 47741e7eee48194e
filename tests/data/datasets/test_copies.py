"""Copies of held-back scans: who is one person, and who must not be trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl.data.datasets.case import Case
from medssl.data.datasets.copies import (
    find_copies,
    patient_groups,
    recorded_copies,
    without,
)
from medssl.data.datasets.marks import LEAST
from medssl.data.datasets.resemblance import with_resembling
from medssl.data.datasets.split import LeftOut, Splits
from medssl.data.datasets.split_file import save_splits, split_hash


def cases(*names: str) -> tuple[Case, ...]:
    """Return cases; ``p/a`` is case a of patient p."""
    return tuple(
        Case(n.rpartition("/")[2], (Path(f"{n}.nii"),), None, n.partition("/")[0]) for n in names
    )


def test_groups_join_patients_and_copies_in_chains() -> None:
    scans = cases("z/1", "b/2", "b/3", "c/4", "d/5", "e/6", "f/7")
    contents = {"1": ["x", "r"], "3": ["x"], "2": ["y"], "4": ["z", "y"], "5": [], "7": ["q"]}
    found = patient_groups(scans, contents)
    # 1 = 3, of b, whose 2 = 4, of c. Nothing is known of d and e; nobody is like f.
    assert found == {"1": "z", "2": "z", "3": "z", "4": "z", "5": "d", "6": "e", "7": "f"}
    assert patient_groups(scans, {}) == {c.id: c.patient for c in scans}
    assert patient_groups((), {}) == {}


def test_ten_thousand_scans_in_one_chain_are_one_group_without_delay() -> None:
    scans = cases(*(f"p{n}/{n}{side}" for n in range(5000) for side in "ab"))
    contents = {f"{n}{side}": [f"link{n + (side == 'b')}"] for n in range(5000) for side in "ab"}
    assert set(patient_groups(scans, contents).values()) == {"p0"}


def test_copies_are_found_in_every_role_that_is_trained_on() -> None:
    splits = Splits(
        labeled=cases("l1/l1", "l2/l2"),
        unlabeled=cases("u1/u1", "u2/u2", "u2/u2b", "u3/u3", "u4/u4"),
        validation=cases("v1/v1", "v2/v2"),
        test=cases("t1/t1", "t2/t2"),
    )
    contents = {"t1": "T", "l2": "T", "u1": "T", "v2": "W", "t2": "W", "v1": "V", "u2": "V"}
    contents |= {"u3": "U", "u4": "U"}  # two unlabeled ones alike harm nobody
    assert find_copies(splits, contents) == (
        LeftOut("v2", "validation", "t2", "test", exact=True),
        LeftOut("l2", "labeled", "t1", "test", exact=True),
        LeftOut("u1", "unlabeled", "t1", "test", exact=True),
        LeftOut("u2", "unlabeled", "v1", "validation", exact=True),
        LeftOut("u2b", "unlabeled", "v1", "validation", exact=False),
    )
    left = without(splits, find_copies(splits, contents))
    assert [c.id for c in left.labeled] == ["l1"]
    assert [c.id for c in left.unlabeled] == ["u3", "u4"]
    assert [c.id for c in left.validation] == ["v1"]
    assert left.test == splits.test
    assert find_copies(left, contents) == ()


def test_two_test_scans_alike_are_both_tested() -> None:
    splits = Splits(cases("l/l"), (), (), cases("a/a", "b/b"))
    assert find_copies(splits, {"a": "x", "b": "x", "l": "y"}) == ()


def test_images_lent_by_test_patients_are_theirs_to_lend() -> None:
    splits = Splits(cases("l/l"), cases("t/t", "u/u", "w/w"), cases("v/v"), cases("t/t"))
    contents = {"t": "x", "u": "x", "l": "x", "v": "y", "w": "y"}
    found = find_copies(splits, contents, transductive=True)
    assert [(f.case, f.role, f.kept_as) for f in found] == [
        ("l", "labeled", "test"),
        ("w", "unlabeled", "validation"),
    ]


def test_a_sentence_tells_a_copy_from_its_patients_other_scans() -> None:
    exact = LeftOut("u", "unlabeled", "t", "test", exact=True)
    assert exact.sentence == "unlabeled case 'u' has exactly the voxels of test case 't'"
    other = LeftOut("u", "unlabeled", "t", "test", exact=False)
    assert "is of the same patient as a copy of test case 't'" in other.sentence


def test_the_file_of_splits_keeps_what_was_left_out(tmp_path: Path) -> None:
    splits = Splits(cases("l/l"), cases("u/u"), (), cases("t/t"))
    found = find_copies(splits, {"t": "x", "u": "x"})
    left = without(splits, found)
    save_splits(left, tmp_path / "splits.json")
    assert recorded_copies(tmp_path / "splits.json") == found != ()
    assert split_hash(without(splits, found)) == split_hash(left) != split_hash(splits)
    save_splits(splits, tmp_path / "splits.json")
    assert recorded_copies(tmp_path / "splits.json") == ()


@pytest.mark.parametrize("text", [None, "{}", '{"left_out": [{"case": "a"}]}', "no json"])
def test_a_file_that_says_nothing_of_copies_left_none_out(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "splits.json").write_text(text)
    assert recorded_copies(tmp_path / "splits.json") == ()


def test_copies_in_other_intensities_are_found_by_their_looks() -> None:
    splits = Splits(
        labeled=cases("l/l"),
        unlabeled=cases("u1/u1", "u1/u2", "u3/u3", "u4/u4", "u5/u5"),
        validation=(),
        test=cases("t1/t1", "t2/t2"),
    )
    look = int("0123456789abcdef" * 8, 16)
    changed = {
        "t1": look,
        "u1": look ^ 0b11111,  # 5 of 512 signs
        "u3": look ^ (2**512 - 1) ^ 1,  # a negative
        "u4": look ^ (2**60 - 1),  # 60 of 512: another head
    }
    looks = {case: f"{value:0128x}" for case, value in changed.items()}
    hashes = {"t2": ["x"], "u5": ["x"]}
    contents = with_resembling(hashes, {**looks, "l": "", "t2": ""}, {}, ["t1", "t2"])
    assert find_copies(splits, contents) == (
        LeftOut("u1", "unlabeled", "t1", "test", exact=False, nearly=True),
        LeftOut("u2", "unlabeled", "t1", "test", exact=False),
        LeftOut("u3", "unlabeled", "t1", "test", exact=False, nearly=True),
        LeftOut("u5", "unlabeled", "t2", "test", exact=True),
    )
    assert "in other intensities" in find_copies(splits, contents)[0].sentence


def test_cropped_copies_are_found_by_marks() -> None:
    splits = Splits(cases("l/l"), cases("u1/u1", "u2/u2", "u3/u3"), cases("v/v"), cases("t/t"))
    marks = {
        "t": list(range(64)),
        "u1": list(range(64 - LEAST, 128)),
        "u2": list(range(64 - LEAST + 1, 128)),  # one too few
        "l": [],
        "v": list(range(200, 264)),
        "u3": list(range(200, 264)),
    }
    contents = with_resembling({"v": ["x"], "u3": ["x"]}, {}, marks, ["t", "v"])
    found = find_copies(splits, contents)
    assert found == (
        LeftOut("u1", "unlabeled", "t", "test", exact=False, partly=True),
        LeftOut("u3", "unlabeled", "v", "validation", exact=True),
    )
    assert "case 'u1' is a cropped or padded copy of test case 't'" in found[0].sentence
