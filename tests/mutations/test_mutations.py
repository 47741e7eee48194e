"""Deliberate faults are noticed: the table fits the sources, and a sample of it is run each day."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
SAMPLE = os.environ.get("MEDSSL_MUTATIONS", "5")
"""Rows that are run; of another day's sample, or all: ``python tests/mutations/run.py``."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_each_row_of_the_table_fits_the_sources() -> None:
    """Where a row's text is gone, its fault is planted no more: mend the row with the code."""
    done = run("--check")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_faults_of_today_are_caught() -> None:
    done = run("--sample", SAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_fault_that_no_test_notices_is_told(tmp_path: Path) -> None:
    """The runner itself: a change that is none, and one that breaks the import, are not caught."""
    table = tmp_path / "table.yaml"
    rows = """
- {fault: nothing is wrong, file: ops/boxes.py, find: "box = []", put: "box = list()", tests: &t [
    tests/ops/test_ops_mixing.py::test_an_empty_or_full_box_is_refused]}
- {fault: it cannot be loaded, file: ops/boxes.py, find: "box = []", put: "box = [", tests: *t}
- {fault: it raises, file: ops/boxes.py, find: "size < 1 or", put: "size < None or", tests: *t}
- {fault: boxes may be empty, file: ops/boxes.py, find: "size < 1 or ", put: "", tests: *t}
"""
    table.write_text(rows)
    done = run("--table", str(table))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "nothing is wrong: NOT CAUGHT (all passed)" in done.stdout
    assert "cannot be loaded: NOT CAUGHT (CollectError" in done.stdout
    assert "it raises: NOT CAUGHT (TypeError" in done.stdout
    assert "boxes may be empty: tests/ops/" in done.stdout
    assert "1 of 4 caught" in done.stdout
    table.write_text(rows.replace("box = []", "no such text"))
    gone = run("--table", str(table))
    assert gone.returncode == 1
    assert "stands 0 times in medssl/ops/boxes.py" in gone.stdout
