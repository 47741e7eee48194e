"""What all benchmarks share: options, rows, one table, one JSON file, and how parts are resumed.

A part is a script with a function that yields rows. It writes its file after every row, so that
what was measured survives whatever stops it. Torch is imported only by what needs it: printing a
table is quick.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DONE, SKIPPED, FAILED, STOPPED = "done", "skipped", "failed", "stopped"

for _path in (ROOT / "tests", ROOT):  # the code beside these scripts, and its small datasets
    if str(_path) not in sys.path:
        sys.path.insert(0, str(_path))


class SkipPart(Exception):  # noqa: N818 - it is no error
    """A part cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        what: names it within its part.
        value: the figure; None where there is none, and ``note`` says why.
        unit: of the figure; empty for a ratio.
        target: what is wanted: ``>= 2.5`` or ``<= 1.03``; empty if nothing is.
        note: a remark for the table.
        details: more figures, for the file.
    """

    what: str
    value: float | None
    unit: str = ""
    target: str = ""
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.target and not re.fullmatch(r"[<>]= -?[\d.]+", self.target):
            raise ValueError(f"target {self.target!r} is not like '>= 2.5'")

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or figure."""
        if not self.target or self.value is None:
            return None
        sign, _, wanted = self.target.partition(" ")
        return self.value >= float(wanted) if sign == ">=" else self.value <= float(wanted)


# ---------------------------------------------------------------------- a part on its own


Measure = Callable[[argparse.Namespace, Mapping[str, Row]], Iterable[Row]]
"""Yields a part's rows. Takes the options, and by name the rows an interrupted run has left."""


def options_of(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all parts have."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work at all")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="where figures go")
    parser.add_argument(
        "--data",
        type=Path,
        default=data_folder(),
        help="folder of Task04_Hippocampus and Task102_LeftAtrium; default $MEDSSL_DATA, or "
        "shared/data beside the project",
    )
    parser.add_argument("--name", default=Path(sys.argv[0]).stem, help=argparse.SUPPRESS)
    return parser


def data_folder() -> Path | None:
    """Return the folder of public datasets, if it is where tests look for it too."""
    if "MEDSSL_DATA" in os.environ:
        return Path(os.environ["MEDSSL_DATA"])
    folder = Path(os.environ.get("MEDSSL_SHARED", ROOT.parent / "shared")) / "data"
    return folder if folder.is_dir() else None


def dataset_folder(options: argparse.Namespace, name: str) -> Path:
    """Return a dataset's folder.

    Raises:
        SkipPart: it is not there.
    """
    if options.data is None:
        raise SkipPart(f"{name} is not here: give --data or MEDSSL_DATA")
    if not (options.data / name / "dataset.json").is_file():
        raise SkipPart(f"there is no {name} in the folder of --data")
    return options.data / name


def run_part(parser: argparse.ArgumentParser, measure: Measure) -> None:
    """Measure a part from the command line: rows to the screen and the file as they come."""
    options = parser.parse_args()
    entry = identify(options.name, options.device, options.quick)
    known = read_rows(options.output, entry)
    rows = dict(known)

    def record(status: str, reason: str = "") -> None:
        if options.output:
            content = {**entry, "status": status, "reason": reason, "machine": machine()}
            write_json(options.output, {**content, "rows": [asdict(r) for r in rows.values()]})

    try:
        for row in measure(options, known):
            rows[row.what] = row
            print(format_row(row), flush=True)
            record(STOPPED, "ended before its last figure")
        record(DONE)
    except SkipPart as skip:
        print(f"skipped: {skip}")
        record(SKIPPED, str(skip))
    except Exception as error:
        record(FAILED, describe_error(error))
        traceback.print_exc()
        raise SystemExit(1) from None


def describe_error(error: BaseException) -> str:
    """Say in one line what went wrong."""
    text = " ".join(str(error).split())[:300]
    if out_of_memory(error):
        return f"does not fit the device: {text}"
    return f"{type(error).__name__}: {text}"


