"""The median voxel size of a dataset, for data specs that ask for it."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np

from medssl.data.datasets.case import Dataset
from medssl.data.datasets.fingerprint import ScanGrid
from medssl.data.images.volume import read_header
from medssl.data.opened import open_dataset
from medssl.errors import located
from medssl.planning.grid import median_spacing, oriented
from medssl.progress import Display
from medssl.recipe.load import LoadedRecipe
from medssl.settings.spec import DataSpec

MOST_SCANS = 500
"""Scans whose headers are read at most, evenly spread."""


def with_spacing(loaded: LoadedRecipe, display: Display) -> LoadedRecipe:
    """Return a recipe with numbers where its data spec says ``spacing: median``.

    The median is that of all scans of the dataset that have labels, whatever they are used as, so
    that folds, sweeps and the comparison with labels alone work on one grid. Headers are read, no
    voxel and no label.

    Raises:
        MedSSLError: the dataset, or a header in it, cannot be read.
    """
    recipe = loaded.recipe
    if recipe.spec.spacing != "median":
        return loaded
    with located(loaded.source):
        spacing = dataset_spacing(open_dataset(recipe.data, recipe.spec), recipe.spec)
    sizes = " x ".join("as stored" if v is None else f"{v:g}" for v in spacing)
    display.say(f"spacing: {sizes} {recipe.spec.spatial_unit}, the median of the labeled scans")
    spec = recipe.spec.model_copy(update={"spacing": spacing})
    return replace(loaded, recipe=recipe.model_copy(update={"spec": spec}))


def dataset_spacing(dataset: Dataset, spec: DataSpec) -> list[float | None]:
    """Return the median voxel size of the scans with labels, in the axis order of the spec.

    None for an axis across slices too far apart to be resampled.
    """
    cases = dataset.training or dataset.unlabeled
    if len(cases) > MOST_SCANS:
        chosen = np.linspace(0, len(cases) - 1, MOST_SCANS).round()
        cases = tuple(cases[int(i)] for i in chosen)
    scans = []
    for case in cases:
        header = read_header(case.images[0], unit=spec.spatial_unit)
        x, y, z = (float(v) for v in np.linalg.norm(header.affine[:3, :3], axis=0))
        axes = "".join(nib.aff2axcodes(header.affine))
        scans.append(oriented(ScanGrid(header.shape, (x, y, z), axes), spec.orientation))
    sizes = np.array([scan.spacing for scan in scans])
    return median_spacing(sizes, np.array([scan.shape for scan in scans], dtype=float), spec)[0]
