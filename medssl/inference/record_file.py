"""``predictions.json``: what stands in the record beside predictions, read and written.

A folder holds the predictions of one model. ``predictions.json`` says so::

    format       1
    models       by key: model (the run or bundle), weights_sha256, and the options that change
                 voxels, see :func:`medssl.inference.identity.options_of`; of a cross-validation
                 the folds that predicted
    predictions  by case: model (a key), images (file and sha256 each; of a DICOM series its folder
                 and a hash of the sorted hashes), files (what was written), temperature, where
                 there are maps that depend on it, unusual, what of the images is unlike the
                 training scans, and volumes; images is null until the files are whole
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError
from medssl.files import write_json
from medssl.files.atomic import remove
from medssl.runs.lineage import PREDICTIONS

FILE = PREDICTIONS
FORMAT = 1

Entry = dict[str, Any]


def read_record(folder: Path, *, damaged: bool) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Return models and predictions, empty where there is no record.

    Args:
        folder: of the predictions.
        damaged: an unreadable record is an empty one.

    Raises:
        MedSSLError: the record cannot be read.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        models, entries = dict(content["models"]), dict(content["predictions"])
        for entry in entries.values():
            made = models[entry["model"]]
            made["model"], made["weights_sha256"], dict(made["options"])
            entry["images"] is None or sums(entry["images"])
        return models, entries
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if damaged:
            return {}, {}
        raise MedSSLError(
            f"the record of the predictions cannot be read ({type(error).__name__}: {error})",
            where=folder / FILE,
            fix="choose another --output, or add --overwrite to predict them again",
        ) from None


def write_record(folder: Path, models: Mapping[str, Entry], entries: Mapping[str, Entry]) -> None:
    """Write the record of a folder with the models that made what is there; none of nothing."""
    path = folder / FILE
    if not entries:
        remove(path)
        return
    used = {entry["model"] for entry in entries.values()}
    write_json(
        path,
        {
            "format": FORMAT,
            "models": {key: models[key] for key in sorted(used)},
            "predictions": dict(sorted(entries.items())),
        },
    )


def recorded_predictions(folder: Path) -> dict[str, Entry]:
    """Return what the record of a folder says of each whole prediction, by case id, in order.

    Where the record is missing or damaged nothing is known.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        entries = content["predictions"].items()
        return {str(name): dict(entry) for name, entry in sorted(entries) if entry["images"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def sums(images: Sequence[Entry]) -> list[str]:
    """Return the hashes of the images of a prediction."""
    return [image["sha256"] for image in images]
