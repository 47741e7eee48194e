"""Pictures of single cases for a report: contours beside the reference, and where it is unsure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.datasets.case import Case
from medssl.data.images.volume import read_image
from medssl.errors import MedSSLError
from medssl.inference.predictor import Predictor
from medssl.reports.figures import Picture, data_uri
from medssl.reports.preview import PLANES, draw_case, to_ras
from medssl.reports.sides import mark_sides


@dataclass(frozen=True)
class CasePictures:
    """The pictures of one case; ``unsure`` is None where the network was not run again."""

    case_id: str
    rank: str
    dice: float
    contours: Picture
    unsure: Picture | None


def chosen_cases(scores: Mapping[str, float]) -> dict[str, str]:
    """Return the worst, the median and the best case by mean Dice (each case once)."""
    ranked = sorted(scores, key=lambda c: (scores[c], c))
    if not ranked:
        return {}
    picked = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
    return {
        rank: case
        for rank, case in picked.items()
        if list(picked.values()).index(case) == list(picked).index(rank)
    }


def picture_case(
    case: Case,
    prediction: Path,
    *,
    rank: str,
    dice: float,
    names: Mapping[int, str],
    predictor: Predictor | None,
) -> CasePictures:
    """Draw one case in three planes, and its uncertainty if there is a network to ask.

    Raises:
        MedSSLError: image, reference or prediction cannot be read.
    """
    assert case.label is not None
    buffer = io.BytesIO()
    try:
        draw_case(case.images[0], case.label, prediction, buffer, title="", names=dict(names))
    except OSError as error:
        raise MedSSLError(
            f"the case cannot be drawn: {error}",
            where=case.images[0],
            fix="restore the dataset and the run's predictions, or use --no-pictures",
        ) from error
    contours = Picture(
        f"{rank}: {case.id}",
        f"Mean Dice {dice:.3f}. Dashed: reference; solid: prediction. Each plane is the one with "
        "most structure.",
        data_uri(buffer.getvalue(), "image/png"),
        f"{rank} case {case.id} with reference and prediction in three planes",
    )
    unsure = None if predictor is None else _picture_entropy(case, predictor)
    return CasePictures(case.id, rank, dice, contours, unsure)


def _picture_entropy(case: Case, predictor: Predictor) -> Picture:
    prediction = predictor.predict_file(case.images, entropy=True, force=True)
    entropy = prediction.entropy_map()
    volume = read_image(case.images[0])
    figure = draw_heat(volume.channels_first()[0], entropy, volume.affine)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Picture(
        f"uncertainty: {case.id}",
        "Entropy of the predicted probabilities: dark is sure, bright is a guess. A bright rim is "
        "normal; bright areas deserve a look.",
        data_uri(buffer.getvalue(), "image/png"),
        f"uncertainty of case {case.id} in three planes",
    )


def draw_heat(
    image: np.ndarray, heat: np.ndarray, affine: np.ndarray, *, numbers: bool = True
) -> Any:
    """Draw a map in [0, 1] over an image, in the three planes where it is largest.

    Args:
        image, heat: ``(X, Y, Z)``.
        affine: voxel to RAS.
        numbers: write the number of each slice, in RAS order and counted from 0.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    intensity, turn = to_ras(image, affine)
    values = turn(heat)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[turn.order]
    low, high = np.percentile(intensity, (1, 99))
    figure = Figure(figsize=(12, 4.2), dpi=110)
    FigureCanvasAgg(figure)
    shown = None
    for axis, plane in enumerate(PLANES):
        other = tuple(a for a in range(3) if a != axis)
        index = int(np.argmax(values.sum(axis=other)))
        axes = figure.add_subplot(1, 3, axis + 1)
        back, front = (np.take(x, index, axis=axis).T for x in (intensity, values))
        ratio = spacing[other[1]] / spacing[other[0]]
        axes.imshow(back, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=ratio)
        shown = axes.imshow(
            front,
            cmap="inferno",
            vmin=0,
            vmax=1,
            alpha=np.clip(2 * front, 0, 0.8),  # where it is sure, the image shows through
            origin="lower",
            aspect=ratio,
        )
        axes.set_title(f"{plane}, slice {index}" if numbers else plane, fontsize=9)
        axes.axis("off")
        mark_sides(axes, plane)
    assert shown is not None  # a picture has planes
    figure.colorbar(shown, ax=figure.axes, fraction=0.02, label="normalized entropy")
    return figure


def case_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return each case's mean Dice over its structures; absent ones do not count."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["status"] != "absent":
            values.setdefault(str(row["case"]), []).append(float(row["dice"]))
    return {case: float(np.mean(v)) for case, v in values.items()}
