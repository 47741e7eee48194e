"""Commands about how far predictions can be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli import options
from medssl.cli.console import app, display_of, err, out


@app.command()
def calibrate(
    ctx: typer.Context,
    run: options.Result,
    split: Annotated[str, typer.Option(help="cases to calibrate on: validation")] = "validation",
    cases: Annotated[
        str | None,
        typer.Option(help="instead: ids of labeled cases, a,b,c or a file with one per line"),
    ] = None,
    check: Annotated[
        str | None, typer.Option(help="also measure the result on this split, usually test")
    ] = None,
    checkpoint: options.Checkpoint = "auto",
    ensemble: options.Ensemble = None,
    largest_component: options.Largest = None,
    tta: options.Mirrors = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
) -> None:
    """Make probabilities of a run or of folds honest, and learn how far off scores can be."""
    import medssl
    from medssl.uncertainty.cases import read_case_ids
    from medssl.uncertainty.summary import format_calibration

    found = medssl.calibrate(
        run,
        split=split,
        cases=read_case_ids(cases) if cases is not None else (),
        check=check,
        checkpoint=checkpoint,
        ensemble=ensemble or (),
        largest_component=largest_component,
        tta=tta,
        device=device,
        precision=precision or "auto",
        display=display_of(ctx),
    )
    out.print(format_calibration(found))
    written = run / "calibration.json"
    out.print(f"written: {written} and .png; predict and triage use it")


@app.command()
def triage(
    ctx: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            help="calibrated run folder or cross-validation, or a bundle of one",
            callback=options.checked_by(options.a_model),
        ),
    ],
    images: Annotated[
        list[Path], typer.Option("--input", "-i", help="folder or image; may be repeated")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV to write; predictions go beside it")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="lines to print; all are in the CSV")] = 10,
    checkpoint: options.Checkpoint = "auto",
    ensemble: options.Ensemble = None,
    members: options.Members = None,
    fold: options.Fold = None,
    largest_component: options.Largest = None,
    tta: options.Mirrors = None,
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    precision: options.Precision = None,
) -> None:
    """Rank images to review or annotate next, and say why; strange ones come first."""
    import medssl

    found = medssl.triage(
        source,
        images,
        output,
        checkpoint=checkpoint,
        ensemble=ensemble or (),
        members=members,
        fold=fold,
        largest_component=largest_component,
        tta=tta,
        device=device,
        precision=precision or "auto",
        overwrite=overwrite,
        display=display_of(ctx),
    )
    for place, line in enumerate(found.ranked[:show], start=1):
        text = f"{place:3d}  {line.case}: {line.why}"
        out.print(text)
    if len(found.ranked) > show:
        out.print(f"     and {len(found.ranked) - show} more")
    out.print(f"written: {found.path}; predictions: {found.predictions}")
    if found.failed:
        err.print(f"{found.failed} images could not be predicted")
        raise typer.Exit(1)
