"""Each command that the documentation prints: it is there, and so are its options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from medssl.cli import app
from medssl.errors import MedSSLError

ROOT = Path(__file__).parents[2]
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
FOUND = (*(ROOT / "docs").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted([*FOUND, *(ROOT / name for name in BESIDE)])
BLOCK = re.compile(r"^```(?:\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:^|\s)medssl(?: --plugin \S+)* ([a-z]\S*(?: .*)?)$")
SKETCH = re.compile(r"[\[\]|]|\.\.\.|\bN\b|\\$")
"""What only a command that is described, and not one that is printed to be run, has."""

program: Any = typer.main.get_command(app)


def printed(page: Path) -> list[tuple[str, bool]]:
    """Return the commands of a page without ``medssl``, and whether each can be run as it is."""
    text = page.read_text(encoding="utf-8")
    found = []
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.split(r" #| \| | > |&& *(?!medssl)", line)[0]
            match = COMMAND.search(line.strip())
            if match:
                found.append((match[1], SKETCH.search(match[1]) is None))
    prose = BLOCK.sub("", text).replace("\\|", "|")
    found += [(match, False) for match in re.findall(r"`medssl ([a-z][^`]*)`", prose)]
    return found


def check(command: str, *, whole: bool) -> str | None:
    """Say what is wrong with a command line; only ``whole`` ones are parsed with all arguments."""
    words = shlex.split(" ".join(command.split()))
    group = program
    while hasattr(group, "commands"):
        if not words or words[0].startswith("-") or "|" in words[0]:
            return None
        if words[0] not in group.commands:
            return f"there is no command {words[0]!r}"
        group = group.commands[words.pop(0)]
    if whole:
        try:
            group.make_context("medssl", words)
        except (MedSSLError, typer.Exit):
            return None  # the words are right; a run that they name is not here, or it is a list
        except Exception as error:  # typer's own usage errors
            return str(error) or type(error).__name__
        return None
    known = {
        name for p in [*group.params, *program.params] for name in (*p.opts, *p.secondary_opts)
    }
    for option in re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", command):
        if option not in known | {"--help"}:
            return f"there is no option {option}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_exist(page: Path) -> None:
    wrong = [
        f"medssl {command}: {problem}"
        for command, whole in printed(page)
        if (problem := check(command, whole=whole))
    ]
    assert not wrong, "\n".join(wrong)


def test_files_that_are_named_exist() -> None:
    place = re.compile(r"`((?:tests|benchmarks|medssl|recipes|data_specs)/[\w/]+\.\w+)`")
    named = {name for page in PAGES for name in place.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_a_wrong_command_is_found() -> None:
    assert sum(whole for page in PAGES for _, whole in printed(page)) > 50
    assert check("train mine.yaml --set seed=1", whole=True) is None
    assert "--iterations" in str(check("train mine.yaml --iterations 3", whole=True))
    assert check("train", whole=True) is not None  # a recipe is missing
    assert "--iterations" in str(check("train RECIPE [--iterations N]", whole=False))
    assert "trane" in str(check("trane mine.yaml", whole=False))
    assert "peek" in str(check("federate peek FOLDER", whole=False))


def test_docs_are_opened_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medssl import cli
    from medssl.settings import shipped

    package = tmp_path / "medssl"
    monkeypatch.setattr(shipped, "__file__", str(package / "settings" / "shipped.py"))
    assert cli.run(["docs", "--path"]) == 2
    assert "mkdocs build" in capsys.readouterr().err
    page = package / "_share" / "site" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("<html></html>")
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    assert cli.run(["docs"]) == 0
    assert opened == [page.resolve().as_uri()]
    assert str(page) in capsys.readouterr().out
