"""Find the region of interest of a scan with a coarse run: its prediction, a box, ways out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from medssl.data.datasets.known_files import KnownFiles
from medssl.data.images.geometry import spacing_of
from medssl.data.preprocessing.region import Region
from medssl.errors import MedSSLError
from medssl.files import write_json
from medssl.inference.identity import fingerprint
from medssl.inference.prediction import Prediction
from medssl.inference.predictor import Predictor
from medssl.ops.roi import roi_box
from medssl.settings.recipe import RoiSettings

logger = logging.getLogger(__name__)


class RegionFinder:
    """Find regions of interest, each once.

    Args:
        coarse: predictor of the coarse run.
        folder: the coarse run's.
        settings: margin and what else makes a box of its prediction.
        patch: of the run that works inside the regions; a region has at least as many voxels.
        slice_axis: axis across the slices, where the patch has two numbers.
        cache: folder in which boxes are kept for other runs, None to keep none.

    Raises:
        MedSSLError: ``settings.labels`` names a value that the coarse run does not know.
    """

    def __init__(
        self,
        coarse: Predictor,
        settings: RoiSettings,
        *,
        folder: Path,
        patch: Sequence[int],
        slice_axis: int = 2,
        cache: Path | None = None,
    ) -> None:
        self.coarse = coarse
        self.folder = folder
        self.settings = settings
        least = list(patch)
        if len(least) == 2:
            least.insert(slice_axis, 1)
        self.least = tuple(least)
        self.cache = cache
        known = coarse.label_map.values[1:]
        self.labels = known if settings.labels is None else tuple(settings.labels)
        unknown = sorted(set(self.labels) - set(known))
        if unknown or not self.labels:
            raise MedSSLError(
                f"data.roi.labels names {unknown}, which the coarse run does not predict",
                where=folder,
                fix=f"choose among {list(known)}",
            )
        self._found: dict[tuple[Path, ...], Region] = {}

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that decides the region of a scan."""
        settings = self.settings.model_dump(mode="json", exclude={"run"})
        content = [fingerprint(self.coarse), settings, self.labels]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def find(self, files: Sequence[Path], image: MetaTensor | None = None) -> Region:
        """Return the region of a scan.

        Args:
            files: one per channel, or all slices of a DICOM series.
            image: the voxels, where they cannot be read from the files as they are.

        Raises:
            MedSSLError: the scan cannot be read or predicted.
        """
        key = tuple(map(Path, files))
        if key not in self._found:
            stored = self._entry(key)
            region = _read(stored, self.least)
            if region is None:
                # What is unlike the training scans is told, or refused, by the run itself.
                found = (
                    self.coarse.predict_file(key, force=True)
                    if image is None
                    else self.coarse.predict_image(image, force=True)
                )
                region = self.region_of(found)
                _write(stored, region)
            if not region.found:
                logger.warning(
                    "the coarse run finds nothing in %s: its region is the whole scan", key[0]
                )
            self._found[key] = region
        return self._found[key]

    def region_of(self, prediction: Prediction) -> Region:
        """Turn the coarse run's label map of a scan into its region."""
        settings = self.settings
        spacing_mm = spacing_of(prediction.affine)
        mask = np.isin(prediction.values, self.labels)
        box = roi_box(
            mask,
            spacing_mm=spacing_mm,
            margin_mm=settings.margin_mm,
            min_volume_mm3=settings.min_volume_mm3,
            closing_mm=settings.closing_mm,
            largest=settings.pieces == "largest",
        )
        return Region(box, mask.shape, bool(mask.any()), self.least)

    def _entry(self, files: tuple[Path, ...]) -> Path | None:
        """Return where the box of a scan is kept."""
        if self.cache is None:
            return None
        images = [KnownFiles.below(self.cache.parent).digest(p) for p in files]
        content = [self.fingerprint, images]
        return self.cache / f"{hashlib.sha256(json.dumps(content).encode()).hexdigest()}.json"


def _read(path: Path | None, least: tuple[int, ...]) -> Region | None:
    """Return a box that was kept, None if there is none or it is damaged."""
    if path is None or not path.is_file():
        return None
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        box = tuple((int(a), int(b)) for a, b in data["box"])
        return Region(box, tuple(map(int, data["shape"])), bool(data["found"]), least)
    except (ValueError, KeyError, TypeError):
        return None


def _write(path: Path | None, region: Region) -> None:
    """Keep a box; a cache that cannot be written costs time only."""
    if path is None:
        return
    try:
        write_json(path, region.to_dict())
    except MedSSLError as error:
        logger.warning("the regions of interest cannot be kept in %s: %s", path.parent, error.what)
