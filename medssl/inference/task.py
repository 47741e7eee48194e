"""What a network was trained for."""

from __future__ import annotations

from dataclasses import dataclass

from medssl.data.datasets.case import LabelMap
from medssl.inference.training_fingerprint import TrainingFingerprint
from medssl.settings.spec import DataSpec


@dataclass(frozen=True)
class Task:
    """What a network was trained for, as far as predicting with it must know.

    Attributes:
        spec: how images are preprocessed, and across which axis slices are taken.
        label_map: classes and their label values.
        patch: size of a window in voxels; two numbers predict slice by slice.
        in_channels: image channels the network takes, where known; a wrong image is then refused
            before it is predicted.
        fingerprint: what the training scans were like, where known; every scan is compared with it.
    """

    spec: DataSpec
    label_map: LabelMap
    patch: tuple[int, ...]
    in_channels: int | None = None
    fingerprint: TrainingFingerprint | None = None
