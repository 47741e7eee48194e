"""The command that plans a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medssl.cli import options
from medssl.cli.console import app, display_of, out, print_document
from medssl.errors import MedSSLError
from medssl.paths import command

if TYPE_CHECKING:
    from medssl.planning.fit import Plan


@app.command()
def plan(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Argument(help="dataset folder, or phantom")],
    output: Annotated[Path, typer.Option("--output", "-o", help="recipe file to write")],
    method: Annotated[
        str | None, typer.Option(help="see `medssl methods`; default: what was measured best")
    ] = None,
    labeled: Annotated[str, typer.Option(help="labeled patients to use: a number, or all")] = "all",
    memory: Annotated[
        float | None, typer.Option(help="GiB of the card that will train; default: of the one here")
    ] = None,
    device: options.Device = "auto",
    spec: Annotated[
        str | None, typer.Option(help="data spec instead of the guessed one; see `medssl specs`")
    ] = None,
    kind: Annotated[str, typer.Option(help="of the phantom: mr, ct, cbct or oct")] = "mr",
    allow_outside: options.AllowOutside = False,
    patients: options.Patients = None,
    native: Annotated[
        bool, typer.Option("--native", help="let each scan keep its own voxels (else: the median)")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(help="that training may take here, all folds together")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Look at a dataset and write a recipe for it that explains every choice."""
    import medssl

    if labeled != "all" and not labeled.isdigit():
        raise MedSSLError(
            f"{labeled!r} is no number of patients", where="--labeled", fix="give 8, say, or all"
        )
    result = medssl.plan(
        dataset,
        output,
        method=method,
        labeled=None if labeled == "all" else int(labeled),
        memory=memory,
        device=device,
        spec=spec,
        kind=kind,
        allow_outside=allow_outside,
        patients=patients,
        native=native,
        minutes=minutes,
        display=display_of(ctx),
    )
    verb = "train" if result.folds is None else "crossval"
    if as_json:
        print_document("plan", _content(result, output, command(verb, output)))
    else:
        _tell(result, output, command(verb, output))


def _content(result: Plan, output: Path, following: str) -> dict[str, Any]:
    return {
        "recipe": str(output),
        "method": result.loaded.recipe.method.name,
        "spec": result.spec.name,
        "spec_reason": result.spec.sentence,
        "memory_bytes": result.memory,
        "seconds_per_iteration": result.seconds or None,
        "iterations": result.loaded.recipe.training.iterations,
        "folds": result.folds,
        "warnings": list(result.loaded.warnings),
        "next": following,
    }


def _tell(result: Plan, output: Path, following: str) -> None:
    """Print what was planned, and the command that comes next."""
    out.print(f"written: {output}")
    if result.method_reason:
        out.print(f"method: {result.loaded.recipe.method.name}, {result.method_reason}")
    out.print(f"data spec: {result.spec.name}, {result.spec.sentence}; another one: --spec NAME")
    out.print(f"memory: about {result.memory / 2**30:.1f} GiB, as measured here")
    if result.seconds:
        hours = result.seconds * result.loaded.recipe.training.iterations / 3600
        minutes = max(round(60 * hours), 1)
        long = f"{hours:.1f} hours" if hours >= 1 else f"{minutes} minute{'s' * (minutes > 1)}"
        if result.folds is None:
            whole = f"{long} in all; a first look: --set training.iterations=100"
        else:
            twins = (
                ", and less for its labels-alone twin"
                if result.loaded.settings.uses_unlabeled
                else ""
            )
            whole = (
                f"{long} for each of {result.folds} folds{twins}; a budget for all: --minutes 60"
            )
        out.print(f"time: roughly {result.seconds:.2g} s an iteration here, {whole}")
    for warning in result.loaded.warnings:
        out.print(f"warning: {warning}")
    out.print(f"next: read it, then  {following}")
    if result.folds is not None:
        # Measured ahead of the folds' own ensemble at equal cost: docs/crossval.md.
        seed = f"{command('train', output)} --set seed=1 --output RUN1"
        out.print(f"then, for new scans: {result.folds} seeds of all labels, {seed} and so on,")
        out.print("predict together:  medssl predict RUN1 IMAGES --ensemble RUN2 ... --output DIR")
