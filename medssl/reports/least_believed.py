"""The unlabeled scans that a training believed least, with a picture of each."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medssl.data.datasets.case import Case
from medssl.data.datasets.split_file import load_splits
from medssl.data.images.volume import read_image
from medssl.data.opened import open_dataset
from medssl.errors import MedSSLError
from medssl.recipe.load import load_recipe
from medssl.reports.thumbnails import draw_thumbnail
from medssl.runs.folder import RunFolder
from medssl.runs.unlabeled_csv import FILE
from medssl.uncertainty.volumes_csv import rows_by_case

MOST = 10
"""So many are shown."""


@dataclass(frozen=True)
class LeastBelieved:
    """What a report shows of an unlabeled scan.

    Attributes:
        case_id: of the scan.
        figures: of its row in ``unlabeled.csv``, by column.
        picture: a JPEG as text, empty where there is none.
    """

    case_id: str
    figures: Mapping[str, float] = field(default_factory=dict)
    picture: str = ""


def least_believed(folder: RunFolder, *, pictures: bool) -> list[LeastBelieved]:
    """Return the first scans of a run's ``unlabeled.csv``; none without such a file.

    A scan that cannot be read any more has no picture.

    Args:
        folder: of the run.
        pictures: draw them.
    """
    rows = rows_by_case(folder.path / FILE)
    first = dict(list(rows.items())[:MOST])
    cases = _cases(folder) if first and pictures else {}
    found = []
    for case_id, (row, *_) in first.items():
        figures = {key: _number(value) for key, value in row.items() if key != "case"}
        found.append(LeastBelieved(case_id, figures, _picture(cases.get(case_id))))
    return found


def _number(value: str) -> float:
    return float(value) if value else float("nan")


def _cases(folder: RunFolder) -> dict[str, Case]:
    try:
        recipe = load_recipe(folder.recipe).recipe
        splits = load_splits(folder.splits, open_dataset(recipe.data, recipe.spec))
    except MedSSLError:
        return {}
    return {case.id: case for case in splits.unlabeled}


def _picture(case: Case | None) -> str:
    if case is None:
        return ""
    try:
        image = read_image(case.images[0])
    except MedSSLError:
        return ""
    data = np.nan_to_num(image.channels_first()[0], posinf=0, neginf=0)
    return base64.b64encode(draw_thumbnail(data, None, image.affine)).decode()
