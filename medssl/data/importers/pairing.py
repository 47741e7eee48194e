"""Find which label file belongs to which image file, by folders and names."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medssl.data.images.names import (
    IMAGE_SUFFIXES,
    image_suffix,
    safe_id,
    split_extension,
)
from medssl.errors import MedSSLError

LABEL_WORDS = (
    "segmentation",
    "labelmap",
    "labels",
    "label",
    "masks",
    "mask",
    "manual",
    "seg",
    "gt",
)
IMAGE_WORDS = ("image", "volume", "img", "orig")
CHANNEL = "_0000"

_TAIL = r"(?P<tail>[_-]?(?:tr|ts|train(?:ing)?|test(?:ing)?|val(?:idation)?|un)?)$"
_LABEL_FOLDER = re.compile(
    r"^(?:labels?|masks?|segs?|segmentations?|gt|annotations?|ground_?truths?)" + _TAIL, re.I
)
_IMAGE_FOLDER = re.compile(r"^(?:images?|imgs?|volumes?|scans?|data)" + _TAIL, re.I)
_TEST = re.compile(r"(?:^|[_\W])(?:ts|test(?:ing)?|val(?:idation)?)(?:$|[_\W\d])|imagesTs", re.I)


@dataclass(frozen=True)
class Pair:
    """An image and perhaps its label.

    Attributes:
        held_back: folder or name say test or validation.
    """

    id: str
    image: Path
    label: Path | None = None
    patient: str | None = None
    held_back: bool = False


@dataclass(frozen=True)
class _File:
    path: Path
    folder: tuple[str, ...]
    stem: str
    is_label: bool


def find_pairs(source: Path, *, label_suffix: str | None = None) -> list[Pair]:
    """Pair the images below a folder, or in a list, with their labels.

    A label lies in a folder such as ``labels`` or ``masks`` beside ``images`` and has its image's
    name, or lies beside its image and is called ``NAME_seg``, ``NAME-label``, ``NAME.seg`` and the
    like. ``CASE/image.mha`` and ``CASE/label.mha`` are called after their folder. Images without a
    label are unlabeled.

    Args:
        source: a folder, or a text file with a line ``image[,label[,patient]]`` per case.
        label_suffix: how the names of labels end, if it is none of the usual ways.

    Raises:
        MedSSLError: a label without an image, or two labels of one image; names the files.
    """
    if source.is_file() and not image_suffix(source):
        return _unique_ids(_listed(source), source.parent)
    paths = sorted(source.rglob("*")) if source.is_dir() else [source]
    base = source if source.is_dir() else source.parent
    files = [
        _classify(p, base, label_suffix)
        for p in paths
        if image_suffix(p) and not p.name.startswith(".") and p.is_file()
    ]
    images = _without_channel([f for f in files if not f.is_label])
    labels: dict[Path, Path] = {}
    for file in files:
        if file.is_label:
            image = _partner(file, images, label_suffix)
            if image in labels:
                raise MedSSLError(
                    f"{labels[image].name} and {file.path.name} are both labels of {image.name}",
                    where=file.path,
                    fix="keep one of them, or write a list of image,label lines and import that",
                )
            labels[image] = file.path
    pairs = [
        Pair(
            _name(f),
            f.path,
            labels.get(f.path),
            held_back=bool(_TEST.search(f.path.relative_to(base).as_posix())),
        )
        for f in images
    ]
    return _unique_ids(pairs, base)


def _strip(stem: str, words: Iterable[str]) -> str:
    """Take a word off the end of a name; a name that is the word alone becomes empty."""
    for word in words:
        match = re.fullmatch(rf"(?P<rest>.*?)(?:^|[_.\-]){re.escape(word)}", stem, re.I)
        if match:
            return match["rest"]
    return stem


def _strip_label(stem: str, label_suffix: str | None) -> str:
    if label_suffix is not None:
        return stem.removesuffix(label_suffix) if label_suffix else stem
    return _strip(stem, LABEL_WORDS)


def _classify(path: Path, base: Path, label_suffix: str | None) -> _File:
    stem = split_extension(path.name)[0]
    folder, inside = [], False
    for part in path.relative_to(base).parts[:-1]:
        label, image = _LABEL_FOLDER.match(part), _IMAGE_FOLDER.match(part)
        inside = inside or label is not None
        # images and labels of one set share what is left of their folder's name
        folder.append((label or image or {"tail": part})["tail"].lower().strip("_-"))
    return _File(path, tuple(folder), stem, inside or _strip_label(stem, label_suffix) != stem)


def _without_channel(images: Sequence[_File]) -> list[_File]:
    """Take nnU-Net's channel number off the names of folders in which every image carries it.

    Elsewhere four digits at the end are the number of the scan.
    """
    numbered = {f.path.parent for f in images} - {
        f.path.parent for f in images if not f.stem.endswith(CHANNEL)
    }
    return [
        replace(f, stem=f.stem.removesuffix(CHANNEL)) if f.path.parent in numbered else f
        for f in images
    ]


def _partner(label: _File, images: Sequence[_File], label_suffix: str | None) -> Path:
    """Return the image of a label: of the same name, else of the same name without suffixes."""
    wanted = [label.stem, _strip_label(label.stem, label_suffix), label.stem.removesuffix(CHANNEL)]
    beside = [f for f in images if f.folder == label.folder]
    for strip in (lambda s: s, lambda s: _strip(s, IMAGE_WORDS)):
        for name in wanted:
            found = [f.path for f in beside if strip(f.stem) == name]
            if len(found) == 1:
                return found[0]
    raise MedSSLError(
        f"the label {label.path.name} has no image (looked for '{wanted[1]}')",
        where=label.path,
        fix="rename the files alike, give --option label_suffix=_mylabel, or write a list of "
        "image,label lines and import that",
    )


def _name(file: _File) -> str:
    return _strip(file.stem, IMAGE_WORDS) or file.path.parent.name


def _unique_ids(pairs: Sequence[Pair], base: Path) -> list[Pair]:
    """Make file-name-safe ids; where names repeat, their folders are put before them."""
    counts = Counter(safe_id(p.id).lower() for p in pairs)
    out = []
    for pair in pairs:
        case_id = safe_id(pair.id)
        parents = pair.image.parent
        if counts[case_id.lower()] > 1 and parents != base and parents.is_relative_to(base):
            case_id = safe_id("_".join((*parents.relative_to(base).parts, pair.id)))
        out.append(replace(pair, id=case_id))
    return out


def _listed(source: Path) -> list[Pair]:
    """Read lines ``image[,label[,patient]]``, paths relative to the list's folder."""
    try:
        rows = list(csv.reader(source.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise MedSSLError(
            f"is no list of images ({str(error)[:80]})",
            where=source,
            fix="name a folder, an image, or a text file with image,label lines",
        ) from None
    pairs = []
    for number, row in enumerate(rows, start=1):
        cells = [c.strip() for c in row] + ["", ""]
        if not cells[0] or cells[0].startswith("#") or (number == 1 and cells[0] == "image"):
            continue
        files = [source.parent / c if c else None for c in cells[:2]]
        for file in files:
            if file is not None and not (file.is_file() and image_suffix(file)):
                raise MedSSLError(
                    f"names {file.name}, which is no image file there is",
                    where=f"{source}:{number}",
                    fix=f"write image,label with files ending in {', '.join(IMAGE_SUFFIXES)}",
                )
        image, label = files
        if image is not None:
            stem = _strip(split_extension(image.name)[0], IMAGE_WORDS) or image.parent.name
            pairs.append(Pair(stem, image, label, cells[2] or None))
    return pairs
