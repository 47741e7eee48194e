"""Names of image files, and case ids made of them."""

from __future__ import annotations

import re
from pathlib import Path


def safe_id(text: str) -> str:
    """Make a case id of any text: letters, digits, ``_ - +`` and ``.`` inside."""
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII).strip("._+-") or "case"


NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Image formats that are read, longest first."""


def split_extension(name: str) -> tuple[str, str]:
    """Split ``a.b.nii.gz`` into ``a.b`` and ``.nii.gz``; the extension is empty if not an image."""
    ext = next((e for e in EXTENSIONS if name.lower().endswith(e)), "")
    return (name[: -len(ext)], name[-len(ext) :]) if ext and len(name) > len(ext) else (name, "")


def list_images(folder: Path, ending: str = "") -> list[Path]:
    """Return the images directly inside a folder, without hidden files such as macOS's ``._x``."""
    return sorted(
        p
        for p in folder.iterdir()
        if not p.name.startswith(".")
        and split_extension(p.name)[1]
        and p.name.endswith(ending)
        and p.is_file()
    )
