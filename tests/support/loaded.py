"""What a fresh Python process loads to do something, and the processor time it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

HEAVY = ("torch", "monai")

_REPORT = """
import json, resource, sys
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([sorted(sys.modules), used.ru_utime + used.ru_stime]))
"""


@dataclass(frozen=True)
class Loaded:
    """What a process did.

    Attributes:
        output: what it printed, both streams.
        modules: every module it had imported at its end.
        seconds: of processor time, its start included.
    """

    output: str
    modules: tuple[str, ...]
    seconds: float

    @property
    def heavy(self) -> list[str]:
        """The packages among the modules that take seconds to load."""
        return [name for name in HEAVY if name in self.modules]


def run_code(code: str) -> Loaded:
    """Run code in a fresh process, which has to end well."""
    done = subprocess.run(
        [sys.executable, "-c", code + _REPORT],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    *output, report = done.stdout.splitlines()
    modules, seconds = json.loads(report)
    return Loaded("\n".join(output), tuple(modules), seconds)


def run_command(*arguments: str) -> tuple[int, Loaded]:
    """Run a command line in a fresh process; returns its exit code and what was loaded."""
    code = f"from medssl.cli import run\nprint('exit code', run({list(arguments)!r}))\n"
    loaded = run_code(code)
    return int(loaded.output.rsplit(maxsplit=1)[-1]), loaded
