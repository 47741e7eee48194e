"""Guess which data spec fits a dataset from what its dataset.json says, and say why."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from medssl.data.datasets.fingerprint import Fingerprint
from medssl.data.datasets.modality import stated_kind
from medssl.planning.grid import ANISOTROPIC

FDI_CODES = frozenset(10 * q + t for q in (1, 2, 3, 4) for t in range(1, 9))
"""Two-digit tooth numbers: quadrant, then tooth counted from the midline."""

FEWEST_TEETH = 4
"""So many tooth numbers among the labels are no coincidence."""


@dataclass(frozen=True)
class SpecGuess:
    """The name of a data spec, and what in the dataset speaks for it."""

    name: str
    reason: str
    asked: bool = False
    """The user named it."""

    @property
    def sentence(self) -> str:
        """The reason as a comment."""
        return self.reason if self.asked else f"a guess from {self.reason}"


@dataclass(frozen=True)
class _Rule:
    """``spec`` is meant if all of ``words`` (regular expressions) occur among the structures."""

    spec: str
    words: tuple[str, ...]
    only: str = ""
    """If set, every structure must match this one too."""

    thick_slices: bool = False
    """Only for voxels that are much longer one way."""


_BY_STRUCTURES: dict[str, tuple[_Rule, ...]] = {
    "MR": (
        _Rule("mr_hippocampus", ("hippocamp",)),
        _Rule("mr_hippocampus", ("anterior", "posterior"), "anterior|posterior"),
        _Rule("mr_atrium", (r"atri(um|a|al)\b",), "atri|scar|wall|cavity"),
        _Rule("mr_cardiac", (r"myocard|\bmyo\b",), thick_slices=True),
        _Rule(
            "mr_cardiac",
            (r"right ventricle|\brv\b", r"left ventricle|\blv\b"),
            thick_slices=True,
        ),
        _Rule("mr_brain", ("brain|edema|oedema|enhancing|(white|gr[ae]y) matter|csf",)),
        _Rule("mr_phantom", (r"^arc$", "^wall$", "^node$")),
    ),
    "CT": (
        _Rule("ct_pancreas", ("pancrea",), "pancrea|tumou?r|cancer|lesion|cyst"),
        _Rule("ct_liver", ("liver|hepat",), "liver|hepat|tumou?r|cancer|lesion"),
        _Rule(
            "ct_abdomen",
            ("liver|spleen|kidney|pancrea|stomach|gallbladder|aorta|adrenal|duoden|colon",),
        ),
    ),
    "OCT": (
        _Rule("oct_fluid", (r"fluid|\birf\b|\bsrf\b|\bped\b|cyst|edema",)),
        _Rule(
            "oct_layers",
            (r"layer|nfl|gcl|gcip|\bipl|\binl|\bopl|\bonl|rpe|\bilm|retina|choroid|bruch",),
        ),
    ),
    "CBCT": (
        _Rule("cbct_tooth", ("tooth|teeth|dental",)),
        _Rule("cbct_canal", ("^canal$|(alveolar|mandibular) canal",)),
    ),
}
_FALLBACKS = {
    "MR": ("mr",),
    "CT": ("ct",),
    "CBCT": ("cbct_tooth", "ct"),
    "OCT": ("oct_fluid", "oct_layers", "mr"),
}


def modality_of(found: Fingerprint) -> tuple[str, str]:
    """Return MR, CT, CBCT or OCT, and what speaks for it."""
    stated = " ".join(found.modality).strip()
    kind = "OCT" if found.spatial_unit == "um" else stated_kind(found.modality)
    if kind == "OCT":
        return "OCT", f"modality {stated or 'not stated'}, unit {found.spatial_unit}"
    if kind in _FALLBACKS:
        return kind, f"modality {stated}"
    unstated = f"modality '{stated}' is not known" if stated else "no modality is stated"
    if found.outside and found.outside[0] < -500:
        return "CT", f"{unstated}, but values far below 0 look like Hounsfield units"
    return "MR", f"{unstated}: taken for MR"


def is_fdi(found: Fingerprint) -> bool:
    """Return whether the labels number teeth by the FDI scheme."""
    numbered = [s for s in found.structures if s.value in FDI_CODES]
    named = [s for s in found.structures if _named_fdi(s.name)]
    return max(len(numbered), len(named)) >= FEWEST_TEETH


def _named_fdi(name: str) -> bool:
    digits = re.findall(r"\d+", name)
    return bool(re.search("tooth|fdi", name.lower())) and any(int(d) in FDI_CODES for d in digits)


def guess_spec(found: Fingerprint, available: Collection[str]) -> SpecGuess:
    """Return the data spec that fits best among those ``available``, with the reason.

    The guess rests on the modality, the label values, the names of the structures and the name of
    the dataset. A spec that is not available gives way to the general one of its modality.
    """
    kind, because = modality_of(found)
    if kind in ("CT", "CBCT") and is_fdi(found):
        kind, because = "CBCT", f"{because}, labels are tooth numbers (FDI)"
        if "cbct_fdi" in available:
            return SpecGuess("cbct_fdi", because)
    names = [s.name.lower() for s in found.structures]
    for where, texts in (("structures", names), ("dataset", [found.name.lower()])):
        for rule in _BY_STRUCTURES[kind]:
            if rule.thick_slices and not _thick_slices(found):
                continue
            if rule.spec in available and _fits(rule, texts, names):
                shown = ", ".join(s.name for s in found.structures[:3])
                more = ", ..." if len(names) > 3 else ""
                clue = f"{shown}{more}" if where == "structures" else f"dataset {found.name}"
                return SpecGuess(rule.spec, f"{because}; {clue}")
    for name in _FALLBACKS[kind]:
        if name in available:
            return SpecGuess(name, f"{because}; nothing more special is known")
    return SpecGuess(sorted(available)[0], f"{because}; no spec of this modality is known")


def _thick_slices(found: Fingerprint) -> bool:
    ratios = [max(s.spacing) / min(s.spacing) for s in found.scans]
    return bool(ratios) and float(np.median(ratios)) >= ANISOTROPIC


def _fits(rule: _Rule, texts: list[str], names: list[str]) -> bool:
    found = all(any(re.search(word, text) for text in texts) for word in rule.words)
    # Asked of the dataset's name, the structures may be called anything.
    return found and (texts is not names or all(re.search(rule.only, name) for name in names))
