"""The names and colors of structures, as 3D Slicer and ITK-SNAP read them."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import ImageColor

from medssl.data.datasets.case import LabelMap
from medssl.files import write_text
from medssl.reports.thumbnails import structure_color

ITK_SNAP, SLICER = "itksnap_labels.txt", "slicer_colors.ctbl"
_UNSURE = "not annotated"
_GRAY = "#808080"


def write_editor_files(labels: LabelMap, folder: Path) -> None:
    """Write the label descriptions of ITK-SNAP and the color table of 3D Slicer.

    Args:
        labels: of the dataset.
        folder: to write to.

    Raises:
        MedSSLError: the disk refuses.
    """
    rows = [
        (value, name, ImageColor.getrgb(structure_color(value)))
        for value, name in zip(labels.values[1:], labels.names[1:], strict=True)
    ]
    if labels.ignore_value is not None:
        rows.append((labels.ignore_value, _UNSURE, ImageColor.getrgb(_GRAY)))
    snap = ["# ITK-SnAP Label Description File", '    0     0    0    0        0  0  0    "Clear"']
    slicer = ["# Color table", "0 background 0 0 0 0"]
    for value, name, (red, green, blue, *_) in rows:
        plain = re.sub(r'["\s]+', " ", name).strip() or str(value)
        snap.append(f'{value:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{plain}"')
        slicer.append(f"{value} {plain.replace(' ', '_')} {red} {green} {blue} 255")
    write_text(folder / ITK_SNAP, "\n".join(snap) + "\n")
    write_text(folder / SLICER, "\n".join(slicer) + "\n")
