"""The documentation site, built once: whole, offline, readable on a phone, searchable."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import CHROMIUM, loaded, look_at, probed, seen

import medssl
from medssl.settings.recipe import DataSettings
from medssl.settings.training import TrainingSettings

ROOT = Path(__file__).parents[2]

pytest.importorskip("material")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as it is shipped."""
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


class _Page(HTMLParser):
    """What a page refers to, and where in it one can be led."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {str(values[key]) for key in ("id", "name") if values.get(key)}
        where = values.get("src") or values.get("href") or ""
        (self.links if tag == "a" else self.loads).append(where)


def test_pages_lead_somewhere_and_load_nothing_from_outside(site: Path) -> None:
    pages = {path: _Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 50
    for path, page in pages.items():
        assert not [url for url in page.loads if urlsplit(url).netloc], path
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or not link:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert goal.exists(), f"{path}: {link}"
            if parts.fragment and goal in pages and parts.fragment != "__skip":
                assert unquote(parts.fragment) in pages[goal].anchors, f"{path}: {link}"
    outside = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import")
    for style in site.rglob("*.css"):
        assert not outside.search(style.read_text(encoding="utf-8")), style


def test_reference_holds_all_there_is(site: Path) -> None:
    def text(page: str) -> str:
        return re.sub("<[^>]*>", "", (site / page).read_text(encoding="utf-8"))

    for method in medssl.list_methods():
        assert f"medssl methods {method}" in text(f"methods/{method}.html")
    recipes, keys = text("reference/recipes.html"), text("reference/recipe_keys.html")
    assert all(f"name: {name}" in recipes for name in medssl.list_recipes())
    assert all(f"data.{key}" in keys for key in DataSettings.model_fields)
    assert all(f"training.{key}" in keys for key in TrainingSettings.model_fields)
    assert "medssl federate audit" in text("reference/commands.html")
    functions = text("reference/api.html")
    for name in set(medssl.__all__) - {"__version__"}:
        section = functions.split(f"medssl.{name}&para;", 1)[1][:1500]
        assert "Parameters:" in section or "Return" in section, name
    assert "0.820 (0.821, 0.823, 0.818)" in text("methods/bcp.html")
    assert "0.820 (0.821, 0.823, 0.818)" not in text("methods/cps.html")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_looked_at_offline(site: Path, tmp_path: Path) -> None:
    found = loaded(f"{probed(site / 'index.html', site).as_uri()}?q=crossval", 400, tmp_path)
    assert int(re.search(r"(\d+) matching documents", found)[1]) > 5
    assert "crossval.html?h=crossval" in found
    looks = {"index": seen(found)}
    for name in ("phantoms", "methods/bcp"):
        page = site / f"{name}.html"
        looks[name] = look_at(page, 400, page.parent)  # beside it, where its pictures are
    for name, look in looks.items():
        assert (look["broken"], look["outside"], look["small"]) == (0, 0, 0), name
        assert look["overflow"] <= 0, name
    assert looks["phantoms"]["images"] >= 4
