"""The folder of `medssl atlas`: its atlases, and how well they predict each other."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medssl.atlases.scans import Atlases
from medssl.atlases.settings import AtlasSettings
from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.split_file import load_splits
from medssl.data.opened import open_dataset
from medssl.errors import MedSSLError
from medssl.files import write_json
from medssl.recipe.load import load_recipe
from medssl.runs.folder import RunFolder
from medssl.settings.spec import DataSpec

RECORD = "atlas.json"
FORMAT = 1
THRESHOLD = 0.7
"""Mean Dice of labeled scans that predict each other below which anatomy is taken not to align."""


@dataclass(frozen=True)
class Alignment:
    """How well labeled scans predict each other, each fused from those of other patients.

    Attributes:
        dice: mean over structures and patients; None before it was measured.
        low, high: its 95 % interval over patients; None where there is none.
        structures: mean Dice of each.
        patients: how many.
    """

    dice: float | None = None
    low: float | None = None
    high: float | None = None
    structures: dict[str, float] | None = None
    patients: int = 0

    @property
    def aligns(self) -> bool:
        """Whether atlases are to be trusted."""
        return self.dice is not None and self.dice >= THRESHOLD

    @property
    def sentence(self) -> str:
        """The figure in words."""
        if self.dice is None:
            return "how well the labeled scans predict each other was not measured"
        sure = "" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return (
            f"labeled scans predict each other with a mean Dice of {self.dice:.3f}{sure} over "
            f"{self.patients} patients"
        )


@dataclass(frozen=True)
class AtlasRecord:
    """What ``atlas.json`` says: the atlases' hash, how they are fused, how well they do."""

    sha256: str
    settings: AtlasSettings
    alignment: Alignment

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        content = {
            "format": FORMAT,
            "sha256": self.sha256,
            "settings": self.settings.as_dict(),
            "threshold": THRESHOLD,
            "alignment": asdict(self.alignment),
        }
        write_json(folder / RECORD, content)


def read_record(folder: Path) -> AtlasRecord:
    """Read ``atlas.json``.

    Raises:
        MedSSLError: the folder is not one of `medssl atlas`, or its record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        raise MedSSLError(
            "is not a folder of `medssl atlas`: it has no atlas.json",
            where=folder,
            fix="make one: medssl atlas RECIPE --output FOLDER",
        )
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return AtlasRecord(
            str(content["sha256"]),
            AtlasSettings(**content["settings"]),
            Alignment(**content["alignment"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MedSSLError(
            f"the record cannot be read: {error}",
            where=path,
            fix="remove the folder and run `medssl atlas` again",
        ) from None


def open_atlases(folder: Path, spec: DataSpec, label_map: LabelMap, *, force: bool) -> Atlases:
    """Read the atlases of a folder, prepared as a network takes them.

    Args:
        folder: that `medssl atlas` wrote.
        spec: how the network's images are preprocessed.
        label_map: what it segments.
        force: take atlases that do not predict each other, too.

    Raises:
        MedSSLError: no such folder, other structures, or anatomy that does not align.
    """
    record = read_record(folder)
    if not record.alignment.aligns and not force:
        raise does_not_align(record.alignment, folder)
    recipe = load_recipe(RunFolder(folder, writes=False).recipe).recipe
    dataset = open_dataset(recipe.data, recipe.spec)
    if dataset.labels.values != label_map.values or dataset.labels.names != label_map.names:
        raise MedSSLError(
            "the atlases are of other structures than the network: "
            f"{', '.join(dataset.labels.names[1:])}, not {', '.join(label_map.names[1:])}",
            where=folder,
            fix="name atlases of the dataset that the network was trained on",
        )
    splits = load_splits(RunFolder(folder, writes=False).splits, dataset)
    return Atlases.of(splits.labeled, spec, label_map, record.settings)


def does_not_align(alignment: Alignment, folder: Path) -> MedSSLError:
    """Say that atlases are no help, and how that was found."""
    what = alignment.sentence
    if alignment.dice is not None:
        each = ", ".join(f"{k} {v:.2f}" for k, v in (alignment.structures or {}).items())
        what += f", below {THRESHOLD}: this anatomy does not align from patient to patient ({each})"
    return MedSSLError(
        what,
        where=folder,
        fix="train a network instead; --force labels scans all the same",
    )
