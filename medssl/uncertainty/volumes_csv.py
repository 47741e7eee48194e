"""Files about predictions: an assessment per case, ``volumes.csv`` and ``quality.csv`` of all."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from medssl.files import locked, write_csv
from medssl.inference.assessment import Assessment, StructureFindings
from medssl.inference.assessment_files import read_assessments
from medssl.inference.calibration import Calibration
from medssl.inference.record_file import recorded_predictions
from medssl.inference.volumes import Volumes

NOT_ASSESSED = "no interval: predict with --uncertainty"
OF_REGION = "no interval: of several labels, see theirs"


def write_tables(folder: Path, calibration: Calibration | None, *, assessed: bool = True) -> None:
    """Write ``volumes.csv`` and ``quality.csv`` about all that is in a folder of predictions.

    ``volumes.csv``: case, label, name, volume, low and high (the unit is in their names), how the
    interval was made, and what of the image is unlike the training scans. ``quality.csv``, about
    assessed cases: case, quality (mean expected Dice over structures), the expected Dice of each
    structure, of a calibrated cross-validation predicted_dice and agreement, and, with a
    calibration, unusual (see :class:`medssl.inference.unusual.Reference`),
    flag and why.

    Several processes may predict into one folder: the last one to write holds what all have found.

    Args:
        folder: of predictions.
        calibration: of the model.
        assessed: whether assessments were asked for; else what stands in ``volumes.csv`` of those
            of an earlier call stays, and ``quality.csv`` as it is.

    Raises:
        MedSSLError: the disk refuses.
    """
    if not folder.is_dir():
        return
    with locked(folder / ".tables.lock", stays=False):  # else who reads early drops rows
        found = read_assessments(folder)
        rows = recorded_volumes(folder)
        if assessed:
            for case, one in found.items():
                # A region of several labels is not assessed: they are. One of a single label is it.
                named = {str(row["label"]): row["name"] for row in rows.get(case, ())}
                own = [
                    row | {"name": named.get(str(row["label"]), row["name"])}
                    for row in volume_rows(case, one, calibration)
                ]
                known = {str(row["label"]) for row in own}
                more = [row for row in rows.get(case, ()) if str(row["label"]) not in known]
                rows[case] = own + [
                    {**row, "how": OF_REGION} if row["how"] == NOT_ASSESSED else row for row in more
                ]
        else:
            before = rows_by_case(folder / "volumes.csv")
            rows |= {case: kept for case, kept in before.items() if case in found}
        if rows:
            table = [row for case in sorted(rows) for row in rows[case]]
            write_csv(folder / "volumes.csv", table)
        if found and assessed:
            write_csv(
                folder / "quality.csv",
                [quality_row(case, one, calibration) for case, one in found.items()],
            )


def rows_by_case(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a table as they stand there, by case; none where it cannot be read."""
    rows: dict[str, list[dict[str, Any]]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                rows.setdefault(row["case"], []).append(row)
    except (OSError, ValueError, KeyError, csv.Error):
        return {}
    return rows


def recorded_volumes(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of ``volumes.csv``, by case, of all that the record of predictions knows."""
    rows = {}
    for case_id, entry in recorded_predictions(folder).items():
        try:
            volumes = Volumes.from_dict(entry["volumes"])
            unusual = tuple(map(str, entry.get("unusual", ())))
        except (KeyError, TypeError, ValueError):
            continue  # a record of another hand
        sizes = [StructureFindings(*structure, None) for structure in volumes.structures]
        alone = Assessment(volumes.unit, 1.0, tuple(sizes), unusual=unusual)
        none = (math.nan, math.nan)
        why = {s.label: "not found" if s.volume <= 0 else NOT_ASSESSED for s in sizes}
        rows[case_id] = [_row(case_id, alone, s, (none, why[s.label])) for s in sizes]
    return rows


def volume_rows(
    case_id: str, assessment: Assessment, calibration: Calibration | None
) -> list[dict[str, Any]]:
    """Return a row of ``volumes.csv`` per structure."""
    usual = not is_unusual(assessment, calibration)
    return [
        _row(case_id, assessment, s, volume_interval(s, calibration, usual=usual))
        for s in assessment.structures
    ]


def _row(
    case_id: str,
    assessment: Assessment,
    structure: StructureFindings,
    interval: tuple[tuple[float, float], str],
) -> dict[str, Any]:
    unit, ((low, high), how) = f"{assessment.unit}3", interval
    return {
        "case": case_id,
        "label": structure.label,
        "name": structure.name,
        f"volume_{unit}": structure.volume,
        f"low_{unit}": low,
        f"high_{unit}": high,
        "how": how,
        "unusual": "; ".join(assessment.unusual),
    }


def volume_interval(
    structure: StructureFindings, calibration: Calibration | None, *, usual: bool = True
) -> tuple[tuple[float, float], str]:
    """Return an interval of a structure's volume and how it was made; NaN where there is none.

    Errors seen on calibration cases come first, since only they say how often the truth lies
    inside. Members of an ensemble share their mistakes; their range is given without a promise.
    An interval always holds the volume it stands beside: where all calibration volumes were too
    small, it reaches from the volume up, and where members disagree, their mean segmentation may
    be smaller than that of each. Both only widen it.

    Args:
        usual: False for a case unlike the calibration cases, whose errors say nothing about it.
    """
    none = (math.nan, math.nan)
    error = None if calibration is None else calibration.volumes.get(structure.name)
    members = structure.member_volumes if error is None else ()
    volumes = (structure.volume, *members)
    if max(volumes) <= 0:
        return none, "not found"
    if error is not None and not usual:
        return none, "no interval: the case is unlike the calibration cases"
    if error is not None:
        factors = (min(error.low_factor, 1.0), max(error.high_factor, 1.0))
        ends = (structure.volume * factors[0], structure.volume * factors[1])
        return ends, f"{error.level:.0%} of true volumes, from {error.n} calibration cases"
    if members:
        how = f"range of {len(members)} members and their mean, no promise"
        return (min(volumes), max(volumes)), how
    return none, "no interval: run medssl calibrate, or predict with --ensemble or --tta"


def is_unusual(assessment: Assessment, calibration: Calibration | None) -> bool:
    """Tell whether a case is unlike the calibration cases; never so without a calibration."""
    reference = None if calibration is None else calibration.reference
    return reference is not None and reference.score(assessment.features) > reference.threshold


def quality_row(
    case_id: str, assessment: Assessment, calibration: Calibration | None
) -> dict[str, Any]:
    """Return the row of ``quality.csv`` of a case."""
    row: dict[str, Any] = {"case": case_id, "quality": _or_nan(assessment.quality)}
    for structure in assessment.structures:
        row[f"expected_dice_{structure.name}"] = _or_nan(structure.expected_dice)
    if calibration is not None and calibration.of_folds:
        predicted = None if calibration.dice is None else calibration.dice.of(assessment.members)
        row["predicted_dice"] = _or_nan(predicted)
        row["agreement"] = _or_nan(assessment.agreement)
    reference = None if calibration is None else calibration.reference
    if reference is not None:
        flagged = is_unusual(assessment, calibration)
        row |= {
            "unusual": reference.score(assessment.features),
            "flag": "unusual" if flagged else "",
            "why": reference.reason(assessment.features) if flagged else "",
        }
    return row


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
