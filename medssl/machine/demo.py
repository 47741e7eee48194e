"""Everything once, on synthetic scans: a cross-validation, its verdict, predictions, one page."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.cross_validation.crossval import crossval
from medssl.data.phantoms.dataset import write_phantom
from medssl.errors import MedSSLError
from medssl.evaluation.failures import failure_sentence
from medssl.files import refuse_filled, write_json, write_text
from medssl.paths import AnyPath, command
from medssl.progress import Display
from medssl.reports.render import render
from medssl.workflows.predict import predict

MARK = "demo.json"
"""In the folder of a demo; without it a folder that holds something is somebody's own."""
LABELED, UNLABELED, NEW, FOLDS = 6, 18, 4, 3
SETTINGS = (
    f"data.labeled={LABELED}",
    "data.test=0",
    "method.name=mean_teacher",
    "network.channels=[12,24,48]",
    "network.strides=[2,2]",
    "training.patch=[40,40,16]",
    "training.iterations=400",
)


@dataclass(frozen=True)
class DemoResult:
    """What was made.

    Attributes:
        path: the page.
        verdict: in a sentence.
        seconds: it took, this time.
    """

    path: Path
    verdict: str
    seconds: float


def demo(
    output: AnyPath = "medssl-demo", *, device: str = "auto", display: Display | None = None
) -> DemoResult:
    """Show on synthetic scans what medssl does with one's own, in some minutes.

    It writes a phantom, cross-validates a semi-supervised method beside labels alone, predicts new
    scans with the folds together, and puts verdict, report and pictures on one page that needs no
    other file. Stopped, the same call goes on where it was; finished, it writes the page again.

    Args:
        output: folder; new, empty, or that of an earlier demo.
        device: as for `train`.

    Raises:
        MedSSLError: the folder holds something else, or a training fails.

    Example:
        >>> medssl.demo("medssl-demo").path.name  # doctest: +SKIP
        'index.html'
    """
    start, folder = time.monotonic(), Path(output)
    display = display or Display(quiet=True)
    if not (folder / MARK).is_file():
        refuse_filled(folder, "the demo")
        write_json(folder / MARK, {"seconds": {}})
    data = folder / "data"
    with _timed(folder, "data"):
        if not (data / "dataset.json").is_file():
            shape = (48, 48, 24)
            with display.counting("drawing scans", LABELED + UNLABELED + NEW) as done:
                write_phantom(
                    data,
                    labeled=LABELED,
                    unlabeled=UNLABELED,
                    test=NEW,
                    shape=shape,
                    on_progress=done,
                )
    settings = (f"data.root={data.resolve()}", f"data.cache={(folder / 'cache').resolve()}")
    runs = folder / "crossval"
    with _timed(folder, "crossval"):
        result = crossval(
            "quickstart",
            folds=FOLDS,
            overrides=(*settings, *SETTINGS),
            output=runs,
            device=device,
            display=display,
        )
    if not result.summary:
        raise MedSSLError(
            f"{len(result.failures)} trainings failed: {next(iter(result.failures.values()), '')}",
            where=runs,
            fix="`medssl doctor` looks for the reason; then the same command goes on",
        )
    maps = folder / "predictions"
    with _timed(folder, "predict"):
        predict(runs, data / "imagesTs", maps, gallery=True, device=device, display=display)
    page = folder / "index.html"
    write_text(page, _page(folder, result.summary))
    return DemoResult(page, _verdict(result.summary), time.monotonic() - start)


@contextmanager
def _timed(folder: Path, step: str) -> Iterator[None]:
    """Remember how long a step took, over all calls that it took."""
    record = json.loads((folder / MARK).read_text(encoding="utf-8"))
    start = time.monotonic()
    yield
    seconds = record["seconds"]
    seconds[step] = seconds.get(step, 0.0) + time.monotonic() - start
    write_json(folder / MARK, {"seconds": seconds})


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.1f} minutes"


def _verdict(summary: dict[str, Any]) -> str:
    return str(summary["verdict"]["sentence"])


def _page(folder: Path, summary: dict[str, Any]) -> str:
    """Return a page with the report and the gallery inside, which needs no other file."""
    seconds = json.loads((folder / MARK).read_text(encoding="utf-8"))["seconds"]
    experiments = [
        {
            "name": one["name"],
            "dice": f"{one['metrics']['dice']:.3f}",
            "failures": failure_sentence(one["failures"]),
        }
        for one in summary["experiments"]
    ]
    return render(
        "demo.html",
        labeled=LABELED,
        unlabeled=UNLABELED,
        new=NEW,
        folds=FOLDS,
        took={step: _duration(value) for step, value in seconds.items()},
        verdict=_verdict(summary),
        experiments=experiments,
        own=[
            command("check", "mydata"),
            command("plan", "mydata", "--output", "mine.yaml"),
            command("crossval", "mine.yaml"),
            f"{command('predict', 'runs/mine-crossval')} scans/ --output maps --gallery",
        ],
        report=(folder / "crossval" / "report.html").read_text(encoding="utf-8"),
        gallery=(folder / "predictions" / "gallery.html").read_text(encoding="utf-8"),
    )
