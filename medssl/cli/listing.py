"""Commands that list what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from medssl.cli import options
from medssl.cli.console import app, out, print_document


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="show the settings of this method")] = None,
) -> None:
    """List the methods, or the settings of one with its presets."""
    from medssl.methods.gains import gain_of
    from medssl.methods.registry import get_settings, list_methods

    if name:
        from medssl.cli.method_table import method_table

        out.print(method_table(name))
        return
    table = Table("method", "unlabeled", "paper", "gain", title="methods")
    table.caption = (
        "gain: Dice added to labels alone, and its 95 % interval (hippocampus, 4 labels, small "
        "network: docs/hippocampus.md, docs/evidence.md)"
    )
    for method in list_methods():
        settings = get_settings(method)
        unlabeled = "yes" if settings.uses_unlabeled else "no"
        table.add_row(method, unlabeled, settings.paper, gain_of(method))
    out.print(table)


@app.command()
def recipes(
    copy: Annotated[str | None, typer.Option(help="copy this recipe here")] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="RECIPE", help="say what each of its keys is and takes")
    ] = None,
) -> None:
    """List the shipped recipes, copy one to edit, or explain one (or a file, or a run)."""
    import medssl

    if copy:
        from medssl.recipe.find import copy_recipe

        out.print(f"copied to {copy_recipe(copy, Path.cwd())}")
        return
    if explain:
        from medssl.recipe.explain import explain_recipe

        table = Table("key", "value", "what it is", title=explain)
        for line in explain_recipe(explain):
            table.add_row(*map(Text, (line.key, line.value, line.meaning)))
        out.print(table)
        return
    table = Table("recipe", "what it does", title="recipes")
    for name, path in medssl.list_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        table.add_row(name, first)
    out.print(table)


@app.command()
def specs() -> None:
    """List the data specs."""
    import medssl

    table = Table("spec", "data", title="data specs")
    for name, description in medssl.list_specs().items():
        table.add_row(name, description)
    out.print(table)


@app.command()
def docs(
    path: Annotated[bool, typer.Option("--path", help="only say where it is")] = False,
) -> None:
    """Open the documentation in a browser; no network is needed."""
    import webbrowser

    from medssl.settings.shipped import documentation

    page = documentation()
    out.print(str(page))
    if not path and not webbrowser.open(page.as_uri()):
        out.print("no browser could be started: open this file in one")


@app.command()
def info(as_json: options.AsJson = False) -> None:
    """Print versions, devices and networks."""
    import torch

    from medssl.device import resolve_device, resolve_precision
    from medssl.networks.registry import list_networks
    from medssl.runs.folder import environment
    from medssl.training.cudnn_versions import warn_of_cudnn

    device = resolve_device()
    details = environment(device, resolve_precision("auto", device))
    trouble = warn_of_cudnn(device, spatial_dims=3, precision=details["precision"])
    cards, networks = torch.cuda.device_count(), list_networks()
    shown = ("versions", "device", "device_name", "precision", "threads")
    if as_json:
        found = {key: details[key] for key in shown}
        more = {"cuda_devices": cards, "networks": networks, "warning": trouble or None}
        print_document("info", {**found, **more})
        return
    for key in ("medssl", *shown):
        out.print(f"{key}: {details[key]}")
    out.print(f"cuda devices: {cards}")
    if trouble:
        out.print(f"warning: {trouble}")
    table = Table("network", "description", title="networks")
    for name, description in networks.items():
        table.add_row(name, description)
    out.print(table)
