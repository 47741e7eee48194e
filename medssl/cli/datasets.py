"""Commands about datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.console import app, display_of, out


@app.command()
def phantom(
    ctx: typer.Context,
    output: Annotated[Path, typer.Argument(help="folder to write")],
    kind: Annotated[str, typer.Option(help="mr, ct, cbct or oct")] = "mr",
    labels: Annotated[
        str | None,
        typer.Option(
            help="ct: organs, liver, pancreas; cbct: fdi, binary, canal, sinus, jaws; "
            "oct: fluid, layers"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="seed")] = 0,
) -> None:
    """Write the built-in synthetic dataset for inspection."""
    import medssl
    from medssl.data.phantoms.dataset import phantom_options

    options = phantom_options({"kind": kind, "labels": labels, "seed": seed})
    total = options.labeled + options.validation + options.unlabeled + options.test
    with display_of(ctx).counting("writing the phantom", total) as done:
        path = medssl.phantom(output, kind=kind, labels=labels, seed=seed, on_progress=done)
    out.print(f"phantom dataset: {path}", highlight=False)
