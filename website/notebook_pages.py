"""The notebooks as pages of the site: words and code, without results."""

from __future__ import annotations

import json
from pathlib import Path

from markdown_pages import as_page

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def notebook_pages() -> list[tuple[str, str]]:
    """Return path and text of a page for each notebook; the notebook lies beside its page."""
    return [(f"notebooks/{path.stem}.md", _page(path)) for path in NOTEBOOKS]


def _page(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [_shown(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    page = as_page("\n\n".join(parts), f"notebooks/{path.name}", f"notebooks/{path.stem}.md")
    head, rest = page.split("\n\n", 1)
    return f"{head}\n\nTo run it, take [the notebook]({path.name}).\n\n{rest}"


def _shown(kind: str, text: str) -> str:
    if kind == "markdown":
        return text
    if text.startswith("%%writefile"):
        magic, text = text.split("\n", 1)
        text = f"# {Path(magic).name}\n{text}"
    return f"```python\n{text}\n```"
