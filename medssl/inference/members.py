"""Each member of a model by itself: its temperature, what it finds, how it judges a mirror image.

The folds of a cross-validation predict together, but what is known of a prediction's quality was
learned from them one by one: of each patient, from the fold that never saw its label. So each
member is described by the numbers that its own fold was described by:

``entropy``
    mean normalized entropy of the voxels that it calls a structure;
``volume``
    mean over structures of the natural logarithm of 1 + the volume it finds;
``mirrored``
    Dice of its label map with the one it gives for a mirror image, mean over structures;
``agreement``
    Dice of its label map with the one of all members together, mean over structures. Nothing is
    calibrated by it: all members but one saw the label of any labeled patient.

A number that does not exist is left out: of a member that finds nothing, or of a model whose images
may not be mirrored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from medssl.inference.mirror import Mirroring
from medssl.networks.ensemble import Ensemble
from medssl.networks.mirror_mean import MirrorMean
from medssl.networks.tempered import Tempered


@dataclass(frozen=True)
class MemberFindings:
    """Numbers of every member, ``(members,)`` each; NaN where there is none to have."""

    entropy: np.ndarray
    mirrored: np.ndarray
    agreement: np.ndarray


class MemberTally:
    """Collects over the blocks of a volume what is said of every member; takes no memory of it.

    Args:
        members: how many.
        classes: number of classes K.
    """

    def __init__(self, members: int, classes: int) -> None:
        self._entropy = np.zeros((members, 2))
        self._agreement = np.zeros((members, 3, classes))
        self._mirrored = np.zeros((members, 3, classes))
        self._has_mirrored = False

    def add(self, looks: Tensor, decided: np.ndarray) -> None:
        """Count one block.

        Args:
            looks: probabilities ``(members, L, K, *block)``: of the image and, where L is 2, of its
                mirror image, mirrored back.
            decided: ``(*block)`` class of each voxel by all members together.
        """
        self._has_mirrored = looks.shape[1] > 1
        for number, own in enumerate(looks):
            first, classes = own[0], own[0].argmax(dim=0).numpy()
            called = torch.from_numpy(classes > 0)
            entropy = torch.special.entr(first[:, called]).sum(dtype=torch.float64)
            self._entropy[number] += (float(entropy) / math.log(len(first)), int(called.sum()))
            self._agreement[number] += _overlap(classes, decided, len(first))
            if self._has_mirrored:
                other = own[1].argmax(dim=0).numpy()
                self._mirrored[number] += _overlap(classes, other, len(first))

    def finish(self) -> MemberFindings:
        """Return the numbers of all that was counted."""
        total, voxels = self._entropy.T
        none = np.full(len(total), np.nan)
        return MemberFindings(
            entropy=np.divide(total, voxels, out=none.copy(), where=voxels > 0),
            mirrored=_mean_dice(self._mirrored) if self._has_mirrored else none,
            agreement=_mean_dice(self._agreement),
        )


def _overlap(one: np.ndarray, other: np.ndarray, classes: int) -> np.ndarray:
    """Return per class, ``(3, classes)``: voxels of both label maps, of the one, of the other."""
    maps = (one[one == other], one.ravel(), other.ravel())
    return np.stack([np.bincount(m, minlength=classes) for m in maps])


def _mean_dice(overlap: np.ndarray) -> np.ndarray:
    """Return the mean Dice of the structures, ``(members,)``; NaN where none is in either map."""
    both, one, other = np.moveaxis(overlap[:, :, 1:], 1, 0)
    size = one + other
    dice = np.divide(2 * both, size, out=np.zeros_like(size), where=size > 0)
    known = (size > 0).sum(axis=1)
    out = np.full(len(known), np.nan)
    return np.divide(dice.sum(axis=1), known, out=out, where=known > 0)


def member_numbers(
    findings: MemberFindings, volumes: Sequence[Sequence[float]]
) -> tuple[dict[str, float], ...]:
    """Put together what describes each member; see the head of this module.

    Args:
        findings: of the members.
        volumes: of each member, of each structure.
    """
    out = []
    for number, own in enumerate(volumes):
        found = {
            "entropy": float(findings.entropy[number]),
            "volume": float(np.mean(np.log1p(own))),
            "mirrored": float(findings.mirrored[number]),
            "agreement": float(findings.agreement[number]),
        }
        out.append({name: value for name, value in found.items() if math.isfinite(value)})
    return tuple(out)


def mean_agreement(members: Sequence[Mapping[str, float]]) -> float | None:
    """Return how far members agree, 0 to 1; None for a single one, or where nothing was found."""
    known = [one["agreement"] for one in members if "agreement" in one]
    return sum(known) / len(known) if len(members) > 1 and known else None


class WithMirrored(nn.Module):
    """Each member of a model, and beside it what it says of one mirror image.

    Args:
        model: image in, logits out; an ensemble's members are looked at one by one.
        mirroring: which mirror images there are; the first axis is taken.
    """

    def __init__(self, model: nn.Module, mirroring: Mirroring) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(
            MirrorMean(
                member,
                mirroring.axes[:1],
                swap_axis=mirroring.swap_axis,
                pairs=mirroring.pairs,
            )
            for member in members_of(model)
        )

    @property
    def count(self) -> int:
        """Twice the number of members."""
        return 2 * len(self.pairs)

    def each(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the probabilities of one member after another: of the image, of its mirror."""
        for pair in self.pairs:
            assert isinstance(pair, MirrorMean)
            yield from pair.each(x)


def members_of(model: nn.Module) -> list[nn.Module]:
    """Return the networks of an ensemble, or the only one."""
    return list(model.members) if isinstance(model, Ensemble) else [model]


def temper(model: nn.Module, temperatures: Sequence[float] = ()) -> nn.Module:
    """Return a model each of whose members has its temperature, below any mirroring.

    Args:
        model: image in, logits out; an ensemble keeps its kind, temperatures it had are replaced.
        temperatures: of the members, in order; none: they are taken away.
    """
    members = members_of(model)
    chosen = temperatures or [1.0] * len(members)
    made = [_tempered(member, t) for member, t in zip(members, chosen, strict=True)]
    return Ensemble(made) if isinstance(model, Ensemble) else made[0]


def temperatures_of(model: nn.Module) -> list[float]:
    """Return the temperature of each member of a model; empty where none has one."""
    found = []
    for member in members_of(model):
        bare = member.network if isinstance(member, MirrorMean) else member
        found.append(bare.temperature if isinstance(bare, Tempered) else 1.0)
    return found if any(t != 1 for t in found) else []


def _tempered(member: nn.Module, temperature: float) -> nn.Module:
    if isinstance(member, MirrorMean):
        member.network = _tempered(member.network, temperature)
        return member
    bare = member.network if isinstance(member, Tempered) else member
    return bare if temperature == 1 else Tempered(bare, temperature)
