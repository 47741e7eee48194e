"""Predict many images: find them, and let no bad file stop the others."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from medssl.errors import MedSSLError
from medssl.inference.predictor import Predictor
from medssl.inference.tables import assessment_file, read_assessment, write_assessment
from medssl.inference.windows import WindowProgress
from medssl.inference.writer import IMAGE_SUFFIXES, image_suffix

logger = logging.getLogger(__name__)

Item = tuple[str, tuple[Path, ...]]
"""A case id and its image files, one per channel."""
CaseProgress = Callable[[str], None]
"""Called with the id of each case that is done with, whatever became of it."""
CaseWindowProgress = Callable[[str, int, int], None]
"""Called with the id of the present case, its windows done and their total."""

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
    probabilities: bool = False,
    uncertainty: bool = False,
    assess: bool = False,
    skip_existing: bool = False,
    on_progress: CaseProgress | None = None,
    on_window: CaseWindowProgress | None = None,
) -> list[PredictionResult]:
    """Predict cases one after another into a folder, as ``CASE.nii.gz``.

    A case that fails is reported in the results; the others go on.

    Args:
        predictor: what predicts.
        items: case ids and image files, as from :func:`find_images`.
        output: folder, made if it is not there.
        suffix: file format, see :func:`medssl.inference.writer.write_label`.
        probabilities: also write ``probabilities/CASE_STRUCTURE.nii.gz``, one per structure.
        uncertainty: also write ``uncertainty/CASE.nii.gz``, the normalized entropy.
        assess: also write ``uncertainty/CASE.json``, see :class:`Assessment`.
        skip_existing: leave out cases whose files are there. Files are written whole or not at
            all, so a second call finishes what the first one left.
        on_progress: called after each case.
        on_window: called after each forward pass.

    Returns:
        One result per case, in order.

    Raises:
        MedSSLError: the folder cannot be made, or predictions would overwrite images.
    """
    output = Path(output)
    jobs = [
        _plan(predictor, item, output, suffix, probabilities, uncertainty, assess) for item in items
    ]
    _check_output(output, jobs)
    results: list[PredictionResult] = []
    for job in jobs:
        if skip_existing and job.is_done(predictor.temperature):
            results.append(PredictionResult(job.case_id, job.label, None, 0.0, skipped=True))
        else:
            progress = None if on_window is None else partial(on_window, job.case_id)
            results.append(_predict_one(predictor, job, progress))
        if on_progress is not None:
            on_progress(job.case_id)
    return results


@dataclass(frozen=True)
class _Job:
    """One case and where its results go; ``maps`` are probability maps by class index."""

    case_id: str
    files: tuple[Path, ...]
    label: Path
    maps: dict[int, Path]
    entropy: Path | None = None
    assessment: Path | None = None

    @property
    def targets(self) -> tuple[Path, ...]:
        others = (path for path in (self.entropy, self.assessment) if path is not None)
        return (*self.maps.values(), *others, self.label)

    def is_done(self, temperature: float) -> bool:
        """Tell whether every file is there, and the assessment is of this temperature."""
        if not all(path.is_file() for path in self.targets):
            return False
        if self.assessment is None:
            return True
        found = read_assessment(self.assessment)
        return found is not None and math.isclose(found.temperature, temperature, rel_tol=1e-9)


def _plan(
    predictor: Predictor,
    item: Item,
    output: Path,
    suffix: str,
    probabilities: bool,
    uncertainty: bool,
    assess: bool,
) -> _Job:
    case_id, files = item
    names = list(enumerate(predictor.label_map.names))[1:] if probabilities else []
    # In a folder of their own, so that the label maps can be evaluated as a folder.
    maps = {
        index: output / "probabilities" / f"{case_id}_{re.sub(r'[^A-Za-z0-9]+', '-', name)}{suffix}"
        for index, name in names
    }
    entropy = output / "uncertainty" / f"{case_id}{suffix}" if uncertainty else None
    facts = assessment_file(output, case_id) if assess else None
    return _Job(case_id, tuple(files), output / f"{case_id}{suffix}", maps, entropy, facts)


def _predict_one(
    predictor: Predictor, job: _Job, progress: WindowProgress | None
) -> PredictionResult:
    start = time.perf_counter()
    path, message = None, None
    try:
        prediction = predictor.predict_file(
            job.files,
            keep_probabilities=bool(job.maps),
            entropy=job.entropy is not None,
            assess=job.assessment is not None,
            progress=progress,
        )
        prediction.save_probabilities(job.maps)
        if job.entropy is not None:
            prediction.save_entropy(job.entropy)
        if job.assessment is not None and prediction.assessment is not None:
            write_assessment(prediction.assessment, job.assessment)
        path = prediction.save(job.label)
    except MedSSLError as error:
        message = str(error)
    except Exception as error:
        logger.debug("prediction of %s failed", job.case_id, exc_info=True)
        message = f"{type(error).__name__}: {error}\n  where: {job.files[0]}"
    return PredictionResult(job.case_id, path, message, time.perf_counter() - start)


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


def _check_output(output: Path, jobs: Sequence[_Job]) -> None:
    images = {path.resolve() for job in jobs for path in job.files}
    for target in (path for job in jobs for path in job.targets):
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
