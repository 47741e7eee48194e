"""Run the benchmarks, one after another, into one file and one table.

    python benchmarks/run.py                      # all parts
    python benchmarks/run.py metrics literature_la --device cuda
    python benchmarks/run.py --quick              # do they work at all? small sizes
    python benchmarks/run.py --minutes 9          # as far as nine minutes go; call it again
    python benchmarks/run.py --table              # the table of the file

Each part runs in a process of its own; the file is written after each. A part that is in the file
already, of the same device, version, commit and options, is not measured again. A part that fails,
does not fit the device or lacks its data says so in its row, and the next one starts.

Exit code: 0 all is measured (or skipped with a reason), 1 a part failed, 3 time was up.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import (
    DONE,
    FAILED,
    SKIPPED,
    STOPPED,
    data_folder,
    identify,
    print_table,
    same,
    write_json,
)

HERE = Path(__file__).resolve().parent
NOT_FINISHED = 3
GRACE_S = 20.0


@dataclass(frozen=True)
class Part:
    """A script and its arguments."""

    script: str
    arguments: tuple[str, ...] = ()


PARTS = {
    "metrics": Part("metrics.py"),
    "data_path": Part("data_path.py"),
    "growth": Part("growth.py"),
    "cache_build": Part("cache_build.py"),
    "literature_la": Part("literature.py", ("--setting", "la")),
    "literature_acdc": Part("literature.py", ("--setting", "acdc")),
    "la_inference": Part("la_inference.py"),
    "scaling": Part("scaling.py"),
    "resident_memory": Part("resident_memory.py"),
    "time_to_dice": Part("time_to_dice.py"),
    "rail_step": Part("rail_step.py"),
    "anatomical_vs_uamt": Part("anatomical_vs_uamt.py"),
    "engine_step": Part("engine_step.py"),
    "method_cost": Part("method_cost.py"),
    "inference_memory": Part("inference_memory.py"),
}
"""In the order in which they run: what is quick comes first."""


class Results:
    """The file of results: a list of entries, the newest last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []
        if path.is_file():
            try:
                self.entries = json.loads(path.read_text(encoding="utf-8"))["results"]
            except (ValueError, TypeError, KeyError):
                raise SystemExit(f"{path} is not a file of benchmark results") from None

    def find(self, entry: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what is known of the same measurement."""
        return next((e for e in reversed(self.entries) if same(e, entry)), None)

    def put(self, entry: dict[str, Any]) -> None:
        """Add an entry, in place of an older one of the same measurement, and write the file."""
        self.entries = [e for e in self.entries if not same(e, entry)] + [entry]
        write_json(self.path, {"results": self.entries})

    def newest(self) -> list[dict[str, Any]]:
        """Return of each part, device and size the newest entry, in the order of `PARTS`."""
        found = {(e["part"], e["device"], e["options"]["quick"]): e for e in self.entries}
        order = list(PARTS)
        return sorted(
            found.values(),
            key=lambda e: order.index(e["part"]) if e["part"] in order else len(order),
        )


def run_part(
    name: str,
    entry: dict[str, Any],
    options: argparse.Namespace,
    known: dict[str, Any] | None,
    limit: float | None,
) -> dict[str, Any]:
    """Run a part in a process of its own and return its entry, whatever happens to it.

    Args:
        name: of the part.
        entry: identifies the measurement.
        options: of this command.
        known: what an interrupted run has left.
        limit: seconds after which it is stopped; None for no limit.
    """
    part = PARTS[name]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "part.json"
        if known is not None:
            write_json(output, known)
        command = [sys.executable, str(HERE / part.script), *part.arguments]
        command += ["--name", name, "--device", options.device, "--output", str(output)]
        command += ["--quick"] if options.quick else []
        command += ["--data", str(options.data)] if options.data else []
        started = time.monotonic()
        code = wait_for(subprocess.Popen(command, start_new_session=True), limit)
        seconds = round(time.monotonic() - started, 1)
        found = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
    result = {"machine": {}, "rows": [], "status": FAILED, "reason": "", **found, **entry}
    if code is None:
        result |= {"status": STOPPED, "reason": f"time was up after {seconds:.0f} s"}
    elif code < 0:
        result |= {"status": FAILED, "reason": f"ended by signal {-code}: out of memory?"}
    elif code and result["status"] != FAILED:
        result |= {"status": FAILED, "reason": f"ended with code {code}"}
    elif not found:
        result |= {"status": FAILED, "reason": f"it wrote no figures (exit code {code})"}
    return {**result, "seconds": seconds}


def wait_for(process: subprocess.Popen[Any], limit: float | None) -> int | None:
    """Wait for a process; return its exit code, or None if it had to be stopped."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        stop(process)
        return None
    except BaseException:
        stop(process)
        raise


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process and those it started."""
    for what in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, what)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        break


def run_all(names: Sequence[str], options: argparse.Namespace, results: Results) -> bool:
    """Run the parts that are missing; return whether time was enough for all."""
    end = time.monotonic() + 60 * options.minutes if options.minutes else None
    for number, name in enumerate(names, start=1):
        entry = identify(name, options.device, options.quick)
        known = results.find(entry)
        head = f"[{number}/{len(names)}] {name}"
        if known is not None and known["status"] == DONE:
            print(f"{head}: in the file already", flush=True)
            continue
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            print(f"{head}: no time left", flush=True)
            return False
        print(f"{head} on {entry['device']}", flush=True)
        result = run_part(name, entry, options, known, left)
        results.put(result)
        if result["status"] != DONE:
            print(f"{head}: {result['status']}: {result['reason']}", flush=True)
        if result["status"] == STOPPED:
            return False
    return True


def main() -> int:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default all: {', '.join(PARTS)}")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, minutes in all")
    parser.add_argument("--output", type=Path, default=Path("benchmarks.json"))
    parser.add_argument("--minutes", type=float, help="stop after so many; call again to go on")
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of datasets")
    parser.add_argument("--table", action="store_true", help="print the table of the file only")
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    names = options.parts or list(PARTS)
    results = Results(options.output)
    complete = True
    if options.table:
        if not results.entries:
            parser.error(f"there are no results in {options.output}")
    else:
        complete = run_all(names, options, results)
    entries = [e for e in results.newest() if e["part"] in names]
    print_table(entries)
    if not complete:
        print("not finished: call it again to go on")
        return NOT_FINISHED
    failed = [e["part"] for e in entries if e["status"] not in (DONE, SKIPPED)]
    print(f"failed: {', '.join(failed)}" if failed else f"finished; figures in {options.output}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
