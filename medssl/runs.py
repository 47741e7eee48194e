"""A finished run read back: its predictor, and its evaluation on a split of its own dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.align import deeper, depth_and_slices
from medssl.data.case import Case, LabelMap
from medssl.data.split import load_splits
from medssl.errors import MedSSLError
from medssl.evaluation.boundaries import (
    evaluate_boundaries,
    summarize_boundaries,
    write_boundaries_csv,
)
from medssl.evaluation.case_metrics import evaluate_case
from medssl.evaluation.folders import read_label
from medssl.evaluation.summary import summarize, write_cases_csv, write_summary_json
from medssl.inference.calibration import Calibrated, read_calibration
from medssl.inference.folder import predict_files
from medssl.inference.predictor import Predictor
from medssl.inference.regions import RegionFinder
from medssl.networks.ensemble import Ensemble
from medssl.recipe import load_recipe
from medssl.recipe_schema import Recipe
from medssl.roi_stage import open_finder, record_regions
from medssl.training.checkpoint import load_checkpoint, load_weights
from medssl.training.precision import resolve_device, resolve_precision
from medssl.training.progress import Display
from medssl.training.run_folder import RunFolder, open_run
from medssl.training.setup import create_method, open_dataset


@dataclass(frozen=True)
class LoadedRun:
    """A run ready to predict."""

    folder: RunFolder
    recipe: Recipe
    label_map: LabelMap
    predictor: Predictor
    checkpoint: str
    channels: int
    regions: RegionFinder | None = None
    weights: tuple[Path, ...] = ()
    """Checkpoint file of each run that predicts."""

    def calibrated(self) -> Calibrated:
        """Say what a calibration of this predictor belongs to."""
        return Calibrated(
            checkpoint=self.checkpoint,
            tta=self.recipe.inference.tta,
            largest_component=self.predictor.largest_component,
            weights=tuple(_sha256(path) for path in self.weights),
        )

    def use_calibration(self) -> str | None:
        """Calibrate the predictor by the run's calibration.json, if it is there and fits.

        Returns:
            What the calibration is not for, in a few words, if it was left out for that.

        Raises:
            MedSSLError: the file is damaged.
        """
        if not self.folder.calibration.is_file():
            return None
        found = read_calibration(self.folder.calibration)
        difference = found.of.difference(self.calibrated())
        if difference is None:
            self.predictor.calibration = found
        return difference


def load_run(
    path: Path,
    *,
    checkpoint: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    largest_component: bool | None = None,
    tta: bool | None = None,
) -> LoadedRun:
    """Load a run's predictor.

    Args:
        path: the run folder.
        checkpoint: ``last``, ``best``, or ``auto`` (best where there is one, else last).
        largest_component, tta: override the recipe's choice.

    Raises:
        MedSSLError: not a run folder, no such checkpoint, or weights that do not fit.
    """
    folder = open_run(path)
    loaded = load_recipe(folder.recipe)
    recipe = loaded.recipe
    choices = {"largest_component": largest_component, "tta": tta}
    inference = recipe.inference.model_copy(
        update={key: value for key, value in choices.items() if value is not None}
    )
    recipe = recipe.model_copy(update={"inference": inference})
    manifest = folder.read_manifest()
    try:
        labels = manifest["labels"]
        label_map = LabelMap(
            tuple(labels["values"]), tuple(labels["names"]), labels.get("ignore_value")
        )
        channels = int(manifest["channels"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise MedSSLError(
            "the run's manifest does not say which labels it was trained on",
            where=folder.manifest,
            fix="restore manifest.json, or train again",
        ) from None
    where = resolve_device(device)
    method = create_method(
        recipe, loaded.settings, num_classes=label_map.num_classes, channels=channels
    )
    chosen = _choose(folder, checkpoint)
    file = folder.best() if chosen == "best" else folder.last
    state = load_checkpoint(file, map_location="cpu", method=recipe.method.name)
    load_weights(method, state["method_state"], file)
    regions = open_finder(recipe, folder, partial(load_run, device=device, precision=precision))
    predictor = Predictor(
        method.predictor(),
        spec=recipe.spec,
        label_map=label_map,
        patch=recipe.training.patch,
        inference=recipe.inference,
        device=where,
        precision=resolve_precision(precision, where),
        in_channels=channels,
        regions=regions,
    )
    return LoadedRun(folder, recipe, label_map, predictor, chosen, channels, regions, (file,))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_ensemble(
    paths: Sequence[Path],
    *,
    checkpoint: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    largest_component: bool | None = None,
    tta: bool | None = None,
) -> LoadedRun:
    """Load several runs as one whose probabilities are the mean of theirs.

    The first run says how images are prepared and windows laid; see :func:`load_run` for the rest.

    Raises:
        MedSSLError: a run sees other images, windows or labels than the first.
    """
    options = {
        "checkpoint": checkpoint,
        "device": device,
        "precision": precision,
        "largest_component": largest_component,
        "tta": tta,
    }
    runs = [load_run(path, **options) for path in paths]
    first = runs[0]
    if len(runs) == 1:
        return first
    for run in runs[1:]:
        for what, one, other in (
            ("data spec", first.recipe.spec, run.recipe.spec),
            ("training.patch", first.recipe.training.patch, run.recipe.training.patch),
            ("labels", first.label_map, run.label_map),
            ("number of channels", first.channels, run.channels),
        ):
            if one != other:
                raise MedSSLError(
                    f"its {what} is not that of {first.folder.path}",
                    where=run.folder.path,
                    fix="average runs of one recipe that differ by seed, fold or method only",
                )
    # Each predictor's model already mirrors, where that is asked for.
    first.predictor.model = Ensemble([run.predictor.model for run in runs])
    return replace(first, weights=tuple(path for run in runs for path in run.weights))


def _choose(folder: RunFolder, checkpoint: str) -> str:
    """Return ``last`` or ``best``."""
    if checkpoint == "auto":
        return "best" if folder.best().is_file() else "last"
    if checkpoint not in ("last", "best"):
        raise MedSSLError(
            f"unknown checkpoint {checkpoint!r}", where="--checkpoint", fix="use last, best or auto"
        )
    if checkpoint == "best" and not folder.best().is_file():
        raise MedSSLError(
            "the run has no best checkpoint: it had no validation cases",
            where=folder.checkpoints,
            fix="use --checkpoint last",
        )
    return checkpoint


def evaluate_run(
    path: Path,
    split: str,
    *,
    checkpoint: str = "auto",
    name: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    display: Display | None = None,
) -> dict[str, Any]:
    """Predict and measure a split of the run's dataset on the native grid.

    Args:
        split: ``validation`` or ``test``.
        name: folder name under ``predictions/`` and ``evaluation/``; the split's by default.

    Returns:
        the summary that is also written to ``evaluation/NAME/summary.json``.

    Raises:
        MedSSLError: the split is empty, or a prediction failed.
    """
    display = display or Display(quiet=True)
    run = load_run(path, checkpoint=checkpoint, device=device, precision=precision)
    dataset = open_dataset(run.recipe)
    cases = sorted(getattr(load_splits(run.folder.splits, dataset), split, ()), key=lambda c: c.id)
    if not cases:
        raise MedSSLError(
            f"the run has no {split} cases",
            where=run.folder.splits,
            fix="name a split that has some, or set data.test or data.validation and train again",
        )
    output = run.folder.predictions(name or split)
    with display.counting_parts(f"predicting {split}", len(cases)) as (done, window):
        results = predict_files(
            run.predictor,
            [(c.id, c.images) for c in cases],
            output,
            on_progress=done,
            on_window=window,
        )
    failed = [r for r in results if r.error]
    if failed:
        raise MedSSLError(
            f"{len(failed)} of {len(cases)} predictions failed; the first: {failed[0].error}",
            where=failed[0].case_id,
            fix="mend or remove these files, then run `medssl evaluate` again",
        )
    paths = {r.case_id: r.path for r in results if r.path}
    with display.counting(f"measuring {split}", len(cases)) as done:
        rows, boundaries = _measure(run, cases, paths, done)
    patients = {c.id: c.patient for c in cases}
    summary = summarize(rows, patients=patients, nsd_tolerance=_tolerance(run.recipe))
    summary |= {"split": split, "checkpoint": run.checkpoint, "run": run.recipe.name}
    skipped = run.folder.read_manifest().get("skipped_iterations")
    if skipped:
        summary["skipped_iterations"] = skipped
    folder = run.folder.evaluation(name or split)
    folder.mkdir(parents=True, exist_ok=True)
    if run.regions is not None:
        regions = {c.id: run.regions.find(c.images) for c in cases}
        record_regions(regions, folder / "roi.json")
        summary["regions_not_found"] = sorted(k for k, r in regions.items() if not r.found)
    write_cases_csv(rows, folder / "cases.csv")
    if boundaries:
        unit = run.recipe.spec.spatial_unit
        summary["boundaries"] = summarize_boundaries(boundaries, patients, unit=unit)
        write_boundaries_csv(boundaries, folder / "boundaries.csv", unit=unit)
    write_summary_json(summary, folder / "summary.json")
    return summary


def _measure(
    run: LoadedRun,
    cases: Sequence[Case],
    predictions: dict[str, Path],
    done: Callable[[str], None],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare each written prediction with its reference, as a reader of the files would.

    Returns:
        The rows of structures, and those of boundaries if the data spec asks for them.
    """
    rows: list[dict[str, Any]] = []
    boundaries: list[dict[str, Any]] = []
    settings, spec = run.recipe.evaluation, run.recipe.spec
    for case in cases:
        assert case.label is not None
        reference, affine = read_label(case.label, unit=spec.spatial_unit)
        prediction, _ = read_label(predictions[case.id])
        truth = run.label_map.to_classes(reference)
        guess = run.label_map.to_classes(prediction)
        spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
        if "boundaries" in spec.metrics:
            boundaries += _boundaries(run, case, guess, truth, affine)
        rows += evaluate_case(
            guess,
            truth,
            spacing=spacing,
            label_map=run.label_map,
            case_id=case.id,
            nsd_tolerance=_tolerance(run.recipe),
            unit=spec.spatial_unit,
            voxel_metrics=settings.voxel_metrics,
        )
        done(case.id)
    return rows, boundaries


def _boundaries(
    run: LoadedRun, case: Case, prediction: np.ndarray, reference: np.ndarray, affine: np.ndarray
) -> list[dict[str, Any]]:
    """Measure the boundaries of one case on its file's own grid."""
    spec = run.recipe.spec
    try:
        depth, _ = depth_and_slices(spec, affine)
        return evaluate_boundaries(
            prediction,
            reference,
            depth_axis=depth,
            direction=deeper(spec, affine),
            spacing=float(np.linalg.norm(affine[:3, depth])),
            label_map=run.label_map,
            case_id=case.id,
            unit=spec.spatial_unit,
        )
    except ValueError as error:
        raise MedSSLError(
            str(error),
            where=case.label,
            fix="use labels that count up with depth, or set spec.metrics to []",
        ) from None


def _tolerance(recipe: Recipe) -> float:
    return recipe.evaluation.nsd_tolerance or recipe.spec.nsd_tolerance
