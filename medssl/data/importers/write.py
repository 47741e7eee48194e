"""Write imported cases as a Decathlon folder that medssl reads without a single deviation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl.data.datasets.decathlon_header import parse_labels
from medssl.data.importers.case_writer import CaseWriter, ImportResult
from medssl.data.importers.describe import (
    check_written,
    describe_dataset,
    label_names,
    list_splits,
)
from medssl.data.importers.importer import ImportPlan, ImportSettings
from medssl.files import all_or_nothing, refuse_filled, write_json
from medssl.progress import Done

THING = "the dataset"


def write_dataset(
    plan: ImportPlan,
    source: Path,
    dataset: Path,
    settings: ImportSettings,
    *,
    origin: Mapping[str, Any],
    on_case: Done = lambda _name: None,
) -> ImportResult:
    """Write a plan's cases, dataset.json, provenance.json and perhaps splits.json.

    Args:
        source: what was imported; file names in the provenance are relative to it.
        dataset: a folder that does not exist or is empty.
        origin: format and options, for the provenance.
        on_case: told each case's id when it is done.

    Raises:
        MedSSLError: the folder is in use, or a case is broken. Nothing is left behind then.
    """
    refuse_filled(dataset, THING)
    if plan.labels is not None:
        # Names that dataset.json cannot hold are refused before hours are spent.
        parse_labels({"labels": label_names(plan, ())}, source)
    with all_or_nothing(dataset, THING) as building:
        writer = CaseWriter(building, source, plan, settings)
        writer.write_all(on_case)
        splits = list_splits(plan, writer)
        write_json(building / "dataset.json", describe_dataset(plan, settings, writer))
        write_json(building / "provenance.json", writer.provenance(origin))
        if splits:
            write_json(building / "splits.json", splits)
        check_written(building, writer)
    return writer.result(dataset)
