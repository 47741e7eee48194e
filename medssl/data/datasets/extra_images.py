"""Unlabeled images from elsewhere, which a recipe names by ``data.unlabeled``."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from medssl.data.datasets.decathlon_header import read_json
from medssl.data.datasets.decathlon_items import Item, found_items
from medssl.data.images.names import EXTENSIONS, image_suffix, list_images
from medssl.errors import MedSSLError


def extra_items(root: Path, text: str, channels: int) -> list[Item]:
    """Return the images that one entry of ``data.unlabeled`` stands for.

    Args:
        root: folder of the dataset, where relative names are looked for first.
        text: a folder, a file, or a glob.
        channels: of an image.

    Raises:
        MedSSLError: there is no such image, neither there nor in the current folder.
    """
    expanded = os.path.expanduser(text)
    for base in (root, Path.cwd()):
        matches = [base / expanded] if (base / expanded).exists() else []
        matches = matches or [base / p for p in glob.glob(expanded, root_dir=base, recursive=True)]
        files: set[Path] = set()
        for path in matches:
            if path.is_dir():
                files.update(list_images(path, EXTENSIONS))
            elif image_suffix(path, EXTENSIONS) and not path.name.startswith("."):
                files.add(path)
        if files:
            folders = sorted({p.parent for p in files})
            return [
                item
                for folder in folders
                for item in _with_patients(
                    found_items([p for p in files if p.parent == folder], channels), folder
                )
            ]
    raise MedSSLError(
        f"{text!r} matches no image ({', '.join(EXTENSIONS)}), neither in the dataset's folder nor "
        "in the current one",
        where="data.unlabeled",
        fix="name a folder of images, or a glob such as more/*.nii.gz",
    )


def _with_patients(items: list[Item], folder: Path) -> list[Item]:
    """Give images the patients that the dataset says which they are from, if from one."""
    where = folder.parent / "dataset.json"
    if not where.is_file():
        return items
    try:
        info, _ = read_json(where)
    except MedSSLError:  # another dataset's faults are no concern of this one
        return items
    known = {}
    for section in ("training", "validation", "unlabeled", "test", "testing"):
        entries = info.get(section)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, Mapping) and (owner := entry.get("patient", entry.get("subject"))):
                images = entry.get("image", entry.get("images"))
                for name in images if isinstance(images, list) else [images]:
                    known[os.path.normpath(where.parent / str(name))] = str(owner)
    return [
        replace(item, patient=known.get(os.path.normpath(item.images[0]), item.patient))
        for item in items
    ]
