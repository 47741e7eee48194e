"""The assessment of a prediction as a file: what it says of itself, and reading it back."""

from __future__ import annotations

import json
from pathlib import Path

from medssl.files import write_json
from medssl.inference.assessment import Assessment


def assessment_file(folder: Path, case_id: str) -> Path:
    """Return where the assessment of a case lies in a folder of predictions."""
    return folder / "uncertainty" / f"{case_id}.json"


def write_assessment(assessment: Assessment, path: Path) -> None:
    """Write an assessment as JSON, whole or not at all.

    Raises:
        MedSSLError: the disk refuses.
    """
    write_json(path, assessment.as_dict())


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
