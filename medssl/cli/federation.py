"""Commands of a federation: sites that train one model and meet in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from medssl.cli import options
from medssl.cli.console import app, display_of, out
from medssl.paths import command

federate = typer.Typer(
    help="Train one model at several hospitals, which meet in a folder and share no scan.",
    no_args_is_help=True,
)
app.add_typer(federate, name="federate")

Folder = Annotated[Path, typer.Argument(help="folder where the sites meet")]
ServerFolder = Annotated[
    Path, typer.Option("--server", help="the server's own folder, which holds all keys")
]


@federate.command(name="init")
def federate_init(
    folder: Folder,
    recipe: options.Recipe,
    server: ServerFolder,
    site: Annotated[list[str], typer.Option(help="name of a site; repeat for each")],
    labels: Annotated[
        str, typer.Option(help="structures in the order of their values: background,left,right")
    ],
    channels: Annotated[int, typer.Option(help="of an image")] = 1,
    every: Annotated[int, typer.Option(help="iterations of a round")] = 50,
    share: Annotated[
        str, typer.Option(help="parts of the method that are shared")
    ] = "student,teacher,buffers",
    norms: Annotated[
        str, typer.Option(help="shared, or local: normalization layers stay (FedBN)")
    ] = "shared",
    proximal: Annotated[
        float, typer.Option(help="mu of FedProx: holds each site near the common model; 0: FedAvg")
    ] = 0.0,
    weights: Annotated[
        str, typer.Option(help="iterations (equal), or labeled: by patients with labels")
    ] = "iterations",
    average: Annotated[str, typer.Option(help="mean, median or trimmed")] = "mean",
    trim: Annotated[float, typer.Option(help="share that trimmed leaves out on each side")] = 0.2,
    norm_limit: Annotated[
        float, typer.Option(help="updates so many times as long as usual are refused")
    ] = 3.0,
    at_least: Annotated[
        int | None, typer.Option(help="so many sites make a round; default: two")
    ] = None,
    wait: Annotated[
        float, typer.Option(help="minutes after which a round goes on without a site")
    ] = 1440.0,
    overrides: options.Overrides = None,
) -> None:
    """Begin a federation: what is agreed, a key for each site, the model that all start from."""
    from medssl.federation.create import Terms, federate_init

    words: dict[str, Any] = {"norms": norms, "weights": weights, "average": average}
    terms = Terms(
        channels=channels,
        every=every,
        parts=tuple(share.split(",")),  # type: ignore[arg-type]  # which words, is asked later
        proximal=proximal,
        trim=trim,
        norm_limit=norm_limit,
        at_least=at_least,
        wait_minutes=wait,
        **words,
    )
    chosen = labels.split(",")
    found = federate_init(
        folder, server, recipe, sites=site, labels=chosen, terms=terms, overrides=overrides or ()
    )
    out.print(f"{found.rounds} rounds of {every} iterations; the sites meet in {found.folder}")
    for name, key in found.keys.items():
        out.print(f"give by hand, and by no shared folder, to {name}: {key}")
    out.print("then: " + command("federate", "server", found.folder, "--server", found.server))


@federate.command(name="site")
def federate_site(
    ctx: typer.Context,
    folder: Folder,
    recipe: Annotated[str, typer.Argument(help="recipe with this site's data; or a run to resume")],
    key: Annotated[Path, typer.Option(help="the file that the server gave this site")],
    output: options.Output,
    overrides: options.Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where it stopped")] = False,
    resume_or_start: Annotated[
        bool, typer.Option("--resume-or-start", help="go on if there is such a run, else start it")
    ] = False,
    device: options.Device = "auto",
    precision: options.Precision = None,
) -> None:
    """Train on this site's scans, together with the other sites."""
    from medssl.federation.site import site_exchange
    from medssl.workflows.train import train

    display = display_of(ctx)
    result = train(
        recipe,
        overrides=overrides or (),
        output=output,
        resume=resume,
        resume_or_start=resume_or_start,
        device=device,
        precision=precision,
        exchange=site_exchange(folder, key, recipe, overrides=overrides or (), say=display.say),
        display=display,
    )
    for line in result.last_words:
        out.print(line)


