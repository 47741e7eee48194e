"""What `check` can say of few cases, and of marks burnt into scans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medssl.data.checks.case_facts import CaseFacts
from medssl.data.checks.measures import stamp
from medssl.data.checks.per_case import case_problems
from medssl.data.checks.shift import compare_groups, shift_problems
from medssl.data.datasets.case import Case, LabelMap


def facts(number: int, role: str, *, size: int = 40) -> CaseFacts:
    """Return a case whose features scatter a little around those of others of its size."""
    rng = np.random.default_rng(number)
    case = Case(id=f"c{number}", patient=f"p{number}", images=(Path(f"c{number}.nii"),), label=None)
    levels = np.sort(rng.normal([0, 10, 30, 50, 70, 90, 100, 110], 1))
    return CaseFacts(
        case,
        role,  # type: ignore[arg-type]
        shape=tuple(int(n) for n in rng.normal(size, 1, 3)),
        spacing=(1.0, 1.0, 1.0),
        levels=tuple(levels.tolist()),
        rough=tuple(rng.uniform(0.02, 0.03, 3).tolist()),
    )


def compared(count: int, size: int) -> tuple[object, list[str]]:
    labeled = [facts(k, "labeled") for k in range(count)]
    others = [facts(100 + k, "unlabeled", size=size) for k in range(count)]
    shift = compare_groups(labeled, others, "unlabeled", has_unit=False)
    assert shift is not None
    files = {f.case.id: f.case.images[0] for f in others}
    return shift, [p.what for p in shift_problems(shift, files)]


def test_a_plain_difference_is_found_with_four_and_four_and_its_strength_is_said() -> None:
    """The groups themselves, among 70 divisions, are not what chance is measured by."""
    shift, said = compared(4, size=80)
    assert shift.ways == 70
    assert shift.stands_out
    assert "there are 70 divisions" in said[0]
    assert "1 in 70" in shift.to_json()["strength"]


def test_nothing_is_said_of_strength_where_there_are_patients_enough() -> None:
    shift, said = compared(9, size=80)
    assert shift.ways == 48620
    assert shift.strength == ""
    assert "divisions" not in said[0]


def test_four_and_four_alike_do_not_stand_out() -> None:
    shift, said = compared(4, size=40)
    assert not shift.stands_out
    assert said == []
    assert shift.strength


NOISE = np.random.default_rng(0).normal(100, 30, (30, 30, 12)).astype(np.int16)


@pytest.mark.parametrize("value", [90, 4000])
def test_a_text_in_all_slices_is_found(value: int) -> None:
    image = NOISE.copy()
    image[2:10, 3:5, :] = value
    assert stamp(image) == (16, value)


def test_a_patch_of_one_value_is_found() -> None:
    image = NOISE.copy()
    image[5:11, 5:11, 4:10] = 70
    assert stamp(image) == (64, 70)


def test_dark_voxels_that_rounding_makes_equal_are_no_stamp() -> None:
    # Tissue of some hundred gray levels, and air of two: 8 bits of a slow fall, as scans have it.
    image = np.abs(NOISE) + 50
    image[:12] = np.where(np.random.default_rng(1).random((12, 30, 12)) < 0.02, 4, 3)
    image[12:18, :, :] = (np.arange(6) * 6 + 3)[:, None, None]
    assert stamp(image) == (0, 0.0)


def test_background_and_saturated_voxels_are_no_stamp() -> None:
    image = NOISE.copy()
    image[:6] = 0  # air
    image[12:18, 12:18, 2:10] = 4095  # metal
    assert stamp(image) == (0, 0.0)
    assert stamp(NOISE) == (0, 0.0)


def test_a_stamped_scan_is_named() -> None:
    plain = facts(1, "unlabeled")
    labels = LabelMap((0, 1), ("background", "organ"))
    assert not [p for p in case_problems(plain, labels) if p.check == "stamp"]
    stamped = replace(plain, stamp=(40, 4000.0))
    (problem,) = [p for p in case_problems(stamped, labels) if p.check == "stamp"]
    assert (problem.severity, problem.case) == ("warning", "c1")
    assert "40 places have the value 4000" in problem.what
