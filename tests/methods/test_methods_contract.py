"""What every registered method must do, in every preset; a new method needs no new test here."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from method_steps import ALL

from medssl.errors import MedSSLError
from medssl.methods.base import UnlabeledBatch
from medssl.methods.registry import get_method, get_settings, list_methods
from medssl.testing import CHECKS, NotApplicable
from medssl.testing.checks import run_check, variants_of
from medssl.testing.subject import Subject


def combinations(check: str) -> list[tuple[int, dict[str, Any]]]:
    """Return pairs of dimensions and variant; of several variants each in one number of them."""
    dims, variants = CHECKS[check].dims, variants_of(CHECKS[check])
    if len(variants) == 1:
        return [(number, variants[0]) for number in dims]
    return [(dims[i % len(dims)], variant) for i, variant in enumerate(variants)]


RUNS = [
    pytest.param(check, dims, kind, id="-".join([check, f"{dims}d", *map(str, kind.values())]))
    for check in CHECKS
    for dims, kind in combinations(check)
]


@ALL
@pytest.mark.parametrize(("check", "dims", "variant"), RUNS)
def test_the_method_keeps_the_contract(
    name: str, settings: dict[str, Any], check: str, dims: int, variant: dict[str, Any]
) -> None:
    if (name, check, dims) == ("anatomical", "precision", 3):
        # On a CPU, PyTorch 2.13 computes the bfloat16 weight gradient of a 3D convolution from
        # memory it never wrote, where features have sides of two voxels. Two levels end at four.
        settings = {**settings, "levels": 2}
    try:
        run_check(check, Subject(name, get_method(name), settings, dims), variant)
    except NotApplicable as why:
        pytest.skip(str(why))


def test_unknown_methods_get_the_nearest_name() -> None:
    with pytest.raises(MedSSLError, match="did you mean 'mean_teacher'"):
        get_method("mean-teacher")


@pytest.mark.parametrize("name", list_methods())
def test_class_and_registry_name_the_same_settings(name: str) -> None:
    assert get_method(name).Settings is get_settings(name)


def test_an_unlabeled_batch_has_no_place_for_a_label() -> None:
    assert {f.name for f in fields(UnlabeledBatch)} == {"image", "views", "case"}
