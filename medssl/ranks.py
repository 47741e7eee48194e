"""Which of several processes this is, as the launcher says in the environment."""

from __future__ import annotations

import os

from medssl.errors import MedSSLError

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
)


def place() -> tuple[int, int, int]:
    """Return this process's number, how many there are, and its number on this machine.

    ``torchrun`` says so by RANK, WORLD_SIZE and LOCAL_RANK. Tasks of SLURM's ``srun`` belong
    together only if MASTER_ADDR says where they meet; without it each works for itself.

    Raises:
        MedSSLError: the environment is that of a launcher, but not whole.
    """
    for names in _LAUNCHERS:
        values = [os.environ.get(name) for name in names]
        if values[0] is None or values[1] in (None, "1") or "MASTER_ADDR" not in os.environ:
            continue
        values[2] = values[2] or values[0]
        if names[0].startswith("SLURM") and "SLURM_GPUS_PER_TASK" in os.environ:
            values[2] = "0"  # each task sees its own card alone, as the first
        try:
            rank, size, local = (int(v) for v in values if v is not None)
        except ValueError:
            raise MedSSLError(
                f"{', '.join(names)} of the environment are not numbers",
                fix="start with `torchrun --nproc-per-node N -m medssl train ...`, or unset them",
            ) from None
        return rank, size, local
    return 0, 1, 0
