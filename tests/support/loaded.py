"""What a Python process loads to do something."""

from __future__ import annotations

import json
from dataclasses import dataclass

from forks import LIGHT, forks

HEAVY = ("torch", "monai")

_REPORT = "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))\n"


@dataclass(frozen=True)
class Loaded:
    """What a process did.

    Attributes:
        output: what it printed, both streams.
        modules: every module it had imported at its end.
    """

    output: str
    modules: tuple[str, ...]

    @property
    def heavy(self) -> list[str]:
        """The packages among the modules that take seconds to load."""
        return [name for name in HEAVY if name in self.modules]


def run_code(code: str, *, before: tuple[str, ...] = LIGHT) -> Loaded:
    """Run code, which has to end well, in a process that has loaded no more than ``before``."""
    done = forks(*before).run(code + _REPORT)
    assert done.code == 0, done.output
    *output, modules = done.output.splitlines()
    return Loaded("\n".join(output), tuple(json.loads(modules)))


def run_command(*arguments: str, before: tuple[str, ...] = LIGHT) -> tuple[int, Loaded]:
    """Run a command line in such a process; returns its exit code and what was loaded."""
    code = f"from medssl.cli import run\nprint('exit code', run({list(arguments)!r}))\n"
    loaded = run_code(code, before=before)
    return int(loaded.output.rsplit(maxsplit=1)[-1]), loaded
