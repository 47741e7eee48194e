"""Read the package's docstrings as the site shows them: an ``Example`` is code."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Call a section ``Example:`` by the name under which griffe sets it as code."""

    def on_instance(self, *, obj: griffe.Object, **others: Any) -> None:
        """Change an object's docstring once it is loaded."""
        if obj.docstring:
            text = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
            obj.docstring.value = re.sub(r":[a-z:]+:`~?([^`]+)`", r"``\1``", text)
