"""Names of image files, the channels of a scan among them, and case ids made of names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

NIFTI = (".nii.gz", ".nii")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
IMAGE_SUFFIXES = (*NIFTI, *ITK)
"""Image formats that are read, longest first."""

EXTENSIONS = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in (".nhdr", ".mhd"))
"""Formats whose files hold header and voxels: those of a dataset, and those that are written."""

CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
"""A channel of a scan in nnU-Net's spelling, without its suffix."""

MAX_PART = 60
"""Characters of a structure's name in a file's: file systems take 255 bytes."""

_KINDS = ("L", "M", "N")
"""First letters of the Unicode categories whose characters an id keeps: letters, marks, digits."""


def safe_id(text: str) -> str:
    """Make a case id of any text: letters and digits of any script, ``_ - +`` and ``.`` inside."""
    kept = (
        c if c in "_-+." or unicodedata.category(c).startswith(_KINDS) else "\0"
        for c in unicodedata.normalize("NFC", text)
    )
    return re.sub("\0+", "_", "".join(kept)).strip("._+-") or "case"


def same_name(text: str) -> str:
    """Return what two names share that many disks take for one: letter case and accents aside."""
    return unicodedata.normalize("NFC", text).casefold()


def plain_spelling(text: str) -> str:
    """Return a name as it looks: without invisible characters, wide letters, hyphens of print."""
    out = []
    for c in unicodedata.normalize("NFKC", text):
        kind = unicodedata.category(c)
        if kind == "Pd":
            out.append("-")
        elif kind not in ("Cf", "Cc"):
            out.append(c)
    return unicodedata.normalize("NFC", "".join(out)).strip()


def same_person(text: str) -> str:
    """Return what two names of a patient share that look alike, letter case aside."""
    return plain_spelling(plain_spelling(text).casefold())


def file_names(names: Sequence[str], numbers: Sequence[int | str]) -> list[str]:
    """Return a part of a file name for each name: letters and digits of any script.

    Where two would be one, perhaps in another letter case, each is followed by its number.
    """
    parts = [
        "".join(c if unicodedata.category(c).startswith(_KINDS) else " " for c in name)
        for name in (unicodedata.normalize("NFC", name) for name in names)
    ]
    parts = [re.sub(" +", "-", part)[:MAX_PART] for part in parts]
    if len({same_name(part) for part in parts}) == len(parts):
        return parts
    return [f"{part}-{number}" for part, number in zip(parts, numbers, strict=True)]


def image_suffix(path: str | Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> str | None:
    """Return the image suffix of a file name in lower case, or None if it is no image's."""
    name = Path(path).name.lower()
    return next((s for s in suffixes if name.endswith(s) and len(name) > len(s)), None)


def split_extension(name: str, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> tuple[str, str]:
    """Split ``a.b.nii.gz`` into ``a.b`` and ``.nii.gz``; the extension is empty if not an image."""
    length = len(image_suffix(name, suffixes) or "")
    return (name[:-length], name[-length:]) if length else (name, "")


def is_file(path: Path) -> bool:
    """Tell whether there is a file, or a link to one that is missing.

    The second must not be passed over, as if nobody had put it there: reading it says what helps.
    """
    return path.is_file() or is_dead_link(path)


def is_dead_link(path: Path) -> bool:
    """Tell whether a path is a link to something that is not there."""
    return path.is_symlink() and not path.exists()


def list_images(folder: Path, suffixes: Iterable[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Return the images directly inside a folder, without hidden files such as macOS's ``._x``.

    None where there is no such folder.
    """
    if not folder.is_dir():
        return []
    return sorted(
        p
        for p in folder.iterdir()
        if not p.name.startswith(".") and image_suffix(p, suffixes) and is_file(p)
    )


def group_channels(
    files: Iterable[Path], channels: int | None
) -> list[tuple[str, tuple[Path, ...]]]:
    """Group image files into scans: ``X_0000``, ``X_0001``, ... are the channels of ``X``.

    Many datasets number their scans with four digits, too. So they are channels only where each
    scan then has exactly as many as are wanted; of a single one, ``_0000`` is taken off only where
    every file of the folder ends in it.

    Args:
        files: of one folder or several; those of different folders are never of one scan.
        channels: how many a scan has; None: as many as count up from 0 without a gap.

    Returns:
        Name and files of each scan, in the order of the names.
    """
    files = sorted(files)
    groups: dict[tuple[Path, str], dict[int, Path]] = {}
    for path in files:
        match = CHANNEL.match(split_extension(path.name)[0])
        if match is not None:
            found = groups.setdefault((path.parent, match["case"]), {})
            found.setdefault(int(match["channel"]), path)
    lone = {p.parent for p in files} if channels == 1 else set()
    for folder in list(lone):
        stems = [split_extension(p.name)[0] for p in files if p.parent == folder]
        if all(stem.endswith("_0000") for stem in stems):
            lone.discard(folder)
    scans = [
        (name, tuple(group[n] for n in sorted(group)))
        for (folder, name), group in groups.items()
        if sorted(group) == list(range(channels or len(group))) and folder not in lone
    ]
    grouped = {path for _, paths in scans for path in paths}
    scans += [(split_extension(p.name)[0], (p,)) for p in files if p not in grouped]
    return sorted(scans)
