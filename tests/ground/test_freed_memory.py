"""Freed memory is kept while something wants it, and given back afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medssl import freed_memory
from medssl.freed_memory import freed_memory_kept

LARGE = 200 * 2**20


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith("VmRSS:"))


def touch_and_free() -> int:
    """Use a large block and free it; return by how much the resident memory has grown."""
    before = resident()
    block = np.ones(LARGE, dtype=np.uint8)
    del block
    return resident() - before


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return what is asked of the C library, in order, from nothing wanted on."""
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(freed_memory, "_wanted", 0)
    monkeypatch.setattr(
        freed_memory,
        "_of_glibc",
        lambda name: lambda *values: calls.append((name, values[-1])) or 1,
    )
    return calls


def test_only_the_first_switches_on_and_only_the_last_off(asked: list[tuple[str, int]]) -> None:
    with freed_memory_kept(2**28):
        on = list(asked)
        with freed_memory_kept(2**29):
            pass
        assert asked == on  # the outer one still wants it
    assert on == [("mallopt", 2**28 + 2**12), ("mallopt", 2**31 - 1)]
    assert asked[2:] == [("mallopt", 2**25), ("mallopt", 2**26), ("malloc_trim", 0)]


@pytest.mark.parametrize(("largest", "threshold"), [(5, 2**25), (2**40, 2**31 - 1)])
def test_what_is_kept_is_at_least_what_the_library_keeps_and_at_most_what_it_takes(
    asked: list[tuple[str, int]], largest: int, threshold: int
) -> None:
    with freed_memory_kept(largest):
        assert asked[0] == ("mallopt", threshold)


def test_a_training_keeps_it_after_its_validations(asked: list[tuple[str, int]]) -> None:
    freed_memory.keep_freed_memory()
    with freed_memory_kept(2**28):
        pass
    assert asked == [("mallopt", 2**30), ("mallopt", 2**31 - 1)]


def test_it_is_given_back_after_an_error(asked: list[tuple[str, int]]) -> None:
    with pytest.raises(ZeroDivisionError), freed_memory_kept(1):
        1 / 0  # noqa: B018 - raises
    assert asked[-1] == ("malloc_trim", 0)


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory, "_wanted", 0)
    monkeypatch.setattr(freed_memory.sys, "platform", "darwin")
    with freed_memory_kept(LARGE):
        assert touch_and_free() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and glibc")
def test_freed_memory_stays_resident_inside_and_leaves_afterwards() -> None:
    if freed_memory._of_glibc("mallopt") is None:
        pytest.skip("needs glibc")
    # In a process of its own: what another test has freed and kept would be used again here.
    code = Path(__file__).read_text().split("@pytest.fixture")[0] + MEASURED
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    kept, left, outside = map(int, done.stdout.split())
    assert kept > LARGE / 2
    assert left < LARGE / 2
    assert outside < LARGE / 2


MEASURED = """
start = resident()
with freed_memory_kept(LARGE):
    touch_and_free()
    kept = resident() - start
print(kept, resident() - start, touch_and_free())
"""
