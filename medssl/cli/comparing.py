"""Commands that compare methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.console import Device, Overrides, Precision, app, display_of, err, out


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="run folders; seeds of one experiment pool")],
    split: Annotated[str, typer.Option(help="evaluation to compare")] = "test",
    baseline: Annotated[
        str | None, typer.Option(help="run to compare with; default: the supervised one, or first")
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="compare on the cases that all runs have")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder to write")] = None,
) -> None:
    """Compare runs case by case, and say whether there is evidence of a difference."""
    import medssl
    from medssl.comparison.output import format_comparison

    result = medssl.compare(runs, split=split, baseline=baseline, common=common, output=output)
    out.print(format_comparison(result))
    if output is not None:
        out.print(f"written: {output}/compare.csv, .json and .png", highlight=False)


@app.command()
def sweep(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(help="recipe file or name")],
    labeled: Annotated[str, typer.Option(help="numbers of labeled patients: 4,8,16 or all")],
    seeds: Annotated[int, typer.Option(help="runs per point, with seeds 0, 1, ...")] = 3,
    methods: Annotated[str | None, typer.Option(help="bcp,uamt,...; default: the recipe's")] = None,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder to write")] = None,
    jobs: Annotated[
        int | None, typer.Option(help="runs at a time; default: 1, or what the queue lets")
    ] = None,
    launcher: Annotated[
        str, typer.Option(help="local, or submitit to queue the runs on SLURM")
    ] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="for the queue: time=12:00:00, partition=gpu, ..."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="for the queued runs, and summarize them")] = True,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Train methods on more and more labels beside the labeled-only baseline; resumes itself."""
    import medssl
    from medssl.sweeps.plan import parse_labeled
    from medssl.sweeps.summary import format_sweep
    from medssl.sweeps.sweep import queued_message, stopped_message

    result = medssl.sweep(
        recipe,
        labeled=parse_labeled(labeled),
        seeds=seeds,
        methods=[m for m in (methods or "").replace(" ", "").split(",") if m],
        overrides=overrides or (),
        output=output,
        jobs=jobs,
        launcher=launcher,
        slurm=slurm or (),
        wait=wait,
        device=device,
        precision=precision,
        display=display_of(ctx),
    )
    if result.summary:
        out.print(format_sweep(result.summary))
        out.print(f"written: {result.path}/summary.json, sweep.csv, sweep.png", highlight=False)
    for name, reason in result.failures.items():
        err.print(f"failed: {name}: {reason}", highlight=False, markup=False)
    if result.stopped is not None:
        err.print(stopped_message(result), highlight=False)
        raise typer.Exit(128 + result.stopped)
    if result.queued:
        out.print(queued_message(result), highlight=False)
    if result.failures:
        raise typer.Exit(1)
