"""Labeled scans that label others, without training: the probabilities that they give a scan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from medssl.atlases.fusion import WarpedAtlas, fuse
from medssl.atlases.registration import Volume, Warp, register
from medssl.atlases.settings import AtlasSettings
from medssl.data.datasets.case import IGNORE_INDEX, Case, LabelMap
from medssl.data.preprocessing.pipeline import Prepared, preprocess_case
from medssl.errors import MedSSLError
from medssl.settings.spec import DataSpec

FEWEST = 2
"""Patients: with one there is nobody to judge by how well atlases predict each other."""


@dataclass(frozen=True)
class Atlas:
    """A labeled scan on the grid of the data spec.

    Attributes:
        patient: of the scan.
        volume: its image.
        classes: its label, ``(X, Y, Z)`` uint8 class indices; 255 where not annotated.
    """

    patient: str
    volume: Volume
    classes: np.ndarray


class Atlases(nn.Module):
    """Label scans by the labels of others, registered and fused: no network, no training.

    A scan that is one of the atlases is never labeled by itself, nor by another atlas of its
    patient. It is a module so that its scans are hashed like a network's weights.

    Args:
        atlases: one or more.
        num_classes: K, background included.
        settings: how they are registered and fused.
    """

    def __init__(self, atlases: Sequence[Atlas], num_classes: int, settings: AtlasSettings) -> None:
        super().__init__()
        self.atlases = tuple(atlases)
        self.num_classes = num_classes
        self.settings = settings
        self._known = [_voxels(atlas.volume) for atlas in self.atlases]
        for index, atlas in enumerate(self.atlases):
            parts = {
                "image": atlas.volume.image,
                "affine": atlas.volume.affine,
                "classes": atlas.classes,
            }
            for name, value in parts.items():
                self.register_buffer(
                    f"{name}_{index}", torch.from_numpy(np.ascontiguousarray(value))
                )
        text = f"{num_classes} {sorted(settings.as_dict().items())}"
        self.register_buffer("rule", torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8))

    @classmethod
    def of(
        cls,
        cases: Sequence[Case],
        spec: DataSpec,
        label_map: LabelMap,
        settings: AtlasSettings | None = None,
    ) -> Atlases:
        """Read the atlases of a dataset.

        Args:
            cases: with labels.
            spec: how images are preprocessed.
            label_map: the dataset's.
            settings: how they are registered and fused.

        Raises:
            MedSSLError: fewer than two patients, or a file that cannot be read.
        """
        patients = {case.patient for case in cases}
        if len(patients) < FEWEST:
            raise MedSSLError(
                f"atlases are judged by how well they predict each other, which takes {FEWEST} "
                f"labeled patients, and here is {len(patients)}",
                fix="label more scans, or raise data.labeled",
            )
        return cls(
            [_read(case, spec, label_map) for case in sorted(cases, key=lambda c: c.id)],
            label_map.num_classes,
            settings or AtlasSettings(),
        )

    def probabilities(self, prepared: Prepared) -> Tensor:
        """Return what the atlases say of a preprocessed image, ``(K, X, Y, Z)`` float32.

        Raises:
            MedSSLError: no atlas of another patient is left.
        """
        scan = Volume(prepared.image.numpy(), prepared.affine)
        return torch.from_numpy(fuse(scan.image, self._warped(scan), self.settings))

    def _warped(self, scan: Volume) -> Iterator[WarpedAtlas]:
        for atlas, warp in self._nearest(scan):
            yield warp_atlas(atlas, warp, self.num_classes)

    def _nearest(self, scan: Volume) -> Iterator[tuple[Atlas, Warp]]:
        voxels = _voxels(scan)
        known = zip(self.atlases, self._known, strict=True)
        own = {atlas.patient for atlas, its in known if its == voxels}
        others = [atlas for atlas in self.atlases if atlas.patient not in own]
        if not others:
            raise MedSSLError(
                "all atlases are of this scan's own patient", fix="add labels of other patients"
            )
        count = self.settings.count
        if count is not None and count < len(others):
            rough = self.settings.model_copy(update={"demons": 0})
            alike = [_correlation(scan, atlas, rough) for atlas in others]
            nearest = np.argsort([-value for value in alike], kind="stable")[:count]
            others = [others[index] for index in sorted(nearest)]
        for atlas in others:
            yield atlas, register(scan, atlas.volume, self.settings)


def warp_atlas(atlas: Atlas, warp: Warp, num_classes: int) -> WarpedAtlas:
    """Bring an atlas to the grid that its scan was registered to; background outside of it."""
    volume = atlas.volume
    image = np.stack([warp.bring(volume, c, float(c.min())) for c in volume.image])
    shares = np.zeros((num_classes, *image.shape[1:]), np.float32)
    for index in range(1, num_classes):
        if (atlas.classes == index).any():
            shares[index] = warp.bring(volume, (atlas.classes == index).astype(np.float32))
    unknown = atlas.classes == IGNORE_INDEX
    annotated = None
    if unknown.any():
        annotated = 1 - warp.bring(volume, unknown.astype(np.float32))
        # What is known of a voxel is all of its vote, whose weight falls with what is not.
        shares[1:] /= np.maximum(annotated, 1e-6)
    shares[0] = (1 - shares[1:].sum(axis=0)).clip(min=0)
    return WarpedAtlas(image, shares, annotated)


def _correlation(scan: Volume, atlas: Atlas, rough: AtlasSettings) -> float:
    """Return how alike the images are once they are aligned; -1 where one has a single value."""
    warp = register(scan, atlas.volume, rough)
    moving = atlas.volume.image[0]
    aligned = warp.bring(atlas.volume, moving, float(moving.min()))
    if not aligned.std() or not scan.image[0].std():
        return -1.0
    return float(np.corrcoef(aligned.ravel(), scan.image[0].ravel())[0, 1])


def _read(case: Case, spec: DataSpec, label_map: LabelMap) -> Atlas:
    prepared, values = preprocess_case(case, spec)
    if values is None:
        raise ValueError(f"{case.id} has no label")
    volume = Volume(prepared.image.numpy(), prepared.affine)
    return Atlas(case.patient, volume, label_map.to_classes(values))


def _voxels(volume: Volume) -> str:
    digest = hashlib.sha256(str(volume.image.shape).encode())
    digest.update(np.ascontiguousarray(volume.image).data)
    return digest.hexdigest()
