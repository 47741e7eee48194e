"""Check the files of a dataset before hours are spent on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from medssl.data.datasets.case import Case, Dataset, LabelMap
from medssl.data.datasets.contents import Contents
from medssl.data.datasets.known_files import KnownFiles
from medssl.data.datasets.problem import Problem
from medssl.data.datasets.split import Splits
from medssl.data.datasets.verdicts import Verdicts
from medssl.data.images.explain import AGAIN
from medssl.data.images.geometry import (
    GRID_ERROR_VOXELS,
    GRID_WARNING_VOXELS,
    Unit,
    describe_difference,
    grid_distance,
    is_sheared,
)
from medssl.data.images.labels import NOT_WHOLE_FIX, count_values
from medssl.data.images.notes import told_once
from medssl.data.images.volume import Volume, image_fault, read_volume
from medssl.errors import MedSSLError
from medssl.paths import command
from medssl.progress import Done


def check_case(
    case: Case,
    labels: LabelMap | None,
    channels: int,
    *,
    unit: Unit = "mm",
    min_shape: Sequence[int] | None = None,
    open_file: Callable[..., Volume] = read_volume,
) -> list[Problem]:
    """Read a case's files to the end and return everything wrong with them.

    Args:
        case: a hidden label (None) is not opened.
        labels: the declared label values; None skips the checks of values.
        channels: channels that dataset.json declares.
        unit: of the dataset.
        min_shape: smallest allowed voxels per axis, if any.
        open_file: reads one file, as :func:`read_volume` does.
    """
    problems: list[Problem] = []
    volumes: list[Volume] = []
    for path in case.images:
        try:
            volume = open_file(path, unit=unit)
        except MedSSLError as error:
            problems.append(_unreadable(path, error))
            continue
        problems += [*_check_header(path, volume), *_check_image(path, volume)]
        volumes.append(volume)
    if len(volumes) == len(case.images):
        problems += _check_channels(case, volumes, channels)
    if volumes and min_shape is not None:
        problems += _check_size(case.images[0], volumes[0], min_shape)
    if case.label is not None:
        try:
            label = open_file(case.label, unit=unit)
        except MedSSLError as error:
            return [*problems, _unreadable(case.label, error)]
        if volumes:
            problems += _check_pair(case.label, label, volumes[0], "label")
        problems += [*_check_header(case.label, label), *_check_label(case.label, label, labels)]
    return problems


def _unreadable(path: Path, error: MedSSLError) -> Problem:
    return Problem("error", path, error.what, error.fix or AGAIN, "unreadable")


def _check_header(path: Path, volume: Volume) -> Iterator[Problem]:
    if volume.note:
        fix = "nothing to do if viewers show it rightly; other programs may place it elsewhere"
        yield Problem("warning", path, volume.note, fix, "header")


def merge_headers(problems: Sequence[Problem]) -> list[Problem]:
    """Tell once per dataset, and kind, that its headers contradict themselves."""
    found = list({p.file: p for p in problems if p.check == "header"}.values())
    merged = []
    for index, count in told_once([p.what for p in found]):
        first = found[index]
        what = first.what if count == 1 else f"{first.what} ({count} such files)"
        merged.append(replace(first, what=what))
    return [*merged, *(p for p in problems if p.check != "header")]


def _check_image(path: Path, volume: Volume) -> Iterator[Problem]:
    fault = image_fault(volume)
    if fault is not None:
        yield Problem("error", path, fault.what, fault.fix, fault.check)
    elif is_sheared(volume.affine, volume.data.shape):
        yield Problem(
            "error",
            path,
            "the axes are not at right angles (a tilted gantry?): no result could be written that "
            "every program opens",
            "resample the scan and its label to a straight grid",
            "sheared",
        )
    if fault is None or fault.check == "affine":
        yield from _check_values(path, volume.data)


def _check_values(path: Path, data: np.ndarray) -> Iterator[Problem]:
    if np.issubdtype(data.dtype, np.floating):
        bad = data.size - int(np.count_nonzero(np.isfinite(data)))
        if bad:
            yield Problem(
                "error",
                path,
                f"{bad} voxels are NaN (not a number) or infinite",
                "replace them by a number, for instance with numpy.nan_to_num",
                "not_finite",
            )
            return
    channels = np.moveaxis(data, 3, 0) if data.ndim == 4 else data[None]
    for number, channel in enumerate(channels):
        if channel.min() == channel.max():
            which = f"channel {number} of the image" if len(channels) > 1 else "the image"
            yield Problem(
                "error",
                path,
                f"{which} is constant: every voxel is {float(channel.flat[0]):g}",
                "export the image again, or take the case out of dataset.json",
                "constant",
            )


def _check_channels(case: Case, volumes: Sequence[Volume], channels: int) -> Iterator[Problem]:
    first = volumes[0].data
    found = len(volumes) if len(volumes) > 1 else (first.shape[3] if first.ndim == 4 else 1)
    if first.ndim in (3, 4) and (found != channels or (len(volumes) > 1 and first.ndim == 4)):
        yield Problem(
            "error",
            case.images[0],
            f"the image has {found} channels {first.shape} but dataset.json declares {channels}",
            "mend 'modality' in dataset.json, or the image",
            "channels",
        )
    for path, volume in zip(case.images[1:], volumes[1:], strict=True):
        yield from _check_pair(path, volume, volumes[0], "channel")


def _check_size(path: Path, volume: Volume, min_shape: Sequence[int]) -> Iterator[Problem]:
    shape = volume.data.shape[:3]
    if len(shape) == 3 and any(n < m for n, m in zip(shape, min_shape, strict=True)):
        yield Problem(
            "error",
            path,
            f"the image has {_times(shape)} voxels, fewer than {_times(min_shape)}",
            "use a smaller patch, or take the case out of dataset.json",
            "size",
        )


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)


def _check_pair(path: Path, volume: Volume, image: Volume, kind: str) -> Iterator[Problem]:
    """Compare the grid of a label or further channel with the image's."""
    shape = image.data.shape[:3]
    if len(shape) < 3:
        return
    if volume.data.shape != shape:
        yield Problem(
            "error",
            path,
            f"the {kind} has {_times(volume.data.shape)} voxels but the image {_times(shape)}",
            f"provide the {kind} on the image's grid",
            "shape",
        )
        return
    distance = grid_distance(image.affine, volume.affine, shape)
    if distance <= GRID_WARNING_VOXELS:
        return
    yield Problem(
        "error" if distance > GRID_ERROR_VOXELS else "warning",
        path,
        f"the {kind} lies up to {distance:.2g} voxels off the image: "
        f"{describe_difference(image.affine, volume.affine)}",
        f"resample the {kind} to the image, or copy the image's affine if the voxels do match",
        "grid",
    )


