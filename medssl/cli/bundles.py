"""Commands about MONAI bundles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medssl.cli import options
from medssl.cli.console import app, err, out

if TYPE_CHECKING:
    from medssl.bundle.verify import Verification


@app.command()
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="run folder, cross-validation or installed model; or a bundle with --verify",
        ),
    ],
    bundle: Annotated[Path | None, typer.Argument(help="folder to write")] = None,
    checkpoint: options.Checkpoint = "auto",
    ensemble: Annotated[
        list[Path] | None,
        typer.Option(help="another run to average with; may be repeated"),
    ] = None,
    members: options.Members = None,
    fold: options.Fold = None,
    licence: Annotated[
        Path | None, typer.Option("--license", help="text file that becomes LICENSE")
    ] = None,
    authors: Annotated[str, typer.Option(help="for metadata.json")] = "not given",
    torchscript: Annotated[bool, typer.Option(help="also try to write model.ts")] = True,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="also write model.onnx, compared with onnxruntime")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="check it, and run it with MONAI on --example")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(help="with --verify of a bundle: the run it was made of")
    ] = None,
    example: Annotated[
        list[Path] | None, typer.Option(help="NIfTI image for --verify; may be repeated")
    ] = None,
) -> None:
    """Write a run as a MONAI bundle, for MONAI's own tools and for `medssl predict`."""
    import medssl

    run: Path | None = source
    if bundle is None:
        if not verify:
            raise typer.BadParameter("name the folder to write", param_hint="BUNDLE")
        bundle, run = source, against
    else:
        options.exportable(source)
        result = medssl.export(
            source,
            bundle,
            checkpoint=checkpoint,
            ensemble=ensemble or (),
            members=members,
            fold=fold,
            licence=licence,
            authors=authors,
            torchscript=torchscript,
            onnx=onnx,
        )
        out.print(f"bundle: {result.path}")
        for note in result.notes:
            out.print(f"note: {note}")
        if torchscript and not result.torchscript:
            out.print("models/model.ts could not be made; models/model.pt is complete")
    if verify:
        found = medssl.verify_bundle(
            bundle,
            example or [],
            run=run,
            checkpoint=checkpoint,
            ensemble=ensemble or (),
            members=members,
            fold=fold,
        )
        _show_verified(found, example or [], run)


def _show_verified(found: Verification, examples: Sequence[Path], run: Path | None) -> None:
    """Say what was found of a bundle, and end with code 1 if that is not as it should be."""
    for problem in found.problems:
        err.print(f"problem: {problem}")
    if found.problems:
        raise typer.Exit(1)
    out.print("structure: as MONAI's schema asks")
    for image, share, number in zip(examples, found.agreement, found.differing, strict=True):
        out.print(
            f"{image.name}: {number} voxels differ from `medssl predict {run}` ({share:.4%} agree)"
        )
    for image, number in zip(examples, found.onnx_differing, strict=False):
        out.print(f"{image.name}: {number} voxels differ between onnxruntime and medssl")
    if not examples:
        out.print("not run with MONAI: name an image with --example")
    if any(share < 0.999 for share in found.agreement):
        err.print("problem: MONAI and medssl disagree on more than 0.1 % of the voxels")
        raise typer.Exit(1)
