"""Start one training again and again, and kill it each time at another moment.

``python kill_loop.py RECIPE RUNS SEED KILLS`` imports everything once and forks a child per start,
so that a start costs no imports. A child runs ``medssl train --resume-or-start`` and dies by
SIGKILL: its own at the n-th time it comes by a chosen place, or its parent's after so much of its
processor time, in the middle of anything. First ``RUNS/whole`` is trained without a kill;
what that took is the measure of the timers, so nothing depends on how fast the machine is. Then
``RUNS/pieces`` is killed so often, once more after its training, and may end. Prints a JSON object
per child.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from medssl import cli
from medssl.data.patches.sampling import PatchSampler
from medssl.runs import folder as run_folder
from medssl.training import validation
from medssl.workflows import training_run

PLACES = {
    "save": 3,
    "fsync": 6,
    "link": 3,
    "rename": 16,
    "line": 4,
    "batch": 16,
    "optimizer": 6,
    "validation": 3,
}
"""Where a child may be killed, and at most how often it comes by there before that."""
TIMED = 7
"""How many of the kills come from outside, after some of the child's processor time."""
SHARES = (0.03, 0.09)
"""That time, as a share of what the whole run takes."""


def die() -> None:
    """End this process as kill -9 does: no handler, no buffer, no lock is looked after."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(place: str, times: int) -> None:
    """Die when this process comes by a place for the ``times``-th time."""
    left = [times]

    def counted(function: Callable[..., Any], half: Callable[..., Any] | None = None) -> Any:
        def called(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if half is not None:
                    half(*arguments)
                die()
            return function(*arguments, **options)

        return called

    def half_saved(state: Any, file: Any) -> None:
        class Cut:
            room = 4000

            def write(self, data: Any) -> int:
                piece = bytes(data)[: self.room]
                file.write(piece)
                file.flush()
                self.room -= len(piece)
                if not self.room:
                    die()
                return len(data)

            def flush(self) -> None:
                file.flush()

        torch_save(state, Cut())

    def half_line(path: Path, record: dict[str, Any]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(record)[:20])

    torch_save = torch.save
    if place == "save":
        torch.save = counted(torch.save, half_saved)
    elif place == "rename":
        os.replace, os.rename = counted(os.replace), counted(os.rename)
    elif place in ("fsync", "link"):
        setattr(os, place, counted(getattr(os, place)))
    elif place == "line":
        run_folder.append_line = counted(run_folder.append_line, half_line)
    elif place == "batch":
        PatchSampler.batch = counted(PatchSampler.batch)  # type: ignore[method-assign]
    elif place == "optimizer":
        for kind in (torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam):
            step = kind.step
            kind.step = counted(step, step)  # type: ignore[method-assign]
    elif place == "validation":
        validation.case_dice = counted(validation.case_dice)
    elif place == "figures":
        training_run._evaluate_splits = counted(training_run._evaluate_splits)


def start(
    command: Sequence[str], prepare: Callable[[], object], *, allowed: float | None = None
) -> int:
    """Run a command of medssl in a child; return the signal that ended it, or minus its exit code.

    Args:
        command: its words.
        prepare: called in the child.
        allowed: seconds of the child's processor time after which it is killed.
    """
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            torch.set_num_threads(1)
            prepare()
            code = cli.run(list(command))
        finally:
            os._exit(code)
    if allowed is not None:
        child = psutil.Process(pid)
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            used = child.cpu_times()
            if used.user + used.system >= allowed:
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.002)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)


def seconds() -> float:
    """Return the processor time of all children so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(run: Path, place: str | None, amount: float, ended: int) -> None:
    """Print what became of a child, and where its run stands."""
    step = run_folder.RunFolder(run).read_manifest().get("iterations_done", 0)
    print(json.dumps({"place": place, "at": amount, "ended": ended, "step": step}), flush=True)


def main(recipe: str, runs: Path, seed: int, kills: int) -> None:
    """Train one run whole and one in pieces."""
    words = ["train", recipe, "--resume-or-start", "--output"]
    report(runs / "whole", None, 0, start([*words, str(runs / "whole")], lambda: None))
    whole, run = seconds(), runs / "pieces"
    pieces = [*words, str(run)]
    rng = np.random.default_rng(seed)
    places = list(PLACES)
    plan = [places[i % len(places)] for i in range(kills - TIMED)] + ["timer"] * TIMED
    for place in rng.permutation(plan).tolist():
        if place == "timer":
            amount = round(whole * float(rng.uniform(*SHARES)), 3)
            ended = start(pieces, lambda: None, allowed=amount)
        else:
            amount = int(rng.integers(1, PLACES[place] + 1))
            ended = start(pieces, lambda p=place, n=amount: arm(p, n))
        report(run, place, amount, ended)
    report(run, "figures", 1, start(pieces, lambda: arm("figures", 1)))
    report(run, None, 0, start(pieces, lambda: None))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
