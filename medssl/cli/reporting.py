"""Commands that look at a run: its report, and one batch of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from medssl.cli import options
from medssl.cli.console import app, display_of, out


@app.command()
def report(
    ctx: typer.Context,
    run: options.Result,
    baseline: Annotated[
        list[Path] | None, typer.Option(help="run of the labeled-only baseline; may be repeated")
    ] = None,
    split: Annotated[str, typer.Option(help="evaluation to show")] = "test",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML file")] = None,
    pictures: Annotated[bool, typer.Option(help="draw cases; needs the dataset")] = True,
    device: options.Device = "auto",
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
    out.print(f"report: {path}")


@app.command()
def replay(
    ctx: typer.Context,
    run: options.Run,
    iteration: Annotated[
        int | None,
        typer.Option(help="of the stage, from 1; else the last one that was not finite"),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="name of the stage; else the last")] = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
) -> None:
    """Show what was in the batch of an iteration, and the newest checkpoint's loss on it."""
    import medssl

    result = medssl.replay(
        run,
        iteration=iteration,
        stage=stage,
        device=device,
        precision=precision,
        display=display_of(ctx),
    )
    table = Table(title=f"stage {result.stage}, iteration {result.iteration}")
    for column in ("stream", "case", "start", "size", "lowest", "highest", "not finite", "labels"):
        table.add_column(column)
    for patch in result.patches:
        table.add_row(
            patch.stream,
            patch.case,
            " ".join(map(str, patch.start)),
            " ".join(map(str, patch.size)),
            *("-" if v is None else f"{v:.4g}" for v in (patch.lowest, patch.highest)),
            f"{patch.not_finite} voxels" if patch.not_finite else "0",
            " ".join(map(str, patch.labels)) or "-",
        )
    out.print(table)
    terms = ", ".join(f"{name} {value:.4g}" for name, value in result.terms.items())
    out.print(f"{result.checkpoint.name} (after {result.checkpoint_step} iterations): {terms}")
