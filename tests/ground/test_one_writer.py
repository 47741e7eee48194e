"""Every file is written, every lock taken and every table spelled by ``medssl/files`` alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import medssl

PACKAGE = Path(medssl.__file__).parent
ROOM = "files/"

CALLS = {
    *("os.replace", "os.rename", "os.renames", "os.link", "os.fsync", "os.mkdir", "shutil.move"),
    *("csv.writer", "csv.DictWriter", "json.dump", "yaml.dump", "pickle.dump"),
    *("np.save", "np.savez", "np.savez_compressed", "np.savetxt"),
    *("tempfile.mkstemp", "tempfile.mkdtemp", "tempfile.NamedTemporaryFile"),
}
METHODS = {"write_text", "write_bytes", "rename", "touch"}
"""Of paths."""
ALLOWED = {
    ("jobs/processes.py", "Path('/proc/self/clear_refs').write_text('5')"),  # no file
    ("data/images/write.py", "open(temporary, 'wb')"),  # the name that `replacing` gave
    # What a process prints, for as long as it lives.
    ("federation/flare.py", "(own.folder / 'training.log').open('ab')"),
    # It reads: links are not followed, and pipes not waited for.
    ("federation/messages.py", "os.open(path, flags | getattr(os, 'O_BINARY', 0))"),
}


def uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of whatever writes a file or takes a lock by itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {a.name for a in node.names} | {getattr(node, "module", None)}
            if names & {"fcntl", "msvcrt", "filelock"}:
                yield node.lineno, ast.unparse(node)
        if isinstance(node, ast.Call) and (
            ast.unparse(node.func) in CALLS
            or (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS)
            or opens_to_write(node)
            or gives_a_name(node)
        ):
            yield node.lineno, ast.unparse(node)


def opens_to_write(call: ast.Call) -> bool:
    """Tell whether a call is ``open(..., "w")`` or ``path.open("w")``."""
    method = isinstance(call.func, ast.Attribute) and call.func.attr == "open"
    if not method and ast.unparse(call.func) != "open":
        return False
    if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in ("os", "Image"):
        return ast.unparse(call.func.value) == "os"
    options = [*call.args[0 if method else 1 :], *(k.value for k in call.keywords)]
    texts = [o.value for o in options if isinstance(o, ast.Constant) and isinstance(o.value, str)]
    return any(set(text) <= set("rwxabt+") and set(text) & set("wxa+") for text in texts)


def gives_a_name(call: ast.Call) -> bool:
    """Tell whether a path is given another path's place; texts are replaced by two."""
    return (
        isinstance(call.func, ast.Attribute)
        and call.func.attr == "replace"
        and len(call.args) == 1
        and not call.keywords
    )


def violations(source: str, file: str) -> list[str]:
    if file.startswith(ROOM):
        return []
    return [
        f"{file}:{line}: {text[:90]}"
        for line, text in uses(ast.parse(source))
        if (file, text) not in ALLOWED
    ]


def test_nothing_is_written_elsewhere() -> None:
    found = [
        line
        for path in sorted(PACKAGE.rglob("*.py"))
        for line in violations(
            path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()
        )
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "os.replace(a, b)",
        "path.rename(other)",
        "temporary.replace(path)",
        "path.write_text(text)",
        "path.with_name('x').write_bytes(data)",
        "open(path, 'w')",
        "open(path, mode='xb')",
        "path.open('a', encoding='utf-8')",
        "os.open(path, os.O_CREAT)",
        "csv.DictWriter(file, names)",
        "json.dump(content, file)",
        "np.save(path, array)",
        "import fcntl",
        "from fcntl import lockf",
        "tempfile.mkdtemp()",
    ],
)
def test_finds_what_writes(line: str) -> None:
    assert violations(line, "data/x.py")
    assert not violations(line, "files/x.py")


@pytest.mark.parametrize(
    "line",
    [
        "text.replace('a', 'b')",
        "replace(record, name=1)",
        "path.open('rb')",
        "open(path, encoding='utf-8')",
        "path.open(encoding='utf-8', newline='')",
        "Image.open(file)",
        "json.dumps(content)",
        "csv.reader(lines)",
        "write_text(path, text)",
    ],
)
def test_leaves_the_others(line: str) -> None:
    assert not violations(line, "data/x.py")
