"""What a prediction says of itself: volumes, expected Dice, and what its members think."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medssl.data.datasets.case import LabelMap
from medssl.data.preprocessing.pipeline import Prepared
from medssl.inference.features import image_features, prediction_features
from medssl.inference.members import MemberFindings, mean_agreement, member_numbers
from medssl.inference.postprocess import Regions, decided_classes, keep_largest_components

MENTIONED = 0.05
"""Only voxels whose foreground probability exceeds this, before the temperature, count towards the
expected volume. Elsewhere a temperature that was fitted near structures would add up, over millions
of certain voxels, to a volume nobody believes in."""


@dataclass(frozen=True)
class StructureFindings:
    """One structure of a prediction.

    Attributes:
        label, name: as in the dataset; the label of a region is a text such as ``1+2+3``.
        volume: on the image's own grid, in the cube of the case's unit.
        expected_dice: Dice to be expected if the probabilities are right; None if the structure is
            neither predicted nor suspected anywhere.
        member_volumes: of each member of an ensemble by itself; empty for a single network. Their
            mean segmentation, which ``volume`` is of, may be smaller or larger than each of them:
            where members disagree the mean of their probabilities stays below one half.
    """

    label: int | str
    name: str
    volume: float
    expected_dice: float | None
    member_volumes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Assessment:
    """What is known of a predicted case without its reference.

    Attributes:
        unit: spatial unit, ``mm`` or ``um``.
        temperature: with which the probabilities were calibrated; 1 if they were not.
        structures: in the order of the classes.
        features: see :mod:`medssl.inference.features`.
        unusual: what of the image is unlike the training scans, one line each.
        members: numbers that describe each member by itself, see :mod:`medssl.inference.members`;
            empty where nobody asked for them.
    """

    unit: str
    temperature: float
    structures: tuple[StructureFindings, ...]
    features: Mapping[str, float] = field(default_factory=dict)
    unusual: tuple[str, ...] = ()
    members: tuple[Mapping[str, float], ...] = ()

    @property
    def agreement(self) -> float | None:
        """How far the members agree, 0 to 1; None for a single one, or where nothing is found."""
        return mean_agreement(self.members)

    @property
    def quality(self) -> float | None:
        """Mean expected Dice over structures, 0 to 1; None if nothing is seen anywhere."""
        known = [s.expected_dice for s in self.structures if s.expected_dice is not None]
        return sum(known) / len(known) if known else None

    def as_dict(self) -> dict[str, Any]:
        """Return the content as plain values, for JSON."""
        return asdict(self) | {"features": dict(self.features)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Assessment:
        """Read back what :meth:`as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        structures = tuple(
            StructureFindings(**{**s, "member_volumes": tuple(s["member_volumes"])})
            for s in content["structures"]
        )
        features = {str(k): float(v) for k, v in content["features"].items()}
        return cls(
            str(content["unit"]),
            float(content["temperature"]),
            structures,
            features,
            tuple(map(str, content.get("unusual", ()))),  # older ones do not say
            tuple({str(k): float(v) for k, v in m.items()} for m in content.get("members", ())),
        )


@dataclass(frozen=True)
class Findings:
    """Sums over a preprocessed image, per class ``(K,)``.

    Attributes:
        voxels: of the final label map.
        first_voxels: of the label map before pieces were dropped.
        expected_dice: NaN where a class is neither predicted nor suspected.
        member_voxels: ``(members, K)``; no rows for a single network.
        members: what describes every member, if it was asked for.
    """

    voxels: np.ndarray
    first_voxels: np.ndarray
    expected_dice: np.ndarray
    member_voxels: np.ndarray
    members: MemberFindings | None = None


class Tally:
    """Collects over the blocks of a volume what an assessment needs; half a float per voxel.

    Args:
        shape: ``(X, Y, Z)`` of the volume.
        classes: number of classes K.
        members: members of the ensemble whose label maps are wanted; 1 for none.
        regions: that decide, if they do.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, members: int = 1, regions: Regions = ()
    ) -> None:
        self._classes, self._regions = classes, regions
        self._confidence = np.empty(tuple(shape), dtype=np.float16)
        self._soft = np.zeros(classes)
        self._first = np.zeros(classes, dtype=np.int64)
        count = members if members > 1 else 0
        self._members = [np.empty(tuple(shape), dtype=np.uint8) for _ in range(count)]

    def add(
        self,
        where: tuple[slice, ...],
        probabilities: Tensor,
        calibrated: Tensor,
        decided: np.ndarray,
        members: Tensor | None = None,
    ) -> None:
        """Count one block.

        Args:
            where: its place in the volume.
            probabilities, calibrated: ``(K, *block)`` before and after the temperature.
            decided: ``(*block)`` class of each voxel.
            members: ``(members, K, *block)``, only what they decide matters.
        """
        index = torch.from_numpy(decided.astype(np.int64))[None]
        self._confidence[where] = calibrated.gather(0, index)[0].numpy()
        mentioned = probabilities[0] < 1 - MENTIONED
        self._soft += calibrated[:, mentioned].sum(dim=1, dtype=torch.float64).numpy()
        self._first += np.bincount(decided.ravel(), minlength=self._classes)
        if members is not None:
            for label_map, one in zip(self._members, members, strict=True):
                label_map[where] = decided_classes(one, self._regions)

    def finish(
        self,
        classes: np.ndarray,
        *,
        largest_component: bool,
        pieces: Mapping[int, int] | None = None,
    ) -> Findings:
        """Return the findings for the final label map ``(X, Y, Z)``.

        Args:
            classes: after post-processing.
            largest_component: post-process the members' label maps alike.
            pieces: how many pieces of a class are kept then, if not one.
        """
        inside = np.zeros(self._classes)
        voxels = count_voxels(classes, self._classes)
        for slab, sure in zip(classes, self._confidence, strict=True):
            inside += np.bincount(slab.ravel(), weights=sure.ravel(), minlength=self._classes)
        both = voxels + self._soft
        # Less than half a voxel is expected of it, and none was found: there is nothing to score.
        known = (voxels > 0) | (self._soft >= 0.5)
        dice = np.divide(2 * inside, both, out=np.full(both.shape, np.nan), where=known)
        members = self._members
        if largest_component:
            members = [keep_largest_components(m, pieces) for m in members]
        counts = [count_voxels(m, self._classes) for m in members]
        return Findings(
            voxels=voxels,
            first_voxels=self._first,
            expected_dice=dice,
            member_voxels=np.array(counts, dtype=np.int64).reshape(-1, self._classes),
        )


def count_voxels(classes: np.ndarray, count: int) -> np.ndarray:
    """Count the voxels of each class, ``(count,)`` int64, slice by slice: bincount copies to int64.

    Args:
        classes: class indices ``(X, Y, Z)``.
        count: number of classes.
    """
    counts = [np.bincount(piece.ravel(), minlength=count) for piece in classes]
    return np.sum(counts, axis=0)


def assess_prediction(
    prepared: Prepared,
    classes: np.ndarray,
    findings: Findings,
    native: np.ndarray,
    *,
    label_map: LabelMap,
    unit: str,
    temperature: float,
) -> Assessment:
    """Put together what is known of a prediction.

    Args:
        prepared: the preprocessed image.
        classes: final label map ``(X, Y, Z)`` on its grid.
        findings: of the same.
        native: the label map in classes on the file's own grid.
        label_map, unit: of the dataset.
        temperature: with which ``findings`` were made.
    """
    count = label_map.num_classes
    voxel = abs(float(np.linalg.det(prepared.native_affine[:3, :3])))
    volumes = voxel * count_voxels(native, count)
    # Members are counted on the preprocessed grid: a voxel of theirs is worth what the volume on
    # the image's own grid says of the final map.
    own_voxel = abs(float(np.linalg.det(prepared.affine[:3, :3])))
    found = (findings.voxels > 0) & (volumes > 0)
    scale = np.where(found, volumes / np.maximum(findings.voxels, 1), own_voxel)
    structures = tuple(
        StructureFindings(
            label=label_map.values[i],
            name=label_map.names[i],
            volume=float(volumes[i]),
            expected_dice=None if np.isnan(dice := findings.expected_dice[i]) else float(dice),
            member_volumes=tuple(float(v) for v in scale[i] * findings.member_voxels[:, i]),
        )
        for i in range(1, count)
    )
    spacing = np.linalg.norm(prepared.affine[:3, :3], axis=0)
    features = image_features(prepared.image, spacing.tolist()) | prediction_features(
        classes,
        prepared.image,
        label_map.names,
        volumes=volumes.tolist(),
        voxels=findings.voxels.tolist(),
        first_voxels=findings.first_voxels.tolist(),
    )
    numbers: tuple[Mapping[str, float], ...] = ()
    if findings.members is not None:
        each = [s.member_volumes or (s.volume,) for s in structures]
        numbers = member_numbers(findings.members, list(zip(*each, strict=True)))
    return Assessment(unit, temperature, structures, features, members=numbers)
