"""Files about predictions: an assessment per case, ``volumes.csv`` and ``quality.csv`` of all."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError
from medssl.inference.assess import Assessment, StructureFindings
from medssl.inference.calibration import Calibration

try:
    import fcntl
except ImportError:  # Windows: tables of one process are right, those of several may miss rows
    fcntl = None  # type: ignore[assignment]


def assessment_file(folder: Path, case_id: str) -> Path:
    """Return where the assessment of a case lies in a folder of predictions."""
    return folder / "uncertainty" / f"{case_id}.json"


def write_assessment(assessment: Assessment, path: Path) -> None:
    """Write an assessment as JSON, whole or not at all.

    Raises:
        MedSSLError: the disk refuses.
    """
    write_text(path, json.dumps(assessment.as_dict(), indent=1, allow_nan=False) + "\n")


def read_assessment(path: Path) -> Assessment | None:
    """Read an assessment; None where there is none, or a damaged one."""
    try:
        return Assessment.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_assessments(folder: Path) -> dict[str, Assessment]:
    """Return every assessment in a folder of predictions, by case id, in order."""
    files = sorted((folder / "uncertainty").glob("*.json"))
    found = {path.stem: read_assessment(path) for path in files}
    return {case_id: one for case_id, one in found.items() if one is not None}


def write_tables(folder: Path, calibration: Calibration | None) -> None:
    """Write ``volumes.csv`` and ``quality.csv`` about all assessments in a folder of predictions.

    ``volumes.csv``: case, label, name, volume, low and high (the unit is in their names), and how
    the interval was made. ``quality.csv``: case, quality (mean expected Dice over structures), the
    expected Dice of each structure and, with a calibration, unlike (see
    :class:`medssl.inference.unlike.Reference`), flag and why.

    Several processes may predict into one folder: the last one to write holds what all have found.

    Raises:
        MedSSLError: the disk refuses.
    """
    if not (folder / "uncertainty").is_dir():
        return
    with _one_at_a_time(folder / "uncertainty" / ".lock"):
        found = read_assessments(folder)
        if not found:
            return
        write_csv(
            folder / "volumes.csv",
            [row for case, one in found.items() for row in volume_rows(case, one, calibration)],
        )
        write_csv(
            folder / "quality.csv",
            [quality_row(case, one, calibration) for case, one in found.items()],
        )


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Wait for the lock of a file. Else who reads early and writes late would drop rows."""
    try:
        file = path.open("w")
    except OSError:  # the tables will say why
        yield
        return
    with file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def volume_rows(
    case_id: str, assessment: Assessment, calibration: Calibration | None
) -> list[dict[str, Any]]:
    """Return a row of ``volumes.csv`` per structure."""
    unit = f"{assessment.unit}3"
    rows = []
    usual = not is_unlike(assessment, calibration)
    for structure in assessment.structures:
        (low, high), how = volume_interval(structure, calibration, usual=usual)
        rows.append(
            {
                "case": case_id,
                "label": structure.label,
                "name": structure.name,
                f"volume_{unit}": structure.volume,
                f"low_{unit}": low,
                f"high_{unit}": high,
                "how": how,
            }
        )
    return rows


def volume_interval(
    structure: StructureFindings, calibration: Calibration | None, *, usual: bool = True
) -> tuple[tuple[float, float], str]:
    """Return an interval of a structure's volume and how it was made; NaN where there is none.

    Errors seen on calibration cases come first, since only they say how often the truth lies
    inside. Members of an ensemble share their mistakes; their range is given without a promise.

    Args:
        usual: False for a case unlike the calibration cases, whose errors say nothing about it.
    """
    none = (math.nan, math.nan)
    if structure.volume <= 0:
        return none, "not found"
    error = None if calibration is None else calibration.volumes.get(structure.name)
    if error is not None and not usual:
        return none, "no interval: the case is unlike the calibration cases"
    if error is not None:
        ends = (structure.volume * error.low_factor, structure.volume * error.high_factor)
        return ends, f"{error.level:.0%} of true volumes, from {error.n} calibration cases"
    if structure.member_volumes:
        volumes = structure.member_volumes
        return (min(volumes), max(volumes)), f"range of {len(volumes)} members, no promise"
    return none, "no interval: run medssl calibrate, or predict with --ensemble or --tta"


def is_unlike(assessment: Assessment, calibration: Calibration | None) -> bool:
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
    reference = None if calibration is None else calibration.reference
    if reference is not None:
        flagged = is_unlike(assessment, calibration)
        row |= {
            "unlike": reference.score(assessment.features),
            "flag": "unlike" if flagged else "",
            "why": reference.reason(assessment.features) if flagged else "",
        }
    return row


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys, whole or not at all; NaN is an empty cell.

    Raises:
        MedSSLError: the disk refuses.
    """
    buffer = io.StringIO(newline="")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_text(path, buffer.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        MedSSLError: the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    except OSError as error:
        raise MedSSLError(
            f"cannot write: {error.strerror or error}",
            where=path,
            fix="free some space, or choose a folder you may write to",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
