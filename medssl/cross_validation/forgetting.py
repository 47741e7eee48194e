"""What a trained run knows of a patient: names, hashes, and which parts learned from the scans."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl.data.datasets.patient_names import one_spelling, patients_by_name
from medssl.data.datasets.split import ROLES
from medssl.data.datasets.split_file import PATIENTS
from medssl.errors import MedSSLError
from medssl.files.folders import discard_folder
from medssl.recipe.load import load_recipe
from medssl.runs.changes import FILES
from medssl.runs.folder import RunFolder
from medssl.runs.lineage import Lineage, read_lineage
from medssl.settings.model_names import is_bundle
from medssl.settings.recipe import DataSettings


@dataclass(frozen=True)
class Traces:
    """By what patients are recognized.

    Attributes:
        names: the patients, and the ids of all their cases.
        hashes: of their files, and of the voxels of their scans.
    """

    names: frozenset[str]
    hashes: frozenset[str]

    def without(self, ids: Iterable[str]) -> list[str]:
        """Return the ids that are not theirs."""
        return [one for one in ids if one not in self.names]

    def known_to(self, node: Lineage) -> bool:
        """Say whether a run, its ancestors aside, saw a label or an image of theirs."""
        named = {*node.labels, *node.selection, *node.images} & self.names
        return bool(named) or any(self.hashes & set(own) for own in node.images.values())


def traces_of(runs: Sequence[RunFolder], asked: Collection[str]) -> Traces:
    """Find all by which runs know some patients.

    Args:
        runs: a run, or those of all folds.
        asked: patients, or cases of them.

    Raises:
        MedSSLError: one of them is not among the cases of any run, or its cases are not known.
    """
    ids: dict[str, None] = {}
    recorded: dict[str, str] = {}
    records = [(run, _splits(run), _seen_by(run)) for run in runs]
    for _, splits, _ in records:
        recorded |= splits.get(PATIENTS, {})
        ids |= dict.fromkeys(one for role in ROLES for one in splits.get(role, ()))
        ids |= dict.fromkeys(str(found.get("case")) for found in splits.get("left_out", ()))
    data = load_recipe(runs[0].recipe).recipe.data
    patients = _patients(list(ids), data) | recorded
    theirs = {p for one in asked for p in (one, patients.get(one)) if p is not None}
    cases = {case for case, patient in patients.items() if {case, patient} & theirs}
    seen = {name for _, _, own in records for name in own}
    unknown = [one for one in asked if one not in {*cases, *patients.values()}]
    if unknown and not (cases and seen.issuperset(unknown)):
        raise MedSSLError(
            f"no scan of {', '.join(unknown)} is recorded here",
            where=runs[0].path,
            fix="name patients, or all their cases, as splits.json of the run does",
        )
    names = frozenset({*asked, *cases, *(patients[case] for case in cases)})
    hashes: set[str] = set()
    for run, splits, own in records:
        _refuse_other_names(run, splits, own, cases, names)
        files = run.read_manifest().get(FILES, {})
        for role in ROLES:
            for case, entry in zip(splits.get(role, ()), files.get(role, ()), strict=False):
                if case in cases:
                    hashes |= {*entry["images"], entry["label"]} - {None}
        for node in read_lineage(run).everyone():
            hashes |= {h for p, own in node.images.items() if p in names for h in own}
    return Traces(names, frozenset(hashes))


def _seen_by(run: RunFolder) -> set[str]:
    """Return the patients whose labels or images a run itself used."""
    node = read_lineage(run)
    return {*node.labels, *node.selection, *node.images}


def _refuse_other_names(
    run: RunFolder,
    splits: dict[str, Any],
    seen: Collection[str],
    cases: Collection[str],
    names: Collection[str],
) -> None:
    """Refuse a run that used some cases and knows their patient by a name that nobody gave.

    Raises:
        MedSSLError: an earlier version did not record it, and a table or dataset.json stated it.
    """
    used = {case for role in ("labeled", "unlabeled") for case in splits.get(role, ())}
    if seen and used & set(cases) and not set(seen) & set(names):
        raise MedSSLError(
            "it used scans of the patient under another name, which it did not record beside them",
            where=run.path / "lineage.json",
            fix="name the patient as this file does, and all cases, with --patients",
        )


def _patients(ids: list[str], data: DataSettings) -> dict[str, str]:
    """Return the patient of each case, as a pattern or the names say, not a table, which may be
    gone.
    """
    found = patients_by_name(ids)
    if data.patients is not None and not data.patients.endswith(".csv"):
        for case in ids:
            match = re.search(data.patients, case)
            if match is not None:
                found[case] = match.group(1)
    return one_spelling(found)


def _splits(run: RunFolder) -> dict[str, Any]:
    try:
        found = json.loads(run.splits.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def learned_from(run: RunFolder, traces: Traces) -> bool:
    """Say whether a run itself learned from the patients.

    Raises:
        MedSSLError: an ancestor did: there it has to be forgotten first.
    """
    lineage = read_lineage(run)
    for node in lineage.everyone():
        if node.how and traces.known_to(node):
            raise MedSSLError(
                f"it learned from the patient through {node.named}",
                where=run.path,
                fix=f"forget there first, then again here with --set {node.how}=NEW_FOLDER",
            )
    return traces.known_to(lineage)


def descendants(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the runs beside a folder that started from it, and the bundles that lie there."""
    runs, bundles = [], []
    for place in sorted(folder.resolve().parent.rglob("*")):
        if place.name == "lineage.json" and not place.is_relative_to(folder.resolve()):
            nodes = read_lineage(RunFolder(place.parent)).everyone()
            if any(_inside(node.source, folder) for node in nodes):
                runs.append(place.parent)
        elif place.is_dir() and is_bundle(place):
            bundles.append(place)
    return runs, bundles


def _inside(source: str, folder: Path) -> bool:
    return bool(source) and Path(source).resolve().is_relative_to(folder.resolve())


def clean_cache(root: Path, traces: Traces) -> int:
    """Delete what the preprocessing cache holds of the patients; return how many entries.

    Args:
        root: of the cache.
        traces: of the patients.

    Raises:
        MedSSLError: it cannot be deleted.
    """
    deleted = 0
    for record in [*root.glob("files/*.json"), *root.glob("*/meta.json")]:
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if traces.names & set(_words(content)) or traces.hashes & set(_words(content)):
            deleted += 1
            if record.name == "meta.json":
                discard_folder(record.parent)
            else:
                record.unlink(missing_ok=True)
    return deleted


def _words(value: Any) -> Iterator[str]:
    """Yield the texts of nested JSON; of a path the name of its file without suffixes, too."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _words(item)
    elif isinstance(value, str):
        name = Path(value).name.split(".")[0]
        yield from (value, name, re.sub(r"_\d{4}$", "", name))


def remaining(folder: Path, traces: Traces) -> list[Path]:
    """Return the files of a folder in whose name or bytes a name or hash of the patients stands."""
    words = [re.escape(word) for word in (*traces.names, *traces.hashes)]
    pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(words)})(?![A-Za-z0-9])".encode())
    # A short name stands in binary files by chance.
    sure = re.compile("|".join(w for w in words if len(w) > 5).encode() or b"(?!)")
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        text = path.suffix in (".json", ".jsonl", ".yaml", ".txt", ".csv", ".html")
        searched = pattern if text else sure
        if pattern.search(path.name.encode()) or searched.search(path.read_bytes()):
            found.append(path)
    return found
