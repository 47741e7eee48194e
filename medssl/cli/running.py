"""Commands that train, segment and measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medssl.cli import options
from medssl.cli.console import app, display_of, err, out, print_document, show_summary
from medssl.errors import MedSSLError

if TYPE_CHECKING:
    from medssl.inference.folder import PredictionResult


@app.command()
def train(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(help="recipe file or name; a run folder to resume it")],
    overrides: options.Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="run folder")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue from the last checkpoint")
    ] = False,
    resume_or_start: Annotated[
        bool,
        typer.Option("--resume-or-start", help="continue if there is such a run, else start it"),
    ] = False,
    init: options.Init = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    verify_cache: options.VerifyCache = False,
) -> None:
    """Train a recipe, evaluate it on its test cases, and say where everything lies."""
    import medssl

    result = medssl.train(
        recipe,
        overrides=options.with_init(overrides, init),
        output=output,
        resume=resume,
        resume_or_start=resume_or_start,
        device=device,
        precision=precision,
        verify_cache=verify_cache,
        display=display_of(ctx),
    )
    for summary in result.summaries.values():
        show_summary(summary)
    for line in result.last_words:
        out.print(line)


@app.command()
def predict(
    ctx: typer.Context,
    source: options.Model,
    images: Annotated[list[Path], typer.Argument(help="image files or folders, DICOM too")],
    output: options.Output,
    checkpoint: options.Checkpoint = "auto",
    ensemble: options.Ensemble = None,
    members: options.Members = None,
    fold: options.Fold = None,
    largest_component: options.Largest = None,
    tta: options.Mirrors = None,
    decide: Annotated[
        str | None,
        typer.Option(metavar="classes|regions", help="what has to be likely; default: recipe"),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="also write probability maps")
    ] = False,
    regions: Annotated[
        bool, typer.Option("--regions", help="also write a mask of each region of the dataset")
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty", help="also write entropy maps (0 is sure), intervals, quality"
        ),
    ] = False,
    calibration: Annotated[
        bool, typer.Option(help="use what `medssl calibrate` found, where it was run")
    ] = True,
    format: Annotated[  # noqa: A002 - what the option is called
        str, typer.Option(help="nii.gz, nii, nrrd, mha, or dicom-seg for DICOM series")
    ] = "nii.gz",
    rtstruct: Annotated[
        bool, typer.Option("--rtstruct", help="of DICOM series: also write contours")
    ] = False,
    statistics: Annotated[
        bool,
        typer.Option("--statistics", help="also write size, shape and intensity of structures"),
    ] = False,
    meshes: Annotated[
        str | None, typer.Option(metavar="stl|obj", help="also write surfaces of structures")
    ] = None,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="also write gallery.html: pictures, volumes, doubts")
    ] = False,
    overwrite: options.Overwrite = False,
    force: Annotated[
        bool, typer.Option("--force", help="predict scans of another modality, too")
    ] = False,
    with_atlas: Annotated[
        Path | None, typer.Option(help="folder of `medssl atlas`: a second opinion on each scan")
    ] = None,
    shard: options.Shard = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    as_json: options.AsJson = False,
) -> None:
    """Segment images; each result has the grid, affine and label values of its dataset."""
    import medssl

    results = medssl.predict(
        source,
        images,
        output,
        checkpoint=checkpoint,
        device=device,
        precision=precision or "auto",
        ensemble=ensemble or (),
        members=members,
        fold=fold,
        largest_component=largest_component,
        tta=tta,
        decide=decide,
        probabilities=probabilities,
        regions=regions,
        uncertainty=uncertainty,
        calibrated=calibration,
        format=format,
        rtstruct=rtstruct,
        statistics=statistics,
        meshes=meshes,
        gallery=gallery,
        overwrite=overwrite,
        force=force,
        with_atlas=with_atlas,
        shard=shard,
        display=display_of(ctx),
    )
    if as_json:
        print_document("predict", {"output": str(output), "cases": [r.to_json() for r in results]})
    else:
        _show_predictions(results, output, gallery)
    if any(result.error for result in results):
        raise typer.Exit(1)


@app.command()
def atlas(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(help="recipe file or name, or a run folder")],
    overrides: options.Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="folder; default: runs/NAME-atlas")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="so many nearest atlases vote; default: all")
    ] = None,
    unlabeled: Annotated[
        bool, typer.Option("--unlabeled", help="also label the unlabeled scans")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="where labeled scans do not predict each other, too")
    ] = False,
) -> None:
    """Segment without training: register the labeled scans to others, and fuse their labels."""
    import medssl

    found = medssl.atlas(
        recipe,
        overrides=overrides or (),
        output=output,
        count=count,
        unlabeled=unlabeled,
        force=force,
        display=display_of(ctx),
    )
    if found.test is not None:
        show_summary(found.test)
    out.print(f"written: {found.path}; beside a network: medssl predict RUN IMAGES --output DIR \\")
    out.print(f"  --with-atlas {found.path}")


def _show_predictions(results: Sequence[PredictionResult], output: Path, gallery: bool) -> None:
    failed = [result for result in results if result.error]
    there = sum(result.skipped for result in results)
    already = f" ({there} of them were there)" if there else ""
    out.print(f"{len(results) - len(failed)} predictions in {output}{already}")
    if gallery:
        out.print(f"gallery: {output / 'gallery.html'}")
    for result in failed:
        err.print(f"failed: {result.case_id}: {result.error}")


@app.command()
def evaluate(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(help="folder of predictions, or a run folder")],
    reference: Annotated[Path | None, typer.Argument(help="folder of reference labels")] = None,
    output: options.OutputOrNone = None,
    split: Annotated[str, typer.Option(help="of a run: test or validation")] = "test",
    checkpoint: options.Checkpoint = "auto",
    dataset: Annotated[Path | None, typer.Option(help="a dataset.json that names labels")] = None,
    tolerance: Annotated[float, typer.Option(help="surface tolerance of NSD (mm or um)")] = 2.0,
    voxel_metrics: Annotated[
        bool, typer.Option("--voxel-metrics", help="add the literature's voxel metrics")
    ] = False,
    failure_dice: Annotated[
        float, typer.Option(help="of folders: patients of lower Dice count as failures")
    ] = 0.5,
    device: options.Device = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Measure predictions against references, or a run on one of its splits."""
    import medssl

    if reference is None:
        options.a_run(source)
        summary = medssl.evaluate_run(
            source, split, checkpoint=checkpoint, device=device, display=display_of(ctx)
        )
        _show_evaluation(summary, None, as_json=as_json)
        return
    if output is None:
        raise MedSSLError("no folder to write", where="--output", fix="add --output FOLDER")
    summary = medssl.evaluate(
        source,
        reference,
        output,
        dataset_json=dataset,
        nsd_tolerance=tolerance,
        voxel_metrics=voxel_metrics,
        failure_dice=failure_dice,
        display=display_of(ctx),
    )
    _show_evaluation(summary, output / "cases.csv", as_json=as_json)


def _show_evaluation(summary: dict[str, Any], cases: Path | None, *, as_json: bool) -> None:
    if as_json:
        print_document("evaluate", summary)
        return
    show_summary(summary)
    if cases is not None:
        out.print(f"per case: {cases}")
