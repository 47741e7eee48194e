"""Processes that start at once: forks of one that has loaded what takes seconds to load.

A test whose subject is not how Python starts runs code here instead of in a fresh interpreter. No
module of medssl is loaded beforehand, so that what a test says of its imports holds. As a program,
``python forks.py MODULE...`` loads modules, then reads lines: a JSON list of jobs, which run at the
same time, and answers with the list of their exit codes.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

LIGHT = ("nibabel", "numpy", "pydantic", "rich.table", "scipy.ndimage", "typer", "yaml")
"""What medssl needs for anything but ``--help``."""
HEAVY = (
    *LIGHT,
    "SimpleITK",
    "jinja2",
    "matplotlib.backends.backend_agg",
    "monai.inferers",
    "monai.networks.nets",
    "psutil",
    "rich.progress",
    "torch._dynamo",  # which every optimizer loads
    "torch.utils.tensorboard",
)
"""What training and all that follows needs."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus a signal), and all that it printed."""

    code: int
    output: str


class Forks:
    """A process with modules loaded, of which jobs are forks."""

    def __init__(self, modules: Sequence[str]) -> None:
        package = importlib.util.find_spec("medssl")
        assert package is not None
        assert package.origin is not None
        one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._environment = {**one, "PYTHONPATH": str(Path(package.origin).parents[1])}
        environment = {**os.environ, **self._environment}
        command = [sys.executable, __file__, *modules]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )

    def together(
        self, code: str, environments: Sequence[Mapping[str, str]], *, cwd: str | Path = "."
    ) -> list[Ended]:
        """Run the same code in several processes at a time, each with more in its environment."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder) / str(number) for number in range(len(environments))]
            jobs = [
                {
                    "code": code,
                    "cwd": str(Path(cwd).resolve()),
                    "environment": {**os.environ, **self._environment, **more},
                    "output": str(output),
                }
                for more, output in zip(environments, outputs, strict=True)
            ]
            stdin.write(json.dumps(jobs) + "\n")
            stdin.flush()
            codes = json.loads(stdout.readline())
            return [Ended(c, o.read_text()) for c, o in zip(codes, outputs, strict=True)]

    def run(self, code: str, *, cwd: str | Path = ".", **environment: str) -> Ended:
        """Run code in a process, with more in its environment."""
        return self.together(code, [environment], cwd=cwd)[0]


@cache
def forks(*modules: str) -> Forks:
    """Return the process that has loaded these modules, the same one for all tests."""
    return Forks(modules)


def command(*words: str | Path) -> str:
    """Return the code that is ``python -m medssl``."""
    argv = ["medssl", *map(str, words)]
    run = "runpy.run_module('medssl', run_name='__main__', alter_sys=True)"
    return f"import runpy, sys\nsys.argv = {argv!r}\n{run}\n"


def as_torchrun_does(processes: int) -> list[dict[str, str]]:
    """Return what torchrun puts into the environment of so many processes on this machine."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    return [{**meet, "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(processes)]


def next_job() -> dict[str, Any]:
    """Answer until the caller is gone, which ends this process; in a fork, return its job."""
    for line in sys.stdin:
        children = []
        for job in json.loads(line):
            children.append(os.fork())
            if children[-1] == 0:
                return dict(job)
        codes: dict[int, int] = {}
        while len(codes) < len(children):
            ended, status = os.wait()
            codes[ended] = os.waitstatus_to_exitcode(status)
            if codes[ended]:  # one that fails ends the others, as torchrun does it
                for other in set(children) - set(codes):
                    os.kill(other, signal.SIGTERM)
        print(json.dumps([codes[child] for child in children]), flush=True)
    sys.exit()


if __name__ == "__main__":
    del sys.path[0]  # the helpers of tests
    for name in sys.argv[1:]:
        importlib.import_module(name)
    job = next_job()
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(job["output"], 577, 0o600)
    for target, source in enumerate((nothing, output, output)):
        os.dup2(source, target)
    exec(job["code"], {"__name__": "__main__"})
