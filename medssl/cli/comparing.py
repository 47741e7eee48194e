"""Commands that compare methods."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli.console import Device, Overrides, Precision, Shard, app, display_of, err, out

if TYPE_CHECKING:
    from medssl.workflows.planned_runs import RunsResult


Jobs = Annotated[
    int | None, typer.Option(help="runs at a time; default: 1, or what the queue lets")
]
LauncherName = Annotated[str, typer.Option(help="local, or submitit to queue the runs on SLURM")]
Slurm = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="for the queue: time=12:00:00, partition=gpu, ..."),
]
Wait = Annotated[bool, typer.Option(help="for the queued runs, and summarize them")]


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
    folds: Annotated[
        str | None, typer.Option(metavar="K|all", help="measure every labeled patient out of fold")
    ] = None,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder to write")] = None,
    jobs: Jobs = None,
    launcher: LauncherName = "local",
    slurm: Slurm = None,
    wait: Wait = True,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Train methods on more and more labels beside the labeled-only baseline; resumes itself."""
    import medssl
    from medssl.sweeps.plan import parse_labeled

    result = medssl.sweep(
        recipe,
        labeled=parse_labeled(labeled),
        seeds=seeds,
        methods=[m for m in (methods or "").replace(" ", "").split(",") if m],
        folds=_number_or_word(folds),
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
        from medssl.sweeps.summary import format_sweep

        out.print(format_sweep(result.summary))
        out.print(f"written: {result.path}/summary.json, sweep.csv, sweep.png", highlight=False)
    end_of_runs(result)


@app.command()
def crossval(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(help="recipe file or name")],
    folds: Annotated[
        str | None, typer.Option(metavar="K|all", help="default: what suits the patients")
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="supervised, or none: no verdict, half the time")
    ] = "supervised",
    repeats: Annotated[int, typer.Option(help="deal and train so often")] = 1,
    transductive: Annotated[
        bool, typer.Option("--transductive", help="let images of held-out patients be unlabeled")
    ] = False,
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder to write")] = None,
    jobs: Jobs = None,
    launcher: LauncherName = "local",
    slurm: Slurm = None,
    wait: Wait = True,
    shard: Shard = None,
    device: Device = "auto",
    precision: Precision = None,
    pictures: Annotated[bool, typer.Option(help="draw cases in the report")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print what crossval.json holds")] = False,
) -> None:
    """Train and judge with every label: folds, the labeled-only twin, a verdict; resumes itself."""
    import medssl

    result = medssl.crossval(
        recipe,
        folds=_number_or_word(folds),
        baseline=baseline,
        repeats=repeats,
        transductive=transductive,
        overrides=overrides or (),
        output=output,
        jobs=jobs,
        launcher=launcher,
        slurm=slurm or (),
        wait=wait,
        shard=shard,
        device=device,
        precision=precision,
        pictures=pictures,
        display=display_of(ctx),
    )
    if result.summary and as_json:
        out.print_json((result.path / "crossval.json").read_text(encoding="utf-8"))
    elif result.summary:
        from medssl.cross_validation.show import format_crossval

        out.print(format_crossval(result.summary))
        out.print(f"written: {result.path}/crossval.json, report.html", highlight=False)
    end_of_runs(result)


def _number_or_word(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def end_of_runs(result: RunsResult) -> None:
    """Say what became of many runs, and end with the code that says it, too."""
    from medssl.workflows.planned_runs import queued_message, stopped_message

    for name, reason in result.failures.items():
        err.print(f"failed: {name}: {reason}", highlight=False, markup=False)
    if result.stopped is not None:
        err.print(stopped_message(result), highlight=False)
        raise typer.Exit(128 + result.stopped)
    if result.queued:
        out.print(queued_message(result), highlight=False)
    if result.failures:
        raise typer.Exit(1)
