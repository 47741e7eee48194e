"""Start one cross-validation again and again, and kill it each time at another moment.

``python kill_crossval.py RECIPE FOLDERS SEED [WORD...]`` works as :mod:`kill_loop` does:
``FOLDERS/whole`` is made without a kill, ``FOLDERS/pieces`` is killed within folds, between them
and in evaluation, and may then end. The words, if any, are another command of many runs.
Prints a JSON object per child.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from kill_loop import arm, seconds, start

PLACES = (("batch", 3), ("figures", 1), ("optimizer", 2), ("rename", 12))
"""Where a child is killed, and at which time it comes by there; ``figures`` is evaluation.

What else a single run can be killed in is the subject of :mod:`kill_loop`."""
TIMED = 3
SHARES = (0.05, 0.3)
"""Kills from outside, after such shares of the processor time that the whole one took."""


def report(folder: Path, place: str | None, amount: float, ended: int) -> None:
    """Print what became of a child, and how many runs are finished."""
    status = [json.loads(p.read_text()).get("status") for p in folder.rglob("manifest.json")]
    done = status.count("finished")
    print(json.dumps({"place": place, "at": amount, "ended": ended, "finished": done}), flush=True)


def main(recipe: str, folders: Path, seed: int, *given: str) -> None:
    """Make one cross-validation whole and one in pieces."""
    asked = given or ("crossval", recipe, "--folds", "2")
    words = ["--quiet", *asked, "--device", "cpu", "--output"]
    whole, pieces = folders / "whole", folders / "pieces"
    report(whole, None, 0, start([*words, str(whole)], lambda: None))
    took, rng = seconds(), np.random.default_rng(seed)
    plan = [*PLACES, *[("timer", 0)] * TIMED]
    for index in rng.permutation(len(plan)).tolist():
        place, times = plan[index]
        if place == "timer":
            allowed = round(took * float(rng.uniform(*SHARES)), 3)
            ended = start([*words, str(pieces)], lambda: None, allowed=allowed)
            report(pieces, place, allowed, ended)
        else:
            ended = start([*words, str(pieces)], lambda p=place, n=times: arm(p, n))
            report(pieces, place, times, ended)
    report(pieces, None, 0, start([*words, str(pieces)], lambda: None))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
