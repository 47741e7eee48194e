"""Preprocessed cases as memory-mapped arrays on disk.

An entry is a folder named by a hash of everything that decides its content: the bytes of the files,
see :mod:`medssl.data.datasets.known_files`, and the rules of preprocessing. So an entry is never
stale, a changed recipe or file simply makes another one, and a dataset that was moved or copied
finds its own. Old entries may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.datasets.case import CachedCase, Case, LabelMap
from medssl.data.datasets.known_files import KnownFiles
from medssl.data.preprocessing.cache_entry import DAMAGED, FACTS, open_entry, write_entry
from medssl.data.preprocessing.pipeline import preprocess_case
from medssl.data.preprocessing.region import Region
from medssl.data.preprocessing.scan_facts import ScanFacts, scan_facts
from medssl.data.preprocessing.tensors import read_images
from medssl.errors import MedSSLError
from medssl.files import discard_folder, reason_of, write_json
from medssl.plugins import record_plugins
from medssl.progress import Done
from medssl.settings.spec import DataSpec

logger = logging.getLogger(__name__)

PREPROCESSING_VERSION = 2
"""Raise it whenever preprocessing gives other arrays for the same spec and files."""
SPEC_FIELDS = {"spatial_unit", "orientation", "spacing", "resize", "resize_mode", "intensity"}
"""Fields of the data spec that change the arrays; the others concern training and evaluation."""
ALIGN_FIELDS = {"align_slices", "depth_direction", "slice_axis"}
"""Fields that change them too, where slices are aligned."""
FLOAT16_MAX = 65504.0


class CaseCache:
    """The cache of one kind of preprocessing.

    Args:
        root: folder of the cache, made when first needed. May be shared by recipes, datasets and
            processes.
        spec: the data spec.
        label_map: translates label values to class indices.
        regions: by case id, the part of a case that is kept; other cases are kept whole.
        files: what is known of image files; None: what is kept below ``root``.
    """

    def __init__(
        self,
        root: Path,
        spec: DataSpec,
        label_map: LabelMap,
        *,
        regions: Mapping[str, Region] | None = None,
        files: KnownFiles | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.files = files or KnownFiles.below(self.root)
        self.spec = spec
        self.label_map = label_map
        self.regions = regions or {}
        self._entries: dict[str, Path] = {}

    def key(self, case: Case, *, fresh: bool = False) -> str:
        """Return the name of a case's entry.

        Args:
            fresh: hash the images whole, whatever is known of them, as labels are each time.

        Raises:
            MedSSLError: a file of the case cannot be read.
        """
        images = [[p.suffix.lower(), self.files.digest(p, fresh=fresh)] for p in case.images]
        fields = SPEC_FIELDS | (ALIGN_FIELDS if self.spec.align_slices else set())
        content: dict[str, Any] = {
            "version": PREPROCESSING_VERSION,
            "spec": self.spec.model_dump(mode="json", include=fields),
            "images": images,
        }
        if case.label is not None:
            content["label"] = [case.label.suffix.lower(), self.files.whole(case.label)]
            content["values"] = [self.label_map.values, self.label_map.ignore_value]
        if case.id in self.regions:
            content["region"] = self.regions[case.id].key
        if code := record_plugins([f"intensity {self.spec.intensity.rule}"]):
            content["rule"] = [plugin["sha256"] for plugin in code]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def prepare(
        self, cases: Sequence[Case], *, on_progress: Done | None = None
    ) -> dict[str, CachedCase]:
        """Open each case's entry, preprocessing those that have none or a damaged one.

        The label of a case without one (``case.label is None``) is never looked for.

        Args:
            cases: the cases.
            on_progress: called with the case's id after each case.

        Returns:
            The memory-mapped cases by id.

        Raises:
            MedSSLError: a file cannot be used, or the cache cannot be written.
        """
        _allow_open_files(2 * len(cases) + 256)
        out: dict[str, CachedCase] = {}
        for case in cases:
            out[case.id] = self._open_or_build(case)
            if on_progress is not None:
                on_progress(case.id)
        return out

    def facts(self, case: Case) -> ScanFacts:
        """Return what a prepared case's scan is like before preprocessing.

        Args:
            case: one that was given to :meth:`prepare`.

        Raises:
            MedSSLError: an entry of an older version does not say, and the scan cannot be read.
        """
        file = self._entries[case.id] / FACTS
        try:
            return ScanFacts.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (*DAMAGED, TypeError):
            image = read_images(case.images, spatial_unit=self.spec.spatial_unit)
            found = scan_facts(image, self.spec)
        try:
            write_json(file, found.as_dict())
        except MedSSLError as error:  # then it is read again the next time
            logger.debug("%s cannot be kept: %s", file, error)
        return found

    def holds(self, case: Case) -> bool:
        """Say whether a case has an entry that is whole.

        Raises:
            MedSSLError: a file of the case is missing.
        """
        try:
            open_entry(self.root / self.key(case), case)
        except DAMAGED:
            return False
        return True

    def size(self, case: Case) -> int:
        """Return the bytes of a case's entry on disk, 0 if there is none.

        Raises:
            MedSSLError: a file of the case is missing.
        """
        return sum(path.stat().st_size for path in (self.root / self.key(case)).glob("*"))

    def _open_or_build(self, case: Case) -> CachedCase:
        for fresh in (False, True):
            folder = self.root / self.key(case, fresh=fresh)
            if folder.is_dir():
                try:
                    return self._opened(folder, case)
                except DAMAGED as error:
                    logger.warning("cache entry %s is damaged (%s) and made again", folder, error)
                    self._discard(folder)
        arrays, facts = self._preprocess(case)
        if self.key(case) != folder.name:
            raise MedSSLError(
                "a file of the case was changed while it was read",
                where=case.images[0],
                fix="let the other program finish, then start again",
            )
        self._store(folder, case, arrays, facts)
        try:
            return self._opened(folder, case)
        except OSError as error:
            raise self._refusal(error) from error

    def _opened(self, folder: Path, case: Case) -> CachedCase:
        found = open_entry(folder, case)
        self._entries[case.id] = folder
        return found

    def _preprocess(self, case: Case) -> tuple[dict[str, np.ndarray], ScanFacts | None]:
        prepared, values = preprocess_case(case, self.spec)
        region = self.regions.get(case.id)
        if region is not None:
            prepared = region.crop(prepared)
        image = prepared.image.numpy()
        largest = float(np.abs(image).max())
        if largest > FLOAT16_MAX:
            raise MedSSLError(
                f"intensities up to {largest:g} after normalization do not fit float16",
                where=case.images[0],
                fix="choose another spec.intensity.rule than "
                f"{self.spec.intensity.rule!r}, for instance zscore",
            )
        arrays = {"image": image.astype(np.float16)}
        if values is not None:
            try:
                label = self.label_map.to_classes(values)
            except ValueError as error:
                raise MedSSLError(
                    str(error),
                    where=case.label,
                    fix="declare the values under `labels` in dataset.json, or correct the label",
                ) from error
            arrays["label"] = label
            if prepared.box is not None:
                inside = label[tuple(slice(a, b) for a, b in prepared.box)].copy()
                whole, kept = (_count(x, self.label_map.num_classes) for x in (label, inside))
                arrays["label"], arrays["outside"] = inside, whole - kept
        return arrays, prepared.facts

    def _store(
        self, folder: Path, case: Case, arrays: dict[str, np.ndarray], facts: ScanFacts | None
    ) -> None:
        """Write an entry; it is there whole or not at all."""
        try:
            write_entry(folder, case, arrays, facts)
        except MedSSLError as error:
            if not (folder / "meta.json").is_file():  # else another process was faster
                raise self._refusal(error) from error

    def _discard(self, folder: Path) -> None:
        try:
            discard_folder(folder)
        except MedSSLError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> MedSSLError:
        reason = error.__cause__ if isinstance(error.__cause__, OSError) else error
        return MedSSLError(
            f"the preprocessing cache cannot be written ({reason_of(reason)})",
            where=self.root,
            fix="free some space, or use another folder: `--set data.cache=FOLDER`",
        )


def _count(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the voxels of each class."""
    return np.bincount(label.ravel(), minlength=256)[:num_classes]


def _allow_open_files(wanted: int) -> None:
    """Raise the soft limit of open files: each memory map holds one."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
