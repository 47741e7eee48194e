"""What the commands share: where they print, and the options they have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from medssl.ranks import place

ORDER = (
    *(
        "train",
        "predict",
        "crossval",
        "evaluate",
        "compare",
        "sweep",
        "calibrate",
        "triage",
        "report",
        "export",
    ),
    *(
        "check",
        "plan",
        "preprocess",
        "import",
        "phantom",
        "methods",
        "recipes",
        "specs",
        "info",
        "replay",
    ),
)
"""How help lists the commands: as they are met; those not named here come last."""


class Ordered(TyperGroup):
    """A group of commands in the order of :data:`ORDER`."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """Return the names of the commands."""
        place = {name: i for i, name in enumerate(ORDER)}
        return sorted(self.commands, key=lambda name: place.get(name, len(ORDER)))


app = typer.Typer(
    name="medssl",
    cls=Ordered,
    help="Semi-supervised segmentation of 3D medical images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Console(Console):
    """Prints text as it is: no line is broken, so that a command or path can be copied."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts, unbroken and with brackets and numbers left alone, or tables."""
        if all(isinstance(item, str) for item in objects):
            options = {"highlight": False, "markup": False, "soft_wrap": True, **options}
        super().print(*objects, **options)


out = _Console()
if not out.is_terminal:
    out = _Console(width=120)  # tables in files and pipes are not cut at 80 columns
err = _Console(stderr=True)
if place()[0] > 0:  # one of several processes of a run: the first one speaks
    out.quiet = True


def a_run(path: Path) -> Path:
    """Refuse what is no run folder, before PyTorch is loaded to open it."""
    from medssl.runs.folder import open_run

    return open_run(path).path


def a_model(path: Path) -> Path:
    """Refuse what is neither a run folder, nor a finished cross-validation, nor a bundle."""
    from medssl.bundle.recognize import is_bundle

    return path if is_bundle(path) else a_result(path)


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
    typer.Argument(help="run folder, cross-validation or bundle", callback=checked_by(a_model)),
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
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")]
Precision = Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16")]
Output = Annotated[Path, typer.Option("--output", "-o", help="folder to write")]
AllowOutside = Annotated[
    bool,
    typer.Option("--allow-outside", help="let dataset.json name files outside of its folder"),
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
Largest = Annotated[bool | None, typer.Option(help="keep the largest piece of each structure")]
Mirrors = Annotated[bool | None, typer.Option(help="average over mirror images")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="predict again what is there, whichever model made it")
]


def display_of(ctx: typer.Context) -> Any:
    """Return the progress display that the command's options ask for."""
    from medssl.progress import Display

    return Display(err, quiet=bool((ctx.obj or {}).get("quiet")))


def show_summary(summary: dict[str, Any]) -> None:
    """Print the table of an evaluation and the policy behind it."""
    from medssl.evaluation.summary_table import format_summary

    for part in format_summary(summary):
        out.print(part)
