"""From an image to its label map: preprocess, network window by window, back to the own grid."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from medssl.data.case import LabelMap
from medssl.data.preprocess import Prepared, preprocess_image
from medssl.data.region import Region
from medssl.errors import MedSSLError
from medssl.inference.postprocess import argmax_classes, keep_largest_components
from medssl.inference.sliding_window import WindowProgress, slice_by_slice, sliding_window
from medssl.inference.writer import write_label, write_map
from medssl.recipe_schema import DataSpec, InferenceSettings

Precision = Literal["fp32", "bf16", "fp16"]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# How PyTorch says that a convolution got an image of another number of channels.
_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")


@dataclass(frozen=True)
class Prediction:
    """The label map of one image, on the image's own grid.

    Attributes:
        values: label values of the dataset, ``(X, Y, Z)``, in the smallest unsigned dtype.
        affine: voxel to world (RAS), 4x4.
        reference: file of the image (of its first channel).
        prepared: the preprocessed image and the way back from its grid.
        probabilities: ``(K, X', Y', Z')`` on the preprocessed grid, if they were asked for.
    """

    values: np.ndarray
    affine: np.ndarray
    reference: Path
    prepared: Prepared = field(repr=False)
    probabilities: Tensor | None = field(default=None, repr=False)

    def save(self, path: Path) -> Path:
        """Write the label map; see :func:`medssl.inference.writer.write_label`."""
        return write_label(self.values, path, affine=self.affine, reference=self.reference)

    def probability_map(self, index: int) -> np.ndarray:
        """Return the probability of one class on the image's own grid, ``(X, Y, Z)`` float32.

        Raises:
            ValueError: the probabilities were not kept.
        """
        if self.probabilities is None:
            raise ValueError("predict with keep_probabilities=True")
        one = self.probabilities[index : index + 1].numpy()
        # Outside of a region of interest all is background.
        return self.prepared.restore_probabilities(one, outside=float(index == 0))[0]

    def save_probabilities(self, paths: Mapping[int, Path]) -> None:
        """Write the probability maps of classes (index to path), one at a time."""
        for index, path in paths.items():
            values = self.probability_map(index)
            write_map(values, path, affine=self.affine, reference=self.reference)


class Regions(Protocol):
    """Finds the region of interest of a scan: :class:`medssl.inference.regions.RegionFinder`."""

    def find(self, files: Sequence[Path]) -> Region:
        """Return the region of a scan, given by one file per channel."""


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every module of it back as it was afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


class Predictor:
    """Segment images with a trained network, in 3D windows or slice by slice.

    Predicting leaves no trace: the model's training flags and all random states stay as they were.

    Args:
        model: image in, logits out; moved to ``device``.
        spec: how images are preprocessed, and across which axis slices are taken.
        label_map: classes and their label values.
        patch: size of a window in voxels; two numbers predict slice by slice.
        inference: sliding-window settings.
        device: where the network runs.
        precision: of the forward pass; softmax and blending are always float32.
        in_channels: image channels the network takes, where known; a wrong image is then refused
            before it is predicted.
        regions: what finds the region of interest of a file; outside of it is background.

    Raises:
        MedSSLError: the inference settings contradict the patch.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        spec: DataSpec,
        label_map: LabelMap,
        patch: Sequence[int],
        inference: InferenceSettings,
        device: torch.device,
        precision: Precision = "fp32",
        in_channels: int | None = None,
        regions: Regions | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.spec = spec
        self.label_map = label_map
        self.patch = tuple(patch)
        self.inference = inference
        self.precision = precision
        self.in_channels = in_channels
        self.regions = regions
        _check_stride(inference.stride, self.patch)

    @property
    def largest_component(self) -> bool:
        """Whether only the largest piece of each structure is kept."""
        choice = self.inference.largest_component
        return self.spec.largest_component if choice is None else choice

    def probabilities(self, image: Tensor, *, progress: WindowProgress | None = None) -> Tensor:
        """Return class probabilities ``(K, X, Y, Z)``, float32 on the CPU.

        Args:
            image: preprocessed image ``(C, X, Y, Z)``.
            progress: called with the windows done and their total.

        Raises:
            MedSSLError: the image has other channels than the network takes, the network gives
                other classes than the dataset has or values that are not finite, or memory ran out.
        """
        self._check_channels(image.shape[0])
        options = {
            "patch": self.patch,
            "stride": self.inference.stride,
            "overlap": self.inference.overlap,
            "window_batch": self.inference.window_batch,
            "blend": self.inference.blend,
            "pad_value": float(image.min()),  # as training pads volumes smaller than the patch
            "device": self.device,
            "progress": progress,
        }
        with evaluation_mode(self.model):
            if len(self.patch) == 2:
                axis = self.spec.slice_axis
                result = slice_by_slice(image, self._logits, slice_axis=axis, **options)
            else:
                result = sliding_window(image, self._logits, **options)
        if not torch.isfinite(result.sum()):
            raise MedSSLError(
                f"the network's output is not finite in {self.precision}",
                fix="check the image for NaN voxels, or predict with --precision fp32",
            )
        return result

    def classes(self, image: Tensor, *, progress: WindowProgress | None = None) -> np.ndarray:
        """Return the class index of each voxel of a preprocessed image, ``(X, Y, Z)`` uint8."""
        return self._decide(self.probabilities(image, progress=progress))

    def predict_file(
        self,
        paths: Path | Sequence[Path],
        *,
        keep_probabilities: bool = False,
        progress: WindowProgress | None = None,
    ) -> Prediction:
        """Segment one image on disk, on its own grid.

        Args:
            paths: the image, or one file per channel.
            keep_probabilities: return the class probabilities too.
            progress: called with the windows done and their total.

        Raises:
            MedSSLError: the image cannot be read or predicted; names the file.
        """
        files = (Path(paths),) if isinstance(paths, str | Path) else tuple(map(Path, paths))
        try:
            prepared = preprocess_image(files, self.spec)
            if self.regions is not None:
                prepared = self.regions.find(files).crop(prepared)
            probabilities = self.probabilities(prepared.image, progress=progress)
            classes = prepared.restore(self._decide(probabilities))
        except MedSSLError as error:
            if error.where is not None:
                raise
            raise MedSSLError(error.what, where=files[0], fix=error.fix) from error
        return Prediction(
            values=self.label_map.to_values(classes),
            affine=np.asarray(prepared.native_affine, dtype=np.float64),
            reference=files[0],
            prepared=prepared,
            probabilities=probabilities if keep_probabilities else None,
        )

    def _decide(self, probabilities: Tensor) -> np.ndarray:
        classes = argmax_classes(probabilities)
        return keep_largest_components(classes) if self.largest_component else classes

    def _logits(self, windows: Tensor) -> Tensor:
        dtype = _AUTOCAST.get(self.precision)
        try:
            with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
                logits = self.model(windows)
        except torch.OutOfMemoryError as error:
            raise MedSSLError(
                f"{windows.shape[0]} windows of {self.patch} voxels do not fit into the memory "
                f"of {self.device}",
                fix="lower inference.window_batch, or predict with --device cpu",
            ) from error
        except RuntimeError as error:
            if found := _CHANNELS.search(str(error)):
                raise _wrong_channels(int(found[1]), int(found[2])) from error
            raise
        expected = self.label_map.num_classes
        if logits.shape[1] != expected:
            raise MedSSLError(
                f"the network gives {logits.shape[1]} classes, the label map has {expected}",
                fix="use the label map the network was trained with",
            )
        return logits

    def _check_channels(self, channels: int) -> None:
        if self.in_channels is not None and channels != self.in_channels:
            raise _wrong_channels(self.in_channels, channels)


def _wrong_channels(expected: int, got: int) -> MedSSLError:
    return MedSSLError(
        f"the network takes {expected} image channel(s), this image has {got}",
        fix="give one file per channel, named CASE_0000, CASE_0001, ..., or one multi-channel file",
    )


def _check_stride(stride: Sequence[int] | None, patch: tuple[int, ...]) -> None:
    if stride is None:
        return
    if len(stride) != len(patch) or any(
        not 1 <= s <= p for s, p in zip(stride, patch, strict=True)
    ):
        raise MedSSLError(
            f"inference.stride {list(stride)} does not fit training.patch {list(patch)}",
            fix="give one stride per axis of the patch, from 1 to the patch size",
        )
