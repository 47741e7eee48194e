"""Commands that compare methods."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli import options
from medssl.cli.console import app, display_of, err, out, print_document

if TYPE_CHECKING:
    from medssl.workflows.planned_runs import RunsResult


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
    output: options.OutputOrNone = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare runs case by case, and say whether there is evidence of a difference."""
    import medssl
    from medssl.comparison.output import format_comparison

    result = medssl.compare(runs, split=split, baseline=baseline, common=common, output=output)
    if as_json:
        print_document("compare", {key: v for key, v in result.items() if key != "rows"})
        return
    out.print(format_comparison(result))
    if output is not None:
        out.print(f"written: {output}/compare.csv, .json and .png")


@app.command()
def sweep(
    ctx: typer.Context,
    recipe: options.Recipe,
    labeled: Annotated[str, typer.Option(help="numbers of labeled patients: 4,8,16 or all")],
    seeds: Annotated[int, typer.Option(help="runs per point, with seeds 0, 1, ...")] = 3,
    methods: Annotated[str | None, typer.Option(help="bcp,uamt,...; default: the recipe's")] = None,
    folds: Annotated[
        str | None, typer.Option(metavar="K|all", help="measure every labeled patient out of fold")
    ] = None,
    overrides: options.Overrides = None,
    output: options.OutputOrNone = None,
    jobs: options.Jobs = None,
    launcher: options.LauncherName = "local",
    slurm: options.Slurm = None,
    wait: options.Wait = True,
    device: options.Device = "auto",
    precision: options.Precision = None,
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
        out.print(f"written: {result.path}/summary.json, sweep.csv, sweep.png")
    end_of_runs(result)


@app.command()
def crossval(
    ctx: typer.Context,
    recipe: options.Recipe,
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
    overrides: options.Overrides = None,
    init: options.Init = None,
    output: options.OutputOrNone = None,
    jobs: options.Jobs = None,
    launcher: options.LauncherName = "local",
    slurm: options.Slurm = None,
    wait: options.Wait = True,
    shard: options.Shard = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
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
        overrides=options.with_init(overrides, init),
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
        out.print(f"written: {result.path}/crossval.json, report.html")
    end_of_runs(result)


@app.command()
def forget(
    ctx: typer.Context,
    run: options.Result,
    patients: Annotated[
        list[str], typer.Option("--patients", help="patients or cases, with commas between")
    ],
    overrides: options.Overrides = None,
    output: options.OutputOrNone = None,
    delete_old: Annotated[
        bool, typer.Option("--delete-old", help="delete the old folder at the end, unasked")
    ] = False,
    device: options.Device = "auto",
    precision: options.Precision = None,
) -> None:
    """Write a new folder in which nothing was learned from a patient; the old one may go."""
    import medssl
    from medssl.files import discard_folder

    found = medssl.forget(
        run,
        [one for text in patients for one in text.split(",")],
        output=output,
        overrides=overrides or (),
        delete_old=delete_old,
        device=device,
        precision=precision,
        display=display_of(ctx),
    )
    for name, reason in found.failures.items():
        err.print(f"failed: {name}: {reason}")
    if found.failures:
        raise typer.Exit(1)
    out.print(f"written: {found.path}")
    for path in found.descendants:
        out.print(f"started from the old folder, forget there, too: {path}")
    for path in found.out_of_reach:
        out.print(f"a bundle beside it, which may hold the old weights: {path}")
    out.print(
        "out of reach: bundles, predictions and copies written elsewhere, backups, whatever others "
        "were given"
    )
    if not found.deleted and sys.stdin.isatty() and typer.confirm(f"delete {run} for good?"):
        discard_folder(run)


@app.command()
def selftrain(
    ctx: typer.Context,
    recipe: options.Recipe,
    rounds: Annotated[int, typer.Option(help="at most so many")] = 2,
    members: Annotated[
        str, typer.Option(metavar="KIND", help="seeds, seeds:5, folds, or methods:bcp,cps")
    ] = "seeds",
    folds: Annotated[
        str | None, typer.Option(metavar="K|all", help="default: what suits the patients")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="one student of all labels; nothing is compared")
    ] = False,
    agree: Annotated[float, typer.Option(help="share of members that decide a voxel")] = 2 / 3,
    drop: Annotated[float, typer.Option(help="share of scans to leave out, at most 0.25")] = 0.1,
    with_atlas: Annotated[
        Path | None, typer.Option(help="folder of `medssl atlas`: one more member")
    ] = None,
    overrides: options.Overrides = None,
    init: options.Init = None,
    output: options.OutputOrNone = None,
    jobs: options.Jobs = None,
    launcher: options.LauncherName = "local",
    slurm: options.Slurm = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
) -> None:
    """Label unlabeled scans by several members, teach a student what they agree on; in rounds."""
    import medssl

    result = medssl.selftrain(
        recipe,
        rounds=rounds,
        members=members,
        folds=_number_or_word(folds),
        whole=whole,
        agree=agree,
        drop=drop,
        with_atlas=with_atlas,
        overrides=options.with_init(overrides, init),
        output=output,
        jobs=jobs,
        launcher=launcher,
        slurm=slurm or (),
        device=device,
        precision=precision,
        display=display_of(ctx),
    )
    if result.summary:
        from medssl.pseudo_labels.show import format_selftrain

        out.print(format_selftrain(result.path, result.summary))
    end_of_runs(result)


def _number_or_word(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def end_of_runs(result: RunsResult) -> None:
    """Say what became of many runs, and end with the code that says it, too."""
    from medssl.workflows.planned_runs import queued_message, stopped_message

    for name, reason in result.failures.items():
        err.print(f"failed: {name}: {reason}")
    if result.stopped is not None:
        err.print(stopped_message(result))
        raise typer.Exit(128 + result.stopped)
    if result.queued:
        out.print(queued_message(result))
    if result.failures:
        raise typer.Exit(1)
