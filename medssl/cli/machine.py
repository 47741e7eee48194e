"""Commands about this computer: does medssl work here, and what does it take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from medssl.cli import options
from medssl.cli.console import app, display_of, out, print_document


@app.command()
def doctor(
    ctx: typer.Context,
    self_test: Annotated[
        bool, typer.Option(help="train and predict on a tiny phantom: some 20 seconds")
    ] = True,
    as_json: options.AsJson = False,
) -> None:
    """Look at versions, device, memory and disk, and try a training; exit code 1 for a problem."""
    import medssl

    found = medssl.doctor(self_test=self_test, display=display_of(ctx))
    if as_json:
        print_document("doctor", found.to_json())
    else:
        styles = {"ok": "green", "warning": "yellow", "problem": "bold red"}
        table = Table("", "", title="this computer")
        table.add_column("found", overflow="fold")  # names and paths are to be copied
        table.add_column("what to do", overflow="fold")
        for one in found.findings:
            verdict = Text(one.verdict, styles[one.verdict])
            table.add_row(one.what, verdict, Text(one.found), Text(one.fix))
        out.print(table)
        out.print("medssl works here" if found.works else "medssl does not work here yet")
    if not found.works:
        raise typer.Exit(1)


@app.command()
def demo(
    ctx: typer.Context,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="folder; that of an earlier demo goes on")
    ] = Path("medssl-demo"),
    device: options.Device = "auto",
) -> None:
    """Show everything once on synthetic scans: folds, verdict, pictures on a page; some minutes."""
    import medssl

    found = medssl.demo(output, device=device, display=display_of(ctx))
    out.print(found.verdict)
    out.print(f"{found.seconds / 60:.1f} minutes; open in a browser: {found.path}")


@app.command()
def clean(
    folders: Annotated[list[Path] | None, typer.Argument(help="of runs; default: runs")] = None,
    days: Annotated[float, typer.Option(min=0, help="cached cases not used for so long")] = 30,
    cache: Annotated[
        Path | None, typer.Option(help="folder of the cache; default: where recipes have it")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="delete what can go, unasked")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show what takes space and what of it can go; delete nothing without being told."""
    import medssl

    places = folders or [Path("runs")]
    found = medssl.clean(places, days=days, cache=cache, delete=delete)
    if as_json:
        print_document("clean", found.to_json())
        return
    table = Table("size", "what", "where", "can go, because", title="disk space")
    for space in (*found.stays, *found.can_go)[:MOST_ROWS]:
        table.add_row(decimal(space.bytes), *map(Text, (space.what, str(space.path), space.why)))
    out.print(table)
    more = len(found.stays) + len(found.can_go) - MOST_ROWS
    if more > 0:
        out.print(f"and {more} more; --json lists all")
    size = f"{decimal(found.bytes)} in {len(found.can_go)} files and folders"
    if delete:
        out.print(f"deleted: {size}")
    elif found.can_go and sys.stdin.isatty() and typer.confirm(f"delete {size}?"):
        medssl.clean(places, days=days, cache=cache, delete=True)
    elif found.can_go:
        out.print(f"can go: {size}; to delete them, add --delete")


MOST_ROWS = 40
