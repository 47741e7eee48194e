"""Pages looked at in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def look_at(page: Path, width: int, tmp_path: Path) -> dict[str, int]:
    """Load a page; return how many images it has and are broken, how far it is too wide, and how
    many texts are too small to read. Nothing may be said on the console.
    """
    probe = """<script>addEventListener('load', () => { document.title = JSON.stringify({
        broken: [...document.images].filter(i => !i.naturalWidth).length,
        images: document.images.length,
        overflow: document.documentElement.scrollWidth - innerWidth,
        small: [...document.querySelectorAll('p,td,th,li,figcaption')].filter(
            e => parseFloat(getComputedStyle(e).fontSize) < 12).length }) })</script>"""
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", probe + "</body>"))
    done = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--window-size={width},1000", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"),
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    return json.loads(re.search(r"<title>(\{.*?\})</title>", done.stdout)[1])
