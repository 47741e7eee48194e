"""``medssl methods NAME``: a row for every setting, and no null among the values."""

from __future__ import annotations

import pytest
from loaded import run_command

from medssl.cli.method_table import method_table, takes
from medssl.methods.registry import get_settings, list_methods


@pytest.mark.parametrize("name", list_methods())
def test_every_setting_has_a_row_without_a_null(name: str) -> None:
    table = method_table(name)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    expected = [k for k in get_settings(name).model_fields if k not in ("preset", "variant")]
    assert columns["setting"] == expected
    assert not {"None", ""} & {str(cell) for cells in columns.values() for cell in cells}


def test_presets_and_variants_have_columns_of_their_own() -> None:
    headers = [str(c.header) for c in method_table("bcp").columns]
    assert headers[1:5] == ["corrected", "official/acdc", "official/la", "official/pancreas"]
    assert [str(c.header) for c in method_table("uamt").columns][1:3] == ["corrected", "official"]
    assert [str(c.header) for c in method_table("umct").columns][1:3] == ["default", "takes"]


def test_many_presets_share_a_column() -> None:
    columns = {str(c.header): list(c.cells) for c in method_table("self_training").columns}
    assert list(columns) == ["setting", "mixed", "other presets", "takes", "what it is", "paper"]
    rows = dict(zip(columns["setting"], columns["other presets"], strict=True))
    assert rows["views"] == "2: unimatch"
    assert rows["threshold"] == "0.95: fixmatch/official; 0.8: uda; 0.9: soft_teacher"
    assert rows["temperature"] == "-"


@pytest.mark.parametrize(
    ("name", "key", "words"),
    [
        ("mean_teacher", "ramp_fraction", "number, 0 to 1"),
        ("uamt", "ramp_fraction", "number, 0 to 1, or off"),
        ("bcp", "mask_ratio", "number, above 0 to below 1"),
        ("bcp", "connectivity", "whole number, 1 to 3"),
        ("bcp", "joint_forward", "true or false"),
        ("cps", "cross_weight", "number, 0 or more"),
        ("rail", "loaded_batches", "whole number, 1 or more, or off"),
        ("umct", "eps", "number, above 0"),
        ("self_training", "weight", "list (confidence, boundary, soft_background, case)"),
        ("anatomical", "corruption", "coherent, official2d"),
    ],
)
def test_what_a_setting_takes(name: str, key: str, words: str) -> None:
    assert takes(get_settings(name).model_fields[key]) == words


def test_the_command_is_light_and_knows_its_methods() -> None:
    code, loaded = run_command("methods", "mean_teacher")
    assert code == 0
    assert "consistency_weight" in loaded.output
    assert loaded.heavy == []
    code, loaded = run_command("methods")
    assert code == 0
    assert loaded.heavy == []
    code, loaded = run_command("methods", "mean-teacher")
    assert code == 2
    assert "did you mean 'mean_teacher'" in loaded.output
