"""Write a repaired copy of a dataset: a complete Decathlon folder in the usual spelling."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from medssl.data.checks.case_facts import CaseFacts
from medssl.data.checks.duplicates import exact_groups
from medssl.data.checks.repairs import Repair, apply_repair
from medssl.data.checks.run import CheckReport
from medssl.data.datasets.case import Case, Dataset
from medssl.data.datasets.decathlon_header import read_json
from medssl.data.images.volume import read_volume
from medssl.data.images.write import write_mended
from medssl.errors import MedSSLError
from medssl.files import all_or_nothing, refuse_filled, write_json
from medssl.progress import Done

THING = "the repaired copy"
_FOLDERS = {"labeled": "imagesTr", "unlabeled": "imagesUn", "test": "imagesTs"}
_REWRITTEN = {
    *("labels", "modality", "modalities", "channel_names", "training", "validation", "unlabeled"),
    *("test", "testing", "dataset", "numTraining", "numTest", "relase", "licence", "file_ending"),
    *("spatial_unit", "spatialUnit", "tensorImageSize"),
}


def write_repaired(report: CheckReport, out: Path, *, on_progress: Done | None = None) -> list[str]:
    """Copy a checked dataset and mend what can be mended; the original is not touched.

    Voxels, label positions and headers stay as they are but for what a repair names. Unlabeled
    images that repeat another case are left out.

    Args:
        report: of the dataset to copy.
        out: a folder that does not exist or is empty.
        on_progress: called with each case's id when it was written.

    Returns:
        One line per repair.

    Raises:
        MedSSLError: the folder is in use or cannot be written. Nothing is left behind then.
    """
    dataset = report.dataset
    out = Path(out).expanduser().absolute()
    refuse_filled(out, THING)
    if out.resolve().is_relative_to(dataset.root.resolve()):
        raise MedSSLError(
            "the repaired copy would lie inside the dataset", where=out, fix="choose another folder"
        )
    doubles = {
        f.case.id: group[0].case.id
        for group in exact_groups(report.facts)
        for f in group[1:]
        if f.role == "unlabeled"
    }
    done = [f"{name}: left out, the same scan as '{kept}'" for name, kept in doubles.items()]
    with all_or_nothing(out, THING) as building:
        items: dict[str, list[Any]] = {"labeled": [], "unlabeled": [], "test": []}
        for facts in report.facts:
            if facts.case.id not in doubles:
                items[facts.role].append(_copy_case(facts, dataset, building, done))
            if on_progress is not None:
                on_progress(facts.case.id)
        write_json(building / "dataset.json", _dataset_json(dataset, items))
    if dataset.deviations:
        done.append("dataset.json: written in the usual spelling")
    return done


def _copy_case(facts: CaseFacts, dataset: Dataset, out: Path, done: list[str]) -> dict[str, Any]:
    """Copy the files of a case, mended, and return its item of dataset.json."""
    case = facts.case
    images = [
        _copy_file(p, _place(p, case, _FOLDERS[facts.role], dataset, n), out, facts, done)
        for n, p in enumerate(case.images)
    ]
    item: dict[str, Any] = {"image": images[0] if len(images) == 1 else images}
    if case.label is not None:
        place = _place(case.label, case, "labelsTr", dataset)
        item["label"] = _copy_file(case.label, place, out, facts, done)
    item["id"] = case.id
    if case.patient != case.id:
        item["patient"] = case.patient
    return {**case.meta, **item}


def _place(path: Path, case: Case, folder: str, dataset: Dataset, channel: int = 0) -> str:
    """Return where a file lies in the copy: where it lay, or in the folder of its kind.

    A file from outside of the dataset must not be written outside of the copy.
    """
    if path.is_relative_to(dataset.root) and ".." not in path.relative_to(dataset.root).parts:
        return path.relative_to(dataset.root).as_posix()
    return f"{folder}/{case.id}_{f'{channel}_' if channel else ''}{path.name}"


def _copy_file(path: Path, place: str, out: Path, facts: CaseFacts, done: list[str]) -> str:
    target = out / place
    target.parent.mkdir(parents=True, exist_ok=True)
    repairs = [r for r in facts.repairs if r.file == path]
    if target.exists():
        return f"./{place}"  # one file listed twice
    if repairs:
        _mend(path, repairs, facts.case.images[0], target)
        done += [f"{place}: {r.what}" for r in repairs]
    elif path.is_file():
        shutil.copyfile(path, target)
    return f"./{place}"


def _mend(path: Path, repairs: list[Repair], image: Path, target: Path) -> None:
    volume = read_volume(path)
    reference = read_volume(image)
    for repair in repairs:
        volume = apply_repair(repair, volume, reference)
    moved = any(repair.kind in ("copy_grid", "turn") for repair in repairs)
    write_mended(volume, target, source=path, grid=image if moved else None)


def _dataset_json(dataset: Dataset, items: dict[str, list[Any]]) -> dict[str, Any]:
    info, _ = read_json(dataset.root / "dataset.json")
    kept = {k: v for k, v in info.items() if k not in _REWRITTEN}
    for bad, good in (("relase", "release"), ("licence", "license")):
        if bad in info:
            kept.setdefault(good, info[bad])
    return {
        "name": dataset.name,
        **kept,
        "tensorImageSize": info.get("tensorImageSize", "3D"),
        **({"spatialUnit": "um"} if dataset.spatial_unit == "um" else {}),
        "modality": {str(k): name for k, name in enumerate(dataset.modality)},
        **dataset.labels.dataset_json(),
        "numTraining": len(items["labeled"]),
        "numTest": len(items["test"]),
        "training": items["labeled"],
        "unlabeled": items["unlabeled"],
        "test": items["test"],
    }
