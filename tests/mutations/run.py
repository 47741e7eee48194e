"""Plant faults in copies of the package, one at a time: a named test must fail for each.

    python tests/mutations/run.py                     # the whole table
    python tests/mutations/run.py --only 'bcp|ema'    # rows whose file or fault matches
    python tests/mutations/run.py --sample 6          # of today; --seed takes others
    python tests/mutations/run.py --check             # that the table fits the sources; runs none

``table.yaml`` lists them: a file of the package, a text that stands in it once, what to put there,
and the tests that must notice. A row holds if the first of its tests to fail fails by an assertion:
an import error, an exception of another kind or a time-out proves nothing. The working tree is
never touched. Exit code 1 if a fault is not caught, or if the table no longer fits the sources.

Runs are forks of a process that has loaded the libraries, each with a copy of its own: two to three
seconds of processor time for most rows.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HEAVY = (
    "torch",
    "torch._dynamo",  # which every optimizer loads
    "monai.networks.nets",
    "monai.inferers",
    "scipy.ndimage",
    "nibabel",
    "SimpleITK",
    "hypothesis",  # a plugin of pytest, which would compile it for each run
    "pydantic",
    "rich.progress",
)
"""What takes seconds to load; nothing of the package, which each run takes from its copy."""


@dataclass(frozen=True)
class Mutation:
    """A deliberate fault.

    Attributes:
        fault: what is wrong then, in words.
        file: of the package, relative to it.
        find: text that stands in the file exactly once.
        put: what stands there instead.
        tests: node ids relative to the repository; one of them must fail.
    """

    fault: str
    file: str
    find: str
    put: str
    tests: tuple[str, ...]

    def problem(self) -> str | None:
        """Return why the row does not fit the sources, None if it does."""
        path = ROOT / "medssl" / self.file
        if not path.is_file():
            return f"there is no medssl/{self.file}"
        count = path.read_text().count(self.find)
        if count != 1:
            return f"its text stands {count} times in medssl/{self.file}, not once"
        if self.find == self.put or not self.tests:
            return "it changes nothing, or names no test"
        for test in self.tests:
            name, _, function = re.sub(r"\[.*", "", test).partition("::")
            file = ROOT / name
            if not file.is_file() or f"def {function}(" not in file.read_text():
                return f"there is no test {test}"
        return None

    def plant(self, folder: Path) -> None:
        """Copy the package, and what ships beside it, into a folder, with the fault."""
        # Compiled files come along: they fit as long as source and time of it are the same.
        shutil.copytree(ROOT / "medssl", folder / "medssl")
        for shipped in ("recipes", "data_specs"):
            (folder / shipped).symlink_to(ROOT / shipped)
        path = folder / "medssl" / self.file
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()
        path.write_text(path.read_text().replace(self.find, self.put))


def read_table(path: Path) -> list[Mutation]:
    """Return the rows of a table."""
    rows = yaml.safe_load(path.read_text())
    return [Mutation(**{**row, "tests": tuple(row["tests"])}) for row in rows]


class Witness:
    """A pytest plugin that notes how the first test failed."""

    def __init__(self) -> None:
        self.test, self.how, self.words = "", "", ""

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        """Note a failure; called for errors of collection and fixtures too."""
        if not self.how:
            kinds = {kind.__name__ for kind in call.excinfo.type.__mro__}
            failed = kinds & {"AssertionError", "Failed"} and getattr(report, "when", "") == "call"
            self.words = f"{str(call.excinfo.value).strip()}\n".splitlines()[0][:100]
            late = self.words.startswith("Timeout")
            self.how = "assertion" if failed and not late else call.excinfo.type.__name__
            self.test = node.nodeid


def be_pytest(mutation: Mutation, folder: Path) -> None:
    """Run a mutation's tests in this process, which is there for nothing else; write the verdict.

    Processes that a test starts with ``python -m medssl`` find the copy too.
    """
    mutation.plant(folder)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)
    with (folder / "log").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import pytest

    witness = Witness()
    tests = [str(ROOT / test) for test in mutation.tests]
    where = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    options = ["-x", "-n", "0", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}"]
    code = pytest.main([*where, *options, *tests], plugins=[witness])
    if code not in (0, 1) and witness.how in ("", "assertion"):
        witness.how = f"pytest ended with {int(code)}"
    loaded = sys.modules.get("medssl")
    if loaded is None or not Path(str(loaded.__file__)).is_relative_to(folder):
        witness.how = "tests of another medssl"
    verdict = {"code": int(code), "seconds": time.process_time(), **vars(witness)}
    (folder / "verdict.json").write_text(json.dumps(verdict))


def run(rows: Sequence[Mutation], jobs: int) -> Iterator[tuple[Mutation, dict[str, Any]]]:
    """Yield each row with its verdict, ``jobs`` at a time."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for name in HEAVY:
        importlib.import_module(name)
    forks = multiprocessing.get_context("fork")
    waiting, running = list(rows), dict[Any, Any]()
    with tempfile.TemporaryDirectory() as temporary:
        while waiting or running:
            while waiting and len(running) < jobs:
                row = waiting.pop(0)
                folder = Path(tempfile.mkdtemp(dir=temporary)).resolve()
                process = forks.Process(target=be_pytest, args=(row, folder))
                process.start()
                running[process.sentinel] = (row, folder, process)
            for sentinel in wait(list(running)):
                row, folder, process = running.pop(sentinel)
                process.join()
                file = folder / "verdict.json"
                died = {"how": f"exit code {process.exitcode}", "words": "", "seconds": 0.0}
                verdict = json.loads(file.read_text()) if file.is_file() else died
                verdict["log"] = (folder / "log").read_text() if (folder / "log").is_file() else ""
                yield row, verdict
                shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run what the command line asks for, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, default=HERE / "table.yaml", help="the rows")
    parser.add_argument("--only", default="", metavar="PATTERN", help="rows with it (a regex)")
    parser.add_argument("--sample", type=int, metavar="N", help="so many rows, drawn by the seed")
    parser.add_argument("--seed", type=int, default=date.today().toordinal(), help="today's day")
    parser.add_argument("--jobs", type=int, default=1, help="rows at a time")
    parser.add_argument("--check", action="store_true", help="look at the table alone")
    parser.add_argument("--verbose", action="store_true", help="show what pytest says of escapes")
    options = parser.parse_args()
    table = read_table(options.table)
    stale = [f"{row.fault}: {row.problem()}" for row in table if row.problem()]
    if stale or options.check:
        print(*stale, f"{len(table)} rows, {len(stale)} do not fit the sources", sep="\n")
        return int(bool(stale))
    rows = [row for row in table if re.search(options.only, f"{row.file} {row.fault}", re.I)]
    if options.sample is not None:
        rows = random.Random(options.seed).sample(rows, min(options.sample, len(rows)))
        print(f"sample of seed {options.seed}")
    caught = 0
    for row, verdict in run(rows, options.jobs):
        good = verdict["how"] == "assertion"
        caught += good
        told = verdict["test"] if good else f"NOT CAUGHT ({verdict['how'] or 'all passed'})"
        print(f"{verdict['seconds']:4.1f} s  {row.fault}: {told}", flush=True)
        if not good and options.verbose:
            print(verdict["log"][-3000:])
    print(f"{caught} of {len(rows)} caught")
    return int(caught < len(rows))


if __name__ == "__main__":
    sys.exit(main())
