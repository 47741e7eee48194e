"""Train recipes one after another in the processes that a launcher started: FOLDER NAME..."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import medssl
from medssl.training.distributed import joined, this_world

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with joined(this_world(), torch.device("cpu")):
        for name in sys.argv[2:]:
            medssl.train(folder / f"{name}.yaml", output=folder / f"together-{name}")
