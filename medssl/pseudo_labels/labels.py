"""The labels of a round: what members agree on of each unlabeled scan, beside the truth.

They are written as a Decathlon folder that trains like any other: ``labelsTr`` holds the
pseudo-labels with a record of who made them (``predictions.json``), images and true labels stay
where they are. True cases are listed as often as it takes to make half of all patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.copies import contents_of, find_copies, without
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.known_files import KnownFiles
from medssl.data.datasets.split import Splits
from medssl.data.images.labels import read_label
from medssl.data.images.write import write_label
from medssl.errors import MedSSLError
from medssl.files import all_or_nothing, discard_folder, write_json
from medssl.inference.record_file import read_record, write_record
from medssl.progress import Display
from medssl.pseudo_labels.vote import agreement, alike, left_out, undecided, vote
from medssl.runs.unlabeled_csv import write_unlabeled

LABELS = "labelsTr"
AGREE, DROP = 2 / 3, 0.1
"""Share of members that must agree on a voxel, share of scans that are left out (FLARE22's winner
dropped 4 %, ST++ half)."""
_MODEL = "members"


@dataclass(frozen=True)
class Maker:
    """A member that labels.

    Attributes:
        name: what the record calls it, wherever the folder lies.
        source: its run, or the folder of its atlases.
        sha256: of its weights.
        maps: its label map of each scan, by id.
    """

    name: str
    source: str
    sha256: str
    maps: Mapping[str, Path]


@dataclass(frozen=True)
class Pool:
    """The scans of a fold.

    Attributes:
        dataset: all of it.
        labeled: cases whose true labels are known.
        unlabeled: cases that are to be labeled.
        held_back: cases that no pseudo-label may reach: of validation, test and left-out patients.
        contents: knows scans by their voxels.
    """

    dataset: Dataset
    labeled: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    held_back: tuple[Case, ...]
    contents: Contents

    def without_copies(self, display: Display) -> Pool:
        """Return the pool without unlabeled scans that show a patient who is held back.

        Raises:
            MedSSLError: nothing is left to label, or an image cannot be read.
        """
        splits = Splits((), self.unlabeled, (), self.held_back)
        copies = find_copies(splits, contents_of(splits, self.contents))
        for copy in copies:
            display.say(f"warning: {copy.sentence}: it gets no label")
        left = without(splits, copies).unlabeled
        if not left:
            raise MedSSLError(
                "there is no unlabeled scan to label",
                where=self.dataset.root,
                fix="put images into imagesUn/ or data.unlabeled, or lower data.labeled",
            )
        return replace(self, unlabeled=left)

    def refuse_held_back(self, folder: Path) -> None:
        """Refuse a folder of pseudo-labels in which a patient appears who is held back.

        Raises:
            MedSSLError: names the scan, and whom it shows: by id, patient, or voxels.
        """
        labels = (folder / LABELS).resolve()
        names: dict[str, str] = {}
        for case in self.held_back:
            known = (case.id, case.patient, *self.contents.all_of(case))
            names |= dict.fromkeys(known, case.id)
        for case in read_dataset(folder, allow_outside=True).training:
            if case.label is None or case.label.parent.resolve() != labels:
                continue
            for name in (case.id, case.patient, *self.contents.all_of(case)):
                if name in names:
                    raise MedSSLError(
                        f"the pseudo-label of '{case.id}' is of the held-out case '{names[name]}': "
                        "nothing that is scored may be trained on",
                        where=case.label,
                        fix="remove this folder, and run the same command again: it is made anew",
                    )


@dataclass(frozen=True)
class Rules:
    """What decides which voxels and scans count: see :mod:`medssl.pseudo_labels.vote`."""

    agree: float = AGREE
    drop: float = DROP


def write_labels(pool: Pool, makers: Sequence[Maker], rules: Rules, folder: Path) -> None:
    """Write the Decathlon folder of a round, or leave it if it is of the same members and scans.

    Args:
        pool: of a fold, without copies of who is held back.
        makers: who labels.
        rules: which voxels and scans count.
        folder: to be written.

    Raises:
        MedSSLError: an image cannot be read, or the disk refuses.
    """
    made = {
        "model": ", ".join(maker.source for maker in makers),
        "weights_sha256": "",
        "options": _options(pool, makers, rules),
    }
    with all_or_nothing(folder, "pseudo-labels") as building:
        rows = []
        for case in pool.unlabeled:
            target = building / LABELS / f"{case.id}.nii.gz"
            rows.append(_label_case(case, makers, rules, target, ignore_of(pool.dataset)))
        gone = left_out({row["case"]: row["agreement"] for row in rows}, rules.drop)
        for row in rows:
            row["weight"] = float(row["case"] not in gone)
        kept = [case for case in pool.unlabeled if case.id not in gone]
        for name in gone:
            (building / LABELS / f"{name}.nii.gz").unlink()
        entries = {case.id: _entry(case, building / LABELS) for case in kept}
        write_record(building / LABELS, {_MODEL: made}, entries)
        write_unlabeled(building, rows, by="agreement")
        write_json(building / "dataset.json", _header(pool, kept))


def labels_stand(
    pool: Pool, makers: Sequence[Maker], rules: Rules, folder: Path, run: Path, display: Display
) -> bool:
    """Say whether a folder of pseudo-labels is of these members, scans and rules, and unchanged.

    One that is not is removed, unless a student was trained on it.

    Args:
        pool, makers, rules, folder: as for `write_labels`.
        run: of the student.
        display: is told what has changed.

    Raises:
        MedSSLError: a student learned from labels that do not hold any more.
    """
    if not folder.exists():
        return False
    models, entries = read_record(folder / LABELS, damaged=True)
    changed = _change(models, _options(pool, makers, rules)) or _edited(entries, folder)
    if changed is None:
        return True
    if (run / "recipe.yaml").is_file():
        raise MedSSLError(
            f"{changed} since the pseudo-labels were made that the student learned from",
            where=folder,
            fix="remove this round's folder and the later ones, or choose another --output",
        )
    display.say(f"note: {changed}: the pseudo-labels in {folder} are made anew")
    discard_folder(folder)
    return False


def sameness(one: Path, other: Path) -> float:
    """Return the mean Dice of the pseudo-labels of two rounds, over the scans that both have."""
    ignore = read_dataset(one, allow_outside=True).labels.ignore_value
    both = sorted({p.name for p in (one / LABELS).glob("*.nii.gz")})
    pairs = [(one / LABELS / n, other / LABELS / n) for n in both if (other / LABELS / n).is_file()]
    found = [alike(read_label(a)[0], read_label(b)[0], ignore) for a, b in pairs]
    return float(np.mean(found)) if found else 0.0


def ignore_of(dataset: Dataset) -> int:
    """Return the value of voxels that nobody decided: the dataset's, or the next free one."""
    own = dataset.labels.ignore_value
    return max(dataset.labels.values) + 1 if own is None else own


