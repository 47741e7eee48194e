"""``predict --gallery``: one page of pictures of predictions, with what is known of each."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.files import write_text
from medssl.reports.render import render
from medssl.reports.thumbnails import structure_color
from medssl.uncertainty.volumes_csv import rows_by_case

OF_UNION = "#9e9e9e"
"""Color of a structure that is drawn in the colors of its labels."""

FILE = "gallery.html"
MAX_PICTURES = 400
"""So many cases are drawn, those to look at first: a page must open in a browser."""


@dataclass(frozen=True)
class GalleryCase:
    """One case of a gallery.

    Attributes:
        case_id: of the case.
        picture: a JPEG; None where there is nothing to show.
        details: shape, spacing and stored axes in words.
        unusual: what of it is unlike the training or the calibration scans, a line each.
        note: what else a reader must know.
        error: why it failed; empty if it did not.
    """

    case_id: str
    picture: bytes | None = None
    details: str = ""
    unusual: tuple[str, ...] = ()
    note: str = ""
    error: str = ""


@dataclass(frozen=True)
class Tables:
    """What ``volumes.csv`` and ``quality.csv`` of a folder say, rows as texts by case."""

    volumes: Mapping[str, list[dict[str, str]]] = field(default_factory=dict)
    quality: Mapping[str, list[dict[str, str]]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Tables:
        """Read both; one that is not there is empty."""
        return cls(rows_by_case(folder / "volumes.csv"), rows_by_case(folder / "quality.csv"))

    def quality_of(self, case_id: str) -> float:
        """Return the expected mean Dice of a case, NaN where it is not known."""
        rows = self.quality.get(case_id, [])
        return float(rows[0].get("quality") or "nan") if rows else math.nan

    def why_unusual(self, case_id: str) -> tuple[str, ...]:
        """Return why a case is unlike the calibration cases, if it is."""
        rows = self.quality.get(case_id, [])
        return (rows[0]["why"],) if rows and rows[0].get("flag") == "unusual" else ()


def order(cases: Iterable[GalleryCase], tables: Tables) -> list[GalleryCase]:
    """Sort cases: failed ones, unusual ones, then by rising expected quality, unknown ones last."""

    def key(case: GalleryCase) -> tuple[bool, bool, float]:
        quality = tables.quality_of(case.case_id)
        unusual = case.unusual or tables.why_unusual(case.case_id)
        return not case.error, not unusual, math.inf if math.isnan(quality) else quality

    return sorted(cases, key=key)


def render_gallery(
    folder: Path,
    cases: Sequence[GalleryCase],
    tables: Tables,
    *,
    model: str = "",
    calibrated: bool = False,
) -> str:
    """Return a page that needs no other file and no network.

    Args:
        folder: of the predictions.
        cases: in the order in which they stand on the page.
        tables: volumes and qualities.
        model: what predicted.
        calibrated: whether its probabilities were.
    """
    failed = sum(bool(c.error) for c in cases)
    shown = [_shown(c, tables) for c in cases]
    unusual = sum(bool(c["unusual"]) for c in shown)
    return render(
        "gallery.html",
        name=folder.resolve().name,
        folder=str(folder),
        model=model,
        verdict=f"{len(cases) - failed} predicted, {unusual} of them unusual, {failed} failed",
        failed=failed,
        quality_known=any(c["quality"] for c in shown),
        calibrated=calibrated,
        left_out=sum(c.picture is None and not c.error for c in cases[MAX_PICTURES:]),
        cases=shown,
    )


def write_gallery(
    folder: Path,
    cases: Sequence[GalleryCase],
    tables: Tables,
    *,
    model: str = "",
    calibrated: bool = False,
) -> Path:
    """Write ``gallery.html``; see :func:`render_gallery`.

    Raises:
        MedSSLError: the disk refuses.
    """
    path = folder / FILE
    write_text(path, render_gallery(folder, cases, tables, model=model, calibrated=calibrated))
    return path


def _shown(case: GalleryCase, tables: Tables) -> dict[str, Any]:
    quality = tables.quality_of(case.case_id)
    return {
        "id": case.case_id,
        "picture": base64.b64encode(case.picture).decode() if case.picture else "",
        "details": case.details,
        "unusual": [] if case.error else [*case.unusual, *tables.why_unusual(case.case_id)],
        "note": case.note,
        "error": case.error,
        "quality": "" if math.isnan(quality) else f"{quality:.2f}",
        "volumes": [_volume(row) for row in tables.volumes.get(case.case_id, [])],
    }


def _volume(row: Mapping[str, str]) -> dict[str, str]:
    unit = "mm" if "volume_mm3" in row else "um"
    low, high = row.get(f"low_{unit}3"), row.get(f"high_{unit}3")
    known = f"{float(low):,.0f} to {float(high):,.0f}" if low and high else ""
    size, cube = float(row[f"volume_{unit}3"]), f"{unit}³".replace("um", "µm")
    union = "+" in row["label"]  # of labels that are drawn in colors of their own
    return {
        "color": OF_UNION if union else structure_color(int(row["label"])),
        "name": row["name"],
        "volume": f"{size:,.0f} {cube}" if size else "not found",
        "interval": known,
        "how": row.get("how", ""),
    }
