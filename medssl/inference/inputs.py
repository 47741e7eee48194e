"""Find what is to be predicted: image files, their channels, and DICOM series."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medssl.data.dicom.series import Series, dicom_candidates, find_series
from medssl.data.images.names import safe_id
from medssl.data.images.write import IMAGE_SUFFIXES, image_suffix
from medssl.errors import MedSSLError

Source = tuple[Path, ...] | Series
"""The image files of a case, one per channel, or its DICOM series."""
Item = tuple[str, Source]
"""A case id and what its image is read from."""

MIN_SLICES = 2
"""A series with fewer has no slice spacing."""

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def files_of(source: Source) -> tuple[Path, ...]:
    """Return the files of a case."""
    if isinstance(source, Series):
        return tuple(header.path for header in source.headers)
    return source


def find_cases(inputs: Sequence[Path], *, only_dicom: bool = False) -> tuple[list[Item], list[str]]:
    """Find image files and DICOM series among files and folders; only headers are read.

    A folder without image files of its own is searched for DICOM, below it too. Each series is a
    case, called by its folders and its number.

    Args:
        inputs: files and folders.
        only_dicom: search every folder for DICOM, and refuse all else.

    Returns:
        The cases, sorted by id, and what was left out and why, one line each.

    Raises:
        MedSSLError: an input is missing or no image, nothing was found, two images have one id,
            or there is DICOM but pydicom is not installed.
    """
    found: dict[tuple[str, str], tuple[Series, str]] = {}
    notes: list[str] = []
    others: list[Path] = []
    for entry in map(Path, inputs):
        if not _holds_dicom(entry, only_dicom):
            others.append(entry)
            continue
        tree = find_series(entry, min_slices=MIN_SLICES)
        notes += tree.notes
        if not tree.series:
            raise MedSSLError(
                "no DICOM series here can become a volume"
                + "".join(f"\n  {note}" for note in tree.notes[:3]),
                where=entry,
                fix="name the folder with all slices of the series",
            )
        for series in tree.series:
            key = (series.text("StudyInstanceUID"), series.text("SeriesInstanceUID"))
            found.setdefault(
                key if key[1] else ("", str(series.folder)), (series, _id(series, entry))
            )
    if only_dicom and others:
        if not others[0].exists():
            raise _missing(others[0])
        raise MedSSLError(
            "DICOM-SEG belongs to a DICOM series, and there is none here",
            where=others[0],
            fix="name the folder of the series, or choose another --format, such as nii.gz",
        )
    items: dict[str, Source] = dict(find_images(others)) if others or not found else {}
    for case_id, series in _distinct(list(found.values())):
        if case_id in items:
            raise _same_id(case_id, files_of(items[case_id])[0], series.folder)
        items[case_id] = series
    return sorted(items.items(), key=lambda item: item[0]), notes


def _holds_dicom(entry: Path, only_dicom: bool) -> bool:
    if entry.is_dir():
        candidates = [] if _images_in(entry) and not only_dicom else dicom_candidates(entry)
        return any(map(_is_dicom, candidates))
    return entry.is_file() and image_suffix(entry) is None and _is_dicom(entry)


def _is_dicom(path: Path) -> bool:
    """Tell whether a file has DICOM's file header (PS3.10, 7.1)."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
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
    """Tell series of one folder and number apart by their UIDs, whatever else lies there."""
    counts = Counter(name for _, name in named)
    return [
        (name if counts[name] == 1 else f"{name}_{_short_hash(s.text('SeriesInstanceUID'))}", s)
        for s, name in named
    ]


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def find_images(inputs: Sequence[Path]) -> list[tuple[str, tuple[Path, ...]]]:
    """Find images among files and folders, and group channel files into cases.

    ``CASE_0000.nii.gz, CASE_0001.nii.gz, ...`` in one folder are the channels of ``CASE`` if they
    count up from 0 without a gap; other files are cases of their own. Folders are not searched
    recursively; hidden files (macOS leaves ``._*``) are ignored.

    Returns:
        Case ids and files, sorted by id.

    Raises:
        MedSSLError: an input is missing or no image, nothing was found, or two images have one id.
    """
    stems: dict[tuple[Path, str], Path] = {}
    for entry in map(Path, inputs):
        for path in _images_in(entry):
            first = stems.setdefault(
                (path.parent, path.name[: -len(image_suffix(path) or "")]), path
            )
            if first.name != path.name:
                raise _same_id(path.stem, first, path)
    if not stems:
        raise MedSSLError(
            "no image found",
            where=", ".join(str(entry) for entry in inputs) or None,
            fix="give image files, or folders with DICOM series or files that end in "
            + ", ".join(IMAGE_SUFFIXES),
        )
    cases: dict[str, tuple[Path, ...]] = {}
    for case_id, files in _group_channels(stems):
        if case_id in cases:
            raise _same_id(case_id, cases[case_id][0], files[0])
        cases[case_id] = files
    return sorted(cases.items())


def _images_in(entry: Path) -> list[Path]:
    if entry.is_dir():
        found = (p for p in sorted(entry.iterdir()) if not p.name.startswith("."))
        return [p for p in found if image_suffix(p) and p.is_file()]
    if not entry.is_file():
        raise _missing(entry)
    if image_suffix(entry) is None:
        raise MedSSLError(
            "this is not an image medssl reads",
            where=entry,
            fix=f"give files that end in {', '.join(IMAGE_SUFFIXES)}",
        )
    return [] if entry.name.startswith("._") else [entry]


def _group_channels(stems: dict[tuple[Path, str], Path]) -> list[tuple[str, tuple[Path, ...]]]:
    groups: dict[tuple[Path, str], dict[int, Path]] = {}
    for (folder, stem), path in stems.items():
        if match := _CHANNEL.match(stem):
            groups.setdefault((folder, match["case"]), {})[int(match["channel"])] = path
    cases: list[tuple[str, tuple[Path, ...]]] = []
    grouped: set[Path] = set()
    for (_, case_id), channels in groups.items():
        if sorted(channels) == list(range(len(channels))):
            files = tuple(channels[index] for index in sorted(channels))
            grouped.update(files)
            cases.append((case_id, files))
    cases += [(stem, (path,)) for (_, stem), path in stems.items() if path not in grouped]
    return cases


def _same_id(case_id: str, first: Path, second: Path) -> MedSSLError:
    return MedSSLError(
        f"two images have the id {case_id!r}: {first} and {second}",
        fix="predict them into different folders, or rename one",
    )


def _missing(entry: Path) -> MedSSLError:
    return MedSSLError("there is no such file or folder", where=entry, fix="check the path")
