"""Commands that give models away and take them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from medssl.cli import options
from medssl.cli.console import app, out
from medssl.paths import command


@app.command()
def pack(
    run: options.Result,
    package: Annotated[Path, typer.Argument(help="file to write: NAME.zip")],
    name: Annotated[str | None, typer.Option(help="of the model; default: the recipe's")] = None,
    checkpoint: options.Checkpoint = "auto",
    ensemble: options.Ensemble = None,
    members: options.Members = None,
    fold: options.Fold = None,
    licence: Annotated[
        Path | None, typer.Option("--license", help="text file that goes along")
    ] = None,
    authors: Annotated[str, typer.Option(help="whoever made it")] = "not given",
) -> None:
    """Pack a run into one file for others: weights and JSON, nothing of the patients, no code."""
    import medssl

    packed = medssl.pack(
        run,
        package,
        name=name,
        checkpoint=checkpoint,
        ensemble=ensemble or (),
        members=members,
        fold=fold,
        licence=licence,
        authors=authors,
    )
    out.print(f"packed: {packed.path} ({decimal(packed.path.stat().st_size)}) as {packed.name!r}")
    for note in packed.notes:
        out.print(f"note: {note}")
    for plugin in packed.plugins:
        out.print(f"it needs the plugin {plugin!r}, which is not in it: send that, too")
    out.print("tell the receiver this sum another way than you send the file:")
    out.print(f"  {command('install', packed.path.name, '--sha256', packed.sha256)}")


@app.command()
def install(
    package: Annotated[Path, typer.Argument(help="file that `medssl pack` wrote")],
    name: Annotated[str | None, typer.Option(help="install it by this name")] = None,
    sha256: Annotated[
        str | None, typer.Option(help="of the file, as its sender told you another way")
    ] = None,
) -> None:
    """Install a packed model; from then on its name predicts, exports and is verified."""
    import medssl

    found = medssl.install(package, name=name, sha256=sha256)
    out.print(f"installed: {found.name} ({found.path})")
    for note in found.notes:
        out.print(f"note: {note}")
    if sha256 is None:
        out.print(f"not compared with its sender's sum (--sha256): {found.sha256}")
    out.print(f"next: read {found.path / 'docs' / 'README.md'}, then  ", end="")
    out.print(f"medssl predict {found.name} IMAGES --output FOLDER")


@app.command()
def deploy(
    bundle: Annotated[Path, typer.Argument(help="bundle, or the name of an installed model")],
    application: Annotated[Path, typer.Argument(help="folder to write")],
    format: Annotated[  # noqa: A002 - what the option is called
        str, typer.Option(help="of the results: dicom-seg, nii.gz, nii, nrrd or mha")
    ] = "dicom-seg",
) -> None:
    """Write an application for MONAI Deploy around a bundle."""
    import medssl

    path = medssl.deploy(bundle, application, format=format)
    out.print(f"application: {path}")
    out.print(f"run it where MONAI Deploy is installed: python {path / 'app.py'} -i DICOM -o OUT")


@app.command()
def models(
    remove: Annotated[str | None, typer.Option(help="remove this model")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON for scripts")] = False,
) -> None:
    """List the models that are installed."""
    import medssl

    if remove is not None:
        from medssl.sharing.installed import remove_model

        out.print(f"removed: {remove_model(remove)}")
        return
    found = medssl.list_models()
    if as_json:
        out.print_json(json.dumps([model.as_dict() for model in found.values()]))
        return
    table = Table("model", "images", "finds", "method", "Dice", "authors", "size", title="models")
    for name, model in found.items():
        dice = "-" if model.dice is None else f"{model.dice:.3f} ({model.patients} patients)"
        cells = (name, model.modality, ", ".join(model.structures), model.method, dice)
        table.add_row(*map(Text, (*cells, model.authors, decimal(model.bytes))))
    out.print(table)
