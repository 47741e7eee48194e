"""Find the image that a label file belongs to, by folders and names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.data.images.names import CHANNEL, split_extension
from medssl.errors import MedSSLError

LABEL_WORDS = (
    *("segmentation", "labelmap", "labels", "label", "masks", "mask", "manual"),
    *("dseg", "seg", "msk", "gt"),
)
IMAGE_WORDS = ("image", "volume", "img", "orig")

_TAIL = r"(?P<tail>[_-]?(?:tr|ts|train(?:ing)?|test(?:ing)?|val(?:idation)?|un)?)$"
_LABEL_FOLDER = re.compile(
    r"^(?:labels?|masks?|segs?|segmentations?|gt|annotations?|ground_?truths?)" + _TAIL, re.I
)
_IMAGE_FOLDER = re.compile(r"^(?:images?|imgs?|volumes?|scans?|data)" + _TAIL, re.I)
_DERIVATIVES = "derivatives"
_OF_THE_LABEL = {"label", "desc", "space", "res", "den", "atlas", "seg", "hemi"}
"""BIDS entities that a label has without its image having them."""


@dataclass(frozen=True)
class ImageFile:
    """An image file below a source.

    Attributes:
        folder: its folders, words such as images and labels aside.
        stem: its name without suffix.
        is_label: folder or name say that it is a label.
        derived: it lies in a BIDS folder of derivatives.
    """

    path: Path
    folder: tuple[str, ...]
    stem: str
    is_label: bool
    derived: bool = False


def classify(path: Path, base: Path, label_suffix: str | None) -> ImageFile:
    """Tell by its name and its folders below ``base`` what an image file is."""
    stem = split_extension(path.name)[0]
    parts = list(path.relative_to(base).parts[:-1])
    derived = _DERIVATIVES in parts
    if derived:  # derivatives/PIPELINE/... repeats the folders of the images
        subject = next((i for i, part in enumerate(parts) if part.startswith("sub-")), len(parts))
        parts = parts[: parts.index(_DERIVATIVES)] + parts[subject:]
    folder, inside = [], False
    for part in parts:
        label, image = _LABEL_FOLDER.match(part), _IMAGE_FOLDER.match(part)
        inside = inside or label is not None
        # images and labels of one set share what is left of their folder's name
        folder.append((label or image or {"tail": part})["tail"].lower().strip("_-"))
    named = strip_label(stem, label_suffix) != stem
    return ImageFile(path, tuple(folder), stem, inside or named, derived)


def strip(stem: str, words: Iterable[str]) -> str:
    """Take a word off the end of a name; a name that is the word alone becomes empty."""
    for word in words:
        match = re.fullmatch(rf"(?P<rest>.*?)(?:^|[_.\-]){re.escape(word)}", stem, re.I)
        if match:
            return match["rest"]
    return stem


def strip_label(stem: str, label_suffix: str | None) -> str:
    """Take what says label off the end of a name."""
    if label_suffix is not None:
        return stem.removesuffix(label_suffix) if label_suffix else stem
    return strip(stem, LABEL_WORDS)


class Partners:
    """Finds the image of each label among those of a source.

    Args:
        images: all that are no labels.
        label_suffix: how the names of labels end, if it is none of the usual ways.
    """

    def __init__(self, images: Sequence[ImageFile], label_suffix: str | None) -> None:
        self.images = images
        self.label_suffix = label_suffix
        self._folders: dict[tuple[str, ...], list[ImageFile]] = defaultdict(list)
        self._parents: dict[Path, list[ImageFile]] = defaultdict(list)
        self._stems: dict[str, list[ImageFile]] = defaultdict(list)
        for image in images:
            self._folders[image.folder].append(image)
            self._parents[image.path.parent].append(image)
            for name in {image.stem, strip(image.stem, IMAGE_WORDS)}:
                self._stems[name].append(image)

    def of(self, label: ImageFile) -> tuple[Path, str | None]:
        """Return the image of a label, and the structure that it shows if it shows one alone.

        Raises:
            MedSSLError: there is no such image, or there are several; names the label.
        """
        channel = CHANNEL.match(label.stem)
        wanted = [label.stem, strip_label(label.stem, self.label_suffix)]
        if channel is not None and channel["channel"] == "0000":
            wanted.append(channel["case"])
        steps: tuple[Callable[[ImageFile, list[str]], tuple[Path, str | None] | None], ...]
        steps = (self._beside, self._bids, self._longer_name, self._in_own_folder, self._anywhere)
        for step in steps:
            found = step(label, wanted)
            if found is not None:
                return found
        raise MedSSLError(
            f"the label {label.path.name} has no image (looked for '{wanted[1]}')",
            where=label.path,
            fix="rename the files alike, give --option label_suffix=_mylabel, or write a list of "
            "image,label lines and import that",
        )

    def _beside(self, label: ImageFile, wanted: list[str]) -> tuple[Path, None] | None:
        """Of the same name, in the same folder or in that of the images."""
        beside = self._folders[label.folder]
        for stripped in (lambda s: s, lambda s: strip(s, IMAGE_WORDS)):
            for name in wanted:
                found = [f.path for f in beside if stripped(f.stem) == name]
                if len(found) == 1:
                    return found[0], None
        return None

    def _bids(self, label: ImageFile, wanted: list[str]) -> tuple[Path, str | None] | None:
        """Of the same entities: ``sub-1_T1w`` for ``sub-1_space-T1w_label-liver_mask``."""
        if not label.stem.startswith("sub-"):
            return None
        own, words = _entities(wanted[1])
        core = {key: value for key, value in own.items() if key not in _OF_THE_LABEL}
        fitting = []
        for image in self._folders[label.folder] or self.images:
            theirs, kinds = _entities(image.stem)
            same = all(theirs.get(key) == value for key, value in core.items())
            named = set(words) <= set(kinds) and own.get("space", "") in (*kinds, "")
            if same and (named or (set(words) <= set(kinds) and "space" in own)):
                fitting.append((named, len(theirs), image.path))
        best = [f for f in fitting if f[0]] or fitting
        shortest = min((n for _, n, _ in best), default=0)
        found = [path for _, n, path in best if n == shortest]
        return (found[0], own.get("label")) if len(found) == 1 else None

    def _longer_name(self, label: ImageFile, wanted: list[str]) -> tuple[Path, str] | None:
        """Of a name that the label's begins with: ``case1`` for ``case1_liver_seg``."""
        name = wanted[1]
        fitting = [
            (len(stem), image.path, name[len(stem) :].strip("_.-"))
            for image in self._folders[label.folder]
            if (stem := strip(image.stem, IMAGE_WORDS))
            and re.match(rf"{re.escape(stem)}[_.-]+\w", name)
        ]
        _, path, structure = max(fitting, default=(0, None, ""))
        return None if path is None else (path, structure)

    def _in_own_folder(self, label: ImageFile, wanted: list[str]) -> tuple[Path, str] | None:
        """In a folder of one case's labels: ``CASE/segmentations/liver``, ``labels/CASE/liver``."""
        folder = label.path.parent
        named = self._stems.get(folder.name, [])
        if len(named) == 1:
            return named[0].path, wanted[1] or label.stem
        if _LABEL_FOLDER.match(folder.name) and len(self._parents[folder.parent]) == 1:
            return self._parents[folder.parent][0].path, wanted[1] or label.stem
        return None

    def _anywhere(self, label: ImageFile, wanted: list[str]) -> tuple[Path, None] | None:
        """Of a name that no other image has: ``images/a`` for ``labels/final/a``."""
        for name in wanted:
            found = self._stems.get(name, []) if name else []
            if len(found) == 1:
                return found[0].path, None
        return None


def _entities(stem: str) -> tuple[dict[str, str], list[str]]:
    """Split a BIDS name into its entities and the words at its end (``T1w``)."""
    parts = stem.split("_")
    pairs = [part.partition("-") for part in parts]
    return {k: v for k, dash, v in pairs if dash}, [k for k, dash, _ in pairs if not dash and k]
