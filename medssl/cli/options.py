"""Arguments and options that several commands share, each declared once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def with_init(overrides: list[str] | None, init: str | None) -> list[str]:
    """Return the overrides, with the weights to start from among them."""
    return [*(overrides or ()), *([] if init is None else [f"network.init={json.dumps(init)}"])]


def a_run(path: Path) -> Path:
    """Refuse what is no run folder, before PyTorch is loaded to open it."""
    from medssl.runs.folder import open_run

    return open_run(path).path


def a_model(path: Path) -> Path:
    """Refuse what is no run folder, finished cross-validation, bundle or installed model."""
    from medssl.settings.model_names import find_model, is_bundle

    found = find_model(path)
    return found if is_bundle(found) else a_result(path)


def exportable(path: Path) -> Path:
    """Refuse what is neither a run folder, nor a finished cross-validation, nor installed."""
    from medssl.settings.model_names import find_model, is_installed_model

    found = find_model(path)
    return found if is_installed_model(found) else a_result(path)


def a_result(path: Path) -> Path:
    """Refuse what is neither a run folder nor a finished cross-validation."""
    from medssl.runs.members import is_crossval, members_of

    return path if is_crossval(path) and members_of(path) else a_run(path)


def checked_by(check: Callable[[Path], Path]) -> Callable[[typer.Context, Path], Path]:
    """Return a check as a callback of the command line; completion of words checks nothing."""

    def callback(context: typer.Context, path: Path) -> Path:
        return path if context.resilient_parsing else check(path)

    return callback


Run = Annotated[Path, typer.Argument(help="run folder", callback=checked_by(a_run))]
Model = Annotated[
    Path,
    typer.Argument(
        help="run folder, cross-validation or bundle, or the name of an installed model",
        callback=checked_by(a_model),
    ),
]
Result = Annotated[
    Path, typer.Argument(help="run folder or cross-validation", callback=checked_by(a_result))
]
Patients = Annotated[
    str | None,
    typer.Option(
        "--patients",
        help="whose scan each case is: a CSV file case,patient or a pattern with a group",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="change a key: --set training.iterations=2000")
]
Init = Annotated[
    str | None,
    typer.Option(
        metavar="RUN|BUNDLE|FILE|MODEL",
        help="trained weights to start from (sets network.init)",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16")]
Recipe = Annotated[str, typer.Argument(help="recipe file or name")]
Output = Annotated[Path, typer.Option("--output", "-o", help="folder to write")]
OutputOrNone = Annotated[Path | None, typer.Option("--output", "-o", help="folder to write")]
AllowOutside = Annotated[
    bool,
    typer.Option("--allow-outside", help="let dataset.json name files outside of its folder"),
]
MoreUnlabeled = Annotated[
    list[str] | None,
    typer.Option(
        "--unlabeled", help="more unlabeled images, as data.unlabeled names them; may be repeated"
    ),
]
Shard = Annotated[
    str | None, typer.Option(metavar="I/N", help="do the I-th of N parts, 1/N to N/N (job arrays)")
]
VerifyCache = Annotated[
    bool,
    typer.Option(
        "--verify-cache", help="hash every image whole before what is cached of it is believed"
    ),
]
Checkpoint = Annotated[str, typer.Option(help="best, last, or auto: best where there is one")]
Ensemble = Annotated[
    list[Path] | None, typer.Option(help="one more run to average with; may be repeated")
]
Members = Annotated[
    int | None, typer.Option(help="of a cross-validation: its first N folds alone, for speed")
]
Fold = Annotated[
    int | None, typer.Option(help="of a cross-validation: this fold alone, counted from 0")
]
Largest = Annotated[bool | None, typer.Option(help="keep the largest piece of each structure")]
Mirrors = Annotated[bool | None, typer.Option(help="average over mirror images")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="predict again what is there, whichever model made it")
]
Jobs = Annotated[
    int | None, typer.Option(help="runs at a time; default: 1, or what the queue lets")
]
LauncherName = Annotated[str, typer.Option(help="local, or submitit to queue the runs on SLURM")]
Slurm = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="for the queue: time=12:00:00, partition=gpu, ..."),
]
Wait = Annotated[bool, typer.Option(help="for the queued runs, and summarize them")]
AsJson = Annotated[
    bool, typer.Option("--json", help="print one JSON document for scripts, and nothing else")
]
