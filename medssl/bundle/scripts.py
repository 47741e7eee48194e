"""Copy the modules of a network that is not MONAI's into a bundle's ``scripts`` folder."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from medssl.files import write_text

_IMPORT = re.compile(r"^from medssl\.(?:\w+\.)*(\w+) import", re.MULTILINE)


def copy_modules(modules: Iterable[str], folder: Path) -> list[Path]:
    """Write modules, and those of medssl that they import, into one flat package.

    Only ``from medssl.room.module import ...`` is rewritten, to ``from scripts.module import ...``;
    the code is otherwise that of the training run.

    Args:
        modules: dotted names.
        folder: made if it is not there.

    Returns:
        The files written, ``__init__.py`` included.
    """
    sources: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        sources[name] = Path(spec.origin).read_text(encoding="utf-8")
        waiting += _medssl_imports(sources[name])
    written = [folder / "__init__.py"]
    write_text(
        written[0], '"""Networks of this bundle that MONAI does not have, copied from medssl."""\n'
    )
    for name, source in sorted(sources.items()):
        path = folder / f"{name.rpartition('.')[2]}.py"
        write_text(path, _IMPORT.sub(r"from scripts.\1 import", source))
        written.append(path)
    return written


def _medssl_imports(source: str) -> list[str]:
    return [
        node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("medssl.")
    ]
