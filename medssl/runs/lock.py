"""One writer per run folder: a lock that names its holder and does not outlive it.

The lock is that of :mod:`medssl.files.lock` on ``RUN/.lock``: the kernel drops it with the process,
however that ends, and loader processes do not inherit it. The file says who holds it (host,
process, when the process started). That alone decides where a file system has no locks: a holder on
this host is looked up by process id and start, which no later process with the same id shares; one
on another host is watched for a heartbeat, which needs no clock.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from medssl.errors import MedSSLError
from medssl.files import locked, refusals, try_lock

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
WATCH_SECONDS = 45.0
"""How long the heartbeat of a holder on another host is waited for."""


@contextmanager
def only_writer(folder: Path, say: Callable[[str], None] = logger.info) -> Iterator[None]:
    """Hold the lock of a run folder, which exists.

    Raises:
        MedSSLError: another process, or another run in this one, writes there.
    """

    def busy(handle: int | None) -> MedSSLError:
        return _refusal(folder, _identity() if handle is None else _read(handle))

    with locked(folder / ".lock", busy=busy) as handle:
        holder = _read(handle)
        if holder and _is_alive(handle, holder, say):
            raise _refusal(folder, holder)
        if holder:
            say(f"note: the lock of a run that was killed is taken over ({_name(holder)})")
        with refusals(folder, what="the run folder cannot be written"):
            _write(handle, {**_identity(), "beat": 0})
        stop = threading.Event()
        beat = threading.Thread(target=_beat, args=(handle, stop), daemon=True)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            os.ftruncate(handle, 0)


def _identity() -> dict[str, Any]:
    """Say which process this is."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "start": _start(os.getpid())}


def _start(pid: int) -> str | None:
    """Return when a process started, in a way that no change of the clock changes; None if gone."""
    try:
        if sys.platform == "linux":
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
            return f"{boot}/{ticks}"
        return str(psutil.Process(pid).create_time())
    except (OSError, IndexError, psutil.Error):
        return None


def _is_alive(handle: int, holder: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Say whether a process that the kernel does not know as the holder still writes."""
    if holder.get("host") == socket.gethostname():
        if holder["pid"] == os.getpid():
            return False  # this process has it not, or it would be among those held
        start = _start(int(holder["pid"]))
        return start is not None and start == holder.get("start")
    say(f"waiting up to {WATCH_SECONDS:.0f} s to see whether {_name(holder)} still runs")
    until = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < until:
        time.sleep(min(1.0, WATCH_SECONDS / 10))
        now = _read_again(handle)
        if not now:
            return False
        if now != holder:
            return True
    return False


def _beat(handle: int, stop: threading.Event) -> None:
    """Count up in the file, for those on other hosts."""
    count = 0
    while not stop.wait(BEAT_SECONDS):
        count += 1
        try:
            _write(handle, {**_identity(), "beat": count})
        except OSError:  # a full disk ends the run elsewhere, with a better message
            continue


def _write(handle: int, content: dict[str, Any]) -> None:
    data = json.dumps(content).encode()
    os.pwrite(handle, data.ljust(256), 0)  # of one length: never a part of an older one behind


def _read(handle: int) -> dict[str, Any] | None:
    try:
        content = json.loads(os.pread(handle, 4096, 0))
    except (OSError, ValueError):
        return None
    named = isinstance(content, dict) and isinstance(content.get("pid"), int)
    return content if named and isinstance(content.get("host"), str) else None


def _read_again(handle: int) -> dict[str, Any] | None:
    """Read what a server has now: locking anew makes the client forget its cached copy."""
    try_lock(handle)
    return _read(handle)


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}"


def _refusal(folder: Path, holder: dict[str, Any] | None) -> MedSSLError:
    who = _name(holder) if holder else "another process"
    return MedSSLError(
        f"{who} is training in this run folder",
        where=folder,
        fix="wait for it or end it, then resume; or train into another --output",
    )
