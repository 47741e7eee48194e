"""Write what dataset.json and splits.json say about the cases that were imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.label_regions import regions_json
from medssl.data.importers.importer import ImportPlan, ImportSettings
from medssl.errors import MedSSLError

if TYPE_CHECKING:
    from medssl.data.importers.case_writer import CaseWriter


PLACEHOLDER = "structure"
"""Label 1 of a dataset without any label: dataset.json may not be without one."""


def list_splits(plan: ImportPlan, writer: CaseWriter) -> dict[str, list[str]]:
    """Return the lists of cases that were written; say which ones the source names in vain.

    Test cases with labels are listed as ``test`` where the source has no such list, so that a
    recipe can name them.
    """
    written = set(writer.records)
    splits: dict[str, list[str]] = {}
    for name, ids in plan.splits.items():
        splits[name] = [i for i in ids if i in written]
        missing = [i for i in ids if i not in written]
        if missing:
            writer.warnings.append(
                f"the list '{name}' names {len(missing)} cases that were not imported "
                f"(first: {missing[0]}): left out of splits.json"
            )
    labeled_test = [case_id(item) for item in writer.items["test"] if "label" in item]
    if labeled_test:
        splits.setdefault("test", labeled_test)
    return splits


def case_id(item: Mapping[str, Any]) -> str:
    """Return the id that the name of an item's image stands for."""
    return Path(item["image"]).name.removesuffix(".nii.gz")


def label_names(plan: ImportPlan, found: Iterable[int]) -> dict[str, str]:
    """Return ``labels`` of dataset.json; values without a declared name are named by number."""
    names = plan.labels
    if names is None:
        names = {v: f"label {v}" for v in sorted(found) if v not in (0, plan.ignore_value)}
        names = names or {1: PLACEHOLDER}
    labels = {str(v): n for v, n in sorted({0: "background", **names}.items())}
    if plan.ignore_value is not None:
        labels[str(plan.ignore_value)] = "ignore"
    return labels


def describe_dataset(
    plan: ImportPlan, settings: ImportSettings, writer: CaseWriter
) -> dict[str, Any]:
    """Return the content of dataset.json."""
    labels = label_names(plan, writer.values)
    if labels.get("1") == PLACEHOLDER:
        writer.warnings.append(
            f"no scan has a label: dataset.json declares the placeholder '{PLACEHOLDER}' (1); join "
            "the scans to a labeled dataset with data.unlabeled in a recipe, or add labels"
        )
    items = writer.items
    return {
        "name": settings.name or plan.name,
        "description": "",
        "reference": "",
        "license": settings.licence or plan.licence,
        "release": "",
        "tensorImageSize": "4D" if len(plan.modality) > 1 else "3D",
        "spatialUnit": plan.spatial_unit,
        "modality": {str(n): name for n, name in enumerate(plan.modality)},
        "labels": labels,
        **regions_json(plan.regions),
        "numTraining": len(items["training"]),
        "numTest": len(items["test"]),
        "training": items["training"],
        "unlabeled": items["unlabeled"],
        "test": items["test"],
    }


def check_written(folder: Path, writer: CaseWriter) -> None:
    """Read the finished folder as a user of it will, and compare the counts."""
    dataset = read_dataset(folder)
    found = {
        "training": len(dataset.training),
        "unlabeled": len(dataset.unlabeled),
        "test": len(dataset.test),
    }
    expected = {role: len(items) for role, items in writer.items.items()}
    if found != expected or dataset.deviations:
        raise MedSSLError(
            f"the written dataset reads back as {found} instead of {expected}"
            + "".join(f"; {line}" for line in dataset.deviations[:2]),
            where=writer.source,
            fix="rename the case ids that clash, or report this",
        )
