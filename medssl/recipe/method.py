"""The section ``method`` of a recipe: as a user writes it, and as a run records it.

A user writes what differs from a preset. A record holds every value and, under ``overridden``,
which of them the user set. Opened again, the values of the record decide, whatever a preset says by
then; another preset or variant drops those that came from the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError
from medssl.methods.registry import get_settings
from medssl.methods.settings import MethodSettings
from medssl.settings.recipe import OVERRIDDEN, MethodSection, Recipe
from medssl.settings.yaml_file import Lines, validate_settings

NAMES = ("name", "preset", "variant")
"""Keys that say what is meant by the settings that are left out."""


@dataclass(frozen=True)
class Recorded:
    """What a record says of a method beside what its user set.

    Attributes:
        names: the method with its preset and variant.
        values: of the settings that came from there.
    """

    names: Mapping[str, Any]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """A method's settings, every one with its value.

    Attributes:
        settings: none of them follows from the recipe any more.
        overridden: those that the user set.
        warnings: of values that are no longer the preset's.
    """

    settings: MethodSettings
    overridden: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def record(self, name: str) -> MethodSection:
        """Return the section as a run records it."""
        values = self.settings.model_dump(mode="json")
        first = {key: values.pop(key) for key in NAMES if key in values}
        return MethodSection(name=name, **first, **values, **{OVERRIDDEN: list(self.overridden)})


def is_record(data: Mapping[str, Any]) -> bool:
    """Tell a resolved recipe, as a run records it, from one that a user wrote."""
    section = data.get("method")
    return isinstance(section, Mapping) and OVERRIDDEN in section


def open_record(
    data: Mapping[str, Any], *, where: Path | str, of_a_run: bool = False
) -> tuple[dict[str, Any], Recorded | None]:
    """Return a recipe as its user could have written it, and what else its record says.

    Args:
        data: the recipe.
        where: its file.
        of_a_run: the file is a run's; one of 0.1.0 says of its method what its user set, no more.

    Raises:
        MedSSLError: ``overridden`` does not list settings of the section.
    """
    section: Any = data.get("method")
    if not is_record(data):
        known = of_a_run and isinstance(section, Mapping)
        return dict(data), Recorded(_named(section), {}) if known else None
    listed = section[OVERRIDDEN]
    if not isinstance(listed, list) or not all(key in section for key in listed):
        raise MedSSLError(
            f"`method.{OVERRIDDEN}` must list settings that the section holds, not {listed!r}",
            where=where,
            fix=f"list the settings that are not the preset's, or remove `{OVERRIDDEN}` and all "
            "settings that are",
        )
    names = _named(section)
    given = {key: section[key] for key in listed}
    values = {k: v for k, v in section.items() if k not in (*NAMES, OVERRIDDEN, *listed)}
    return {**data, "method": {**names, **given}}, Recorded(names, values)


def _named(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: section[key] for key in NAMES if section.get(key) is not None}


def resolve_method(
    recipe: Recipe,
    recorded: Recorded | None = None,
    *,
    where: Path | str,
    lines: Lines | None = None,
    as_recorded: bool = True,
) -> Resolved:
    """Fill in what preset, record and recipe say.

    Args:
        recipe: its section ``method`` is as a user writes it.
        recorded: the rest of the record that the section comes from.
        where: the recipe's file.
        lines: of its keys.
        as_recorded: the rest of the recipe is that of the record, so that even what follows from
            it is kept.

    Raises:
        MedSSLError: no such method, or a setting that it has not, or of a wrong value.
    """
    section = recipe.method
    cls = get_settings(section.name)
    given = {key: value for key, value in section.settings.items() if value is not None}
    kept: dict[str, Any] = {}
    names = {"name": section.name, **_named(given)}
    if recorded is not None and names == recorded.names:
        follows = set() if as_recorded else {k for k in recorded.values if "auto" in cls.words(k)}
        kept = {k: v for k, v in {**cls.before, **recorded.values}.items() if k not in follows}

    def fill(values: Mapping[str, Any]) -> MethodSettings:
        checked = validate_settings(cls, values, where=where, lines=lines, prefix=("method",))
        return checked.filled(recipe)

    settings, warnings = fill({**kept, **given}), []
    if kept:
        now, then = fill(given).model_dump(), settings.model_dump()
        changed = [key for key in kept if now[key] != then[key]]
        if changed:
            warnings.append(
                f"method.{changed[0]} is {then[changed[0]]!r} as recorded, but {now[changed[0]]!r} "
                f"in the preset ({len(changed)} such settings): the record decides"
            )
    preset, variant = given.get("preset", getattr(settings, "preset", "")), given.get("variant")
    usual = cls.model_fields["variant"].default if "variant" in cls.model_fields else None
    if variant not in (None, usual) and f"{preset}/{variant}" not in cls.presets:
        warnings.append(f"method.variant does nothing with preset {preset}")
    overridden = tuple(key for key in given if key not in NAMES)
    return Resolved(settings, overridden, tuple(warnings))


def continued(recipe: Recipe) -> dict[str, Any]:
    """Return what must stay the same of a resolved recipe's method where its training goes on.

    What follows from the rest of the recipe may change with it.
    """
    section, cls = recipe.method, get_settings(recipe.method.name)
    follows = {k for k in section.settings if "auto" in cls.words(k)} - set(section.overridden)
    kept = {k: v for k, v in section.settings.items() if k not in follows}
    return {"name": section.name, **kept}
