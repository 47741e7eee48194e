"""Predict many images: find them, and let no bad file stop the others."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.errors import MedSSLError
from medssl.inference.predictor import Predictor
from medssl.inference.sliding_window import WindowProgress
from medssl.inference.writer import IMAGE_SUFFIXES, image_suffix

logger = logging.getLogger(__name__)

Item = tuple[str, tuple[Path, ...]]
"""A case id and its image files, one per channel."""
FilesProgress = Callable[[float, int, str], None]
"""Called with cases done (a fraction of the present one included), their total and the case id."""

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


@dataclass(frozen=True)
class PredictionResult:
    """What became of one case: either ``path`` or ``error`` is set.

    ``seconds`` is the time it took; ``skipped`` means its prediction was there already.
    """

    case_id: str
    path: Path | None
    error: str | None
    seconds: float
    skipped: bool = False


def find_images(inputs: Sequence[Path]) -> list[Item]:
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
            fix=f"give image files, or folders with files that end in {', '.join(IMAGE_SUFFIXES)}",
        )
    cases: dict[str, tuple[Path, ...]] = {}
    for case_id, files in _group_channels(stems):
        if case_id in cases:
            raise _same_id(case_id, cases[case_id][0], files[0])
        cases[case_id] = files
    return sorted(cases.items())


def predict_files(
    predictor: Predictor,
    items: Sequence[Item],
    output: Path,
    *,
    suffix: str = ".nii.gz",
    skip_existing: bool = False,
    on_progress: FilesProgress | None = None,
) -> list[PredictionResult]:
    """Predict cases one after another into a folder, as ``CASE_ID.nii.gz``.

    A case that fails is reported in the results; the others go on.

    Args:
        predictor: what predicts.
        items: case ids and image files, as from :func:`find_images`.
        output: folder, made if it is not there.
        suffix: file format, see :func:`medssl.inference.writer.write_label`.
        skip_existing: leave out cases whose prediction is there. Files are written whole or not
            at all, so a second call finishes what the first one left.
        on_progress: called after each forward pass and each case.

    Returns:
        One result per case, in order.

    Raises:
        MedSSLError: the folder cannot be made, or predictions would overwrite images.
    """
    output = Path(output)
    targets = [output / f"{case_id}{suffix}" for case_id, _ in items]
    _check_output(output, items, targets)
    results: list[PredictionResult] = []
    for index, ((case_id, files), target) in enumerate(zip(items, targets, strict=True)):
        if skip_existing and target.is_file():
            results.append(PredictionResult(case_id, target, None, 0.0, skipped=True))
        else:
            report = _case_progress(on_progress, index, len(items), case_id)
            results.append(_predict_one(predictor, case_id, files, target, report))
        if on_progress is not None:
            on_progress(index + 1, len(items), case_id)
    return results


def _case_progress(
    on_progress: FilesProgress | None, index: int, total: int, case_id: str
) -> WindowProgress | None:
    """Turn windows of one case into a share of all cases."""
    if on_progress is None:
        return None
    # The last hundredth is for restoring and writing.
    return lambda done, windows: on_progress(index + 0.99 * done / windows, total, case_id)


def _predict_one(
    predictor: Predictor,
    case_id: str,
    files: tuple[Path, ...],
    target: Path,
    report: WindowProgress | None,
) -> PredictionResult:
    start = time.perf_counter()
    path, message = None, None
    try:
        path = predictor.predict_file(files, progress=report).save(target)
    except MedSSLError as error:
        message = str(error)
    except Exception as error:
        logger.debug("prediction of %s failed", case_id, exc_info=True)
        message = f"{type(error).__name__}: {error}\n  where: {files[0]}"
    return PredictionResult(case_id, path, message, time.perf_counter() - start)


def _images_in(entry: Path) -> list[Path]:
    if entry.is_dir():
        found = (p for p in sorted(entry.iterdir()) if not p.name.startswith("."))
        return [p for p in found if image_suffix(p) and p.is_file()]
    if not entry.is_file():
        raise MedSSLError("there is no such file or folder", where=entry, fix="check the path")
    if image_suffix(entry) is None:
        raise MedSSLError(
            "this is not an image medssl reads",
            where=entry,
            fix=f"give files that end in {', '.join(IMAGE_SUFFIXES)}",
        )
    return [] if entry.name.startswith("._") else [entry]


def _group_channels(stems: dict[tuple[Path, str], Path]) -> list[Item]:
    groups: dict[tuple[Path, str], dict[int, Path]] = {}
    for (folder, stem), path in stems.items():
        if match := _CHANNEL.match(stem):
            groups.setdefault((folder, match["case"]), {})[int(match["channel"])] = path
    cases: list[Item] = []
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


def _check_output(output: Path, items: Sequence[Item], targets: Sequence[Path]) -> None:
    images = {path.resolve() for _, files in items for path in files}
    for target in targets:
        if target.resolve() in images:
            raise MedSSLError(
                "the prediction would overwrite an image",
                where=target,
                fix="choose another output folder",
            )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MedSSLError(
            f"cannot make the output folder: {error.strerror}",
            where=output,
            fix="choose an output folder you may write to",
        ) from error
