"""The page of commands, from the commands themselves, and that of the functions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer
from markdown_pages import table

import medssl
from medssl.cli import app


def command_page() -> tuple[str, str]:
    """Return path and text of the page that says what each command takes."""
    program: Any = typer.main.get_command(app)
    parts = [
        "# Commands\n",
        f"{program.help} `medssl COMMAND --help` says the same in a terminal.\n",
        "## Options of every command\n",
        _options(program),
    ]
    for name, command in _commands(program, "medssl"):
        parts += [
            f"## {name}\n",
            (command.help or "") + "\n",
            f"```\n{_usage(name, command)}\n```\n",
        ]
        parts.append(_options(command))
    return "reference/commands.md", "\n".join(parts)


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield each command with its whole name, those of groups too."""
    names = group.list_commands(None)
    for name in names:
        command = group.commands[name]
        yield f"{prefix} {name}", command
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix} {name}")


def _usage(name: str, command: Any) -> str:
    if hasattr(command, "commands"):
        return f"{name} COMMAND ..."
    words = [_word(p) for p in command.params if p.param_type_name == "argument"]
    return " ".join([name, *words, "[OPTIONS]"])


def _word(argument: Any) -> str:
    word = (argument.metavar or argument.name).upper() + ("..." if argument.nargs != 1 else "")
    return word if argument.required else f"[{word}]"


def _options(command: Any) -> str:
    rows = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            rows.append([f"`{_word(parameter)}`", parameter.help or "", ""])
            continue
        names = [*parameter.opts, *parameter.secondary_opts]
        default = parameter.default
        shown = "" if default in (None, False, ()) or callable(default) else f"`{default}`"
        rows.append([", ".join(f"`{n}`" for n in names), parameter.help or "", shown])
    return table(["option", "what it does", "default"], rows) if rows else ""


def api_page() -> tuple[str, str]:
    """Return path and text of the page of functions, whose docstrings mkdocstrings fills in."""
    parts = [
        "# Functions\n",
        "Each command is a function of `medssl`, and so are a few more things. By example: "
        "[From Python](../python.md).\n",
    ]
    for name in medssl.__all__:
        place = medssl._PLACES.get(name)
        if place:
            path = "medssl." + re.sub(":", ".", place)
            parts.append(f"## medssl.{name}\n\n::: {path}\n    options:\n      heading_level: 3\n")
    return "reference/api.md", "\n".join(parts)
