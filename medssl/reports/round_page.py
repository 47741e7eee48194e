"""The page of a round of labeling: the scans to label, and where their drafts are in doubt."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medssl.data.datasets.case import LabelMap
from medssl.files import write_text
from medssl.reports.render import render
from medssl.reports.thumbnails import structure_color

FILE = "round.html"


@dataclass(frozen=True)
class ShownScan:
    """One scan of the page.

    Attributes:
        id: of the case.
        why: it is to be labeled.
        outlines: a JPEG of the draft in three planes.
        doubt: a PNG of the entropy in three planes.
        slices: plane, slice, ras_mm and doubt_voxels of each slice in doubt.
        unusual: what of the scan is unlike the training scans, a line each.
    """

    id: str
    why: str
    outlines: bytes
    doubt: bytes
    slices: Sequence[Mapping[str, Any]]
    unusual: tuple[str, ...] = ()


@dataclass(frozen=True)
class RoundWords:
    """What the page says of the round.

    Attributes:
        name: of its folder.
        model: that drew the drafts.
        rule: that chose the scans.
        labels: of the dataset.
        notes: what was left out of the pool.
    """

    name: str
    model: str
    rule: str
    labels: LabelMap
    notes: Sequence[str] = field(default=())


def write_round_page(folder: Path, words: RoundWords, scans: Sequence[ShownScan]) -> Path:
    """Write ``round.html``, which needs no other file and no network.

    Args:
        folder: of the round.
        words: of the round.
        scans: in the order in which they are wanted.

    Raises:
        MedSSLError: the disk refuses.
    """
    labels = words.labels
    html = render(
        "round.html",
        words=words,
        structures=[
            {"value": value, "name": name, "color": structure_color(value)}
            for value, name in zip(labels.values[1:], labels.names[1:], strict=True)
        ],
        scans=[
            {
                "id": scan.id,
                "why": scan.why,
                "outlines": base64.b64encode(scan.outlines).decode(),
                "doubt": base64.b64encode(scan.doubt).decode(),
                "slices": scan.slices,
                "unusual": scan.unusual,
            }
            for scan in scans
        ],
    )
    path = folder / FILE
    write_text(path, html)
    return path
