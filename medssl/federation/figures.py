"""What a site says of its models on its own patients: counts and moments, no patient among them.

Everything is computed where the patients are; a mean and a variance over five or more patients
leave, of each experiment and of the gains over another on the same patients. Those of several sites
are put together exactly (:func:`together`), as if their patients had been in one list.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from pydantic import Field, ValidationError

from medssl.comparison.comparable import patients_of, shared_cases
from medssl.comparison.experiments import EvaluatedRun, read_run
from medssl.errors import MedSSLError
from medssl.evaluation.statistics import nanmean, patient_means
from medssl.federation.agreed import Sha256, SiteName, read_agreed, read_site_key
from medssl.federation.messages import Refused, read_regular
from medssl.files import write_bytes
from medssl.paths import AnyPath
from medssl.strict import Strict

ExperimentName = Literal["local", "federated_labels", "federated", "pooled"]
EXPERIMENTS: tuple[ExperimentName, ...] = get_args(ExperimentName)
"""Trained on this site's scans alone, by all on labels, by all with unlabeled scans, on all."""
FEWEST = 5
"""Of fewer patients nothing leaves a site, unless it is allowed."""
ALL = "all"
"""The mean over the structures of each patient."""
_MOST_BYTES = 2**20
_DIGITS = 6


class Moments(Strict):
    """Of the patients' values: how many, mean, and variance (over n - 1)."""

    n: int = Field(ge=1, le=10_000)
    mean: float = Field(ge=-1, le=1)
    variance: float = Field(ge=0, le=4)


class SiteFigures(Strict):
    """All that a site says.

    Attributes:
        site: which.
        federation: SHA-256 of what was agreed.
        split: whose patients, ``test`` or ``validation``.
        patients: how many.
        threshold: Dice below which a patient failed.
        failed: patients who did, by experiment.
        trained: method and iterations, by experiment.
        dice: by experiment and structure.
        gains: by ``ONE - OTHER``: of the mean over structures, on the same patients.
    """

    format: Literal[1] = 1
    site: SiteName
    federation: Sha256
    split: Literal["test", "validation"]
    patients: int = Field(ge=1, le=10_000)
    threshold: float
    failed: dict[ExperimentName, int]
    trained: dict[ExperimentName, str]
    dice: dict[ExperimentName, dict[str, Moments]]
    gains: dict[str, Moments]


def figures_name(site: str) -> str:
    """Return where a site puts what it says."""
    return f"figures-{site}.json"


def federate_figures(
    folder: AnyPath,
    key: AnyPath,
    runs: Mapping[str, AnyPath],
    *,
    split: Literal["test", "validation"] = "test",
    allow_few: bool = False,
) -> Path:
    """Say in the folder how models did on this site's patients, by counts and moments alone.

    Args:
        folder: where the sites meet, or any that will be carried to the server.
        key: the file that the server gave this site.
        runs: evaluated runs at this site by experiment: ``local``, ``federated_labels``,
            ``federated``, ``pooled``.
        split: whose patients.
        allow_few: also of fewer than five.

    Returns:
        The file that was written.

    Raises:
        MedSSLError: too few patients, or runs that were not measured on the same.
    """
    own = read_site_key(Path(key))
    agreed = read_agreed(Path(folder), own.federation)
    unknown = [name for name in runs if name not in EXPERIMENTS]
    if unknown or not runs:
        raise MedSSLError(
            f"there is no experiment {unknown[0]}" if unknown else "no run is named",
            where="medssl federate figures",
            fix=f"name runs as {', '.join(f'{name}=RUN' for name in EXPERIMENTS)}",
        )
    read = {name: read_run(Path(path), split) for name, path in runs.items()}
    scores = patient_scores(list(read.values()), split, agreed.labels[1:])
    threshold = next(iter(read.values())).recipe.evaluation.failure_dice
    found = _figures(dict(zip(read, scores, strict=True)), agreed.labels[1:], threshold, allow_few)
    trained = {
        name: f"{run.recipe.method.name}, {run.recipe.training.iterations} iterations"
        for name, run in read.items()
    }
    said = SiteFigures.model_validate(
        {
            "site": own.site,
            "federation": own.federation,
            "split": split,
            "threshold": threshold,
            "trained": trained,
            **found,
        }
    )
    text = said.model_dump_json(indent=1).encode()
    path = Path(folder) / figures_name(own.site)
    write_bytes(path, text + b"\n" + hmac.digest(own.secret, text, "sha256").hex().encode())
    return path