def out_of_memory(error: BaseException | None) -> bool:
    """Return whether memory ran out, here or in what this error was raised from."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text:
            return True
        error = error.__cause__
    return False


def attempt(what: str, measure: Callable[[], Row]) -> Row:
    """Return a row, or one that says that what it asks for does not fit the device.

    Raises:
        Exception: anything else that goes wrong.
    """
    try:
        return measure()
    except Exception as error:
        if not out_of_memory(error):
            raise
        return Row(what, None, note=describe_error(error))


# ---------------------------------------------------------------------- files


def identify(part: str, device: str, quick: bool) -> dict[str, Any]:
    """Return what a measurement depends on: it is not repeated while this stays the same."""
    return {
        "part": part,
        "device": device_name(device),
        "version": medssl_version(),
        "commit": commit(),
        "options": {"quick": quick},
    }


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two entries are about the same measurement."""
    keys = ("part", "device", "version", "commit", "options")
    return all(one.get(key) == other.get(key) for key in keys)


def device_name(device: str) -> str:
    """Return ``cpu`` or the name of the card."""
    if device == "cpu":
        return "cpu"
    import torch

    from medssl.device import resolve_device

    where = resolve_device(device)
    return torch.cuda.get_device_name(where) if where.type == "cuda" else where.type


def medssl_version() -> str:
    """Return the version of the package."""
    try:
        return version("medssl")
    except PackageNotFoundError:
        return "unknown"


def commit() -> str | None:
    """Return the commit, with a hash of what was changed since; None without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        head, changed = git("rev-parse", "--short=12", "HEAD").strip(), git("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+{hashlib.sha256(changed.encode()).hexdigest()[:8]}" if changed else head


def machine() -> dict[str, Any]:
    """Return what else a reader wants to know about where it was measured."""
    import torch

    facts: dict[str, Any] = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts["cuda"] = torch.version.cuda
        facts["cudnn"] = torch.backends.cudnn.version()
    return facts


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_rows(path: Path | None, entry: Mapping[str, Any]) -> dict[str, Row]:
    """Return the figures that an interrupted measurement of the same thing has left."""
    if path is None or not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not same(found, entry) or found.get("status") == DONE:
        return {}
    rows = (Row(**row) for row in found["rows"])
    return {row.what: row for row in rows if row.value is not None}


def left_of(known: Mapping[str, Row], method: str) -> list[Row]:
    """Return the rows of a method that an interrupted run has left."""
    return [row for row in known.values() if row.what.partition(", ")[0] == method]


# ---------------------------------------------------------------------- tables


def format_figure(row: Row) -> str:
    """Return the figure with its unit."""
    if row.value is None:
        return "-"
    size = abs(row.value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{row.value:.{digits}f} {row.unit}".strip()


def format_row(row: Row) -> str:
    """Return a row as a line."""
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    target = f"(target {row.target}: {verdict})" if row.target and verdict else ""
    return "  ".join(x for x in (row.what, format_figure(row), target, row.note) if x)


def print_table(entries: Iterable[Mapping[str, Any]]) -> None:
    """Print the table of a file of `run.py`."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="medssl benchmarks", title_justify="left")
    for heading, right in (("part", 0), ("what", 0), ("figure", 1), ("target", 1), ("", 0)):
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    table.add_column("remark", overflow="fold")
    colors = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}
    for entry in entries:
        options = " (quick)" if entry["options"].get("quick") else ""
        head = f"{entry['part']}{options}\n{entry['device']}, {entry['commit'] or entry['version']}"
        rows = [Row(**row) for row in entry["rows"]]
        if entry["status"] != DONE:
            rows.append(Row(entry["status"], None, note=entry["reason"]))
        for number, row in enumerate(rows):
            texts = row.what, format_figure(row), row.target
            table.add_row(
                escape(head) if number == 0 else "",
                *map(escape, texts),
                colors[row.met],
                escape(row.note),
            )
        table.add_section()
    Console(width=max(Console().width, 120)).print(table)
