"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os

# Test processes share the cores; set before torch is imported.
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("MEDSSL_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the research data, where it is present beside the project."""
    path = SHARED / "data"
    if not path.is_dir():
        pytest.skip(f"research data not present at {path}")
    return path


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """Read a file of golden numbers computed with reference code, where present."""

    def read(name: str) -> dict[str, Any]:
        path = SHARED / "golden" / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"golden numbers not present at {path}")
        return json.loads(path.read_text())

    return read


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that hold slow tests, so that no process is left alone with one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one process more than there are cores: many tests wait for a child or the clock."""
    return (os.cpu_count() or 1) + 1
