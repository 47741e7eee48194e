"""``round.json``: what a round asked for, which is what its labels are held against."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from medssl.data.datasets.case import Dataset, LabelMap
from medssl.data.datasets.decathlon_header import read_json
from medssl.data.datasets.decathlon_items import unsafe_name
from medssl.errors import MedSSLError
from medssl.files import write_json
from medssl.rounds.choose import RULES
from medssl.rounds.doubt import SliceInDoubt

FILE = "round.json"
FORMAT = 1
LABEL, DRAFT = "label", "draft"
"""Names, without suffix, of the file to edit and of the draft that it starts as."""


@dataclass(frozen=True)
class RoundScan:
    """One scan of a round, in the folder of its id.

    Attributes:
        id: of the case; a valid file name.
        patient: whose scan it is.
        images: file names, one per channel.
        draft: file name of the draft.
        voxels: hash of the image, see :class:`medssl.data.datasets.contents.Contents`.
        draft_voxels: hash of the draft.
        of_dataset: whether it was an unlabeled scan of the dataset, else of another folder.
        expected_dice: of the draft; None where nothing is seen.
        slices: those in doubt.
    """

    id: str
    patient: str
    images: tuple[str, ...]
    draft: str
    voxels: str
    draft_voxels: str
    of_dataset: bool
    expected_dice: float | None
    slices: tuple[SliceInDoubt, ...] = ()


@dataclass(frozen=True)
class Round:
    """A round of labeling.

    Attributes:
        dataset: name of the dataset that its labels are for.
        labels: values and names that may be used.
        channels: images of a scan.
        unit: of the dataset.
        model: what drew the drafts.
        model_sha256: hash of its weights.
        rule: that chose the scans.
        seed: of the rule ``random``.
        scans: the most wanted first.
        id: hash of all else.
    """

    dataset: str
    labels: LabelMap
    channels: int
    unit: str
    model: str
    model_sha256: str
    rule: str
    seed: int
    scans: tuple[RoundScan, ...] = ()
    id: str = ""

    @classmethod
    def of(cls, dataset: Dataset, model: str, model_sha256: str, rule: str, seed: int) -> Round:
        """Return a round for a dataset that has no scans yet."""
        channels, unit = len(dataset.modality), dataset.spatial_unit
        # Regions change no label that is drawn.
        labels = replace(dataset.labels, regions=())
        return cls(dataset.name, labels, channels, unit, model, model_sha256, rule, seed)

    def as_dict(self) -> dict[str, Any]:
        """Return the content as plain values, for JSON."""
        return {**asdict(self), "labels": self.labels.as_dict()}

    def sealed(self) -> Round:
        """Return the round with its id."""
        text = json.dumps({**self.as_dict(), "id": ""}, sort_keys=True)
        return replace(self, id=hashlib.sha256(text.encode()).hexdigest()[:16])

    def refuse_other(self, dataset: Dataset, folder: Path) -> None:
        """Refuse a dataset that the round was not made for.

        Raises:
            MedSSLError: name, labels, channels or unit are others.
        """
        for what, own, other in (
            ("name", self.dataset, dataset.name),
            ("labels", _said(self.labels), _said(dataset.labels)),
            ("number of channels", self.channels, len(dataset.modality)),
            ("unit", self.unit, dataset.spatial_unit),
        ):
            if own != other:
                raise MedSSLError(
                    f"the round is for another dataset: its {what} is {own}, that of "
                    f"{dataset.root} is {other}",
                    where=folder / FILE,
                    fix=f"name the dataset that the round was made for ('{self.dataset}')",
                )


def _said(labels: LabelMap) -> str:
    names = ", ".join(f"{v} {n}" for v, n in zip(labels.values, labels.names, strict=True))
    return names + ("" if labels.ignore_value is None else f", ignored {labels.ignore_value}")


def write_round(found: Round, folder: Path) -> None:
    """Write ``round.json``; atomic.

    Raises:
        MedSSLError: the disk refuses.
    """
    write_json(folder / FILE, {"format": FORMAT, **found.as_dict()})


def read_round(folder: Path) -> Round:
    """Read ``round.json``.

    Raises:
        MedSSLError: it is not there, damaged or edited, or names files outside of the folder.
    """
    path = folder / FILE
    if not path.is_file() or path.is_symlink():
        raise MedSSLError(
            "this is no folder of a round: it has no round.json of its own",
            where=path,
            fix="name the folder that `medssl next` wrote",
        )
    content, _ = read_json(path)
    try:
        found = _from_dict(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    if found.sealed().id != found.id:
        raise _damaged(path, "it was changed after it was written")
    for scan in found.scans:
        problem = unsafe_name(scan.id)
        names = (*scan.images, scan.draft)
        if problem or any(PurePosixPath(n).name != n or "\\" in n for n in names):
            raise _damaged(path, f"scan {scan.id!r} would leave its folder")
    return found


def _damaged(path: Path, why: str) -> MedSSLError:
    fix = "restore the file from where it was written, or make a new round"
    return MedSSLError(f"the record of the round is damaged: {why}", where=path, fix=fix)


def _from_dict(content: Mapping[str, Any]) -> Round:
    if content["format"] != FORMAT or content["rule"] not in RULES:
        raise ValueError(f"format {content['format']}, rule {content['rule']!r}")
    return Round(
        dataset=str(content["dataset"]),
        labels=LabelMap.from_dict(content["labels"]),
        channels=int(content["channels"]),
        unit=str(content["unit"]),
        model=str(content["model"]),
        model_sha256=str(content["model_sha256"]),
        rule=str(content["rule"]),
        seed=int(content["seed"]),
        scans=tuple(_scan(one) for one in content["scans"]),
        id=str(content["id"]),
    )


def _scan(content: Mapping[str, Any]) -> RoundScan:
    slices = tuple(SliceInDoubt(**one) for one in content["slices"])
    return RoundScan(**{**content, "images": tuple(content["images"]), "slices": slices})
