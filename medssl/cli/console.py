"""What the commands share: the program they belong to, and where they print."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from medssl._version import __version__
from medssl.ranks import place

PANELS = {
    "Start": "demo doctor docs",
    "Data": "check import phantom plan preprocess",
    "Train, and judge by patients": "train crossval compare sweep evaluate report replay forget",
    "Segment new scans": "predict calibrate triage atlas",
    "More labels": "next accept selftrain",
    "Give away, take in": "export deploy pack install models export-dataset federate",
    "Look up": "methods recipes specs info clean",
}
"""How help groups and orders the commands."""


class Ordered(TyperGroup):
    """A group of commands, listed in the order of :data:`PANELS` and under its headings."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of the commands; those not named come last."""
        known = " ".join(PANELS.values()).split()
        for panel, names in PANELS.items():
            for name in names.split():
                if name in self.commands:
                    self.commands[name].rich_help_panel = panel  # type: ignore[attr-defined]
        return sorted(self.commands, key=lambda name: (*known, name).index(name))


app = typer.Typer(
    name="medssl",
    cls=Ordered,
    help="Semi-supervised segmentation of 3D medical images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Console(Console):
    """Prints text as it is: no line is broken, so that a command or path can be copied.

    In tables, too, names keep their brackets and colons: rich would take them for its markup.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts, unbroken and with numbers left alone, or tables."""
        if all(isinstance(item, str) for item in objects):
            options = {"highlight": False, "soft_wrap": True, **options}
        super().print(*objects, **options)


out = _Console()
if not out.is_terminal:
    out = _Console(width=120)  # tables in files and pipes are not cut at 80 columns
err = _Console(stderr=True)
if place()[0] > 0:  # one of several processes of a run: the first one speaks
    out.quiet = True


class _Warnings(logging.Handler):
    """Prints what the library warns of where no display is at hand to say it."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(f"warning: {record.getMessage()}")


@contextmanager
def warnings_shown(*, quiet: bool) -> Iterator[None]:
    """Show the library's warnings: nothing it leaves out or assumes is for a log alone."""
    log = logging.getLogger("medssl")
    silent = quiet or place()[0] > 0
    handler = logging.NullHandler() if silent else _Warnings(logging.WARNING)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def display_of(ctx: typer.Context) -> Any:
    """Return the progress display that the command's options ask for."""
    from medssl.progress import Display

    return Display(err, quiet=bool((ctx.obj or {}).get("quiet")))


SCHEMA = 1
"""Of the documents of ``--json``: raised when a key goes or means something else."""


def print_document(name: str, content: Mapping[str, Any]) -> None:
    """Print one JSON document, which is then all that stands on standard output.

    Args:
        name: of the command.
        content: its keys beside ``schema``, ``command`` and ``medssl``; see docs/json.md.
    """
    from medssl.files import json_text

    head = {"schema": SCHEMA, "command": name, "medssl": __version__}
    sys.stdout.write(json_text({**head, **content}) + "\n")


def show_summary(summary: dict[str, Any]) -> None:
    """Print the table of an evaluation and the policy behind it."""
    from medssl.evaluation.summary_table import format_summary

    for part in format_summary(summary):
        out.print(part)
