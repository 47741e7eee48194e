"""The options of a SLURM queue, from ``--slurm KEY=VALUE`` to what submitit takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from medssl.errors import MedSSLError

NOTICE_SECONDS = 120
"""How long before its end a job is told, unless ``signal_delay_s`` says otherwise."""

_NUMBERS = ("cpus_per_task", "gpus_per_node", "timeout_min", "signal_delay_s")
_OWNED = ("array", "error", "input", "job_name", "open_mode", "output", "signal", "wrap")
_ONE = ("nodes", "ntasks", "ntasks_per_node", "tasks_per_node")
_KEY = re.compile(r"[a-z][a-z0-9_]*")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def parse_options(given: Sequence[str]) -> dict[str, Any]:
    """Read ``--slurm KEY=VALUE`` options into what submitit takes.

    Keys are those of ``sbatch`` with ``_`` or ``-``; a key without a value is a flag. Besides,
    ``mem_gb``, ``timeout_min``, ``signal_delay_s``, and ``setup``, a shell command to run first.

    Raises:
        MedSSLError: no time, an unreadable value, or an option that is not the user's to set.
    """
    options: dict[str, Any] = {"slurm_signal_delay_s": NOTICE_SECONDS}
    others: dict[str, Any] = {"requeue": True}
    setup: list[str] = []
    for text in given:
        key, equals, value = text.partition("=")
        key, value = key.strip().removeprefix("--").replace("-", "_"), value.strip()
        _check_option(text, key, value)
        if key == "time":
            options["timeout_min"] = _minutes(value)
        elif key == "mem_gb":
            options["mem_gb"] = _number(text, value, float)
        elif key in _NUMBERS:
            name = key if key != "signal_delay_s" else "slurm_signal_delay_s"
            options[name] = _number(text, value, int)
        elif key in _ONE:
            if value != "1":
                raise _refused(text, "each run is one process", "leave it out")
        elif key == "setup":
            setup.append(value)
        else:
            others[key] = value if equals else True
    if "timeout_min" not in options:
        raise MedSSLError(
            "how long may a job take?",
            where="--slurm",
            fix="add --slurm time=12:00:00, at most the limit of the queue: a run that takes "
            "longer is requeued and goes on",
        )
    if setup:
        options["slurm_setup"] = setup
    return {**options, "slurm_additional_parameters": others}


def _check_option(text: str, key: str, value: str) -> None:
    if not _KEY.fullmatch(key) or any(ord(c) < 32 for c in text):
        raise _refused(text, "it cannot be read", "write KEY=VALUE, such as partition=gpu")
    if key in _OWNED:
        raise _refused(text, "medssl sets it itself", "leave it out")
    if not value and "=" in text:
        raise _refused(text, "it has no value", f"write {key}=VALUE, or {key} alone for a flag")


def _number(text: str, value: str, kind: type) -> Any:
    try:
        number = kind(value)
    except ValueError:
        number = 0
    if not 0 < number < 1e9:
        raise _refused(text, "it is no positive number", "give a number, such as 8")
    return number


def _minutes(value: str) -> int:
    """Read a time limit as sbatch does: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S``.

    Returns:
        Whole minutes, rounded up.
    """
    found = _TIME.fullmatch(value)
    if not found:
        raise _refused(
            f"time={value}", "it is no time", "write hours:minutes:seconds, or days-hours"
        )
    days, *given = found.groups()
    parts = [int(x) for x in given if x is not None]
    if days is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    total = int(days or 0) * 1440 + hours * 60 + minutes + -(-seconds // 60)
    if not 0 < total < 10**6:
        raise _refused(
            f"time={value}", "it is no time", "write hours:minutes:seconds, or days-hours"
        )
    return total


def _refused(text: str, reason: str, fix: str) -> MedSSLError:
    return MedSSLError(f"--slurm {text}: {reason}", where="--slurm", fix=fix)
