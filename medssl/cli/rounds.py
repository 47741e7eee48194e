"""Commands of a round of labeling: which scans next, and taking their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medssl.cli import options
from medssl.cli.console import app, display_of, err, out
from medssl.paths import command


@app.command(name="next")
def next_round(
    ctx: typer.Context,
    run: options.Result,
    output: options.Output,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            help="folder or image to choose from, may be repeated; or unlabeled: the dataset's own"
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="how many scans")] = 4,
    rule: Annotated[
        str | None, typer.Option(help="spread, random, combined, uncertainty or diversity")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the rules spread and random")] = 0,
    checkpoint: options.Checkpoint = "auto",
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    precision: options.Precision = None,
) -> None:
    """Choose the scans to label next, and draft their labels for a labeling program."""
    import medssl

    chosen: dict[str, Any] = {} if rule is None else {"rule": rule}
    found = medssl.next_labels(
        run,
        output,
        pool=pool or ("unlabeled",),
        count=count,
        seed=seed,
        checkpoint=checkpoint,
        device=device,
        precision=precision or "auto",
        overwrite=overwrite,
        display=display_of(ctx),
        **chosen,
    )
    for note in found.notes:
        out.print(f"note: {note}")
    for place, scan in enumerate(found.round.scans, start=1):
        sure = "" if scan.expected_dice is None else f", expected Dice {scan.expected_dice:.2f}"
        out.print(f"{place:3d}  {scan.id}{sure}")
    out.print(f"written: {found.path}; look at {found.path / 'round.html'}")
    out.print(
        "correct each label.nii.gz in its folder, then: "
        + command("accept", found.path, "--dataset", found.dataset)
    )


@app.command()
def accept(
    ctx: typer.Context,
    round_folder: Annotated[
        Path, typer.Argument(metavar="ROUND", help="folder that `medssl next` wrote")
    ],
    dataset: Annotated[Path, typer.Option(help="folder of the dataset that gets the labels")],
    confirmed: Annotated[
        bool, typer.Option("--confirmed", help="drafts that were left as they are were looked at")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="take what is in order, leave the rest for later")
    ] = False,
) -> None:
    """Take the labels of a round into the dataset, if all of them are in order."""
    import medssl

    found = medssl.accept(
        round_folder, dataset, confirmed=confirmed, partial=partial, display=display_of(ctx)
    )
    for name, error in found.refused.items():
        err.print(f"not taken: {name}: {error}")
    if found.already:
        out.print(f"{len(found.already)} labels were there already: {', '.join(found.already)}")
    taken = f": {', '.join(found.accepted)}" if found.accepted else ""
    out.print(f"{len(found.accepted)} labels joined {found.dataset}{taken}")
    if found.refused:
        raise typer.Exit(1)
