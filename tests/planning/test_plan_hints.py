"""Planning asks the methods and names none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import medssl.planning
from medssl.methods.registry import get_settings, list_methods

FILES = sorted(Path(medssl.planning.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_no_method_is_named(path: Path) -> None:
    lines = path.read_text().splitlines()
    # An example of use has to name one.
    text = "\n".join(line for line in lines if not line.lstrip().startswith((">>>", "...")))
    named = [n for n in list_methods() if re.search(rf"(?<![\w-]){n}(?![\w-])", text)]
    assert named == []


@pytest.mark.parametrize("name", list_methods())
def test_hints_are_settings_that_the_method_has(name: str) -> None:
    cls = get_settings(name)
    hints = cls.plan_hints
    assert hints.summary
    assert hints.trained_networks >= 1
    for advice in hints.advice:
        if advice.section == "method":
            assert getattr(cls(**{advice.key: advice.value}), advice.key) == advice.value
        assert advice.reason.format(pieces="why")
    assert cls(**hints.measure_with)