def read_figures(path: Path, site: str, key: bytes, federation: str) -> SiteFigures:
    """Read what a site says, if it is authentic.

    Raises:
        Refused: names the reason.
        FileNotFoundError: it has said nothing.
    """
    text, _, tag = read_regular(path, _MOST_BYTES).rpartition(b"\n")
    if not hmac.compare_digest(tag, hmac.digest(key, text, "sha256").hex().encode()):
        raise Refused(f"it is not authenticated by the key of {site}")
    try:
        found = SiteFigures.model_validate_json(text)
    except (ValidationError, RecursionError):
        raise Refused("it is not what a site says") from None
    if found.site != site or found.federation != federation:
        raise Refused("it is of another site or federation")
    return found


def patient_scores(
    runs: Sequence[EvaluatedRun], split: str, structures: Sequence[str]
) -> list[np.ndarray]:
    """Return Dice of each run, ``(patients, structures)``, the same patients in the same order.

    Raises:
        MedSSLError: the runs were measured on different cases or structures.
    """
    cases, _ = shared_cases(runs, split, common=False)
    missing = [name for name in structures if name not in runs[0].structures]
    if missing:
        raise MedSSLError(
            f"the structure {missing[0]} was not measured", where=runs[0].path, fix="evaluate again"
        )
    groups = patients_of(runs, cases, [])
    values = [[[run.rows[c, s]["dice"] for s in structures] for c in cases] for run in runs]
    return list(patient_means(np.array(values, dtype=np.float64), groups))


def moments_of(values: np.ndarray, allow_few: bool) -> Moments | None:
    """Return the moments of ``(patients,)``; None of fewer than ``FEWEST``, unless allowed."""
    known = values[np.isfinite(values)]
    if known.size == 0 or (known.size < FEWEST and not allow_few):
        return None
    variance = float(known.var(ddof=1)) if known.size > 1 else 0.0
    return Moments(
        n=known.size, mean=round(float(known.mean()), _DIGITS), variance=round(variance, _DIGITS)
    )


def together(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all patients of several sites, exactly as if they were one list."""
    n = sum(part.n for part in parts)
    mean = math.fsum(part.n * part.mean for part in parts) / n
    squares = math.fsum(
        (part.n - 1) * part.variance + part.n * (part.mean - mean) ** 2 for part in parts
    )
    return Moments(n=n, mean=mean, variance=squares / (n - 1) if n > 1 else 0.0)


def _figures(
    scores: Mapping[str, np.ndarray], structures: Sequence[str], threshold: float, allow_few: bool
) -> dict[str, object]:
    """Return what is said of the scores of each experiment."""
    patients = len(next(iter(scores.values())))
    if patients < FEWEST and not allow_few:
        raise MedSSLError(
            f"the runs were measured on {patients} patients: of fewer than {FEWEST} nothing leaves "
            "a site",
            where="medssl federate figures",
            fix="measure more patients, or allow it with --allow-few",
        )
    means = {name: nanmean(values, 1) for name, values in scores.items()}
    dice: dict[str, dict[str, Moments]] = {}
    for name, values in scores.items():
        columns = {ALL: means[name], **dict(zip(structures, values.T, strict=True))}
        of_each = {key: moments_of(column, allow_few) for key, column in columns.items()}
        dice[name] = {key: found for key, found in of_each.items() if found is not None}
    gains = {}
    for i, other in enumerate(scores):
        for one in list(scores)[i + 1 :]:
            gain = moments_of(means[one] - means[other], allow_few)
            if gain is not None:
                gains[f"{one} - {other}"] = gain
    failed = {name: int((values < threshold).sum()) for name, values in means.items()}
    return {"patients": patients, "failed": failed, "dice": dice, "gains": gains}
