"""What a user is told: the nearest name, what is wrong with a value, which package is missing."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field, ValidationError

from medssl.errors import MedSSLError, did_you_mean, nearest
from medssl.optional import import_object, is_installed, module_if_there, optional_module
from medssl.strict import Mistake, Strict, first_mistake


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("mean-teacher", "mean_teacher"),
        ("MEAN_TEACHR", "mean_teacher"),
        ("bpc", "bcp"),
        ("Bcp", "bcp"),
        ("zzz", None),
        ("", None),
    ],
)
def test_the_nearest_name(word: str, expected: str | None) -> None:
    assert nearest(word, ["bcp", "mean_teacher"]) == expected


def test_the_nearest_name_is_spelled_as_it_is() -> None:
    assert nearest("unet", ["UNet", "VNet"]) == "UNet"


def test_what_others_call_it() -> None:
    synonyms = {"learning_rate": "lr"}
    assert nearest("learning_rat", ["lr", "learn"], synonyms=synonyms) == "lr"
    assert nearest("learning_rate", ["seed"], synonyms=synonyms) is None


def test_advice() -> None:
    assert did_you_mean("bpc", {"bcp": 1, "cps": 2}) == "did you mean 'bcp'? Known: bcp, cps"
    assert did_you_mean("zzz", ["cps", "bcp"]) == "use one of: cps, bcp"
    assert did_you_mean("p9", ["p3", "p1", "p2", "q"], most=2).endswith("Known: p3, p1 and 2 more")
    assert did_you_mean("bpc", ["bcp"], listing="See there.") == "did you mean 'bcp'? See there."
    assert did_you_mean("zzz", ["bcp"], listing="See there.") == "See there."


class Inner(Strict):
    rate: float = Field(0.1, gt=0, description="per iteration")
    mode: Literal["a", "b"] = "a"


class Outer(Strict):
    inner: Inner = Inner()
    many: dict[str, Inner] = Field(default_factory=dict)
    size: int | list[int] = 1


def mistake(data: dict, **options: object) -> Mistake:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(data)
    return first_mistake(caught.value, Outer, data, **options)  # type: ignore[arg-type]


def test_settings_are_frozen_and_know_their_keys() -> None:
    with pytest.raises(ValidationError):
        Inner().rate = 3  # type: ignore[misc]
    found = mistake({"inner": {"rat": 1}})
    assert found.path == ("inner", "rat")
    assert found.what == "unknown key `inner.rat`"
    assert found.fix == "did you mean 'rate'? Known: rate, mode"
    assert mistake({"inner": {"lr": 1}}, synonyms={"lr": "rate"}).fix.startswith(
        "did you mean 'rate'?"
    )


def test_an_unknown_key_comes_first_and_the_others_are_counted() -> None:
    found = mistake({"inner": {"rate": -1}, "sise": 3})
    assert found.what == "unknown key `sise` (and 1 more)"


def test_a_wrong_value() -> None:
    found = mistake({"many": {"x": {"rate": -1}}}, prefix=("file",))
    assert found.path == ("file", "many", "x", "rate")
    assert found.what == "`file.many.x.rate`: Input should be greater than 0 (got -1)"
    assert found.fix == "correct `file.many.x.rate` (per iteration)"


def test_a_union_names_what_it_takes() -> None:
    found = mistake({"size": "x" * 100})
    assert "; or " in found.what
    assert len(found.what) < 250
    assert found.path == ("size",)


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(MedSSLError, match="needs the package 'nowhere_to_be_found'") as caught:
        optional_module("nowhere_to_be_found.deep", "dicom")
    assert 'pip install "medssl[dicom]"' in (caught.value.fix or "")
    assert optional_module("json.decoder", "dicom").__name__ == "json.decoder"
    assert module_if_there("nowhere_to_be_found") is None
    assert module_if_there("json") is not None
    assert is_installed("json")
    assert not is_installed("nowhere_to_be_found")


def test_an_object_by_its_place() -> None:
    assert import_object("medssl.errors:MedSSLError") is MedSSLError
    with pytest.raises(AttributeError):
        import_object("medssl.errors:Nothing")
