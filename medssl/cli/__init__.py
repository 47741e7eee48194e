"""The command line: one short function per command, each a thin call of the public API."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from medssl._version import __version__
from medssl.cli import (
    bundles,
    comparing,
    datasets,
    federation,
    listing,
    machine,
    planning,
    reporting,
    rounds,
    running,
    sharing,
    uncertain,
)
from medssl.cli.console import app, err, out, warnings_shown
from medssl.cli.plugins import take_plugins
from medssl.errors import MedSSLError, ToldElsewhere
from medssl.paths import command
from medssl.ranks import place

GROUPS = (
    running,
    comparing,
    planning,
    datasets,
    uncertain,
    rounds,
    federation,
    reporting,
    bundles,
    sharing,
    listing,
    machine,
)
"""The modules whose import registers the commands."""


def _print_version(asked: bool) -> None:
    if asked:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def every_command(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print results and errors only")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version", callback=_print_version, is_eager=True),
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="FILE", help="load methods, networks, ... of your own"),
    ] = None,
    allow_changed_plugin: Annotated[
        bool,
        typer.Option("--allow-changed-plugin", help="though a run was made with other code"),
    ] = False,
) -> None:
    """Options of every command."""
    ctx.obj = {"quiet": quiet}


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; every foreseen problem is a short message.

    ``--debug``, ``--plugin`` and ``--allow-changed-plugin`` may stand anywhere, since they are
    often added after the fact.
    """
    with warnings_shown(quiet="--quiet" in arguments):
        return _run([a for a in arguments if a != "--debug"], debug="--debug" in arguments)


def _run(arguments: Sequence[str], *, debug: bool) -> int:
    try:
        arguments = take_plugins(arguments)
        app(args=arguments, prog_name="medssl")  # which completion of words goes by
        return 0
    except SystemExit as stop:  # how typer ends every command, and a mistyped one with code 2
        return stop.code if isinstance(stop.code, int) else 0
    except ToldElsewhere:
        return 2
    except MedSSLError as error:
        problem = error
    except KeyboardInterrupt:
        err.print("stopped")
        return 130
    except OSError as error:
        if debug:
            raise
        refused = error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT)
        problem = MedSSLError(
            f"cannot read or write: {error.strerror or error}",
            where=error.filename,
            fix="free disk space, or use a folder you may write to"
            if refused
            else "check the path; --debug shows the traceback",
        )
        problem.__cause__ = error
    except Exception as error:
        from medssl.errors import Stopped

        if not isinstance(error, Stopped):
            if debug:
                raise
            first = (str(error).splitlines() or [""])[0][:200]
            err.print(
                f"unexpected error: {type(error).__name__}: {first}\n"
                "  fix: run the same command with --debug for the traceback, and report it",
                style="red",
            )
            return 1
        if place()[0] == 0:  # all processes of a run stop together, and one says so
            going_on = command("train", error.run, "--resume")
            err.print(f"{error}; the state is saved. Go on with: {going_on}")
        return 128 + error.signum
    if debug:
        raise problem
    err.print(f"error: {problem}", style="red")
    return 2
