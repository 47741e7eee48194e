"""The command that checks a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medssl.cli.console import AllowOutside, Patients, app, display_of, out


@app.command()
def check(
    ctx: typer.Context,
    dataset: Annotated[Path, typer.Argument(help="Decathlon folder")],
    spec: Annotated[str | None, typer.Option(help="data spec that training will use")] = None,
    repair: Annotated[
        Path | None, typer.Option(help="folder to write a repaired copy of the dataset to")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for scripts")] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="page with a picture of every case")
    ] = None,
    allow_outside: AllowOutside = False,
    patients: Patients = None,
    unlabeled: Annotated[
        list[str] | None,
        typer.Option(help="more unlabeled images, as data.unlabeled names them; may be repeated"),
    ] = None,
) -> None:
    """Find what is wrong with a dataset; exit code 2 where training cannot start."""
    import medssl
    from medssl.reports.check_table import describe_memory, format_problems, relative, verdict

    result = medssl.check(
        dataset,
        spec=spec,
        repair=repair,
        json_file=json_file,
        html_file=html_file,
        allow_outside=allow_outside,
        patients=patients,
        unlabeled=unlabeled or (),
        display=display_of(ctx),
    )
    if result.report.problems:
        out.print(format_problems(result.report))
    out.print(verdict(result.report), highlight=False, markup=False)
    out.print(describe_memory(result.report), highlight=False, markup=False, style="dim")
    if result.repaired is not None:
        copy = result.repaired
        out.print(f"\nrepaired copy: {copy.dataset.root}", highlight=False, markup=False)
        for line in result.repairs:
            out.print(f"  {line}", highlight=False, markup=False)
        for problem in copy.problems:
            if problem.severity == "error":
                name = relative(problem.file, copy.dataset.root)
                out.print(f"  not repaired: {name}: {problem.what}", highlight=False, markup=False)
        out.print(verdict(copy), highlight=False, markup=False)
    for path in (json_file, html_file):
        if path is not None:
            out.print(f"written: {path}", highlight=False, markup=False)
    if not result.can_train:
        raise typer.Exit(2)
