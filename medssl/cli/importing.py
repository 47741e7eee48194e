"""The command that brings other formats in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from medssl.cli.console import app, display_of, out


def _list_formats(asked: bool) -> None:
    if not asked:
        return
    import medssl
    from medssl.data.importers.importer import REGISTRY, ImportSettings

    table = Table("format", "what it is", "its options", title="formats", show_lines=True)
    for name in medssl.list_formats():
        importer = REGISTRY[name]
        fields = importer.Settings.model_fields
        own = [k for k in fields if k not in ImportSettings.model_fields]
        summary = importer.summary
        if importer.extra:
            summary += f' (needs pip install "medssl[{importer.extra}]")'
        options = "\n".join(f"{k}: {fields[k].description}" for k in own)
        table.add_row(Text(name), Text(summary), Text(options))
    out.print(table)
    out.print("Every format also has these:", highlight=False)
    for key, field in ImportSettings.model_fields.items():
        out.print(f"  {key}: {field.description}", highlight=False, markup=False)
    raise typer.Exit


@app.command("import")
def import_dataset(
    ctx: typer.Context,
    format: Annotated[str, typer.Argument(help="format of the source; see --list")],  # noqa: A002
    source: Annotated[Path, typer.Argument(help="file or folder to read")],
    dataset: Annotated[Path, typer.Argument(help="folder to write (Decathlon layout)")],
    option: Annotated[
        list[str] | None, typer.Option("--option", "-O", help="KEY=VALUE; see --list")
    ] = None,
    list_formats: Annotated[
        bool,
        typer.Option(
            "--list", help="list formats and options", callback=_list_formats, is_eager=True
        ),
    ] = False,
) -> None:
    """Convert data of another format to a dataset folder, and check it."""
    from medssl.data.importers.dataset import import_dataset as convert

    result = convert(format, source, dataset, options=option or [], display=display_of(ctx))
    for line in (*result.notes, *(f"warning: {w}" for w in _first(result.warnings))):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    skipped = [f"left out: {name}: {reason}" for name, reason in result.skipped.items()]
    for line in _first(skipped):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    counts = f"{result.labeled} labeled, {result.unlabeled} unlabeled, {result.test} test"
    out.print(
        f"dataset: {result.dataset} (imported {counts})",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _first(lines: tuple[str, ...] | list[str], most: int = 12) -> list[str]:
    more = [f"and {len(lines) - most} more of this kind"] if len(lines) > most else []
    return [*lines[:most], *more]
