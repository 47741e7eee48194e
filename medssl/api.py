"""What medssl does, as functions: each CLI command is a thin call of the one of the same name."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from medssl.data.case import LabelMap
from medssl.data.split import save_splits, split_hash
from medssl.errors import MedSSLError, located
from medssl.evaluation.case_metrics import evaluate_case
from medssl.evaluation.folders import evaluate_folders
from medssl.evaluation.summary import summarize, write_cases_csv, write_summary_json
from medssl.inference.folder import PredictionResult, find_images, predict_files
from medssl.recipe import LoadedRecipe, load_recipe, save_recipe
from medssl.report.compare import compare
from medssl.report.sweep import SweepResult, sweep
from medssl.runs import LoadedRun, evaluate_run, load_run
from medssl.training.engine import Engine
from medssl.training.precision import resolve_device, resolve_precision, speed_up
from medssl.training.progress import Display
from medssl.training.run_folder import (
    STATUS_FAILED,
    STATUS_FINISHED,
    STATUS_RUNNING,
    STATUS_STOPPED,
    RunFolder,
    environment,
    free_run_path,
    log_to_file,
)
from medssl.training.setup import (
    create_method,
    loader_workers,
    make_validator,
    plan_cases,
    prepare_cases,
    sampler_factory,
)
from medssl.training.state import Stopped

__all__ = [
    "LoadedRun",
    "Stopped",
    "SweepResult",
    "TrainResult",
    "compare",
    "evaluate",
    "evaluate_case",
    "evaluate_run",
    "load_recipe",
    "load_run",
    "predict",
    "sweep",
    "train",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a training run leaves."""

    path: Path
    summaries: dict[str, dict[str, Any]]
    seconds: float


def train(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    output: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    precision: str | None = None,
    display: Display | None = None,
) -> TrainResult:
    """Train a recipe from its first check to the evaluation of its test cases.

    Args:
        recipe: a recipe file, the name of a shipped recipe, or a run folder.
        overrides: ``section.key=value`` assignments.
        output: the run folder; by default ``runs/NAME``, or the next free ``runs/NAME-2``, ...
        resume: continue the run in ``output`` from its last checkpoint.

    Raises:
        MedSSLError: anything the user can mend, before the long work where possible.
        Stopped: SIGINT or SIGTERM arrived; the state is saved.
    """
    display = display or Display(quiet=True)
    started = time.time()
    loaded = load_recipe(recipe, overrides)
    for warning in loaded.warnings:
        display.say(f"warning: {warning}")
    where = resolve_device(device)
    how = resolve_precision(precision or loaded.recipe.training.precision, where)
    run = RunFolder(_run_path(loaded, recipe, output, resume=resume))
    if resume and not run.recipe.is_file():
        raise MedSSLError(
            "there is no run to resume", where=run.path, fix="start it without --resume"
        )
    with located(loaded.source):
        dataset, splits = plan_cases(loaded.recipe, display)
    if resume:
        _same_experiment(loaded, run, split_hash(splits))
    data = prepare_cases(loaded.recipe, dataset, splits, display)
    method = create_method(
        loaded.recipe,
        loaded.settings,
        num_classes=dataset.labels.num_classes,
        channels=len(dataset.modality),
    )
    run.create(resume=resume)
    save_recipe(loaded.recipe, run.recipe)
    save_splits(splits, run.splits)
    run.write_manifest(
        **environment(where, how),
        status=STATUS_RUNNING,
        protocol=loaded.recipe.protocol,
        method=loaded.recipe.method.name,
        method_settings=loaded.settings.model_dump(mode="json"),
        seed=loaded.recipe.seed,
        dataset=str(dataset.root),
        dataset_name=dataset.name,
        splits_sha256=split_hash(splits),
        cases={k: len(getattr(splits, k)) for k in ("labeled", "unlabeled", "validation", "test")},
        labels=_labels(dataset.labels),
        channels=len(dataset.modality),
        parameters=sum(p.numel() for p in method.predictor().parameters()),
    )
    handler = log_to_file(run.log)
    try:
        _announce(loaded, data.splits, run, where, how, display)
        speed_up(where)
        Engine(
            method,
            loaded.recipe,
            samplers=sampler_factory(loaded.recipe, data, strong=method.uses_strong_view),
            validate=make_validator(loaded.recipe, data, device=where, precision=how),
            run=run,
            device=where,
            precision=how,
            workers=loader_workers(loaded.recipe.training.workers, where),
            display=display,
        ).fit(resume=resume)
        run.write_manifest(peak_memory_bytes=_peak_memory(where))
        summaries = _evaluate_splits(run, loaded, device, how, display)
        seconds = time.time() - started
        run.write_manifest(status=STATUS_FINISHED, wall_seconds=seconds)
    except Stopped:
        run.write_manifest(status=STATUS_STOPPED, peak_memory_bytes=_peak_memory(where))
        raise
    except BaseException as error:
        run.write_manifest(status=STATUS_FAILED, error=str(error)[:500])
        raise
    finally:
        logging.getLogger("medssl").removeHandler(handler)
        handler.close()
    return TrainResult(run.path, summaries, seconds)


def _run_path(
    loaded: LoadedRecipe, recipe: str | Path, output: Path | None, *, resume: bool
) -> Path:
    if output is not None:
        return output
    if resume and Path(recipe).is_dir():
        return Path(recipe)
    if resume:
        return Path("runs") / loaded.recipe.name
    return free_run_path(Path("runs"), loaded.recipe.name)


def _labels(labels: LabelMap) -> dict[str, Any]:
    return {
        "values": list(labels.values),
        "names": list(labels.names),
        "ignore_value": labels.ignore_value,
    }


