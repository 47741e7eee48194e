"""A scan in numbers: counted by hand, in the axis order of the data spec."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medssl.data.preprocessing.scan_facts import PERCENTS, ScanFacts, scan_facts, spec_axes
from medssl.data.preprocessing.tensors import make_image
from medssl.settings.spec import DataSpec

# Voxel axes lead to the back, up and to the left: 2, 3 and 0.5 mm long.
AFFINE = np.array([[0, 0, -0.5, 7], [-2.0, 0, 0, 8], [0, 3.0, 0, 9], [0, 0, 0, 1]])


def facts_of(array: np.ndarray, affine: np.ndarray = AFFINE, **spec: object) -> ScanFacts:
    image = make_image(array.astype(np.float32), affine, files=["memory"])
    return scan_facts(image, DataSpec(**spec))


def test_axes_come_in_the_order_of_the_spec() -> None:
    array = np.zeros((1, 4, 5, 6))
    facts = facts_of(array)  # RAS: left-right, front-back, up-down
    assert facts.spacing == pytest.approx((0.5, 2, 3))
    assert facts.extent == pytest.approx((3, 8, 15))
    assert facts.axes == "PSL"
    assert facts_of(array, orientation=None).spacing == pytest.approx((2, 3, 0.5))
    assert facts_of(array, orientation="SPL").spacing == pytest.approx((3, 2, 0.5))
    assert spec_axes(AFFINE, "RAS") == [2, 0, 1]


def test_values_are_described_channel_by_channel() -> None:
    first = np.arange(1001).reshape(1, 7, 11, 13)
    second = np.where(first < 100, -80, 10)
    found = facts_of(np.concatenate([first, second])).channels
    assert found[0].percentiles == pytest.approx([10 * p for p in PERCENTS])
    assert found[0].span == pytest.approx(990)
    assert [c.below for c in found] == pytest.approx([0, 100 / 1001])


def test_not_a_number_does_not_count() -> None:
    array = np.full((1, 4, 4, 4), 5.0)
    array[0, 0] = np.nan
    assert facts_of(array).channels[0].percentiles == (5.0,) * len(PERCENTS)
    assert facts_of(np.full((1, 2, 2, 2), np.nan)).channels[0].span == 0


def test_they_come_back_from_json() -> None:
    facts = facts_of(np.arange(120).reshape(1, 4, 5, 6))
    assert ScanFacts.from_dict(json.loads(json.dumps(facts.as_dict()))) == facts
    with pytest.raises((KeyError, TypeError, ValueError)):
        ScanFacts.from_dict({"spacing": [1, 1, 1]})
