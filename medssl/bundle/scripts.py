"""Copy modules into a bundle's ``scripts`` folder: what it carries, and networks not MONAI's."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError
from medssl.files import write_text
from medssl.plugins import PREFIX

MONAI_BRINGS = {"torch", "monai", "numpy", *sys.stdlib_module_names}
"""What a module in a bundle may import: it runs where MONAI is installed and nothing else."""
_FIX = (
    "put the network into a file of its own beside the plugin, which imports torch and MONAI "
    "alone (other files beside it by `from file import name`), and register it as 'file:Class'"
)


def target(part: type | Callable[..., Any]) -> str:
    """Return how a configuration names a class or function: in ``scripts`` unless it is MONAI's."""
    if part.__module__.startswith("monai."):
        return part.__name__
    return f"scripts.{part.__module__.rpartition('.')[2]}.{part.__name__}"


def copy_modules(modules: Iterable[str], folder: Path) -> list[Path]:
    """Write modules, and those of medssl or beside them that they import, into one flat package.

    Only ``from medssl.room.module import ...`` and ``from neighbor import ...`` are rewritten, to
    ``from scripts.module import ...``; the code is otherwise that of the training run.

    Args:
        modules: dotted names, of medssl or of a plugin.
        folder: made if it is not there.

    Returns:
        The files written, ``__init__.py`` included.

    Raises:
        MedSSLError: a plugin's module needs something else than torch and MONAI.
    """
    sources: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        path = _file_of(name)
        source = path.read_text(encoding="utf-8")
        found = _medssl_imports(source) if name.startswith("medssl.") else _neighbors(source, path)
        waiting += found
        sources[name] = _flattened(source, found)
    leaves = [name.rpartition(".")[2] for name in sources]
    twice = sorted({leaf for leaf in leaves if leaves.count(leaf) > 1})
    if twice:
        raise MedSSLError(
            f"two modules of the network are called {twice[0]!r}", fix="rename the plugin's"
        )
    written = [folder / "__init__.py"]
    write_text(written[0], '"""What this bundle needs and MONAI does not have."""\n')
    for name, source in sorted(sources.items()):
        path = folder / f"{name.rpartition('.')[2]}.py"
        write_text(path, source)
        written.append(path)
    return written


def _file_of(module: str) -> Path:
    """Return a module's file; the code of a plugin's own file stays with its owner."""
    if module.startswith(PREFIX):
        raise MedSSLError(
            "the network stands in the plugin's own file, which medssl loads and MONAI cannot",
            where=getattr(sys.modules.get(module), "__file__", None),
            fix=_FIX,
        )
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _medssl_imports(source: str) -> list[str]:
    return [
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (name := node.module or "").startswith("medssl.")
    ]


def _neighbors(source: str, path: Path) -> list[str]:
    """Return the files beside a plugin's module that it imports.

    Raises:
        MedSSLError: it imports something else that MONAI does not bring.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        for name in names:
            if name.partition(".")[0] in MONAI_BRINGS:
                continue
            beside = "." not in name and path.with_name(f"{name}.py").is_file()
            if not beside or isinstance(node, ast.Import):
                raise MedSSLError(
                    f"the network's module imports {name!r}, so MONAI alone could not run it",
                    where=f"{path}:{node.lineno}",
                    fix=_FIX,
                )
            found.append(name)
    return found


def _flattened(source: str, modules: Iterable[str]) -> str:
    """Let a module find the others in ``scripts``."""
    for name in modules:
        source = re.sub(
            rf"^(\s*)from {re.escape(name)} import",
            rf"\1from scripts.{name.rpartition('.')[2]} import",
            source,
            flags=re.MULTILINE,
        )
    return source
