"""What a prediction is: a label map on the image's own grid, and how sure the network was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from medssl.data.datasets.label_regions import LabelRegion
from medssl.data.images.write import write_label, write_map
from medssl.data.preprocessing.pipeline import Prepared
from medssl.inference.assessment import Assessment
from medssl.inference.postprocess import summed


@dataclass(frozen=True)
class Prediction:
    """The label map of one image, on the image's own grid.

    Attributes:
        values: label values of the dataset, ``(X, Y, Z)``, in the smallest unsigned dtype.
        affine: voxel to world (RAS) in mm, 4x4.
        reference: file of the image (of its first channel); None if it was no file that a header
            can be taken from.
        prepared: the preprocessed image and the way back from its grid.
        probabilities: ``(K, X', Y', Z')`` on the preprocessed grid, if they were asked for.
        entropy: ``(X', Y', Z')`` on the preprocessed grid, if it was asked for.
        assessment: volumes, expected Dice and features, if they were asked for.
        note: what of the image's header ITK reads in another way than other programs.
        unusual: what of the image is unlike the training scans, one line each.
    """

    values: np.ndarray
    affine: np.ndarray
    reference: Path | None
    prepared: Prepared = field(repr=False)
    probabilities: Tensor | None = field(default=None, repr=False)
    entropy: np.ndarray | None = field(default=None, repr=False)
    assessment: Assessment | None = field(default=None, repr=False)
    note: str = ""
    unusual: tuple[str, ...] = ()

    def save(self, path: Path) -> Path:
        """Write the label map; see :func:`medssl.data.images.write.write_label`."""
        return write_label(self.values, path, affine=self.affine, reference=self.reference)

    def probability_map(self, *classes: int) -> np.ndarray:
        """Return the probability of one class on the image's own grid, ``(X, Y, Z)`` float32.

        Of several classes it is the sum of theirs.

        Raises:
            ValueError: the probabilities were not kept.
        """
        if self.probabilities is None:
            raise ValueError("predict with keep_probabilities=True")
        one = summed(self.probabilities, classes).unsqueeze(0)
        # Outside of a region of interest all is background.
        return self.prepared.restore_probabilities(one.numpy(), outside=float(0 in classes))[0]

    def save_probabilities(self, paths: Mapping[tuple[int, ...], Path]) -> None:
        """Write the probability maps of structures (class indices to path), one at a time."""
        for classes, path in paths.items():
            values = self.probability_map(*classes)
            write_map(values, path, affine=self.affine, reference=self.reference)

    def save_masks(self, paths: Mapping[LabelRegion, Path]) -> None:
        """Write what of the label map is in each structure, 1 inside and 0 outside."""
        for structure, path in paths.items():
            mask = structure.mask(self.values).astype(np.uint8)
            write_label(mask, path, affine=self.affine, reference=self.reference)

    def entropy_map(self) -> np.ndarray:
        """Return the normalized entropy on the image's own grid: 0 is sure, 1 a mere guess.

        Raises:
            ValueError: the entropy was not kept.
        """
        if self.entropy is None:
            raise ValueError("predict with entropy=True")
        return self.prepared.restore_probabilities(self.entropy[None])[0]

    def save_entropy(self, path: Path) -> Path:
        """Write :meth:`entropy_map` as an image."""
        values = self.entropy_map()
        return write_map(values, path, affine=self.affine, reference=self.reference)
