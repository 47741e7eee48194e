"""Numbers and pictures as TensorBoard's event files, in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.runs.folder import RunFolder


class TensorBoard:
    """See :class:`medssl.trackers.trackers.Tracker`."""

    known = None

    def __init__(self, run: RunFolder, known: str | None, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run.tensorboard), purge_step=step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Show numbers."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Show a picture."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
