"""Turn the items of dataset.json, and folders of images, into files, ids and patients."""

from __future__ import annotations

import glob
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from medssl.data.images.names import (
    CHANNEL,
    EXTENSIONS,
    group_channels,
    image_suffix,
    split_extension,
)
from medssl.errors import MedSSLError

MAX_ID_BYTES = 180
"""Case ids become parts of file names, of which file systems take 255 bytes."""

_ALLOW = (
    "if you trust this dataset.json, set data.allow_outside: true in the recipe (for check and "
    "plan: --allow-outside)"
)
_RESERVED = {"image", "images", "label", "id", "patient", "subject"}


@dataclass(frozen=True)
class Item:
    """One scan as listed or found: not yet checked against the others."""

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    patient: str | None = None
    meta: dict[str, str] = field(default_factory=dict)


def found_items(files: Iterable[Path], channels: int) -> list[Item]:
    """Return the scans that image files make up; see :func:`group_channels`."""
    return [Item(name, paths) for name, paths in group_channels(files, channels)]


def unsafe_name(text: str) -> str | None:
    """Say why a case id cannot be a file name inside any folder; None if it can."""
    if re.search(r"[/\\]", text) or text.strip(". ") == "":
        return "it would leave its folder"
    if any(unicodedata.category(c) == "Cc" for c in text):
        return "it has control characters"
    if len(text.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        return f"it is longer than {MAX_ID_BYTES} bytes"
    return None


class ItemReader:
    """Read items of one dataset.json, remembering what deviates and which files are missing."""

    def __init__(self, root: Path, where: Path, *, allow_outside: bool = False) -> None:
        self.root = root
        self.where = where
        self.allow_outside = allow_outside
        self.missing: list[str] = []
        self._notes: dict[str, list[str]] = {}

    def note(self, kind: str, example: str) -> None:
        """Remember one occurrence of a deviation."""
        self._notes.setdefault(kind, []).append(example)

    def deviations(self) -> list[str]:
        """Return one line per kind of deviation, with its count and its first occurrence."""
        return [
            f"{kind} ({len(examples)} of them, first: {examples[0]})"
            for kind, examples in self._notes.items()
        ]

    def refuse(self, what: str, fix: str) -> NoReturn:
        """Raise the error that names dataset.json."""
        raise MedSSLError(what, where=self.where, fix=fix)

    def path(self, raw: Any, position: str) -> Path:
        """Resolve one path of dataset.json inside the dataset's folder.

        Confinement is by spelling: a symbolic link inside the folder was put there by its owner.
        With ``allow_outside`` any local file may be named.

        Raises:
            MedSSLError: not text, a URL, a format that is not read, or outside the folder.
        """
        if not isinstance(raw, str) or not raw.strip() or "\0" in raw:
            self.refuse(f"{position} has {raw!r} where a file name belongs", "write a file name")
        text = raw.strip()
        if "://" in text:
            self.refuse(f"{position} names a URL: {text}", "download it and list the local file")
        if "\\" in text:
            self.note("paths are written with backslashes", text)
            text = text.replace("\\", "/")
        if PurePosixPath(text).is_absolute() or re.match(r"^[A-Za-z]:/", text):
            text = self._inside(text, position)
        text = posixpath.normpath(text)
        if not self.allow_outside and (text == ".." or text.startswith("../")):
            self.refuse(
                f"{position} lies outside the dataset's folder: {raw}",
                f"copy or link the file into the folder, or {_ALLOW}",
            )
        if not image_suffix(text, EXTENSIONS):
            self.refuse(
                f"{position} is no image format that is read: {text}",
                f"convert it to one of {', '.join(EXTENSIONS)}",
            )
        return self.root / text

    def _inside(self, text: str, position: str) -> str:
        """Make an absolute path relative to the dataset's folder, or refuse it."""
        text = os.path.normpath(text)
        for base in {os.path.abspath(self.root), os.path.realpath(self.root)}:
            if text.startswith(base + os.sep):
                self.note("paths are absolute", text)
                return os.path.relpath(text, base).replace(os.sep, "/")
        if self.allow_outside:
            return text
        self.refuse(
            f"{position} lies outside the dataset's folder: {text}",
            f"write paths relative to the folder, such as imagesTr/case_001.nii.gz, or {_ALLOW}",
        )

    def _shown(self, path: Path) -> str:
        """Return a path as the user knows it: relative to the folder where it lies inside."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def locate(self, path: Path, position: str) -> tuple[Path, ...]:
        """Return the file, or its channels ``X_0000`` ... if only those exist (nnU-Net lists)."""
        if path.is_file():
            return (path,)
        if path.is_dir():
            self.refuse(
                f"{position} is a folder: {path.name}",
                f"convert its contents to one of {', '.join(EXTENSIONS)}",
            )
        stem, ext = split_extension(path.name)
        pattern = f"{glob.escape(stem)}_[0-9][0-9][0-9][0-9]{glob.escape(ext)}"
        found = tuple(sorted(path.parent.glob(pattern)))
        if found:
            self.note("images are listed without their channel suffix _0000", path.name)
            return found
        self.missing.append(self._shown(path))
        return (path,)

    def read(self, entry: Any, section: str, number: int, *, keep_label: bool) -> Item | None:
        """Read one item, a file name or a mapping; None if it is to be skipped.

        Raises:
            MedSSLError: the item cannot be understood; names its list and number.
        """
        position = f"item {number} of '{section}'"
        if isinstance(entry, str | list):
            entry = {"image": entry}
        if not isinstance(entry, Mapping):
            self.refuse(
                f"{position} is {entry!r}, neither a file name nor a mapping",
                'write {"image": "imagesTr/x.nii.gz", "label": "labelsTr/x.nii.gz"}',
            )
        raw = entry.get("image", entry.get("images"))
        if not raw:
            self.refuse(f"{position} names no image", 'add "image": "imagesTr/x.nii.gz" to it')
        listed = raw if isinstance(raw, list) else [raw]
        if any(str(p).replace("\\", "/").rpartition("/")[2].startswith("._") for p in listed):
            self.note("macOS ghost files '._*' are listed and ignored", str(listed[0]))
            return None
        paths = [self.path(p, position) for p in listed]
        images = tuple(paths) if len(paths) > 1 else self.locate(paths[0], position)
        if len(paths) > 1:
            self.missing += [self._shown(p) for p in paths if not p.is_file()]
        label = self._label(entry, section, position, keep_label=keep_label)
        meta = {
            str(k): str(v)
            for k, v in entry.items()
            if k not in _RESERVED and isinstance(v, str | int | float)
        }
        if "fold" in entry:
            self.note("items carry a 'fold' (Auto3DSeg), kept as information only", meta["fold"])
        patient = entry.get("patient", entry.get("subject"))
        return Item(
            id=self._id(entry.get("id"), paths, images, label),
            images=images,
            label=label,
            patient=None if patient in (None, "") else str(patient),
            meta=meta,
        )

    def _label(
        self, entry: Mapping[str, Any], section: str, position: str, *, keep_label: bool
    ) -> Path | None:
        raw = entry.get("label")
        if isinstance(raw, list) and len(raw) == 1:
            raw = raw[0]
        if isinstance(raw, list) and raw:
            self.refuse(
                f"the label of {position} is {len(raw)} files",
                "give one label map: a number for each way in which structures overlap, and in "
                "dataset.json 'regions' that say which numbers a structure has",
            )
        if raw in (None, "", []):
            return None
        if not keep_label:
            self.note(f"items of '{section}' name a label, which is not read", str(raw))
            return None
        path = self.path(raw, f"the label of {position}")
        if not path.is_file():
            self.missing.append(self._shown(path))
        return path

    @staticmethod
    def _id(given: Any, listed: Sequence[Path], images: Sequence[Path], label: Path | None) -> str:
        """Derive the case id: given, or the file name without extension and channel suffix."""
        if given not in (None, ""):
            return str(given)
        stem = split_extension(listed[0].name)[0]
        match = CHANNEL.match(stem)
        if match is None:
            return stem
        of_label = label is not None and split_extension(label.name)[0] == match["case"]
        multi = len(images) > 1 and len(listed) > 1
        return match["case"] if of_label or multi else stem
