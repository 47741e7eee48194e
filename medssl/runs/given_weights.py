"""Where weights to start from come from: what ``network.init`` names, told apart without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medssl.errors import MedSSLError
from medssl.runs.folder import RunFolder
from medssl.runs.lineage import CROSSVAL, INIT

Kind = Literal["run", "bundle", "file"]
STARTED_FROM = "init"
"""Key of a run's manifest: what weights it started from."""
TAUGHT_BY = "teacher"
"""Key of a run's manifest: which trained model taught it."""
FILES = (".pt", ".pth", ".ckpt", ".bin", ".model")


@dataclass(frozen=True)
class WeightSource:
    """Trained weights to start from.

    Attributes:
        kind: what holds them.
        path: the run, the bundle or the file.
        file: the file with the weights.
    """

    kind: Kind
    path: Path
    file: Path


def find_weights(path: Path) -> WeightSource:
    """Tell what holds the weights to start from.

    Args:
        path: a run folder or a checkpoint in one, a MONAI bundle (an installed model is one), or a
            file of weights.

    Raises:
        MedSSLError: it is none of these, or a whole cross-validation.
    """
    if not path.exists():
        raise MedSSLError(
            f"{INIT} names nothing that is there",
            where=path,
            fix="correct the path in the recipe; `medssl models` lists what is installed",
        )
    if (path / CROSSVAL).is_file():
        raise MedSSLError(
            f"{INIT} names a cross-validation, whose folds are models of their own",
            where=path,
            fix=f"name one of them ({path / 'fold_0'}); or let `medssl crossval` start each fold "
            "from the same fold there",
        )
    run = RunFolder(path)
    if run.recipe.is_file():
        return WeightSource("run", path, run.best() if run.best().is_file() else run.last)
    if (path / "configs" / "metadata.json").is_file():
        return WeightSource("bundle", path, path / "models" / "model.pt")
    inside = path.parent.name == "checkpoints" and RunFolder(path.parent.parent).recipe.is_file()
    if path.is_file() and inside:
        return WeightSource("run", path.parent.parent, path)
    if path.is_file() and path.suffix in FILES:
        return WeightSource("file", path, path)
    raise MedSSLError(
        f"{INIT} names what is no run, no MONAI bundle and no file of weights",
        where=path,
        fix=f"name a run folder, a bundle (with configs/metadata.json) or a file that torch saved "
        f"({', '.join(FILES)}); unpack archives first",
    )
