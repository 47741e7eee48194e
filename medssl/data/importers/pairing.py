"""Find which label file belongs to which image file, by folders and names."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medssl.data.images.names import (
    IMAGE_SUFFIXES,
    group_channels,
    image_suffix,
    is_file,
    safe_id,
    split_extension,
)
from medssl.data.importers.partners import (
    IMAGE_WORDS,
    ImageFile,
    Partners,
    classify,
    strip,
)
from medssl.errors import MedSSLError

_TEST = re.compile(r"(?:^|[_\W])(?:ts|test(?:ing)?|val(?:idation)?)(?:$|[_\W\d])|imagesTs", re.I)


@dataclass(frozen=True)
class Pair:
    """An image and perhaps its label.

    Attributes:
        held_back: folder or name say test or validation.
        structures: files that show one structure each, by its name; there is no label then.
    """

    id: str
    image: Path
    label: Path | None = None
    patient: str | None = None
    held_back: bool = False
    structures: Mapping[str, Path] = field(default_factory=dict)


def find_pairs(
    source: Path, *, label_suffix: str | None = None, structures: bool = False
) -> tuple[list[Pair], list[str]]:
    """Pair the images below a folder, or in a list, with their labels.

    A label lies in a folder such as ``labels`` or ``masks`` beside ``images`` and has its image's
    name, or lies beside its image and is called ``NAME_seg``, ``NAME-label``, ``NAME.seg`` and the
    like. ``CASE/image.mha`` and ``CASE/label.mha`` are called after their folder. Structures may
    have files of their own: ``CASE/segmentations/liver``, ``labels/CASE/liver``,
    ``CASE_liver_seg``, or BIDS's ``label-liver``. Images without a label are unlabeled.

    Args:
        source: a folder, or a text file with a line ``image[,label[,patient]]`` per case.
        label_suffix: how the names of labels end, if it is none of the usual ways.
        structures: take those that have files of their own; otherwise they are refused.

    Returns:
        The pairs, and what was left out.

    Raises:
        MedSSLError: a label without an image, or two labels of one image; names the files.
    """
    if source.is_file() and not image_suffix(source):
        return _unique_ids(_listed(source), source.parent), []
    paths = sorted(source.rglob("*")) if source.is_dir() else [source]
    base = source if source.is_dir() else source.parent
    files = [
        classify(p, base, label_suffix)
        for p in paths
        if image_suffix(p) and not p.name.startswith(".") and is_file(p)
    ]
    derived = [f for f in files if f.derived and not f.is_label]
    images = _without_channel([f for f in files if not f.is_label and not f.derived])
    labels, single = _labels_of([f for f in files if f.is_label], images, label_suffix, base)
    for image, own in single.items() if not structures else ():
        name, path = next(iter(own.items()))
        raise MedSSLError(
            f"{path.name} looks like the label of one structure ('{name}') of {image.name}",
            where=path,
            fix="import such files with --format sitk, or move them away",
        )
    pairs = [
        Pair(
            strip(f.stem, IMAGE_WORDS) or f.path.parent.name,
            f.path,
            labels.get(f.path),
            held_back=bool(_TEST.search(f.path.relative_to(base).as_posix())),
            structures=single.get(f.path, {}),
        )
        for f in images
    ]
    notes = []
    if derived:
        notes.append(
            f"{len(derived)} images in derivatives/ are left out (first: {derived[0].path.name}): "
            "only labels are taken from there"
        )
    return _unique_ids(pairs, base), notes


def _labels_of(
    files: Sequence[ImageFile], images: Sequence[ImageFile], label_suffix: str | None, base: Path
) -> tuple[dict[Path, Path], dict[Path, dict[str, Path]]]:
    """Return, by image, its label and its structures that have files of their own."""
    partners = Partners(images, label_suffix)
    labels: dict[Path, Path] = {}
    structures: dict[Path, dict[str, Path]] = {}
    for file in files:
        image, structure = partners.of(file)
        own = structures.get(image, {})
        same = own.get(structure) if structure is not None else next(iter(own.values()), None)
        other = labels.get(image, same)
        if other is not None:
            first, second = (p.relative_to(base).as_posix() for p in (other, file.path))
            raise MedSSLError(
                f"{first} and {second} are both labels of {image.name}",
                where=file.path,
                fix="keep one of them, or write a list of image,label lines and import that",
            )
        if structure is None:
            labels[image] = file.path
        else:
            structures.setdefault(image, {})[structure] = file.path
    return labels, structures


def _without_channel(images: Sequence[ImageFile]) -> list[ImageFile]:
    """Take nnU-Net's channel number off the names of folders in which every image carries it.

    Elsewhere four digits at the end are the number of the scan.
    """
    names = {paths[0]: name for name, paths in group_channels([f.path for f in images], 1)}
    return [replace(f, stem=names[f.path]) for f in images]


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
            stem = strip(split_extension(image.name)[0], IMAGE_WORDS) or image.parent.name
            pairs.append(Pair(stem, image, label, cells[2] or None))
    return pairs
