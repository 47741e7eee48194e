"""The command that writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.console import Device, Result, app, display_of, out


@app.command()
def report(
    ctx: typer.Context,
    run: Result,
    baseline: Annotated[
        list[Path] | None, typer.Option(help="run of the labeled-only baseline; may be repeated")
    ] = None,
    split: Annotated[str, typer.Option(help="evaluation to show")] = "test",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file")] = None,
    pictures: Annotated[bool, typer.Option(help="draw cases; needs the dataset")] = True,
    device: Device = "auto",
) -> None:
    """Write one HTML page about a run: verdict, figures, cases, curves, limits."""
    import medssl

    path = medssl.report(
        run,
        output=output,
        split=split,
        baseline=baseline or (),
        pictures=pictures,
        device=device,
        display=display_of(ctx),
    )
    out.print(f"report: {path}", highlight=False)
