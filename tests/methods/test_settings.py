"""What every method's settings must be: complete, documented, light, and as a preset says."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import get_args

import pytest
from loaded import run_code
from pydantic import ValidationError

import medssl.methods
from medssl.errors import MedSSLError
from medssl.methods.bcp_settings import BCPSettings
from medssl.methods.mean_teacher_settings import MeanTeacherSettings
from medssl.methods.registry import get_method, get_settings, list_methods, register_method
from medssl.methods.supervised import Supervised
from medssl.methods.supervised_settings import SupervisedSettings

ROOM = Path(medssl.methods.__file__).parent
METHODS = pytest.mark.parametrize("name", list_methods())
LONGEST_STEP = 150


def code_lines(path: Path) -> int:
    """Count lines that hold more than a comment or a docstring."""
    source = path.read_text()
    kept = {i for i, line in enumerate(source.splitlines(), 1) if line.strip()[:1] not in ("", "#")}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            kept -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(kept)


@METHODS
def test_no_null_stands_for_a_value(name: str) -> None:
    for key, field in get_settings(name).model_fields.items():
        assert type(None) not in get_args(field.annotation), key
        assert field.default is not None, key


@METHODS
def test_every_setting_says_what_it_is_and_where_the_paper_speaks_of_it(name: str) -> None:
    for key, field in get_settings(name).model_fields.items():
        assert field.description, key
        assert isinstance(field.json_schema_extra, dict)
        assert field.json_schema_extra["section"], key


@METHODS
def test_presets_are_tables_of_settings_that_are_taken(name: str) -> None:
    cls = get_settings(name)
    for preset, table in cls.presets.items():
        named, _, variant = preset.partition("/")
        settings = cls(preset=named, variant=variant) if variant else cls(preset=named)
        assert not variant or settings.variant == variant
        for key, value in table.items():
            if key != "variant":
                assert getattr(settings, key) == value, (preset, key)
        changed = {k for k, v in settings if v != cls.model_fields[k].default}
        assert changed - {"preset", "variant"}, f"{preset} is preset corrected by another name"


def test_what_is_given_is_laid_over_the_preset() -> None:
    plain = MeanTeacherSettings()
    assert (plain.preset, plain.consistency_weight, plain.predict_with) == (
        "corrected",
        5.0,
        "teacher",
    )
    official = MeanTeacherSettings(preset="official", noise=0.2, ramp_steps=None)
    assert (official.consistency_weight, official.noise, official.ramp_steps) == (0.1, 0.2, 40)
    assert official.ema_decay == 0.99, "what the table leaves out is as in corrected"
    variant = BCPSettings(preset="official", variant="pancreas", connectivity=3)
    assert (variant.threshold, variant.connectivity, variant.joint_forward) == (0.5, 3, False)
    assert BCPSettings(variant="la").threshold == "argmax", "a variant is of its preset"


def test_a_bare_off_of_yaml_is_the_word() -> None:
    assert BCPSettings(largest_component=False).largest_component == "off"
    assert BCPSettings(joint_forward=False).joint_forward is False
    with pytest.raises(ValidationError):
        BCPSettings(predict_with=False)


@pytest.mark.parametrize("key", ["preset", "variant"])
def test_an_unknown_preset_or_variant_is_refused(key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key}\n"):
        BCPSettings(**{"preset": "official", key: "published"})


# ------------------------------------------------------------------------------------ registry


@METHODS
def test_settings_and_method_belong_together(name: str) -> None:
    assert get_method(name).Settings is get_settings(name)
    assert get_settings(name).__module__ == f"medssl.methods.{name}_settings"
    assert get_method(name).__module__ == f"medssl.methods.{name}"


def test_a_method_of_ones_own_is_registered_by_class_or_by_place() -> None:
    register_method("own", settings=SupervisedSettings, method="medssl.methods.cps:CPS")
    try:
        assert get_settings("own") is SupervisedSettings
        assert get_method("own").__name__ == "CPS"
        assert "own" in list_methods()
        with pytest.raises(ValueError, match="twice"):
            register_method("own", settings=SupervisedSettings, method=Supervised)
    finally:
        importlib.import_module("medssl.methods.registry")._METHODS.pop("own")
    with pytest.raises(MedSSLError, match="unknown method 'own'"):
        get_settings("own")


@METHODS
def test_the_step_is_short(name: str) -> None:
    assert code_lines(ROOM / f"{name}.py") <= LONGEST_STEP


def test_settings_load_neither_torch_nor_monai() -> None:
    modules = sorted(f"medssl.methods.{p.stem}" for p in ROOM.glob("*_settings.py"))
    assert len(modules) >= len(list_methods())
    assert run_code(f"import {', '.join(modules)}").heavy == []
