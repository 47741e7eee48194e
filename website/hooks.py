"""What mkdocs calls while it builds the site: pages that no one writes, and links that fit.

Nothing made here is kept in the repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from command_pages import api_page, command_page
from licence_pages import licence_page
from markdown_pages import OUTSIDE, as_page
from method_pages import method_pages
from mkdocs.structure.files import File, Files
from notebook_pages import NOTEBOOKS, notebook_pages
from recipe_pages import recipe_pages

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
MADE = ("docs/methods/", "docs/reference/", "docs/notebooks/")
LINKED = {page: source for source, page in OUTSIDE.items()}


def on_config(config: Any) -> Any:
    """Name each method where the navigation says ``methods/*``; pages it lacks come under More."""
    named = str(config.nav)
    more = [path.name for path in (ROOT / "docs").glob("*.md") if f"'{path.name}'" not in named]
    if more:
        config.nav.append({"More": sorted(more)})
    pages = [path for path, _ in method_pages() if path != "methods/index.md"]
    for section in config.nav:
        for title, entries in section.items():
            if "methods/*" in entries:
                at = entries.index("methods/*")
                section[title] = [*entries[:at], *pages, *entries[at + 1 :]]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the package and from files beside ``docs/``."""
    made = [*method_pages(), *recipe_pages(), command_page(), api_page(), licence_page()]
    made += [*notebook_pages(), *((page, _outside(source)) for source, page in OUTSIDE.items())]
    for path, text in made:
        files.append(File.generated(config, path, content=text))
    for path in [*(HERE / "assets").iterdir(), *NOTEBOOKS]:
        beside = f"{path.parent.name}/{path.name}"
        files.append(File.generated(config, beside, abs_src_path=str(path)))
    return files


def _outside(source: str) -> str:
    text = (ROOT / source).read_text(encoding="utf-8")
    if source != "CITATION.cff":
        return text
    return (
        "# Citing\n\nPlease cite medssl, and the paper of each method you used: it stands on "
        f"[the method's page](../methods/index.md).\n\n```yaml\n{text.rstrip()}\n```\n"
    )


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Show Markdown of the repository as the site writes it."""
    path = page.file.src_uri
    source = LINKED.get(path, f"docs/{path}")
    if source.startswith(MADE) or not source.endswith(".md"):
        return markdown  # made here, as the site wants it
    return as_page(markdown, source, path)


def on_post_build(config: Any) -> None:
    """Leave out what only those who develop the theme need."""
    site = Path(config.site_dir)
    for path in [*site.rglob("*.map"), *site.glob("sitemap.xml*")]:
        path.unlink()
    for path in (site / "assets" / "javascripts" / "lunr").rglob("*"):
        if path.is_file():
            path.unlink()  # searching in languages that the site is not written in
