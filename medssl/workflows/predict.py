"""Segment images with a run, an ensemble or a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medssl.data.datasets.shard import Shard, parse_shard
from medssl.data.images.notes import told_once
from medssl.errors import MedSSLError
from medssl.inference.inputs import find_inputs
from medssl.inference.settings import DICOM_SEG, PredictSettings
from medssl.optional import optional_module
from medssl.paths import AnyPath, as_paths
from medssl.progress import Display, shown_on
from medssl.structures.outputs import Outputs
from medssl.structures.statistics import write_table

if TYPE_CHECKING:
    from medssl.inference.folder import PredictionResult


def predict(
    source: AnyPath,
    images: AnyPath | Sequence[AnyPath],
    output: AnyPath,
    *,
    checkpoint: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    ensemble: AnyPath | Sequence[AnyPath] = (),
    members: int | None = None,
    fold: int | None = None,
    largest_component: bool | None = None,
    tta: bool | None = None,
    decide: str | None = None,
    probabilities: bool = False,
    regions: bool = False,
    uncertainty: bool = False,
    calibrated: bool = True,
    format: str = "nii.gz",  # noqa: A002 - what the option is called
    rtstruct: bool = False,
    statistics: bool = False,
    meshes: str | None = None,
    gallery: bool = False,
    overwrite: bool = False,
    force: bool = False,
    with_atlas: AnyPath | None = None,
    shard: str | None = None,
    display: Display | None = None,
) -> list[PredictionResult]:
    """Segment images with a run or a bundle; each result lies on its image's own grid.

    Args:
        source: a run folder, a bundle that medssl exported, the folder of a cross-validation,
            whose folds predict together, or the name of an installed model.
        images: image files, folders of them, and folders of DICOM series: one or several.
        output: folder of the results, one ``CASE.nii.gz`` each, and ``volumes.csv``.
        format: one of ``nii.gz nii nrrd mha dicom-seg``, the last for DICOM series only.
        ensemble: more runs (other seeds or folds), whose probabilities are averaged with it.
        members: of a cross-validation, predict with its first so many folds, for speed.
        fold: of a cross-validation, predict with this fold alone, counted from 0.
        largest_component: keep the largest piece of each structure; None: as the recipe says.
        tta: average over mirror images; None: as the recipe says.
        decide: ``classes``, of which the most probable one is taken, or ``regions`` of the dataset:
            each is where its probability is above one half; None: as the recipe says.
        probabilities: also write each structure's probability map.
        regions: also write ``regions/CASE_REGION``, a mask of each region that the dataset of the
            model states; regions may overlap, which one label map cannot show.
        uncertainty: also write the normalized entropy (0 is sure, 1 a mere guess), intervals into
            ``volumes.csv``, and ``quality.csv``.
        calibrated: make them with the temperature of `calibrate`, where there is one; the folds of
            a cross-validation are averaged with theirs, so their label maps depend on it, too.
        rtstruct: also write ``rtstruct/CASE.dcm``, contours for DICOM series.
        statistics: also write ``statistics.csv`` and ``statistics.json``: volume, surface, largest
            diameter, mean and standard deviation of each structure.
        meshes: ``stl`` or ``obj``: also write ``meshes/CASE_STRUCTURE``, surfaces in patient
            coordinates (LPS).
        gallery: also write ``gallery.html``: pictures of all, with volumes, what is unusual, and
            expected quality where it is known.
        overwrite: predict again what is already there, whichever model made it. Without it, what
            this model has predicted of these images is kept, and a folder with anything else that
            would be mixed up with it is refused: ``predictions.json`` there says what is what.
        force: predict what the model cannot be meant for, too: another modality than it was trained
            on, as DICOM or the dataset states it, or values that no such scan has.
        with_atlas: a folder of `atlas`: what registered labeled scans say counts as much as the
            network. It takes the scans themselves, so no bundle carries it.
        shard: ``I/N``, to predict every N-th case from the I-th on, counted from 1. The shards may
            run at the same time and share their output folder; tables are about all that is there.

    Raises:
        MedSSLError: no run, no images, no such format or shard. A bad image does not stop the
            others: see ``error`` of its result.

    Example:
        >>> results = medssl.predict("runs/mine", "data/imagesTs", "predictions")
        >>> [result.error for result in results]
        [None, None]
    """
    settings = PredictSettings(
        checkpoint=checkpoint,
        ensemble=tuple(as_paths(ensemble)),
        members=members,
        fold=fold,
        device=device,
        precision=precision,
        largest_component=largest_component,
        tta=tta,
        decide=decide,
        calibrated=calibrated,
        probabilities=probabilities,
        regions=regions,
        uncertainty=uncertainty,
        assess=uncertainty,
        format=format,
        outputs=Outputs(rtstruct, statistics, meshes),
        gallery=gallery,
        overwrite=overwrite,
        force=force,
        with_atlas=None if with_atlas is None else Path(with_atlas),
    )
    part, display = parse_shard(shard), display or Display(quiet=True)
    if gallery and part is not None:
        raise MedSSLError(
            "a shard sees some of the cases, and the gallery shows all",
            where="--gallery",
            fix="when all shards have ended, run the command without --shard and with --gallery",
        )
    return _predict(Path(source), as_paths(images), Path(output), settings, part, display)


def _predict(
    source: Path,
    images: Sequence[Path],
    output: Path,
    settings: PredictSettings,
    shard: Shard | None,
    display: Display,
) -> list[PredictionResult]:
    only_dicom = settings.suffix == DICOM_SEG or settings.outputs.rtstruct
    settings.outputs.need_packages()
    if settings.suffix == DICOM_SEG:
        optional_module("highdicom", "dicom-seg")
    with shown_on(display):
        found = find_inputs(images, only_dicom=only_dicom)
    for note in found.notes:
        display.say(note)
    if shard is not None:
        _check_stays_the_same(images, output)
    # PyTorch and MONAI take seconds to load: what is wrong with the images was said before.
    from medssl.inference.compared import say_unusual
    from medssl.inference.folder import PredictionResult, predict_files
    from medssl.uncertainty.volumes_csv import write_tables
    from medssl.workflows.open_predictor import open_predictor

    predictor, other = open_predictor(source, settings)
    items = found.cases(predictor.in_channels)
    everyone = {case_id for case_id, _ in items}
    if shard is not None:
        everything, items = len(items), shard.of(items)
        display.say(f"shard {shard}: {len(items)} of {everything} cases")
    if other is not None:
        display.say(f"note: calibration.json is left out: it is for {other}")
    with display.counting_parts("predicting", len(items)) as (done, window):
        results = predict_files(
            predictor,
            items,
            output,
            settings,
            everyone=everyone,
            on_progress=done,
            on_window=window,
        )
    for first, count in told_once([r.note for r in results]):
        more = f" ({count} such images)" if count > 1 else ""
        display.say(f"note: {results[first].case_id}: {results[first].note}{more}")
    say_unusual({r.case_id: r.unusual for r in results}, display)
    write_tables(output, predictor.calibration, assessed=settings.assess)
    if settings.outputs.statistics:
        write_table(output)
    results += [PredictionResult(name, None, str(e), 0.0) for name, e in found.failed]
    if settings.gallery:
        from medssl.workflows.gallery import draw_gallery

        draw_gallery(output, items, results, predictor, display)
    return results


def _check_stays_the_same(images: Sequence[Path], output: Path) -> None:
    """Refuse an output that other shards would find among their images."""
    if any(entry.is_dir() and output.resolve() == entry.resolve() for entry in images):
        raise MedSSLError(
            "other shards would take the predictions of this one for images",
            where=output,
            fix="choose an --output folder apart from the images",
        )
