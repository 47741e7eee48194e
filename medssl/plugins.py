"""The door for own code: methods, networks, data specs, intensity rules and importers.

A plugin is a Python file, named by ``--plugin FILE``, :func:`load_plugin` or ``MEDSSL_PLUGINS``, or
a module of an installed package with an entry point of the group ``medssl.plugins``. Its code calls
the register functions of medssl's tables. A recipe, a run or a bundle never names code to load:
they hold names, and :func:`check_plugins` asks for the code that provided them, by its hash.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from medssl.errors import MedSSLError
from medssl.paths import AnyPath

Kind = Literal["method", "network", "spec", "intensity", "importer"]

PLUGINS = "MEDSSL_PLUGINS"
"""Environment variable: plugin files, divided as PATH is. Jobs and ``torchrun`` inherit it."""
ALLOW_CHANGED = "MEDSSL_ALLOW_CHANGED_PLUGIN"
"""Environment variable: a plugin may differ from the one that a run was trained with."""
HINT = "; one of your own is loaded by --plugin FILE"
PREFIX = "medssl_plugin_"
GROUP = "medssl.plugins"
"""Entry points, named ``KIND.NAME`` after what they provide, with the module that provides it."""


@dataclass
class Plugin:
    """Code that was loaded.

    Attributes:
        name: of the file, or of the package.
        module: name of the module that was executed.
        file: the file; for a package that of its module.
        version: of the package; None for a file.
        provides: what it registered, as ``KIND NAME``.
    """

    name: str
    module: str
    file: Path
    version: str | None = None
    provides: list[str] = field(default_factory=list)

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the file and of the modules loaded from its folder, by path."""
        files = {self.file}
        if self.version is None:
            files |= set(_loaded_from(self.file.parent))
        return {
            path.relative_to(self.file.parent).as_posix(): hashlib.sha256(
                path.read_bytes()
            ).hexdigest()
            for path in sorted(files)
        }


_loaded: dict[str, Plugin] = {}
"""By resolved file, or by ``GROUP`` module."""
_loading: list[Plugin] = []
_looked_up: set[str] = set()


def load_plugin(path: AnyPath) -> Plugin:
    """Load a file of the user's own; what it registers is then known by name.

    The modules beside it can be imported from it. A file that is loaded already stays as it is.

    Args:
        path: a ``.py`` file.

    Returns:
        What was loaded.

    Raises:
        MedSSLError: there is no such file, or it fails.

    Example:
        >>> medssl.load_plugin("my_method.py").provides  # doctest: +SKIP
        ['method my_method']
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file() or file.suffix != ".py":
        raise MedSSLError("there is no such Python file", where=file, fix="correct --plugin FILE")
    if str(file) in _loaded:
        return _loaded[str(file)]
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    plugin = Plugin(file.name, f"{PREFIX}{file.stem}_{digest}", file)
    # Behind everything else: a file beside the plugin never hides an installed module.
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    with _registering(plugin, str(file)):
        spec = importlib.util.spec_from_file_location(plugin.module, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[plugin.module] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[plugin.module]
            raise
    return plugin


@contextmanager
def _registering(plugin: Plugin, key: str) -> Iterator[None]:
    """Let registrations inside be the plugin's."""
    _loading.append(plugin)
    try:
        yield
    except MedSSLError as error:
        raise MedSSLError(error.what, where=error.where or plugin.file, fix=error.fix) from error
    except Exception as error:
        line = _line_of(error, plugin.file)
        raise MedSSLError(
            f"the plugin fails with {type(error).__name__}: {error}",
            where=f"{plugin.file}:{line}" if line else plugin.file,
            fix="mend it; --debug shows the traceback",
        ) from error
    finally:
        _loading.pop()
    _loaded[key] = plugin


def _line_of(error: BaseException, file: Path) -> int | None:
    """Return the last line of a file that an error passed through."""
    found, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            found = trace.tb_lineno
        trace = trace.tb_next
    return found


def note(kind: Kind, name: str) -> None:
    """Remember whose a registration is; the register functions call it."""
    if _loading:
        _loading[-1].provides.append(f"{kind} {name}")


def load_named() -> None:
    """Load the files of ``MEDSSL_PLUGINS``; called wherever names are looked up or listed."""
    if _loading:
        return
    for path in os.environ.get(PLUGINS, "").split(os.pathsep):
        if path and str(Path(path).expanduser().resolve()) not in _loaded:
            load_plugin(path)


