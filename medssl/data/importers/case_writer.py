"""Write one imported case, checked, and what an import comes to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl._version import __version__
from medssl.data.datasets.case import Case, LabelMap
from medssl.data.datasets.integrity import check_case
from medssl.data.images.notes import told_once
from medssl.data.images.write import write_nifti
from medssl.data.importers.checked import CheckedCase, check_imported
from medssl.data.importers.importer import ImportedCase, ImportPlan, ImportSettings
from medssl.errors import MedSSLError
from medssl.files import write_arrays
from medssl.progress import Done

SKIP_FIX = "mend the file at its source, or leave such cases out with --option skip_broken=true"


@dataclass(frozen=True)
class ImportResult:
    """What an import wrote.

    Attributes:
        dataset: the folder.
        labeled, unlabeled, test: number of cases of each kind that were written.
        notes: how the source was read.
        warnings: what deserves a look before training, such as duplicates and empty labels.
        skipped: reason by case, for those left out by ``skip_broken``.
    """

    dataset: Path
    labeled: int
    unlabeled: int
    test: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


class CaseWriter:
    """Write checked cases into a folder, one by one, and remember what dataset.json needs."""

    def __init__(
        self, folder: Path, source: Path, plan: ImportPlan, settings: ImportSettings
    ) -> None:
        self.folder = folder
        self.source = source
        self.plan = plan
        self.settings = settings
        self.items: dict[str, list[dict[str, Any]]] = {"training": [], "unlabeled": [], "test": []}
        self.records: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}
        self.warnings: list[str] = []
        self.noted: list[str] = []
        self.values: set[int] = {0}
        self.by_voxels: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._hashes: dict[Path, str] = {}
        self._matches = 0
        self._pattern = _compile(settings.patient_pattern)

    def write_all(self, on_case: Done) -> None:
        """Read, check and write every case of the plan; ``on_case`` is told each one's id.

        Raises:
            MedSSLError: a case is broken and ``skip_broken`` is off.
        """
        for number, read in enumerate(self.plan.cases, start=1):
            name = f"case {number}"
            try:
                case = read()
                name = case.id
                self._write(case)
            except MedSSLError as error:
                if not self.settings.skip_broken:
                    raise
                self.skipped[name] = error.what
            on_case(name)
        if self._pattern is not None and not self._matches:
            self.warnings.append("patient_pattern matches no case id: it changes nothing")
        if not any(self.items.values()):
            first = next(iter(self.skipped.items()), None)
            because = f"; the first, {first[0]}: {first[1]}" if first else ""
            raise MedSSLError(
                f"none of the {len(self.plan.cases)} cases can be imported{because}",
                where=self.source,
                fix="check that the format and the source folder are the right ones",
            )

    def _write(self, case: ImportedCase) -> None:
        other = self._ids.get(case.id.lower())
        if other is not None:
            raise MedSSLError(
                f"two cases of the source have the id '{case.id}'"
                + (f" (the other is '{other}')" if other != case.id else ""),
                where=case.sources[0] if case.sources else self.source,
                fix="rename one of the files",
            )
        where = case.sources[0] if case.sources else self.source
        checked = check_imported(case, self.plan, where=where, fix=SKIP_FIX)
        images, labels = "imagesTr", "labelsTr"
        if case.split == "test":
            images, labels = "imagesTs", "labelsTs"
        elif checked.label is None:
            images = "imagesUn"
        files = [(images, "image", checked.image)]
        if checked.label is not None:
            files.append((labels, "label", checked.label))
        item: dict[str, Any] = {}
        for folder, key, array in files:
            path = self.folder / folder / f"{case.id}.nii.gz"
            unit, code = self.plan.spatial_unit, self.plan.sform_code
            write_nifti(path, array, checked.affine, unit, code=code)
            item[key] = f"./{folder}/{path.name}"
        try:
            self._read_back(case, item, where)
        except MedSSLError:
            for name in item.values():
                (self.folder / name).unlink()
            raise
        if case.sidecar:
            path = self.folder / "sidecar" / f"{case.id}.npz"
            write_arrays(path, case.sidecar, compressed=True)
            item["sidecar"] = f"./sidecar/{path.name}"
        self._remember(case, checked, item)

    def _read_back(self, case: ImportedCase, item: Mapping[str, Any], where: Path) -> None:
        """Check the written files as training will; an empty label is only worth a warning."""
        labels = None
        if self.plan.labels is not None:
            values = tuple(sorted({0, *self.plan.labels}))
            names = tuple(self.plan.labels.get(v, "background") for v in values)
            labels = LabelMap(values, names, self.plan.ignore_value)
        label = self.folder / item["label"] if "label" in item else None
        written = Case(case.id, (self.folder / item["image"],), label, case.id)
        unit = self.plan.spatial_unit
        for problem in check_case(written, labels, len(self.plan.modality), unit=unit):
            if problem.what.startswith("the label is empty") or problem.severity == "warning":
                self.warnings.append(f"{case.id}: {problem.what}")
            else:
                raise MedSSLError(f"case '{case.id}': {problem.what}", where=where, fix=SKIP_FIX)

    def _remember(self, case: ImportedCase, checked: CheckedCase, item: dict[str, Any]) -> None:
        patient = case.patient
        if self._pattern is not None:
            match = self._pattern.search(case.id)
            self._matches += match is not None
            patient = match[1] if match is not None and match[1] else patient
        if patient is not None:
            item["patient"] = patient
        item |= {k: str(v) for k, v in case.meta.items() if k not in item}
        role = case.split if case.split == "test" or checked.label is not None else "unlabeled"
        self.items[role].append(item)
        self.values |= checked.values
        self._ids[case.id.lower()] = case.id
        self.warnings += [f"{case.id}: {line}" for line in case.warnings]
        if case.note:  # told once, not for every case
            self.noted.append(f"{case.id}: {case.note}")
        twin = self.by_voxels.setdefault(checked.voxels_sha256, case.id)
        if twin != case.id:
            self.warnings.append(f"{case.id}: its image is an exact duplicate of {twin}")
        self.records[case.id] = {
            "sources": [
                self._source(p) for path in case.sources for p in (path, *_companions(path))
            ],
            "voxels_sha256": checked.voxels_sha256,
        }

    def _source(self, path: Path) -> dict[str, str]:
        named = {} if self.plan.anonymous else {"name": self._name(path)}
        return named | {"sha256": self._hash(path)}

    def _relative(self, text: str) -> str:
        return "" if self.plan.anonymous else text.replace(str(self.source), self.source.name)

    def _name(self, path: Path) -> str:
        base = self.source if self.source.is_dir() else self.source.parent
        return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            with path.open("rb") as file:
                self._hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[path]

    def provenance(self, origin: Mapping[str, Any]) -> dict[str, Any]:
        """Return where every case came from, without any absolute path.

        Of an anonymous source not even the names of files, which notes may contain.
        """
        return {
            "medssl": __version__,
            **origin,
            "source": "" if self.plan.anonymous else self.source.name,
            "notes": [self._relative(note) for note in self.plan.notes],
            "skipped": {name: self._relative(why) for name, why in self.skipped.items()},
            "cases": self.records,
        }

    def _notes(self) -> list[str]:
        bare = [note.partition(": ")[2] for note in self.noted]  # without the case's id
        return [
            self.noted[index] + (f" ({count} such cases)" if count > 1 else "")
            for index, count in told_once(bare)
        ]

    def result(self, dataset: Path) -> ImportResult:
        """Summarize what was written."""
        counts = {role: len(items) for role, items in self.items.items()}
        return ImportResult(
            dataset,
            counts["training"],
            counts["unlabeled"],
            counts["test"],
            notes=self.plan.notes,
            warnings=(*self.warnings, *self._notes()),
            skipped=dict(self.skipped),
        )


def _companions(path: Path) -> list[Path]:
    """Return the files that hold the voxels of a detached header (.mhd, .nhdr)."""
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return []
    names = (path.with_suffix(s) for s in (".raw", ".zraw", ".raw.gz"))
    return [p for p in names if p.is_file()]


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
        if compiled.groups >= 1:
            return compiled
        why = "has no group"
    except re.error as error:
        why = f"is not a regular expression: {error}"
    raise MedSSLError(
        f"{pattern!r} {why}",
        where="--option patient_pattern",
        fix="write a pattern with one group, such as '(patient\\d+)_'",
    )
