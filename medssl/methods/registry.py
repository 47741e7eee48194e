"""The methods by name: where the settings and the class of each are found.

Settings are light; a method's class, with torch behind it, is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from medssl import plugins
from medssl.errors import MedSSLError, did_you_mean
from medssl.methods.settings import MethodSettings
from medssl.optional import import_object

if TYPE_CHECKING:
    from medssl.methods.base import Method

Where = str | type
"""A class, or where to import it from: ``package.module:Class``."""

_METHODS: dict[str, tuple[Where, Where]] = {}
"""Settings and class of each method, by name."""


def register_method(name: str, *, settings: Where, method: Where) -> None:
    """Make a method available under ``name`` to recipes, the command line and contract tests.

    Args:
        name: as recipes write it.
        settings: a subclass of :class:`~medssl.methods.settings.MethodSettings`, or
            ``package.module:Class``. Its module imports neither torch nor MONAI.
        method: a subclass of :class:`~medssl.methods.base.Method`, or the same.

    Raises:
        ValueError: there is a method of this name.
    """
    if name in _METHODS:
        raise ValueError(f"method {name!r} is registered twice")
    _METHODS[name] = (settings, method)
    plugins.note("method", name)


def list_methods() -> list[str]:
    """Return the names of all methods, those of plugins included.

    Example:
        >>> "mean_teacher" in medssl.list_methods()
        True
    """
    return sorted({*plugins.offered("method"), *_METHODS})


def labels_alone() -> str:
    """Return the method that learns from labeled scans only: the baseline of all others."""
    return next(name for name in list_methods() if not get_settings(name).uses_unlabeled)


def get_settings(name: str) -> type[MethodSettings]:
    """Return the class of a method's settings; loads neither torch nor MONAI.

    Raises:
        MedSSLError: no method has this name; the message suggests the nearest.
    """
    return _imported(_entry(name)[0])


def get_method(name: str) -> type[Method]:
    """Return the class of a method.

    Raises:
        MedSSLError: no method has this name; the message suggests the nearest.
    """
    return _imported(_entry(name)[1])


def _entry(name: str) -> tuple[Where, Where]:
    if name not in _METHODS:
        plugins.look_up("method", name)
    if name in _METHODS:
        return _METHODS[name]
    raise MedSSLError(
        f"unknown method {name!r}", fix=did_you_mean(name, list_methods()) + plugins.HINT
    )


def _imported(where: Where) -> Any:
    return where if isinstance(where, type) else import_object(where)


for _name, _class in {
    "anatomical": "Anatomical",
    "bcp": "BCP",
    "cps": "CPS",
    "distill": "Distill",
    "fixmatch": "FixMatch",
    "masked_pretraining": "MaskedPretraining",
    "mean_teacher": "MeanTeacher",
    "pseudo_supervisor": "PseudoSupervisor",
    "rail": "Rail",
    "self_training": "SelfTraining",
    "supervised": "Supervised",
    "uamt": "UAMT",
    "umct": "UMCT",
}.items():
    register_method(
        _name,
        settings=f"medssl.methods.{_name}_settings:{_class}Settings",
        method=f"medssl.methods.{_name}:{_class}",
    )
