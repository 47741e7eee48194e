"""The command that builds a training batch again."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from medssl.cli.console import Device, Precision, Run, app, display_of, out


@app.command()
def replay(
    ctx: typer.Context,
    run: Run,
    iteration: Annotated[
        int | None,
        typer.Option(help="of the stage, from 1; else the last one that was not finite"),
    ] = None,
    stage: Annotated[str | None, typer.Option(help="name of the stage; else the last")] = None,
    device: Device = "auto",
    precision: Precision = None,
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
    out.print(
        f"{result.checkpoint.name} (after {result.checkpoint_step} iterations): {terms}",
        highlight=False,
        markup=False,
    )
