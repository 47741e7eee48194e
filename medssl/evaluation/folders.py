"""Compare a folder of predictions with a folder of references, file by file."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medssl.data.datasets.case import IGNORE_INDEX, LabelMap
from medssl.data.images.geometry import (
    GRID_ERROR_VOXELS,
    GRID_WARNING_VOXELS,
    grid_distance,
    is_sheared,
    spacing_of,
)
from medssl.data.images.labels import read_label
from medssl.data.images.names import IMAGE_SUFFIXES, list_images, split_extension
from medssl.errors import MedSSLError
from medssl.evaluation.case_metrics import Measures, evaluate_case
from medssl.progress import Done

_log = logging.getLogger(__name__)

_MAX_LABELS = IGNORE_INDEX  # class indices are uint8 and 255 is taken


def evaluate_folders(
    predictions: Path,
    reference: Path,
    measures: Measures,
    *,
    label_map: LabelMap | None,
    patients: Mapping[str, str] | None = None,
    on_progress: Done | None = None,
) -> list[dict[str, Any]]:
    """Evaluate every reference label file against the prediction of the same name.

    Files are matched by case id, the file name without ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``,
    ``.mha`` or ``.mhd``, so the formats may differ. Predictions without a reference are logged and
    left out. Two single files are compared with each other whatever their names.

    Args:
        predictions: folder (or file) of predicted label maps, label values as in the dataset.
        reference: folder (or file) of reference label maps.
        measures: what is measured. Files in another unit than its are converted.
        label_map: the structures. None: the values found in the references, named ``label_1``, ...;
            255 is then a structure where it is the only value and "not annotated" beside others.
        patients: patient of each case; kept in the rows for `summarize`.
        on_progress: called with each case id before it is evaluated.

    Returns:
        The rows of `evaluate_case`, cases in the order of their ids.

    Raises:
        MedSSLError: a folder holds no label files, predictions are missing, a file cannot be read
            or holds undeclared values, or the two grids of a case differ or are sheared.
    """
    pairs = match_files(Path(predictions), Path(reference))
    is_found = label_map is None
    if label_map is None:
        label_map = _found_labels([reference for _, reference in pairs.values()])
    rows: list[dict[str, Any]] = []
    for case_id, (prediction_path, reference_path) in pairs.items():
        if on_progress is not None:
            on_progress(case_id)
        predicted, predicted_affine = read_label(prediction_path, unit=measures.unit)
        truth, affine = read_label(reference_path, unit=measures.unit)
        check_same_grid(
            case_id, (prediction_path, predicted, predicted_affine), (reference_path, truth, affine)
        )
        _check_straight(reference_path, truth, affine)
        if is_found:
            _check_found(predicted, label_map, prediction_path)
        classes = to_classes(truth, label_map, reference_path)
        case_rows = evaluate_case(
            _predicted_classes(predicted, classes, label_map, prediction_path),
            classes,
            measures,
            spacing=spacing_of(affine),
            label_map=label_map,
            case_id=case_id,
        )
        owner = {} if patients is None else {"patient": patients.get(case_id, case_id)}
        rows += [{**row, **owner} for row in case_rows]
    return rows


def match_files(predictions: Path, reference: Path) -> dict[str, tuple[Path, Path]]:
    """Pair each reference file with its prediction, by case id.

    Raises:
        MedSSLError: a path does not exist, a folder holds no label files or two of one case, or
            predictions are missing.
    """
    if predictions.is_file() and reference.is_file():
        return {_case_id(reference): (predictions, reference)}
    predicted, references = _label_files(predictions), _label_files(reference)
    missing = [case_id for case_id in references if case_id not in predicted]
    if missing:
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise MedSSLError(
            f"{len(missing)} of {len(references)} reference cases have no prediction: {listed}",
            where=predictions,
            fix="predict them too, or evaluate against a folder with only the cases you predicted",
        )
    extra = [case_id for case_id in predicted if case_id not in references]
    if extra:
        _log.warning("%d predictions without reference left out: %s", len(extra), extra[:5])
    return {case_id: (predicted[case_id], references[case_id]) for case_id in references}


def check_same_grid(
    case_id: str,
    prediction: tuple[Path, np.ndarray, np.ndarray],
    reference: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    """Refuse a prediction that does not lie on the reference's voxel grid.

    Grids are equal when the shapes are and no corner of the image lies more than half a voxel from
    its counterpart, as in training; more than the rounding of headers is logged.

    Args:
        case_id: for the message.
        prediction: path, array and affine.
        reference: path, array and affine.

    Raises:
        MedSSLError: the grids differ; names both files and both values.
    """
    shapes = prediction[1].shape, reference[1].shape
    if shapes[0] == shapes[1]:
        apart = grid_distance(reference[2], prediction[2], shapes[0])
        if apart > GRID_WARNING_VOXELS:
            _log.warning("%s: prediction and reference lie %.2g voxels apart", case_id, apart)
        if apart <= GRID_ERROR_VOXELS:
            return
    described = [
        f"  {name}: {path}: {_describe_grid(array.shape, affine)}"
        for name, (path, array, affine) in (("prediction", prediction), ("reference", reference))
    ]
    raise MedSSLError(
        "\n".join([f"{case_id}: prediction and reference lie on different grids", *described]),
        fix="evaluate on the reference's own grid: resample the prediction with nearest neighbor,"
        " or predict again with `medssl predict`, which keeps the image's grid",
    )


def _check_straight(path: Path, label: np.ndarray, affine: np.ndarray) -> None:
    """Refuse axes that are not at right angles: distances and volumes reckon with voxel edges."""
    if is_sheared(affine, label.shape):
        raise MedSSLError(
            "the axes are not at right angles (a tilted gantry?): distances and volumes would be "
            "wrong",
            where=path,
            fix="resample prediction and reference to one straight grid with nearest neighbor",
        )


def _describe_grid(shape: tuple[int, ...], affine: np.ndarray) -> str:
    spacing = ", ".join(f"{s:.4g}" for s in spacing_of(affine))
    origin = ", ".join(f"{o:.5g}" for o in affine[:3, 3])
    axes = "".join(code or "?" for code in nib.aff2axcodes(affine))
    return f"shape {tuple(shape)}, spacing ({spacing}), origin ({origin}), axes {axes}"


def _label_files(folder: Path) -> dict[str, Path]:
    """Return the label files of a folder (or the one file) by case id."""
    if folder.is_file():
        return {_case_id(folder): folder}
    if not folder.is_dir():
        raise MedSSLError("this folder does not exist", where=folder, fix="check the path")
    files: dict[str, Path] = {}
    for path in list_images(folder):
        case_id = _case_id(path)
        if case_id in files:
            raise MedSSLError(
                f"two files of case {case_id}: {files[case_id].name} and {path.name}",
                where=folder,
                fix="keep one of them",
            )
        files[case_id] = path
    if not files:
        raise MedSSLError(
            f"no label maps here (looked for {', '.join(IMAGE_SUFFIXES)})",
            where=folder,
            fix="name the folder that holds the files themselves, for instance DATASET/labelsTr",
        )
    return files


def _case_id(path: Path) -> str:
    return split_extension(path.name)[0]


def _found_labels(references: list[Path]) -> LabelMap:
    """Build the label map of folders that come without a dataset.json."""
    found: set[int] = set()
    for path in references:
        found |= {int(v) for v in np.unique(read_label(path)[0])} - {0}
        if len(found) > _MAX_LABELS:
            raise MedSSLError(
                f"more than {_MAX_LABELS} different values: this looks like an image",
                where=path,
                fix="give label maps as reference",
            )
    ignore = IGNORE_INDEX if IGNORE_INDEX in found and len(found) > 1 else None
    values = sorted(found - {ignore})
    if ignore is not None:
        _log.warning("label value %d taken as 'not annotated'", ignore)
    if not values:
        raise MedSSLError(
            "the references hold no structure, only background",
            where=references[0].parent,
            fix="check the folder, or name the structures with a dataset.json",
        )
    names = ("background", *(f"label_{value}" for value in values))
    return LabelMap(values=(0, *values), names=names, ignore_value=ignore)


def _check_found(label: np.ndarray, label_map: LabelMap, path: Path) -> None:
    """Refuse a prediction with values that no reference has, where nothing else declares any."""
    others = np.setdiff1d(label, [*label_map.values, label_map.ignore_value or 0])
    if others.size:
        raise MedSSLError(
            f"no reference has the label {', '.join(f'{value:g}' for value in others[:5])} that "
            "this prediction has",
            where=path,
            fix="if it is a structure, name all of them with a dataset.json; or correct the labels",
        )


def to_classes(label: np.ndarray, label_map: LabelMap, path: Path) -> np.ndarray:
    """Map the label values of a file to class indices.

    Raises:
        MedSSLError: a value is not declared; names the file.
    """
    try:
        return label_map.to_classes(label)
    except ValueError as error:
        declared = ", ".join(str(value) for value in label_map.values[:20])
        raise MedSSLError(
            f"{error}",
            where=path,
            fix=f"declare them in dataset.json or remove them; declared are {declared}",
        ) from error


def _predicted_classes(
    label: np.ndarray, reference: np.ndarray, label_map: LabelMap, path: Path
) -> np.ndarray:
    """Map a prediction; it may say "not annotated" only where the reference says so too."""
    classes = to_classes(label, label_map, path)
    n_wrong = int(np.count_nonzero((classes == IGNORE_INDEX) & (reference != IGNORE_INDEX)))
    if n_wrong:
        raise MedSSLError(
            f"{n_wrong} voxels hold {label_map.ignore_value}, the value for 'not annotated'",
            where=path,
            fix="a prediction must give every voxel a structure or background",
        )
    return classes
