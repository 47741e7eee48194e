"""The run folder: where everything of one training run is written, and how it is read back."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl._version import __version__
from medssl.errors import MedSSLError
from medssl.files import (
    append_line,
    as_line,
    check_writable,
    is_leftover,
    refusals,
    write_json,
    write_text,
)
from medssl.paths import AnyPath
from medssl.runs.privacy import Redactor
from medssl.settings.model_names import is_bundle

if TYPE_CHECKING:
    import torch

STATUS_RUNNING, STATUS_FINISHED, STATUS_STOPPED, STATUS_FAILED = (
    "running",
    "finished",
    "stopped",
    "failed",
)


WRITABLE = "choose a writable folder with --output"
TELLING = ("dataset", "command", "error", "sessions", "changes", "left_out", "init", "teacher")
"""Keys of the manifest whose text may name a patient."""


class RunFolder:
    """Paths and small files of a run; see the layout in the README.

    With a ``redactor``, log, metrics and manifest name no patient. Of several processes that train
    one run, only one ``writes``.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self.redactor: Redactor | None = None
        self.recipe = path / "recipe.yaml"
        self.manifest = path / "manifest.json"
        self.splits = path / "splits.json"
        self.lineage = path / "lineage.json"
        self.metrics = path / "metrics.jsonl"
        self.nonfinite = path / "nonfinite.jsonl"
        self.log = path / "log.txt"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.preview = path / "preview"
        self.calibration = path / "calibration.json"
        self.roi = path / "roi"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / "last.pt"

    @property
    def previous(self) -> Path:
        """The checkpoint before the newest, kept for the case that the newest is damaged."""
        return self.checkpoints / "last-previous.pt"

    def best(self, stage: str | None = None) -> Path:
        """The best checkpoint on validation of the last stage, or of an earlier ``stage``."""
        return self.checkpoints / (f"best-{stage}.pt" if stage else "best.pt")

    def stage_end(self, stage: str) -> Path:
        """The weights at the end of a stage that is not the last."""
        return self.checkpoints / f"{stage}.pt"

    def predictions(self, split: str) -> Path:
        """Folder of the predictions of a split."""
        return self.path / "predictions" / split

    def evaluation(self, split: str) -> Path:
        """Folder of the evaluation of a split."""
        return self.path / "evaluation" / split

    def create(self, *, resume: bool) -> None:
        """Make the folder, or check that it is one to resume.

        Raises:
            MedSSLError: it holds something and ``resume`` is off, or it cannot be written.
        """
        what = "the run folder cannot be written"
        with refusals(self.path, what=what, fix=WRITABLE):
            if not resume and self.holds_something():
                raise MedSSLError(
                    "the run folder exists and is not empty",
                    where=self.path,
                    fix="add --resume to go on with it, or choose another --output",
                )
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if resume:
                for half in self.checkpoints.glob("*.tmp"):  # left by a run that was killed
                    half.unlink()
        check_writable(self.path, what=what, fix=WRITABLE)

    def holds_something(self) -> bool:
        """Say whether there is more than a run leaves that was killed before it had begun."""
        if not self.path.exists():
            return False
        traces = {".lock", ".write-test", "recipe.yaml.tmp"}  # the last two: of 0.1.0
        found = [p for p in self.path.iterdir() if p.name not in traces and not is_leftover(p)]
        return any(p != self.checkpoints or any(p.iterdir()) for p in found)

    def write_manifest(self, **fields: Any) -> None:
        """Merge ``fields`` into manifest.json; atomic."""
        if not self.writes:
            return
        if self.redactor is not None:
            told = {k: self.redactor.value(fields[k]) for k in TELLING if k in fields}
            fields = {**fields, **told}
        write_json(self.manifest, {**self.read_manifest(), **fields})

    def read_manifest(self) -> dict[str, Any]:
        """Return manifest.json, or an empty dictionary."""
        try:
            found = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def is_finished(self) -> bool:
        """Say whether the run trained to its end, its evaluation included."""
        return self.read_manifest().get("status") == STATUS_FINISHED

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        self._append(self.metrics, record)

    def append_nonfinite(self, record: dict[str, Any]) -> None:
        """Append one skipped iteration to nonfinite.jsonl."""
        self._append(self.nonfinite, record)

    def _append(self, path: Path, record: dict[str, Any]) -> None:
        if not self.writes:
            return
        if self.redactor is not None:
            record = self.redactor.value(record)
        append_line(path, record)

    def truncate_metrics(self, step: int, *, again: bool = False) -> None:
        """Drop what was logged after ``step``: a resumed run computes it again.

        Args:
            step: finished iterations of all stages.
            again: log the means and the validation of ``step`` again, too.
        """
        if not self.writes:
            return
        for path, end in ((self.metrics, step - again), (self.nonfinite, step)):
            if path.is_file():
                kept = [line for line in read_lines(path) if line.get("step", 0) <= end]
                write_text(path, "".join(as_line(line) for line in kept))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; a line that was cut off is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            lines.append(record)
    return lines


def open_run(path: AnyPath) -> RunFolder:
    """Return an existing run.

    Raises:
        MedSSLError: ``path`` is not a run folder.
    """
    run = RunFolder(Path(path))
    if run.recipe.is_file():
        return run
    why, fix = "there is no such folder", "name the folder that `medssl train` printed at its end"
    if is_bundle(run.path):
        why, fix = "it is a bundle, made from one", "name the run that the bundle was exported from"
    elif run.path.is_dir():
        why = "it has no recipe.yaml"
    raise MedSSLError(f"this is not a run folder: {why}", where=run.path, fix=fix)


def free_run_path(parent: Path, name: str) -> Path:
    """Return ``parent/name``, or the first of ``name-2``, ``name-3``, ... that is free."""
    path, count = parent / name, 1
    while path.exists() and any(path.iterdir()):
        count += 1
        path = parent / f"{name}-{count}"
    return path


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """Describe versions, hardware and command for the manifest."""
    import torch  # a run folder is read without it

    names = ("monai", "torch", "numpy", "scipy", "nibabel", "SimpleITK", "pydantic")
    return {
        "medssl": __version__,
        "versions": {n: metadata.version(n) for n in names} | {"python": platform.python_version()},
        "git": _git_hash(),
        "command": " ".join(sys.argv),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _git_hash() -> str | None:
    """Return the commit of the checkout medssl runs from, if it is one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