def look_up(kind: Kind, name: str) -> None:
    """Load what provides a name that no table has: named files, or the entry point of the name."""
    load_named()
    key = f"{kind}.{name}"
    if key in _looked_up:
        return
    _looked_up.add(key)
    for entry in importlib.metadata.entry_points(group=GROUP, name=key):
        if entry.module not in _loaded:
            _load_entry(entry)


def _load_entry(entry: importlib.metadata.EntryPoint) -> None:
    """Import the module of an entry point."""
    known = importlib.util.find_spec(entry.module)
    if known is None or known.origin is None:
        raise MedSSLError(
            f"the entry point {entry.name!r} names a module that is not there: {entry.module}",
            fix="install the package again",
        )
    dist = entry.dist
    name, version = (dist.name, dist.version) if dist else (entry.module, "unknown")
    with _registering(Plugin(name, entry.module, Path(known.origin), version), entry.module):
        importlib.import_module(entry.module)


def offered(kind: Kind) -> list[str]:
    """Return the names that entry points offer, without importing them."""
    load_named()
    names = importlib.metadata.entry_points(group=GROUP).names
    return sorted(n.removeprefix(f"{kind}.") for n in names if n.startswith(f"{kind}."))


def record_plugins(used: Iterable[str]) -> list[dict[str, Any]]:
    """Describe the plugins that provide what is used, for the manifest of a run.

    Args:
        used: as ``KIND NAME``; names of medssl's own are passed over.
    """
    wanted, out = set(used), []
    for plugin in _loaded.values():
        provides = sorted(wanted & set(plugin.provides))
        if provides:
            version = {} if plugin.version is None else {"version": plugin.version}
            out.append(
                {"name": plugin.name, **version, "provides": provides, "sha256": plugin.hashes()}
            )
    return out


def check_plugins(recorded: Sequence[Mapping[str, Any]], *, where: Path) -> None:
    """Make sure that the code is there, and unchanged, that a run or bundle was made with.

    Args:
        recorded: from :func:`record_plugins`.
        where: the file that holds it.

    Raises:
        MedSSLError: a plugin is missing, or has changed and may not (``ALLOW_CHANGED``).
    """
    for entry in recorded:
        try:
            name, provides = str(entry["name"]), [str(p) for p in entry["provides"]]
            before = {str(k): str(v) for k, v in entry["sha256"].items()}
        except (KeyError, TypeError, AttributeError):
            raise MedSSLError(
                "what it says of plugins is damaged", where=where, fix="restore it from a copy"
            ) from None
        now = _providing(provides)
        if now is None:
            give = (
                "install the package again"
                if "version" in entry
                else f"add --plugin {name} (anywhere on the command line; MEDSSL_PLUGINS and "
                "medssl.load_plugin do the same)"
            )
            raise MedSSLError(
                f"it was made with the plugin {name!r} ({', '.join(provides)}), which is not here",
                where=where,
                fix=give,
            )
        after = now.hashes()
        # A sibling may be imported later than here; what both have must be the same.
        changed = sorted(k for k in before.keys() & after.keys() if before[k] != after[k])
        if now.file.name not in before and "version" not in entry:
            changed.append(f"{now.file.name} stands for {name}")
        if changed and not os.environ.get(ALLOW_CHANGED):
            raise MedSSLError(
                f"the plugin {name!r} has changed since: {', '.join(changed)}",
                where=where,
                fix="give the files it was made with, or add --allow-changed-plugin",
            )


def _providing(names: Sequence[str]) -> Plugin | None:
    """Return the plugin that provides all of some names."""
    for each in names:
        kind, _, name = each.partition(" ")
        if kind in get_args(Kind):
            look_up(kind, name)  # type: ignore[arg-type]
    return next((p for p in _loaded.values() if set(names) <= set(p.provides)), None)


def _loaded_from(folder: Path) -> Iterator[Path]:
    """Return the files of modules that were loaded from a folder, medssl's own left out."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) if isinstance(module, ModuleType) else None
        own = name.partition(".")[0]
        # Each plugin answers for itself.
        if not file or own in ("medssl", "__main__") or own.startswith(PREFIX):
            continue
        path = Path(file)
        if path.suffix == ".py" and path.is_relative_to(folder) and "site-packages" not in file:
            yield path
