"""Pictures of predictions beside their references: the worst, median and best case of a split."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import nibabel as nib
import numpy as np

from medssl.data.datasets.split_file import load_splits
from medssl.data.images.geometry import spacing_of
from medssl.data.images.labels import read_label
from medssl.data.images.volume import read_image
from medssl.data.opened import open_dataset
from medssl.files import new_file
from medssl.recipe.load import load_recipe
from medssl.reports.sides import SIDES, mark_sides
from medssl.reports.thumbnails import COLORS
from medssl.runs.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RANKS = ("worst", "median", "best")
PLANES = tuple(SIDES)


def write_previews(run: RunFolder, split: str, name: str | None = None) -> list[Path]:
    """Write ``preview/SPLIT-{worst,median,best}-CASE.png`` from an evaluated split."""
    scores = _mean_dice(run.evaluation(name or split) / "cases.csv")
    if not scores:
        return []
    recipe = load_recipe(run.recipe).recipe
    dataset = open_dataset(recipe.data, recipe.spec)
    cases = {c.id: c for c in getattr(load_splits(run.splits, dataset), split)}
    ranked = sorted(scores, key=lambda c: scores[c])
    chosen = dict(zip(RANKS, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True))
    written = []
    for rank, case_id in chosen.items():
        case = cases[case_id]
        assert case.label is not None
        target = run.preview / f"{split}-{rank}-{case_id}.png"
        with new_file(target) as file:
            draw_case(
                case.images[0],
                case.label,
                run.predictions(name or split) / f"{case_id}.nii.gz",
                file,
                title=f"{rank} {split} case: {case_id}, mean Dice {scores[case_id]:.3f}",
                names=dict(zip(dataset.labels.values, dataset.labels.names, strict=True)),
            )
        written.append(target)
    return written


def _mean_dice(path: Path) -> dict[str, float]:
    """Return the mean Dice over the structures of each case; absent structures do not count."""
    scores: dict[str, list[float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["status"] != "absent":
                scores.setdefault(row["case"], []).append(float(row["dice"]))
    return {case: float(np.mean(values)) for case, values in scores.items()}


def _outline(axes: Axes, mask: np.ndarray, color: str, style: str) -> None:
    """Draw the border of a mask ``(rows, columns)``; also where it is one voxel thin."""
    pads = [int(n < 2) for n in mask.shape]  # a contour runs between voxels
    rows, columns = (np.arange(-pad, n + pad) for n, pad in zip(mask.shape, pads, strict=True))
    axes.contour(
        columns,
        rows,
        np.pad(mask, [(pad, pad) for pad in pads]),
        levels=[0.5],
        colors=[color],
        linestyles=style,
        linewidths=1,
    )


def draw_case(
    image: Path,
    reference: Path,
    prediction: Path,
    target: BinaryIO,
    *,
    title: str,
    names: dict[int, str],
) -> None:
    """Draw three planes through the structures: reference dashed, prediction solid."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    volume = read_image(image)
    intensity, turn = to_ras(volume.channels_first()[0], volume.affine)
    labels = turn(read_label(reference)[0])
    predicted = turn(read_label(prediction)[0])
    spacing = np.array(spacing_of(volume.affine))[turn.order]
    low, high = np.percentile(intensity, (1, 99))
    figure = Figure(figsize=(12, 4.6), dpi=110)
    canvas = FigureCanvasAgg(figure)
    present = [v for v in names if v and ((labels == v).any() or (predicted == v).any())]
    for axis, plane in enumerate(PLANES):
        other = tuple(a for a in range(3) if a != axis)
        shown = np.isin(labels, present) | np.isin(predicted, present)
        index = int(np.argmax(shown.sum(axis=other)))
        axes = figure.add_subplot(1, 3, axis + 1)
        axes.axis("off")
        cut = [np.take(x, index, axis=axis).T for x in (intensity, labels, predicted)]
        ratio = spacing[other[1]] / spacing[other[0]]
        axes.imshow(cut[0], cmap="gray", vmin=low, vmax=high, origin="lower", aspect=ratio)
        for value in present:
            color = COLORS[(present.index(value)) % len(COLORS)]
            for mask, style in ((cut[1] == value, "--"), (cut[2] == value, "-")):
                if mask.any():
                    _outline(axes, mask, color, style)
        axes.set_title(f"{plane}, slice {index}", fontsize=9, y=1)  # not looked for: no ticks
        mark_sides(axes, plane)
    handles = [
        Line2D([], [], color=COLORS[i % len(COLORS)], label=names[v]) for i, v in enumerate(present)
    ]
    handles += [
        Line2D([], [], color="gray", linestyle="--", label="reference"),
        Line2D([], [], color="gray", label="prediction"),
    ]
    figure.legend(handles=handles, loc="lower center", ncol=len(handles), fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(rect=(0, 0.07, 1, 0.98))
    canvas.print_png(target)  # drawn once; savefig draws twice


class _Turn:
    """Turn arrays on an image's grid to the closest RAS axes."""

    def __init__(self, affine: np.ndarray) -> None:
        self.orientation = nib.orientations.io_orientation(affine)
        self.order = np.argsort(self.orientation[:, 0]).astype(int)

    def __call__(self, array: np.ndarray) -> np.ndarray:
        return nib.orientations.apply_orientation(array, self.orientation)


def to_ras(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, _Turn]:
    """Turn an array to the closest RAS axes; also return what turns others like it."""
    turn = _Turn(affine)
    return turn(array), turn