def _check_label(path: Path, label: Volume, labels: LabelMap | None) -> Iterator[Problem]:
    fault = image_fault(label)
    if fault is not None and fault.check != "affine":  # which the comparison of grids says better
        yield Problem("error", path, fault.what, fault.fix, fault.check)
        return
    if labels is None:
        return
    counts = count_values(label.values())
    known = {float(v) for v in labels.values}
    if labels.ignore_value is not None:
        known.add(float(labels.ignore_value))
    unknown = {v: n for v, n in counts.items() if v not in known}
    if unknown:
        listed = ", ".join(f"{v:g} ({n} voxels)" for v, n in list(unknown.items())[:4])
        more = f" and {len(unknown) - 4} more values" if len(unknown) > 4 else ""
        yield Problem(
            "error",
            path,
            f"label values not declared in dataset.json: {listed}{more}",
            "declare them under 'labels', or correct the label image"
            if all(value.is_integer() for value in unknown)  # false for NaN and infinity
            else NOT_WHOLE_FIX,
            "undeclared",
        )
    elif not any(counts.get(float(v)) for v in labels.values[1:]):
        yield Problem(
            "error",
            path,
            "the label is empty: no voxel belongs to a structure",
            "annotate the case, or remove its label from dataset.json to use it as unlabeled",
            "empty_label",
        )


def check_training_set(
    dataset: Dataset,
    splits: Splits,
    *,
    min_shape: Sequence[int] | None = None,
    memory: Path | None = None,
    files: KnownFiles | None = None,
    contents: Contents | None = None,
    on_progress: Done | None = None,
) -> list[Problem]:
    """Read every case that training will use and refuse to start on a broken one.

    An empty label is an error in a labeled training case and a warning in validation and test.

    Args:
        min_shape: smallest allowed voxels per axis of an image as stored, if any.
        memory: folder that remembers what was read without an error, see :class:`Verdicts`; None
            reads everything.
        files: what is known of files, by which a case is recognized; None: nothing.
        contents: learns the voxels of what is read.
        on_progress: called with each case's id when it has been read.

    Returns:
        The warnings.

    Raises:
        MedSSLError: the first error in full, with the number of the others.
    """
    roles = [(c, "labeled") for c in splits.labeled]
    roles += [(c, "held back") for c in (*splits.validation, *splits.test)]
    roles += [(c, "unlabeled") for c in splits.unlabeled]
    problems: list[Problem] = []
    channels = len(dataset.modality)
    unit = dataset.spatial_unit
    verdicts = Verdicts(memory, dataset.labels, channels, min_shape, unit, files=files)
    for case, role in roles:
        found = verdicts.get(case)
        if found is None:
            check = check_case
            if contents is not None:
                check = partial(check_case, open_file=contents.reading(case))
            found = check(case, dataset.labels, channels, unit=unit, min_shape=min_shape)
            verdicts.keep(case, found)
        elif contents is not None:
            contents.of(case)
        if role == "held back":
            found = [
                replace(p, severity="warning") if p.check == "empty_label" else p for p in found
            ]
        problems += found
        if on_progress is not None:
            on_progress(case.id)
    errors = [p for p in problems if p.severity == "error"]
    if errors:
        raise summarize_problems(errors, dataset)
    return merge_headers(problems)


def summarize_problems(errors: Sequence[Problem], dataset: Dataset) -> MedSSLError:
    """Make one error of several: the first in full, the others counted."""
    first, others = errors[0], errors[1:]
    more = ""
    if others:
        files = len({p.file for p in others})
        more = (
            f"\n  and {len(others)} more problem{'s' if len(others) > 1 else ''} in "
            f"{files} file{'s' if files > 1 else ''} (run `{command('check', dataset.root)}`)"
        )
    return MedSSLError(f"{first.file.name}: {first.what}{more}", where=first.file, fix=first.fix)
