"""The repository's Markdown, written for code hosts, as pages of the site."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator

OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "about/changes.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "benchmarks/README.md": "about/benchmarks.md",
    "CITATION.cff": "about/citing.md",
}
"""Files beside ``docs/`` that become pages."""

_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_LIST = re.compile(r"^( +)(?=(?:[*-]|\d+\.) )")
_CODE = re.compile(r"`[^`]+`")


def as_page(text: str, source: str, page: str) -> str:
    r"""Return Markdown of a file of the repository as a page of the site shows it.

    Links go to where a file's page is; lists within lists are indented by four and not two spaces;
    a ``\|`` in the code of a table's cell becomes ``|``.

    Args:
        text: of the file.
        source: path of the file in the repository, such as ``docs/verdict.md``.
        page: path of its page in the site, such as ``verdict.md``.
    """
    return on_lines(text, lambda line: _line(line, source, page))


def on_lines(text: str, change: Callable[[str], str]) -> str:
    """Return a text in which the lines outside of code blocks are changed."""
    return "\n".join(line if code else change(line) for line, code in lines_of(text)) + "\n"


def lines_of(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it belongs to a block of code."""
    code = False
    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        yield line, code or fence
        code ^= fence


def _line(line: str, source: str, page: str) -> str:
    line = _LIST.sub(lambda found: 2 * found[1], line)
    if line.startswith("|"):
        line = _CODE.sub(lambda found: found[0].replace(r"\|", "|"), line)
    return _LINK.sub(lambda found: found[1] + _target(found[2], source, page) + found[3], line)


def _target(link: str, source: str, page: str) -> str:
    """Return a link of a file as a link of its page."""
    path, mark, anchor = link.partition("#")
    if not path or ":" in path:
        return link
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if file.startswith("notebooks/"):
        file = file.replace(".ipynb", ".md")
    goal = OUTSIDE.get(file) or file.removeprefix("docs/")
    return posixpath.relpath(goal, posixpath.dirname(page) or ".") + mark + anchor


def tables_of(text: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the tables of a text: the heading above, and rows of cells, the header first."""
    rows: list[list[str]] = []
    heading = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif rows:
            yield heading, [rows[0], *rows[2:]]
            rows = []
        if line.startswith("#"):
            heading = line.lstrip("# ")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown; a ``|`` in a cell is kept."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "&#124;" if "`" not in text else "|")


def of_docstring(text: str) -> str:
    """Return a docstring's prose as Markdown: its lists apart and at the margin, roles as code."""
    text = re.sub(r":[a-z:]+:`~?([^`]+)`", r"`\1`", text)
    lines: list[str] = []
    item = False
    for line in text.splitlines():
        starts = re.match(r" *([*]|\d+\.) ", line) is not None
        if starts and not item and lines and lines[-1]:
            lines.append("")
        if not starts and item and line and not line.startswith("  "):
            lines.append("")  # prose after a list
        item = starts or (item and line.startswith("  "))
        lines.append(line.strip())
    return "\n".join(lines).replace("<-", "&larr;") + "\n"