def _same_experiment(loaded: LoadedRecipe, run: RunFolder, splits: str) -> None:
    """Refuse to resume with a recipe that would not continue the same training."""
    before = load_recipe(run.recipe).recipe
    now = loaded.recipe
    for key, old, new in (
        ("method", before.method.model_dump(), now.method.model_dump()),
        ("network", before.network.model_dump(), now.network.model_dump()),
        ("seed", before.seed, now.seed),
        ("spec", before.spec.model_dump(), now.spec.model_dump()),
        ("training.patch", before.training.patch, now.training.patch),
    ):
        if old != new:
            if isinstance(old, dict) and isinstance(new, dict):
                changed = next(k for k in {**old, **new} if old.get(k) != new.get(k))
                key, old, new = f"{key}.{changed}", old.get(changed), new.get(changed)
            raise MedSSLError(
                f"the run was started with {key} = {old!r}, not {new!r}",
                where=run.recipe,
                fix=f"resume with {key}={old!r}, or train into another --output",
            )
    recorded = run.read_manifest().get("splits_sha256")
    if recorded and recorded != splits:
        raise MedSSLError(
            "the cases of the run have changed since it was started (another split)",
            where=run.splits,
            fix="restore the dataset and data.labeled, or train into another --output",
        )


def _announce(
    loaded: LoadedRecipe,
    splits: Any,
    run: RunFolder,
    device: torch.device,
    precision: str,
    display: Display,
) -> None:
    recipe = loaded.recipe
    display.say(
        f"{recipe.name}: method {recipe.method.name}, network {recipe.network.name}, "
        f"{recipe.training.iterations} iterations on {device} in {precision}"
    )
    display.say(
        f"cases: {len(splits.labeled)} labeled, {len(splits.unlabeled)} unlabeled, "
        f"{len(splits.validation)} validation, {len(splits.test)} test; run folder {run.path}"
    )
    if device.type == "cpu" and recipe.training.iterations > 5000:
        display.say(
            "note: this is a long training for a CPU; --set training.iterations=500 gives a first "
            "look, --device cuda uses a graphics card"
        )


def _peak_memory(device: torch.device) -> dict[str, int]:
    """Return the process's peak resident memory and, on CUDA, the peak of the card."""
    import resource

    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    peak["host_now"] = psutil.Process().memory_info().rss
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak


def _evaluate_splits(
    run: RunFolder, loaded: LoadedRecipe, device: str, precision: str, display: Display
) -> dict[str, dict[str, Any]]:
    """Evaluate what the recipe asks for; under the literature's protocol both checkpoints."""
    from medssl.report.preview import write_previews

    manifest, recipe = run.read_manifest(), loaded.recipe
    asked = recipe.evaluation.checkpoint
    if asked == "best" and not run.best().is_file():
        asked = "last"
    summaries = {}
    for split in recipe.evaluation.splits:
        if not manifest["cases"][split]:
            continue
        common = {"device": device, "precision": precision, "display": display}
        summaries[split] = evaluate_run(run.path, split, checkpoint=asked, **common)
        write_previews(run, split)
        if recipe.protocol == "literature" and run.best().is_file():
            other = "last" if summaries[split]["checkpoint"] == "best" else "best"
            name = f"{split}-{other}"
            summaries[name] = evaluate_run(run.path, split, checkpoint=other, name=name, **common)
    return summaries


def predict(
    source: Path,
    images: Sequence[Path],
    output: Path,
    *,
    checkpoint: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    largest_component: bool | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
) -> list[PredictionResult]:
    """Segment images with a run; each result lies on its image's own grid.

    Args:
        source: a run folder.
        images: image files or folders of them.
        output: folder of the results, one ``CASE.nii.gz`` each.
        probabilities: also write each structure's probability map.
        overwrite: predict again what is already there.

    Raises:
        MedSSLError: no run, no images. A bad image does not stop the others: see ``error`` of its
            result.
    """
    display = display or Display(quiet=True)
    items = find_images(images)
    run = load_run(
        source,
        checkpoint=checkpoint,
        device=device,
        precision=precision,
        largest_component=largest_component,
    )
    with display.counting("predicting", len(items)) as done:
        return predict_files(
            run.predictor,
            items,
            output,
            on_progress=done,
            skip_existing=not overwrite,
            probabilities=probabilities,
        )


def evaluate(
    predictions: Path,
    reference: Path,
    output: Path,
    *,
    dataset_json: Path | None = None,
    nsd_tolerance: float = 2.0,
    voxel_metrics: bool = False,
    display: Display | None = None,
) -> dict[str, Any]:
    """Measure a folder of predictions against a folder of references of the same names.

    Args:
        dataset_json: a ``dataset.json`` that names the labels; else every value found is one.

    Raises:
        MedSSLError: missing predictions, mismatched grids, unreadable files.
    """
    from medssl.data.decathlon import read_dataset

    display = display or Display(quiet=True)
    label_map = read_dataset(dataset_json.parent).labels if dataset_json else None
    with display.counting("measuring", sum(1 for _ in reference.glob("*"))) as done:
        rows = evaluate_folders(
            predictions,
            reference,
            label_map=label_map,
            nsd_tolerance=nsd_tolerance,
            voxel_metrics=voxel_metrics,
            on_progress=done,
        )
    summary = summarize(rows, nsd_tolerance=nsd_tolerance)
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_cases_csv(rows, output / "cases.csv")
        write_summary_json(summary, output / "summary.json")
    except OSError as error:
        raise MedSSLError(
            f"cannot write: {error.strerror or error}", where=output, fix="choose another --output"
        ) from None
    return summary
