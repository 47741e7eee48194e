"""The names of ``medssl``: all there, all callable, whatever was imported before."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import random
from pathlib import Path

import pytest
from forks import HEAVY
from loaded import run_code

import medssl

NAMES = sorted(set(medssl.__all__) - {"__version__"})
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(medssl.__path__, "medssl.")
    if "__main__" not in m.name and m.name != "medssl.federation.flare"  # NVFlare imports it
)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_callable_and_says_what_it_is(name: str) -> None:
    found = getattr(medssl, name)
    assert callable(found)
    assert inspect.getdoc(found)
    assert name in dir(medssl)


def test_names_are_stated_in_one_order_and_agree() -> None:
    tree = ast.parse(Path(medssl.__file__).read_text())
    typed = {
        alias.asname or alias.name: f"{node.module.removeprefix('medssl.')}:{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("medssl.")
        for alias in node.names
    }
    assert typed.pop("__version__") == "_version:__version__"
    assert typed == medssl._PLACES
    assert medssl.__all__ == sorted(medssl.__all__)
    assert set(medssl.__all__) == {*medssl._PLACES, "__version__"}


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="'medssl' has no attribute 'trian'"):
        importlib.import_module("medssl").trian  # noqa: B018


def test_no_module_takes_the_name_of_a_function() -> None:
    modules = {m.name for m in pkgutil.iter_modules(medssl.__path__)}
    assert modules.isdisjoint(NAMES)


@pytest.mark.parametrize("order", ["forwards", "shuffled"])
def test_names_stay_callable_after_importing_every_module(order: str) -> None:
    """Each in a process of its own: what is imported stays imported."""
    modules = list(MODULES)
    if order == "shuffled":
        random.Random(1).shuffle(modules)
    code = f"""
import importlib, medssl
names = {NAMES!r}
for module in {modules!r}:
    importlib.import_module(module)
    for name in names:
        found = vars(medssl).get(name)
        assert found is None or callable(found), (module, name)
print([n for n in names if not callable(getattr(medssl, n))])
print([n for n in names if n not in dir(medssl)])
"""
    assert run_code(code, before=HEAVY).output.splitlines()[-2:] == ["[]", "[]"]
