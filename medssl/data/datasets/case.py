"""The records that every reader produces and everything downstream consumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.datasets.label_regions import LabelRegion, RegionClasses, regions_json
from medssl.data.datasets.patient_guess import PatientGuess
from medssl.data.images.geometry import Unit

IGNORE_INDEX = 255
"""Class index of voxels without annotation: excluded from every loss and every metric."""


@dataclass(frozen=True)
class LabelMap:
    """Translate between a dataset's label values and the contiguous class indices of a network.

    Args:
        values: label value of each class, class 0 (background) first, for instance ``(0, 11, 12)``.
        names: the structures' names, in the same order.
        ignore_value: the value that marks voxels without annotation, or None.
        regions: the structures, where they are unions of label values; else each value is one.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    ignore_value: int | None = None
    regions: tuple[LabelRegion, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.values)

    @property
    def structures(self) -> tuple[LabelRegion, ...]:
        """What is measured and reported: the regions, or every value but the background."""
        single = zip(self.values[1:], self.names[1:], strict=True)
        return self.regions or tuple(LabelRegion(name, (value,), value) for value, name in single)

    def classes_of(self, structure: LabelRegion) -> tuple[int, ...]:
        """Return the class indices of a structure."""
        return tuple(self.values.index(value) for value in structure.values)

    @property
    def region_classes(self) -> RegionClasses:
        """The regions in class indices, in the order they are written; empty without regions."""
        return tuple((self.classes_of(r), self.values.index(r.writes)) for r in self.regions)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; of a map without regions it says nothing of them."""
        found: dict[str, Any] = {
            "values": list(self.values),
            "names": list(self.names),
            "ignore_value": self.ignore_value,
        }
        return found | ({"regions": [r.as_dict() for r in self.regions]} if self.regions else {})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LabelMap:
        """Read back what :meth:`as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        values = tuple(int(value) for value in content["values"])
        ignored = content.get("ignore_value")
        found = cls(
            values,
            tuple(map(str, content["names"])),
            None if ignored is None else int(ignored),
            tuple(map(LabelRegion.from_dict, content.get("regions", ()))),
        )
        if any(value not in found.values for r in found.regions for value in r.values):
            raise ValueError("a region of labels that there are not")
        return found

    def dataset_json(self) -> dict[str, Any]:
        """Return what dataset.json says of labels and regions."""
        labels = {str(v): n for v, n in zip(self.values, self.names, strict=True)}
        if self.ignore_value is not None:
            labels[str(self.ignore_value)] = "ignore"
        return {"labels": labels, **regions_json(self.regions)}

    def to_classes(self, label: np.ndarray) -> np.ndarray:
        """Map label values to class indices (uint8; IGNORE_INDEX where not annotated).

        Raises:
            ValueError: a value is not declared; the message lists each with its voxel count.
        """
        found, counts = np.unique(label, return_counts=True)
        known = dict(zip(self.values, range(len(self.values)), strict=True))
        if self.ignore_value is not None:
            known[self.ignore_value] = IGNORE_INDEX
        unknown = {
            float(v): int(n) for v, n in zip(found, counts, strict=True) if float(v) not in known
        }
        if unknown:
            listed = ", ".join(f"{v:g} ({n} voxels)" for v, n in list(unknown.items())[:8])
            raise ValueError(f"label values not declared in dataset.json: {listed}")
        out = np.zeros(label.shape, dtype=np.uint8)
        for value, index in known.items():
            if index:
                out[label == value] = index
        return out

    def to_values(self, classes: np.ndarray) -> np.ndarray:
        """Map class indices to label values, in the smallest unsigned dtype that holds them."""
        dtype = np.uint8 if max(self.values) < 256 else np.uint16
        return np.asarray(self.values, dtype=dtype)[classes]


@dataclass(frozen=True)
class Case:
    """One scan: its image file or files (one per channel), perhaps its label, and its patient."""

    id: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str
    meta: dict[str, str] = field(default_factory=dict, compare=False)

    def without_label(self) -> Case:
        """Return the same case with its label hidden, so that nothing downstream can open it."""
        return Case(self.id, self.images, None, self.patient, self.meta)


@dataclass(frozen=True)
class Dataset:
    """A Decathlon folder, normalized.

    Attributes:
        root: the dataset's folder.
        modality: one name per image channel.
        labels: the label map (value, name) declared in dataset.json.
        training: cases listed for training that have a label.
        unlabeled: cases without a label (see the reader for where they come from).
        test: ``imagesTs`` cases; unlabeled data only if the recipe says so.
        spatial_unit: ``mm`` or ``um``.
        deviations: every departure from the Decathlon format that was read around, one line each.
        guess: what case ids look like, where nothing says which scans are of one patient.
    """

    root: Path
    name: str
    modality: tuple[str, ...]
    labels: LabelMap
    training: tuple[Case, ...]
    unlabeled: tuple[Case, ...]
    test: tuple[Case, ...]
    spatial_unit: Unit = "mm"
    deviations: tuple[str, ...] = ()
    guess: PatientGuess | None = None


@dataclass(frozen=True)
class CachedCase:
    """A preprocessed case, memory-mapped from the cache.

    Attributes:
        image: ``(C, X, Y, Z)`` float16.
        label: ``(X, Y, Z)`` uint8 class indices, or None for an unlabeled case.
        class_indices: for each class present, flat voxel indices into ``(X, Y, Z)`` (a bounded,
            seeded subset for large structures); empty for an unlabeled case.
        outside: voxels of each class that a region of interest left out; empty without one.
    """

    id: str
    patient: str
    image: np.ndarray
    label: np.ndarray | None
    class_indices: dict[int, np.ndarray]
    outside: tuple[int, ...] = ()

    @property
    def shape(self) -> Sequence[int]:
        """Spatial shape ``(X, Y, Z)``."""
        return self.image.shape[1:]