@federate.command(name="server")
def federate_server(
    ctx: typer.Context,
    folder: Folder,
    server: ServerFolder,
    once: Annotated[
        bool, typer.Option("--once", help="do not wait: close what can be closed now")
    ] = False,
    wait: Annotated[
        float | None, typer.Option(help="minutes; 0 closes a round with the sites there are")
    ] = None,
) -> None:
    """Make the sites' updates one model, round by round."""
    from medssl.federation.server import federate_server

    closed = federate_server(folder, server, once=once, wait_minutes=wait, display=display_of(ctx))
    out.print(f"{len(closed)} rounds are closed; what was decided: {server / 'rounds.json'}")


@federate.command(name="status")
def federate_status(folder: Folder) -> None:
    """Say how far a federation is, and which sites have answered."""
    from medssl.federation.audit import federate_status

    found = federate_status(folder)
    out.print(f"closed: {found['closed']} of {found['rounds']} rounds")
    if found["open"]:
        out.print(
            f"round {found['open']}: answered {', '.join(found['answered']) or 'none'}; waiting "
            f"for {', '.join(found['waiting']) or 'the server'}"
        )


@federate.command(name="audit")
def federate_audit(
    folder: Folder, number: Annotated[int, typer.Argument(metavar="ROUND", help="its number")]
) -> None:
    """List all that left the sites in a round, as JSON: tensors by name and shape, and figures."""
    from medssl.federation.audit import federate_audit

    out.print(json.dumps(federate_audit(folder, number), indent=1))


@federate.command(name="figures")
def federate_figures(
    folder: Folder,
    key: Annotated[Path, typer.Option(help="the file that the server gave this site")],
    run: Annotated[
        list[str],
        typer.Option(help="NAME=RUN; names: local, federated_labels, federated, pooled"),
    ],
    split: Annotated[str, typer.Option(help="test or validation")] = "test",
    allow_few: Annotated[
        bool, typer.Option("--allow-few", help="also of fewer than five patients")
    ] = False,
) -> None:
    """Say how models did on this site's patients: counts and moments, no patient among them."""
    from medssl.federation.figures import federate_figures

    runs = dict(part.partition("=")[::2] for part in run)
    chosen: dict[str, Any] = {"split": split}
    out.print(f"written: {federate_figures(folder, key, runs, allow_few=allow_few, **chosen)}")


@federate.command(name="verdict")
def federate_verdict(folder: Folder, server: ServerFolder) -> None:
    """Put together what the sites say of their models, with intervals."""
    from medssl.federation.verdict import federate_verdict

    found = federate_verdict(folder, server)
    out.print(found.text)
    out.print(f"written: {found.path}")


@federate.command(name="flare")
def federate_flare(
    job: Annotated[Path, typer.Argument(help="the job's folder; new")], server: ServerFolder
) -> None:
    """Write the federation as a job of NVIDIA FLARE, which carries it in place of a folder."""
    from medssl.federation.flare_job import federate_flare

    out.print(f"a job for NVFlare: {federate_flare(server, job)}")


@federate.command(name="flare-server")
def federate_flare_server(
    kit: Annotated[Path, typer.Argument(help="the server's startup kit")], server: ServerFolder
) -> None:
    """Say in the server's startup kit where its own folder is, and let medssl's jobs run."""
    from medssl.federation.flare_job import federate_flare_server

    out.print(f"written: {federate_flare_server(kit, server)}")


@federate.command(name="flare-site")
def federate_flare_site(
    kit: Annotated[Path, typer.Argument(help="this site's startup kit")],
    recipe: Annotated[str, typer.Argument(help="recipe with this site's data")],
    key: Annotated[Path, typer.Option(help="the file that the server gave this site")],
    output: options.Output,
    overrides: options.Overrides = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
) -> None:
    """Say in a site's startup kit what it trains when a job comes, and let medssl's jobs run."""
    from medssl.federation.flare_job import federate_flare_site

    found = federate_flare_site(
        kit,
        key,
        recipe,
        output,
        overrides=overrides or (),
        device=device,
        precision=precision,
    )
    out.print(f"written: {found}")
