"""How large the code is, by room: code lines, long functions, functions with many parameters.

    python benchmarks/code_size.py                          # the package beside this script
    python benchmarks/code_size.py FOLDER --output FILE.json
    python benchmarks/code_size.py --before 2523207         # against a revision, or another folder

A code line holds more than a comment or a docstring. A room is a folder directly below the one that
is counted; files beside the rooms count as ``(loose files)``. A parameter is one that has a name of
its own: ``self`` and ``cls``, ``*args`` and ``**kwargs`` are none. A function's length is counted
twice: from ``def`` to its end, and in code lines.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1] / "medssl"
LONG, MANY = 60, 8
LOOSE, TOTAL = "(loose files)", "total"
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Size:
    """What is counted of a room."""

    files: int = 0
    lines: int = 0
    longest_file: int = 0
    functions: int = 0
    long_functions: int = 0
    """From ``def`` to the end, more than 60 lines."""
    long_in_code: int = 0
    """More than 60 code lines."""
    parameters: Counter[int] = field(default_factory=Counter)
    """How many functions have so many parameters."""

    @property
    def many_parameters(self) -> int:
        """Functions with 8 parameters or more."""
        return sum(n for count, n in self.parameters.items() if count >= MANY)

    @property
    def share(self) -> float:
        """Functions with 8 parameters or more, in percent of all."""
        return 100 * self.many_parameters / self.functions if self.functions else 0.0

    def add(self, other: Size) -> None:
        """Count another part in."""
        self.files += other.files
        self.lines += other.lines
        self.longest_file = max(self.longest_file, other.longest_file)
        self.functions += other.functions
        self.long_functions += other.long_functions
        self.long_in_code += other.long_in_code
        self.parameters.update(other.parameters)


def code_lines(source: str, tree: ast.AST) -> set[int]:
    """Return the numbers of the lines that hold code: no docstrings, comments or blanks."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            found.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            found.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found


def parameters(function: Function) -> int:
    """Return how many parameters a function has, without ``self`` and ``cls``."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def size_of(source: str) -> Size:
    """Count one file."""
    tree = ast.parse(source)
    code = code_lines(source, tree)
    length = len(source.splitlines())
    size = Size(files=1, lines=len(code), longest_file=length)
    for node in ast.walk(tree):
        if isinstance(node, Function):
            rows = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            size.functions += 1
            size.long_functions += len(rows) > LONG
            size.long_in_code += len(code.intersection(rows)) > LONG
            size.parameters[parameters(node)] += 1
    return size


def rooms(folder: Path) -> dict[str, Size]:
    """Count the Python files below a folder, by the room they stand in.

    Raises:
        SystemExit: there are none.
    """
    found: dict[str, Size] = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        room = parts[0] if len(parts) > 1 else LOOSE
        found.setdefault(room, Size()).add(size_of(path.read_text(encoding="utf-8")))
    if not found:
        raise SystemExit(f"no Python files below {folder}")
    return dict(sorted(found.items()))


def total(sizes: Iterable[Size]) -> Size:
    """Return the rooms taken together."""
    whole = Size()
    for size in sizes:
        whole.add(size)
    return whole


@contextmanager
def tree_of(before: str, folder: Path) -> Iterator[Path]:
    """Yield a folder, or what ``folder`` was at a revision.

    Raises:
        SystemExit: there is no such folder or revision.
    """
    if Path(before).is_dir():
        yield Path(before)
        return
    archive = git(folder, "archive", "--format=tar", before, ".")  # paths relative to the folder
    with tempfile.TemporaryDirectory() as work:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(work, filter="data")
        yield Path(work)


def git(folder: Path, *arguments: str) -> bytes:
    """Return what git says of a folder."""
    run = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True)
    if run.returncode:
        raise SystemExit(f"git: {run.stderr.decode(errors='replace').strip()}")
    return run.stdout


COLUMNS: dict[str, Callable[[Size], float]] = {
    "code lines": lambda s: s.lines,
    "functions": lambda s: s.functions,
    f"> {LONG} lines": lambda s: s.long_functions,
    f"> {LONG} in code": lambda s: s.long_in_code,
    f">= {MANY} parameters": lambda s: s.many_parameters,
    "in %": lambda s: round(s.share, 1),
}


def table(after: Mapping[str, Size], before: Mapping[str, Size] | None) -> str:
    """Return the rooms as a table; with ``before``, each cell is ``before > after``."""
    names = [n for n in sorted({*after, *(before or {})}) if n != TOTAL] + [TOTAL]
    rows = [["room", *COLUMNS]]
    for name in names:
        now, then = after.get(name), (before or {}).get(name)
        cells = [name]
        for value in COLUMNS.values():
            pair = ["-" if size is None else f"{value(size)}" for size in (then, now)]
            cells.append(pair[1] if before is None else f"{pair[0]} > {pair[1]}")
        rows.append(cells)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        name, *cells = (c.rjust(w) for c, w in zip(row, widths, strict=True))
        lines.append("  ".join([row[0].ljust(len(name)), *cells]))
    return "\n".join(lines)


def as_json(sizes: Mapping[str, Size]) -> dict[str, Any]:
    """Return the rooms as JSON: counts, and the functions by their number of parameters."""
    return {
        name: {
            **asdict(size),
            "parameters": {str(n): size.parameters[n] for n in sorted(size.parameters)},
            "many_parameters": size.many_parameters,
            "many_parameters_percent": round(size.share, 2),
        }
        for name, size in sizes.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write the JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=PACKAGE, help="what to count")
    parser.add_argument("--before", help="a folder, or a git revision, to compare with")
    parser.add_argument("--output", type=Path, help="a JSON file to write")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"no such folder: {options.folder}")
    after = rooms(options.folder)
    after[TOTAL] = total(list(after.values()))
    content = {"after": as_json(after)}
    before: dict[str, Size] | None = None
    if options.before:
        with tree_of(options.before, options.folder) as folder:
            before = rooms(folder)
        before[TOTAL] = total(list(before.values()))
        content = {"before": as_json(before), **content}
    print(json.dumps(content, indent=1) if options.json else table(after, before))
    if options.output:
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
