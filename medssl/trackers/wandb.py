"""Numbers and pictures for Weights & Biases, offline unless the user says otherwise."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.optional import optional_module
from medssl.runs.folder import RunFolder

PROJECT = "medssl"
_QUIET = {
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_SILENT": "true",
}


class WeightsAndBiases:
    """See :class:`medssl.trackers.trackers.Tracker`.

    Everything stays in ``wandb`` in the run folder, for `wandb sync`; ``WANDB_MODE`` in the
    environment says otherwise. Reports of errors, code and console output are switched off.
    """

    def __init__(self, run: RunFolder, known: str | None, step: int) -> None:
        os.environ.update(_QUIET)
        self._wandb: Any = optional_module("wandb", "wandb")
        self.known = known or secrets.token_hex(4)
        self._run: Any = self._wandb.init(
            project=PROJECT,
            name=run.path.resolve().name,
            id=self.known,
            resume="allow",
            dir=str(run.path),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=self._wandb.Settings(x_disable_stats=True, x_disable_meta=True),
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show numbers."""
        self._run.log({key: float(value) for key, value in values.items()}, step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Show a picture."""
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()
