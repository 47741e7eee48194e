"""Put the documentation into what is packaged, where it has been built.

``mkdocs build --strict`` writes ``site/``; a wheel or source archive that is made after that has
it, and `medssl docs` opens it. Installing from a checkout needs no mkdocs, and has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SiteHook(BuildHookInterface):
    """Adds ``site/`` to wheels, as ``medssl/_share/site``, and to source archives."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the folder among what is included; not where a checkout is installed in place."""
        site = Path(self.root) / "site"
        if version == "editable" or not (site / "index.html").is_file():
            return
        place = "medssl/_share/site" if self.target_name == "wheel" else "site"
        build_data["force_include"][str(site)] = place
