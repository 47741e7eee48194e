"""Calibration cases, predicted and held against their references: voxels, volumes, scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medssl.data.datasets.case import IGNORE_INDEX, Case
from medssl.data.images.labels import read_label
from medssl.data.preprocessing.pipeline import preprocess_case
from medssl.errors import MedSSLError
from medssl.evaluation.folders import to_classes
from medssl.evaluation.overlap import confusion_matrix, dice_per_class
from medssl.inference.assessment import Assessment
from medssl.models.loaded_run import LoadedRun
from medssl.progress import Display
from medssl.uncertainty.quality import rank_correlation, volume_factors
from medssl.uncertainty.sample import region_near, sample_blocks
from medssl.uncertainty.voxel_figures import Sample

MARGIN = 2
VOXELS_PER_CASE = 20_000
VOXELS = 400_000
REGION = (
    f"voxels of the preprocessed image that lie at most {MARGIN} voxels (along every axis) from a "
    "structure of the reference, or are predicted as one; voxels without annotation left out"
)
_QUALITY = (
    "Dice to be expected from the calibrated probabilities, mean over structures; correlated with "
    "the Dice measured on the image's own grid, mean over structures"
)


@dataclass(frozen=True)
class Judged:
    """A case predicted with the temperature, beside its reference.

    Attributes:
        assessment: what the prediction says of itself.
        dice: true Dice per structure, NaN where there is none to have.
        volumes: true over predicted: ``(structures, 2)`` predicted and reference volume.
    """

    case: Case
    assessment: Assessment
    dice: np.ndarray
    volumes: np.ndarray

    @property
    def mean_dice(self) -> float:
        """Mean over structures, NaN where there is none to have."""
        return float(np.nanmean(self.dice)) if np.isfinite(self.dice).any() else float("nan")


def sample_cases(loaded: LoadedRun, cases: Sequence[Case], display: Display) -> list[Sample]:
    """Predict cases and keep voxels of the region, at most so many per case and in all."""
    limit = min(VOXELS_PER_CASE, max(VOXELS // len(cases), 1000))
    out = []
    with display.counting_parts("sampling voxels", len(cases)) as (done, window):
        for number, case in enumerate(cases):
            prepared, values = preprocess_case(case, loaded.recipe.spec)
            assert values is not None
            assert case.label is not None
            reference = to_classes(values, loaded.label_map, case.label)
            if loaded.regions is not None:
                prepared = loaded.regions.find(case.images).crop(prepared)
            if prepared.box is not None:
                reference = reference[tuple(slice(a, b) for a, b in prepared.box)]
            blocks = loaded.predictor.blocks(prepared.image, progress=partial(window, case.id))
            probs, labels = sample_blocks(
                blocks,
                reference,
                region_near(reference, MARGIN),
                limit=limit,
                rng=np.random.default_rng([0, number]),
            )
            logs = np.log(np.maximum(probs, torch.finfo(torch.float32).tiny))
            out.append(Sample(logs, labels))
            done(case.id)
    return out


def check_samples(samples: Sequence[Sample], cases: Sequence[Case], where: Path) -> None:
    """Refuse cases of which fewer than two patients show a structure.

    Args:
        samples, cases: of each case.
        where: what says which cases they are.

    Raises:
        MedSSLError: there are too few.
    """
    if len({c.patient for c, s in zip(cases, samples, strict=True) if len(s.labels)}) < 2:
        raise MedSSLError(
            "fewer than two patients of these have a voxel near a structure",
            where=where,
            fix="calibrate on cases that show the structures",
        )


def judge_cases(loaded: LoadedRun, cases: Sequence[Case], display: Display) -> list[Judged]:
    """Predict cases with the temperature, and compare with their references."""
    out = []
    labels = loaded.label_map
    with display.counting_parts("predicting", len(cases)) as (done, window):
        for case in cases:
            assert case.label is not None
            prediction = loaded.predictor.predict_file(
                case.images,
                assess=True,
                progress=partial(window, case.id),
                force=True,  # of the run's own dataset
            )
            assert prediction.assessment is not None
            values, _ = read_label(case.label)
            confusion = confusion_matrix(
                labels.to_classes(prediction.values),
                to_classes(values, labels, case.label),
                labels.num_classes,
                IGNORE_INDEX,
            )
            volumes = np.stack((confusion.sum(axis=0), confusion.sum(axis=1)), axis=1)
            out.append(
                Judged(case, prediction.assessment, dice_per_class(confusion)[1:], volumes[1:])
            )
            done(case.id)
    return out


def quality_figures(judged: Sequence[Judged], names: Sequence[str]) -> dict[str, Any]:
    """Return the key ``quality`` of calibration.json; ``names`` are those of the structures."""
    patients = [j.case.patient for j in judged]
    own = [_number(j.assessment.quality) for j in judged]
    true = [j.mean_dice for j in judged]
    overall = rank_correlation(own, true, patients)
    structures = {}
    for index, name in enumerate(names):
        expected = [_number(j.assessment.structures[index].expected_dice) for j in judged]
        one = rank_correlation(expected, [float(j.dice[index]) for j in judged], patients)
        structures[name] = {"spearman": one.spearman, "low": one.low, "high": one.high, "n": one.n}
    return {
        "definition": _QUALITY,
        "spearman": overall.spearman,
        "low": overall.low,
        "high": overall.high,
        "level": overall.level,
        "no_interval": overall.none,
        "n": overall.n,
        "n_patients": overall.n_patients,
        "structures": structures,
        "cases": [
            {"case": j.case.id, "patient": j.case.patient, "quality": q, "dice": d}
            for j, q, d in zip(judged, own, true, strict=True)
        ],
    }


def volume_figures(judged: Sequence[Judged], names: Sequence[str]) -> dict[str, Any]:
    """Return the key ``volume`` of calibration.json; ``names`` are those of the structures."""
    out = {}
    for index, name in enumerate(names):
        predicted, reference = np.array([j.volumes[index] for j in judged]).T
        factors = volume_factors(predicted.tolist(), reference.tolist())
        if factors is not None:
            out[name] = {
                "low_factor": factors.low,
                "high_factor": factors.high,
                "level": factors.level,
                "n": factors.n,
            }
    return out


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
