"""The command line: one short function per command, each a thin call of the public API."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from medssl import __version__
from medssl.errors import MedSSLError

app = typer.Typer(
    name="medssl",
    help="Semi-supervised segmentation of 3D medical images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()
if not out.is_terminal:
    out = Console(width=120)  # tables in files and pipes are not cut at 80 columns
err = Console(stderr=True)

Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="change a key: --set training.iterations=2000")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16")]
Output = Annotated[Path, typer.Option("--output", "-o", help="folder to write")]
Checkpoint = Annotated[str, typer.Option(help="best, last, or auto: best where there is one")]


def _print_version(asked: bool) -> None:
    if asked:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print results and errors only")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Options of every command."""
    ctx.obj = {"quiet": quiet}


def _display(ctx: typer.Context) -> Any:
    from medssl.training.progress import Display

    return Display(err, quiet=bool((ctx.obj or {}).get("quiet")))


@app.command()
def train(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(help="recipe file or name; a run folder to resume it")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="run folder")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue from the last checkpoint")
    ] = False,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Train a recipe, evaluate it on its test cases, and say where everything lies."""
    from medssl import api

    result = api.train(
        recipe,
        overrides=overrides or (),
        output=output,
        resume=resume,
        device=device,
        precision=precision,
        display=_display(ctx),
    )
    for summary in result.summaries.values():
        _show(summary)
    out.print(f"finished in {result.seconds / 60:.1f} minutes: {result.path}", highlight=False)
    pictures = sorted((result.path / "preview").glob("*.png"))
    if pictures:
        out.print(f"pictures: {pictures[0].parent} ({len(pictures)} files)", highlight=False)


@app.command()
def predict(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(help="run folder")],
    images: Annotated[list[Path], typer.Argument(help="image files or folders")],
    output: Output,
    checkpoint: Checkpoint = "auto",
    largest_component: Annotated[
        bool | None, typer.Option(help="keep the largest piece of each structure")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="also write probability maps")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="predict again what is there")
    ] = False,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Segment images; each result has the grid, affine and label values of its dataset."""
    from medssl import api

    results = api.predict(
        source,
        images,
        output,
        checkpoint=checkpoint,
        device=device,
        precision=precision or "auto",
        largest_component=largest_component,
        probabilities=probabilities,
        overwrite=overwrite,
        display=_display(ctx),
    )
    failed = [r for r in results if r.error]
    out.print(f"{len(results) - len(failed)} predictions in {output}", highlight=False)
    for result in failed:
        err.print(f"failed: {result.case_id}: {result.error}", highlight=False, markup=False)
    if failed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(help="folder of predictions, or a run folder")],
    reference: Annotated[Path | None, typer.Argument(help="folder of reference labels")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder to write")] = None,
    split: Annotated[str, typer.Option(help="of a run: test or validation")] = "test",
    checkpoint: Checkpoint = "auto",
    dataset: Annotated[Path | None, typer.Option(help="a dataset.json that names labels")] = None,
    tolerance: Annotated[float, typer.Option(help="surface tolerance of NSD, mm")] = 2.0,
    voxel_metrics: Annotated[
        bool, typer.Option("--voxel-metrics", help="add the literature's voxel metrics")
    ] = False,
    device: Device = "auto",
) -> None:
    """Measure predictions against references, or a run on one of its splits."""
    from medssl import api

    if reference is None:
        summary = api.evaluate_run(
            source, split, checkpoint=checkpoint, device=device, display=_display(ctx)
        )
        _show(summary)
        return
    if output is None:
        raise MedSSLError("no folder to write", where="--output", fix="add --output FOLDER")
    summary = api.evaluate(
        source,
        reference,
        output,
        dataset_json=dataset,
        nsd_tolerance=tolerance,
        voxel_metrics=voxel_metrics,
        display=_display(ctx),
    )
    _show(summary)
    out.print(f"per case: {output / 'cases.csv'}", highlight=False)


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
    from medssl import api
    from medssl.report.compare_files import format_comparison

    result = api.compare(runs, split=split, baseline=baseline, common=common, output=output)
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
    jobs: Annotated[int, typer.Option(help="runs at a time")] = 1,
    device: Device = "auto",
    precision: Precision = None,
) -> None:
    """Train methods on more and more labels beside the labeled-only baseline; resumes itself."""
    from medssl import api
    from medssl.report.sweep import stopped_message
    from medssl.report.sweep_plan import parse_labeled
    from medssl.report.sweep_summary import format_sweep

    result = api.sweep(
        recipe,
        labeled=parse_labeled(labeled),
        seeds=seeds,
        methods=[m for m in (methods or "").replace(" ", "").split(",") if m],
        overrides=overrides or (),
        output=output,
        jobs=jobs,
        device=device,
        precision=precision,
        display=_display(ctx),
    )
    if result.summary:
        out.print(format_sweep(result.summary))
        out.print(f"written: {result.path}/summary.json, sweep.csv, sweep.png", highlight=False)
    for name, reason in result.failures.items():
        err.print(f"failed: {name}: {reason}", highlight=False, markup=False)
    if result.stopped is not None:
        err.print(stopped_message(result), highlight=False)
        raise typer.Exit(128 + result.stopped)
    if result.failures:
        raise typer.Exit(1)


