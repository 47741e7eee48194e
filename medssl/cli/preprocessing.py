"""The command that fills the cache ahead of training."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.filesize import decimal

from medssl.cli.console import (
    Device,
    Overrides,
    Precision,
    Shard,
    VerifyCache,
    app,
    display_of,
    out,
)


@app.command()
def preprocess(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(help="recipe file or name")],
    overrides: Overrides = None,
    shard: Shard = None,
    device: Device = "auto",
    precision: Precision = None,
    verify_cache: VerifyCache = False,
) -> None:
    """Fill the cache for a recipe, so that training starts at once; trains nothing."""
    import medssl

    result = medssl.preprocess(
        recipe,
        overrides=overrides or (),
        shard=shard,
        device=device,
        precision=precision,
        verify_cache=verify_cache,
        display=display_of(ctx),
    )
    made = result.cases - result.there
    out.print(f"{made} cases preprocessed, {result.there} were there already", highlight=False)
    out.print(f"cache: {result.cache}, {decimal(result.bytes)} for these", highlight=False)
