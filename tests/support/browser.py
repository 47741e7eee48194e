"""Pages looked at in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def look_at(page: Path, width: int, tmp_path: Path) -> dict[str, int]:
    """Load a page and return what :func:`seen` finds. Nothing may be said on the console."""
    return seen(loaded(probed(page, tmp_path).as_uri(), width, tmp_path / "profile"))


def probed(page: Path, folder: Path) -> Path:
    """Return a copy of a page, in a folder, that leaves in its title how it looks."""
    probe = """<script>addEventListener('load', () => setTimeout(() => {
        document.title = JSON.stringify({
        broken: [...document.images].filter(i => !i.naturalWidth).length,
        images: document.images.length,
        overflow: document.documentElement.scrollWidth - innerWidth,
        small: [...document.querySelectorAll('p,td,th,li,figcaption')].filter(
            e => e.offsetParent && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
                && parseFloat(getComputedStyle(e).fontSize) < 12).length,
        outside: performance.getEntriesByType('resource').filter(
            e => !/^(file|data|blob):/.test(e.name)).length }) }, 1000))</script>"""
    copy = folder / "page.html"
    copy.write_text(page.read_text().replace("</body>", probe + "</body>"))
    return copy


def seen(shown: str) -> dict[str, int]:
    """Return how many images a page has and are broken, how far it is too wide, how many texts are
    too small to read, and how much was asked of other places than files.
    """
    return json.loads(re.search(r"<title>(\{.*?\})</title>", shown)[1])


def loaded(url: str, width: int, profile: Path) -> str:
    """Return a page as it is once its scripts have run; nothing may be said on the console."""
    done = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--window-size={width},1000", f"--user-data-dir={profile}"),
            *("--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"),
            url,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    return done.stdout
