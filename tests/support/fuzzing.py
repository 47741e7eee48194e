"""Make hostile variants of valid input, for the fuzz tests: seeded, and bounded by a setting."""

from __future__ import annotations

import contextlib
import copy
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("MEDSSL_FUZZ_EXAMPLES", "30"))
"""Examples per test; the default keeps all of them together under 20 seconds."""
SPARE_BYTES = 3 * 10**9
GROWTH_BYTES = 4 * 10**8

HOSTILE: list[Any] = [
    *(None, True, -1, 0, 2**31, 10**30, 1e308, float("nan"), float("inf"), -0.5),
    *("", " ", "..", "../x.nii.gz", "/etc/x.nii.gz", "a/../../x.nii.gz", "a\0b", "a\nb", "\x1b[2J"),
    *("x" * 5000, "x" * 300 + ".nii.gz", "9" * 5000, "C:\\x.nii.gz", "http://x/y.nii.gz", "~"),
    *("=1+1", "(", "*", "${HOME}", "{0.__class__}", "!!python/object/apply:os.system [x]", "脳"),
    *([], {}, [[]], [None], {"": None}, [1, "a"], {"0": {"0": {}}}, ["imagesTr/a.nii.gz"] * 3),
    *("imagesTr/b.nii.gz", "imagesTr", {"image": "imagesTr/b.nii.gz"}, "background", "0", "255"),
]

changes = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.sampled_from(["replace", "delete", "repeat", "rename"]),
        st.sampled_from(HOSTILE),
    ),
    min_size=1,
    max_size=3,
)
"""Changes of nested values: which one, what is done, and with what."""

byte_changes = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.sampled_from(["set", "cut", "insert", "drop"]),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)

bounded = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def mutate(value: Any, drawn: list[tuple[int, str, Any]]) -> Any:
    """Return a copy of nested lists and mappings with some of its values made hostile."""
    value = copy.deepcopy(value)
    for number, kind, hostile in drawn:
        places = list(_places(value))
        if not places:
            break
        holder, key = places[number % len(places)]
        if kind == "delete":
            del holder[key]
        elif kind == "repeat" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif kind == "rename" and isinstance(holder, dict) and isinstance(hostile, str):
            holder[hostile] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(hostile)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(pairs):
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def mutate_bytes(raw: bytes, drawn: list[tuple[int, str, bytes]], *, within: int = 10**6) -> bytes:
    """Return bytes changed at a few places of the first ``within``."""
    out = bytearray(raw)
    for number, kind, new in drawn:
        at = number % max(1, min(len(out), within))
        if kind == "set":
            out[at : at + len(new)] = new
        elif kind == "cut":
            del out[at:]
        elif kind == "insert":
            out[at:at] = new
        else:
            del out[at : at + len(new)]
    return bytes(out)


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Allow a few GB more of address space, and fail if resident memory peaks far higher."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + SPARE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert grown < GROWTH_BYTES, f"memory grew by {grown / 1e6:.0f} MB"


def files_below(folder: Path, *, but: Path) -> set[Path]:
    """Return all files and folders below one, except what lies in ``but``."""
    return {p for p in folder.rglob("*") if p != but and but not in p.parents}


def survives(action: Callable[[], Any], *allowed: type[Exception]) -> Any:
    """Return what the action gives, or None where it raises one of the allowed errors."""
    message = ""
    try:
        return action()
    except allowed as error:
        message = str(error)
    assert message.strip(), "an error without a message"
    assert len(message.splitlines()) <= 8, message
    return None
