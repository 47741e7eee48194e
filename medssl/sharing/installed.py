"""The models that are installed, as their folders say; nothing of them is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError, did_you_mean
from medssl.files import discard_folder
from medssl.settings.model_names import (
    DESCRIPTION,
    installed_models,
    is_installed_model,
    models_folder,
)


@dataclass(frozen=True)
class InstalledModel:
    """An installed model.

    Attributes:
        name: by which commands know it.
        path: its folder, a MONAI bundle.
        modality: of its images.
        structures: it finds.
        method: it was trained by.
        dice: mean over structures and patients of its evaluation; None: not evaluated.
        patients: that this rests on.
        authors: as they said.
        bytes: it takes on the disk.
        package_sha256: of the file that it came in.
    """

    name: str
    path: Path
    modality: str
    structures: tuple[str, ...]
    method: str
    dice: float | None
    patients: int
    authors: str
    bytes: int
    package_sha256: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}


def list_models() -> dict[str, InstalledModel]:
    """Return the installed models by name.

    Example:
        >>> medssl.list_models()["mine"].structures
        ('arc', 'wall', 'node')
    """
    return {name: _read(path) for name, path in installed_models().items()}


def _read(path: Path) -> InstalledModel:
    try:
        record = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        content = record["description"]
        figures = content.get("figures") or {}
        dice = figures.get("overall", {}).get("metrics", {}).get("dice", {}).get("mean")
        return InstalledModel(
            path.name,
            path,
            str(content["spec"]["modality"]),
            tuple(one.name for one in LabelMap.from_dict(content["labels"]).structures),
            str(content["method"]),
            None if dice is None else float(dice),
            int(figures.get("n_patients", 0)),
            str(content["authors"]),
            sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
            str(record["package_sha256"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedSSLError(
            f"an installed model is damaged ({type(error).__name__})",
            where=path,
            fix="remove its folder, and install it again",
        ) from None


def remove_model(name: str) -> Path:
    """Remove an installed model, and return where it was.

    Raises:
        MedSSLError: there is none of that name, or the disk refuses.
    """
    path = models_folder() / name
    if Path(name).name != name or not is_installed_model(path):
        known = installed_models()
        raise MedSSLError(
            f"no model {name!r} is installed",
            fix=did_you_mean(name, known) if known else "see `medssl models`",
        )
    discard_folder(path)
    return path
