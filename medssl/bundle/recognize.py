"""Tell a bundle from a run without loading what reads either."""

from __future__ import annotations

from pathlib import Path


def is_bundle(path: Path) -> bool:
    """Tell whether a folder looks like a MONAI bundle."""
    return (path / "configs" / "metadata.json").is_file()
