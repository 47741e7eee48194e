"""Find what is to be predicted: image files, their channels, and DICOM series."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.data.dicom.files import is_dicom
from medssl.data.dicom.series import Found, Series, dicom_candidates, find_series
from medssl.data.images.names import (
    IMAGE_SUFFIXES,
    group_channels,
    image_suffix,
    is_file,
    list_images,
    safe_id,
    split_extension,
)
from medssl.errors import MedSSLError

Source = tuple[Path, ...] | Series
"""The image files of a case, one per channel, or its DICOM series."""
Item = tuple[str, Source]
"""A case id and what its image is read from."""

MIN_SLICES = 2
"""A series with fewer has no slice spacing."""


def files_of(source: Source) -> tuple[Path, ...]:
    """Return the files of a case."""
    if isinstance(source, Series):
        return tuple(header.path for header in source.headers)
    return source


@dataclass(frozen=True)
class Inputs:
    """What files and folders hold that can be predicted.

    Attributes:
        files: image files.
        series: DICOM series and their case ids.
        notes: what was left out and why, one line each.
        failed: inputs in which there is nothing to predict, and why.
    """

    files: tuple[Path, ...]
    series: tuple[tuple[str, Series], ...]
    notes: tuple[str, ...] = ()
    failed: tuple[tuple[str, MedSSLError], ...] = ()

    def cases(self, channels: int | None = None) -> list[Item]:
        """Return the cases, sorted by id.

        Args:
            channels: image channels of a case, where that is known; see :func:`group_channels`.

        Raises:
            MedSSLError: two cases have one id.
        """
        items: dict[str, Source] = {}
        found: list[Item] = [*group_channels(self.files, channels), *self.series]
        for case_id, source in found:
            if case_id in items:
                raise _same_id(case_id, files_of(items[case_id])[0], files_of(source)[0])
            items[case_id] = source
        return sorted(items.items(), key=lambda item: item[0])


def find_cases(
    inputs: Sequence[Path], *, channels: int | None = None, only_dicom: bool = False
) -> tuple[list[Item], list[str]]:
    """Return the cases of :func:`find_inputs` and what was left out and why, one line each."""
    found = find_inputs(inputs, only_dicom=only_dicom)
    return found.cases(channels), [*found.notes, *(f"{n}: {e.what}" for n, e in found.failed)]


def find_inputs(inputs: Sequence[Path], *, only_dicom: bool = False) -> Inputs:
    """Find image files and DICOM series among files and folders; only headers are read.

    A folder without image files of its own is searched for DICOM, below it too. Each series is a
    case, called by its folders and its number. Of image files, folders are not searched
    recursively; hidden files (macOS leaves ``._*``) are ignored.

    Args:
        inputs: files and folders.
        only_dicom: search every folder for DICOM, and take nothing else.

    Raises:
        MedSSLError: nothing was found in any of them, or two images of a folder have one name.
    """
    series: dict[tuple[Path, ...], tuple[Series, str]] = {}
    stems: dict[tuple[Path, str], Path] = {}
    notes: list[str] = []
    failed: list[tuple[str, MedSSLError]] = []
    for entry in map(Path, inputs):
        try:
            if _holds_dicom(entry, only_dicom):
                tree = find_series(entry, min_slices=MIN_SLICES)
                notes += tree.notes
                for one in _series_of(tree, entry):
                    # Known again if it is found a second time, below another input.
                    files = tuple(sorted(h.path.resolve() for h in one.headers))
                    series.setdefault(files, (one, _id(one, entry)))
                continue
            if only_dicom and entry.exists():
                raise MedSSLError(
                    "DICOM-SEG and RTSTRUCT belong to a DICOM series, and there is none here",
                    where=entry,
                    fix="name the folder of the series, or choose another --format, such as nii.gz",
                )
            found = _images_in(entry)
        except MedSSLError as error:
            failed.append((str(entry), error))
            continue
        for path in found:
            first = stems.setdefault((path.parent, split_extension(path.name)[0]), path)
            if first.name != path.name:
                raise _same_id(path.stem, first, path)
    if failed and not series and not stems:
        raise failed[0][1]
    files, named = tuple(stems.values()), tuple(_distinct(list(series.values())))
    return Inputs(files, named, tuple(notes), tuple(failed))


def _series_of(tree: Found, entry: Path) -> list[Series]:
    if not tree.series:
        raise MedSSLError(
            "no DICOM series here can become a volume"
            + "".join(f"\n  {note}" for note in tree.notes[:3]),
            where=entry,
            fix="name the folder with all slices of the series",
        )
    return tree.series


def _holds_dicom(entry: Path, only_dicom: bool) -> bool:
    if entry.is_dir():
        candidates = [] if list_images(entry) and not only_dicom else dicom_candidates(entry)
        return any(map(_is_dicom, candidates))
    return entry.is_file() and image_suffix(entry) is None and _is_dicom(entry)


def _is_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except OSError:
        return False


def _id(series: Series, entry: Path) -> str:
    """Name a series by its folders below the input, and the number that its console gave it."""
    names = [entry.resolve().stem]
    if entry.is_dir():
        names = [entry.resolve().name, *series.folder.relative_to(entry).parts]
    name = safe_id("_".join(names))
    if len(name) > 120:  # folders are often called by UIDs, and names of files end at 255
        name = f"{name[:100]}_{_short_hash(name)}"
    number = series.text("SeriesNumber")
    return f"{name}_s{number}" if number else name


def _distinct(named: Sequence[tuple[Series, str]]) -> list[tuple[str, Series]]:
    """Tell series of one folder and number apart, whatever else lies there.

    By their UIDs, or where these are the same, too, by the name of their first file.
    """
    counts = Counter(name for _, name in named)
    uids = Counter((name, series.text("SeriesInstanceUID")) for series, name in named)
    out = []
    for series, name in named:
        uid = series.text("SeriesInstanceUID")
        if counts[name] > 1:
            other = uid if uids[name, uid] == 1 else uid + series.headers[0].path.name
            name = f"{name}_{_short_hash(other)}"
        out.append((name, series))
    return out


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _images_in(entry: Path) -> list[Path]:
    if entry.is_dir():
        found = list_images(entry)
    elif not is_file(entry):
        raise MedSSLError("there is no such file or folder", where=entry, fix="check the path")
    elif image_suffix(entry) is None:
        raise MedSSLError(
            "this is not an image medssl reads",
            where=entry,
            fix=f"give files that end in {', '.join(IMAGE_SUFFIXES)}",
        )
    else:
        found = [] if entry.name.startswith("._") else [entry]
    if not found:
        raise MedSSLError(
            "no image found",
            where=entry,
            fix="give image files, or folders with DICOM series or files that end in "
            + ", ".join(IMAGE_SUFFIXES),
        )
    return found


def _same_id(case_id: str, first: Path, second: Path) -> MedSSLError:
    return MedSSLError(
        f"two images have the id {case_id!r}: {first} and {second}",
        fix="predict them into different folders, or rename one",
    )