@app.command()
def phantom(
    ctx: typer.Context,
    output: Annotated[Path, typer.Argument(help="folder to write")],
    kind: Annotated[str, typer.Option(help="kind of data")] = "mr",
    seed: Annotated[int, typer.Option(help="seed")] = 0,
) -> None:
    """Write the built-in synthetic dataset for inspection."""
    from medssl.data.phantom import phantom_options, write_phantom

    options = phantom_options({"kind": kind, "seed": seed})
    total = options.labeled + options.validation + options.unlabeled + options.test
    with _display(ctx).counting("writing the phantom", total) as done:
        path = write_phantom(output, kind=kind, seed=seed, on_progress=done)
    out.print(f"phantom dataset: {path}", highlight=False)


@app.command()
def methods() -> None:
    """List the methods."""
    from medssl.methods import REGISTRY

    table = Table("method", "unlabeled", "paper", title="methods")
    for name, method in sorted(REGISTRY.items()):
        table.add_row(name, "yes" if method.uses_unlabeled else "no", method.paper)
    out.print(table)


@app.command()
def recipes(
    copy: Annotated[str | None, typer.Option(help="copy this recipe here")] = None,
) -> None:
    """List the shipped recipes, or copy one to edit."""
    from medssl.recipe import copy_recipe, list_recipes

    if copy:
        out.print(f"copied to {copy_recipe(copy, Path.cwd())}", highlight=False)
        return
    table = Table("recipe", "what it does", title="recipes")
    for name, path in list_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        table.add_row(name, first)
    out.print(table)


@app.command()
def specs() -> None:
    """List the data specs."""
    from medssl.data.spec import list_specs

    table = Table("spec", "data", title="data specs")
    for name, description in list_specs().items():
        table.add_row(name, description)
    out.print(table)


@app.command()
def info() -> None:
    """Print versions, devices and networks."""
    import torch

    from medssl.networks import list_networks
    from medssl.training.precision import resolve_device, resolve_precision
    from medssl.training.run_folder import environment

    device = resolve_device()
    details = environment(device, resolve_precision("auto", device))
    for key in ("medssl", "versions", "device", "device_name", "precision", "threads"):
        out.print(f"{key}: {details[key]}", highlight=False)
    out.print(f"cuda devices: {torch.cuda.device_count()}", highlight=False)
    table = Table("network", "description", title="networks")
    for name, description in list_networks().items():
        table.add_row(name, description)
    out.print(table)


def _show(summary: dict[str, Any]) -> None:
    """Print the table of an evaluation and the policy behind it."""
    from medssl.evaluation.summary import format_table

    title = None
    if "split" in summary:
        title = f"{summary['run']}: {summary['split']} cases, {summary['checkpoint']} checkpoint"
    table = format_table(summary, title=title)
    table.caption, caption = None, table.caption
    out.print(table)
    out.print(caption, style="dim", highlight=False, markup=False)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; every foreseen problem is a short message.

    ``--debug`` may stand anywhere, since it is often added after the fact.
    """
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    logging.getLogger("medssl").addHandler(logging.NullHandler())
    try:
        app(args=arguments)
        return 0
    except SystemExit as stop:  # how typer ends every command, and a mistyped one with code 2
        return stop.code if isinstance(stop.code, int) else 0
    except MedSSLError as error:
        problem = error
    except KeyboardInterrupt:
        err.print("stopped")
        return 130
    except OSError as error:
        if debug or error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        problem = MedSSLError(
            f"cannot read or write: {error.strerror}",
            where=error.filename,
            fix="free disk space, or use a folder you may write to",
        )
        problem.__cause__ = error
    except Exception as error:
        from medssl.training.state import Stopped

        if not isinstance(error, Stopped):
            if debug:
                raise
            first = (str(error).splitlines() or [""])[0][:200]
            err.print(
                f"unexpected error: {type(error).__name__}: {first}\n"
                "  fix: run the same command with --debug for the traceback, and report it",
                style="red",
                highlight=False,
                markup=False,
            )
            return 1
        err.print(
            f"{error}; the state is saved. Go on with: medssl train {error.run} --resume",
            highlight=False,
        )
        return 128 + error.signum
    if debug:
        raise problem
    err.print(f"error: {problem}", style="red", highlight=False, markup=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    main()
