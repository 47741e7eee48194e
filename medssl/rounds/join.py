"""Write accepted labels into a dataset: beside it first, then moved in, dataset.json last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.decathlon_header import read_json
from medssl.data.datasets.decathlon_items import ItemReader
from medssl.data.datasets.integrity import check_case
from medssl.data.datasets.origins import CHOSEN, CONFIRMED, EDITED, RANDOM, LabelOrigin
from medssl.data.images.names import image_suffix, split_extension
from medssl.data.images.write import write_label
from medssl.errors import MedSSLError
from medssl.files import move_in, scratch_folder, write_json
from medssl.rounds.choose import DRAWN
from medssl.rounds.record import Round
from medssl.rounds.returned import Returned

DATASET = "dataset.json"


def join_labels(
    labels: Sequence[tuple[Returned, Case | None]], found: Round, dataset: Dataset
) -> tuple[str, ...]:
    """Write labels, and images that are new, and list their cases for training.

    Args:
        labels: each with its case in the dataset; None for a new image.
        found: the round.
        dataset: that nobody else writes to.

    Returns:
        Ids of the cases.

    Raises:
        MedSSLError: a file is there already, a case is not sound as written, or the disk refuses.
            The dataset is then as it was.
    """
    where = dataset.root / DATASET
    info, _ = read_json(where)
    if not isinstance(info.get("training"), list):
        raise MedSSLError(
            "dataset.json has no list 'training' that cases could join (nnU-Net's layout)",
            where=where,
            fix="import the dataset first (medssl import nnunet), and train on that",
        )
    ids = []
    with scratch_folder(dataset.root) as building:
        for label, case in labels:
            ids.append(_add(label, case, found, dataset, info, building))
        if "numTraining" in info:
            info["numTraining"] = len(info["training"])
        write_json(building / DATASET, info)
        fix = "move the file away: dataset.json does not name it"
        move_in(building, dataset.root, replaced=(DATASET,), fix=fix)
    return tuple(ids)


def _add(
    label: Returned,
    case: Case | None,
    found: Round,
    dataset: Dataset,
    info: dict[str, Any],
    building: Path,
) -> str:
    """Write one case beside the dataset, and list it in ``info``."""
    scan, root = label.scan, dataset.root
    item: dict[str, Any] = {}
    if case is None:
        names = _new_images(label, building)
        images, written = tuple(building / n for n in names), scan.id
        item["image"] = [f"./{n}" for n in names] if len(names) > 1 else f"./{names[0]}"
        if scan.patient != scan.id:
            item["patient"] = scan.patient
        if len(names) > 1:
            item["id"] = scan.id
    else:
        item = _taken_out(case, info, root)
        images, written = case.images, case.id
    name = f"labelsTr/{written}{image_suffix(images[0])}"
    write_label(label.values, building / name, affine=label.affine, reference=images[0])
    item["label"] = f"./{name}"
    origin = LabelOrigin(
        how=RANDOM if found.rule in DRAWN else CHOSEN,
        rule=found.rule,
        draft=EDITED if label.edited else CONFIRMED,
        model_sha256=found.model_sha256,
        round_id=found.id,
    )
    info["training"].append(item | origin.as_item())
    _check(Case(written, images, building / name, written), dataset, label.images[0].parent)
    return written


def _new_images(label: Returned, building: Path) -> list[str]:
    names = []
    for number, path in enumerate(label.images):
        channel = f"_{number:04d}" if len(label.images) > 1 else ""
        names.append(f"imagesTr/{label.scan.id}{channel}{image_suffix(path)}")
        target = building / names[-1]
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    return names


def _taken_out(case: Case, info: dict[str, Any], root: Path) -> dict[str, Any]:
    """Return the item of a case without a label, taken out of its list; a new one if none has it.

    A case keeps its id and patient, whatever list it is in.
    """
    reader = ItemReader(root, root / DATASET)
    own = os.path.realpath(case.images[0])
    item: dict[str, Any] = {}
    for section in ("training", "unlabeled"):
        listed = info.get(section)
        entries: list[Any] = listed if isinstance(listed, list) else []
        for number, entry in enumerate(entries):
            read = reader.read(entry, section, number + 1, keep_label=True)
            if read is not None and os.path.realpath(read.images[0]) == own:
                item = dict(entry) if isinstance(entry, Mapping) else {"image": entry}
                del entries[number]
                return item if read.id == case.id else item | {"id": case.id}
    names = [f"./{Path(os.path.relpath(p, root)).as_posix()}" for p in case.images]
    item["image"] = names if len(names) > 1 else names[0]
    if len(names) > 1 or split_extension(case.images[0].name)[0] != case.id:
        item["id"] = case.id
    if case.patient != case.id:
        item["patient"] = case.patient
    return item


def _check(case: Case, dataset: Dataset, where: Path) -> None:
    """Refuse a case that training would refuse.

    Raises:
        MedSSLError: says why, of the scan's folder in the round.
    """
    channels = len(dataset.modality)
    for problem in check_case(case, dataset.labels, channels, unit=dataset.spatial_unit):
        if problem.severity == "error":
            raise MedSSLError(problem.what, where=where, fix=problem.fix)
