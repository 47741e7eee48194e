"""Commands about datasets: look at one, bring one in, prepare one for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from medssl.cli import options
from medssl.cli.console import app, display_of, out, print_document


class _JsonAlone(TyperCommand):
    """`--json` with no file after it is `--json -`: on standard output."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Add the file."""
        if "--json" in args:
            place = args.index("--json") + 1
            if place == len(args) or args[place].startswith("--"):
                args = [*args[:place], "-", *args[place:]]
        return super().parse_args(ctx, args)


@app.command(cls=_JsonAlone)
def check(
    ctx: typer.Context,
    dataset: Annotated[Path, typer.Argument(help="Decathlon folder")],
    spec: Annotated[str | None, typer.Option(help="data spec that training will use")] = None,
    repair: Annotated[
        Path | None, typer.Option(help="folder to write a repaired copy of the dataset to")
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="file for scripts; without one, or -: print it alone"),
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="page with a picture of every case")
    ] = None,
    allow_outside: options.AllowOutside = False,
    patients: options.Patients = None,
    unlabeled: options.MoreUnlabeled = None,
) -> None:
    """Find what is wrong with a dataset; exit code 2 where training cannot start."""
    import medssl
    from medssl.reports.check_table import describe_memory, format_problems, relative, verdict

    printed = str(json_file) == "-"
    result = medssl.check(
        dataset,
        spec=spec,
        repair=repair,
        json_file=None if printed else json_file,
        html_file=html_file,
        allow_outside=allow_outside,
        patients=patients,
        unlabeled=unlabeled or (),
        display=display_of(ctx),
    )
    if printed:
        print_document("check", result.to_json())
        raise typer.Exit(0 if result.can_train else 2)
    if result.report.problems:
        out.print(format_problems(result.report))
    out.print(verdict(result.report))
    out.print(describe_memory(result.report), style="dim")
    if result.repaired is not None:
        copy = result.repaired
        out.print(f"\nrepaired copy: {copy.dataset.root}")
        for line in result.repairs:
            out.print(f"  {line}")
        for problem in copy.problems:
            if problem.severity == "error":
                name = relative(problem.file, copy.dataset.root)
                out.print(f"  not repaired: {name}: {problem.what}")
        out.print(verdict(copy))
    for path in (json_file, html_file):
        if path is not None:
            out.print(f"written: {path}")
    if not result.can_train:
        raise typer.Exit(2)


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
    out.print("Every format also has these:")
    for key, field in ImportSettings.model_fields.items():
        out.print(f"  {key}: {field.description}")
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
        out.print(line)
    skipped = [f"left out: {name}: {reason}" for name, reason in result.skipped.items()]
    for line in _first(skipped):
        out.print(line)
    counts = f"{result.labeled} labeled, {result.unlabeled} unlabeled, {result.test} test"
    out.print(f"dataset: {result.dataset} (imported {counts})")


def _first(lines: tuple[str, ...] | list[str], most: int = 12) -> list[str]:
    more = [f"and {len(lines) - most} more of this kind"] if len(lines) > most else []
    return [*lines[:most], *more]


@app.command("export-dataset")
def export_dataset(
    ctx: typer.Context,
    format: Annotated[str, typer.Argument(help="nnunet: a raw folder of nnU-Net 2")],  # noqa: A002
    dataset: Annotated[Path, typer.Argument(help="Decathlon folder")],
    output: options.Output,
    pseudo_labels: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="self-training, run or predictions: they train as well"),
    ] = None,
    round_number: Annotated[
        int | None, typer.Option("--round", help="of a self-training; default: the one it took")
    ] = None,
    patients: options.Patients = None,
    unlabeled: options.MoreUnlabeled = None,
    allow_outside: options.AllowOutside = False,
) -> None:
    """Write a dataset for another program, with pseudo-labels that are believed."""
    import medssl

    if format != "nnunet":
        from medssl.errors import MedSSLError, did_you_mean

        fix = did_you_mean(format, ["nnunet"])
        raise MedSSLError(f"no format '{format}' is written", where="FORMAT", fix=fix)
    found = medssl.export_nnunet(
        dataset,
        output,
        pseudo_labels=pseudo_labels,
        round_number=round_number,
        patients=patients,
        unlabeled=unlabeled or (),
        allow_outside=allow_outside,
        display=display_of(ctx),
    )
    for note in found.notes:
        out.print(f"note: {note}")
    if found.pseudo:
        out.print(f"pseudo-labels: {found.pseudo} scans, {found.ignored:.2%} of voxels ignored")
    out.print(
        f"{found.path}: {found.labeled} labeled, {found.unlabeled} unlabeled, {found.test} test, "
        f"{found.folds} folds; trainer: {found.path / 'trainer'}"
    )


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
    out.print(f"phantom dataset: {path}")


@app.command()
def preprocess(
    ctx: typer.Context,
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    shard: options.Shard = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    verify_cache: options.VerifyCache = False,
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
    out.print(f"{made} cases preprocessed, {result.there} were there already")
    out.print(f"cache: {result.cache}, {decimal(result.bytes)} for these")