def _label_case(
    case: Case, makers: Sequence[Maker], rules: Rules, target: Path, ignore: int
) -> dict[str, Any]:
    """Write what members agree on of a scan, and return what is said of it."""
    read = [read_label(maker.maps[case.id]) for maker in makers]
    maps, affine = [values for values, _ in read], read[0][1]
    label = vote(maps, share=rules.agree, ignore=ignore)
    write_label(label, target, affine=affine, reference=case.images[0])
    return {
        "case": case.id,
        "agreement": agreement(maps),
        "undecided": undecided(label, maps, ignore),
    }


def _entry(case: Case, labels: Path) -> dict[str, Any]:
    """Return the record of a pseudo-label: who made it, of which image, and its own hash."""
    hashes, name = KnownFiles(None), f"{case.id}.nii.gz"
    images = [{"file": str(p.resolve()), "sha256": hashes.whole(p)} for p in case.images]
    own = hashes.whole(labels / name)
    return {"model": _MODEL, "images": images, "files": [name], "label_sha256": own}


def _options(pool: Pool, makers: Sequence[Maker], rules: Rules) -> dict[str, Any]:
    truth = {c.id: KnownFiles(None).whole(c.label) for c in pool.labeled if c.label is not None}
    return {
        "members": {maker.name: maker.sha256 for maker in makers},
        "agree": rules.agree,
        "drop": rules.drop,
        "unlabeled": sorted(case.id for case in pool.unlabeled),
        "truth": dict(sorted(truth.items())),
    }


def _change(models: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say what makes recorded pseudo-labels invalid; None if nothing does."""
    before = models.get(_MODEL, {}).get("options", {})
    members = before.get("members", {})
    for name, sha256 in now["members"].items():
        if members.get(name) not in (None, sha256):
            return f"member {name} has changed"
    for key, value in now.items():
        if before.get(key) != value:
            return f"what decides them ({key}) has changed"
    return None


def _edited(entries: Mapping[str, Any], folder: Path) -> str | None:
    hashes = KnownFiles(None)
    for case, entry in entries.items():
        path = folder / LABELS / f"{case}.nii.gz"
        if not path.is_file() or hashes.whole(path) != entry.get("label_sha256"):
            return f"the label of {case} has changed"
    return None


def _header(pool: Pool, kept: Sequence[Case]) -> dict[str, Any]:
    """Return dataset.json: truth as often as pseudo-labels, the value of what nobody decided."""
    data = pool.dataset
    times = max(1, round(len(kept) / len(pool.labeled)))
    training = [
        _item(case, str(case.label.resolve()), "" if n == 0 else f"~{n}")
        for n in range(times)
        for case in pool.labeled
        if case.label is not None
    ]
    training += [_item(case, f"{LABELS}/{case.id}.nii.gz") for case in kept]
    return {
        "name": data.name,
        "description": "true labels, and what members of a self-training agree on",
        "modality": {str(n): name for n, name in enumerate(data.modality)},
        "spatial_unit": data.spatial_unit,
        **replace(data.labels, ignore_value=ignore_of(data)).dataset_json(),
        "numTraining": len(training),
        "training": training,
        "test": [],
    }


def _item(case: Case, label: str, suffix: str = "") -> dict[str, Any]:
    images = [str(path.resolve()) for path in case.images]
    return {
        **case.meta,
        "id": f"{case.id}{suffix}",
        "patient": case.patient,
        "image": images if len(images) > 1 else images[0],
        "label": label,
    }
