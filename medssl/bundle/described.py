"""What a bundle is made from, as JSON that may travel: written down, checked, and read back.

The description holds names, numbers and texts, and nothing that names a path, a case, a patient, or
code. Nobody is believed: :func:`read_description` refuses what it does not know, texts that MONAI
would take for an expression, and numbers beyond any model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from medssl._version import __version__
from medssl.bundle.contents import Contents
from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError
from medssl.inference.calibration import Calibration
from medssl.inference.identity import SAME_VOXELS
from medssl.inference.training_fingerprint import TrainingFingerprint
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec
from medssl.strict import Strict, first_mistake

FORMAT = 1
MOST_TEXT, MOST_NETWORKS, LARGEST_SIDE, FINEST_SPACING = 4000, 64, 4096, 1e-3
NAME = r"[A-Za-z0-9][A-Za-z0-9_\-]{0,63}"
"""Of a model: a folder is called so, on any system."""

Count = Annotated[int, Field(ge=0, le=10**12)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


class _Metric(Strict):
    mean: float | None = None
    low: float | None = None
    high: float | None = None


class _Failures(Strict):
    threshold: float
    below: Count
    patients: Count
    at_most: float
    confidence: float


class _Entry(Strict):
    n: Count = 0
    metrics: dict[str, _Metric] = Field(max_length=40)
    failures: _Failures | None = None


class _Figures(Strict):
    split: str = "test"
    unit: Literal["mm", "um"] = "mm"
    n_cases: Count
    n_patients: Count
    interval: str
    coverage: str = ""
    policy: str
    structures: dict[str, _Entry] = Field(max_length=1000)
    overall: _Entry


LabelValue = Annotated[int, Field(ge=0, lt=2**16)]


class _Region(Strict):
    name: str
    values: list[LabelValue] = Field(min_length=1, max_length=1000)
    writes: LabelValue


class _Labels(Strict):
    values: list[LabelValue] = Field(min_length=2, max_length=1000)
    names: list[str] = Field(min_length=2, max_length=1000)
    ignore_value: int | None = None
    regions: list[_Region] = Field(default_factory=list, max_length=1000)


class Description(Strict):
    """A model without its weights."""

    format: Literal[1] = 1
    medssl: str = __version__
    name: str = Field(pattern=rf"^{NAME}$")
    authors: str = "not given"
    method: str
    paper: str
    protocol: Literal["clean", "literature"]
    network: dict[str, Any]
    spec: DataSpec
    labels: _Labels
    patch: list[Side] = Field(min_length=2, max_length=3)
    channels: int = Field(ge=1, le=64)
    inference: InferenceSettings
    cases: dict[Literal["labeled", "unlabeled", "validation", "test"], Count]
    iterations: Count
    members: int = Field(ge=1, le=MOST_NETWORKS)
    figures: _Figures | None = None
    calibration: dict[str, Any] | None = None
    training_fingerprint: dict[str, Any] | None = None
    plugins: list[dict[str, Any]] = Field(default_factory=list, max_length=20)

    @field_validator("spec")
    @classmethod
    def _sizes(cls, spec: DataSpec) -> DataSpec:
        if any(n is not None and not 1 <= n <= LARGEST_SIDE for n in spec.resize or ()):
            raise ValueError(f"resize is from 1 to {LARGEST_SIDE} voxels")
        spacing = spec.spacing if isinstance(spec.spacing, list) else []
        if any(v is not None and not v >= FINEST_SPACING for v in spacing):
            raise ValueError(f"spacing is at least {FINEST_SPACING}")
        axes = {"L": "R", "R": "R", "A": "A", "P": "A", "S": "S", "I": "S"}
        if spec.orientation is not None and {axes.get(c) for c in spec.orientation} != set("RAS"):
            raise ValueError("orientation is three axis codes, such as RAS")
        return spec


def describe_contents(contents: Contents, *, authors: str, name: str) -> dict[str, Any]:
    """Return what is known of a model as plain JSON.

    Raises:
        MedSSLError: something of it would be refused where it is read.
    """
    labels, fingerprint = contents.labels, contents.fingerprint
    content = {
        "format": FORMAT,
        "medssl": __version__,
        "name": name,
        "authors": authors,
        "method": contents.method,
        "paper": contents.paper,
        "protocol": contents.protocol,
        "network": contents.model,
        "spec": contents.spec.model_dump(mode="json"),
        "labels": labels.as_dict(),
        "patch": list(contents.patch),
        "channels": contents.channels,
        # How many windows at a time is for the machine that predicts.
        "inference": contents.inference.model_dump(mode="json", exclude=SAME_VOXELS),
        "cases": contents.cases,
        "iterations": contents.iterations,
        "members": contents.members,
        "figures": None if contents.summary is None else _figures(contents.summary),
        "calibration": contents.calibration,
        "training_fingerprint": None if fingerprint is None else fingerprint.as_dict(),
        "plugins": contents.plugins(),
    }
    content = _finite(content)
    read_description(content)
    return content


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers that a model card shows, and nothing else that may stand beside them."""

    def entry(one: Mapping[str, Any]) -> dict[str, Any]:
        failures = one.get("failures")
        return {
            "n": one.get("n", 0),
            "metrics": {m: _kept(_Metric, v) for m, v in one["metrics"].items()},
            "failures": None if failures is None else _kept(_Failures, failures),
        }

    plain = set(_Figures.model_fields) - {"structures", "overall"}
    return {
        **{key: summary[key] for key in plain if key in summary},
        "structures": {name: entry(one) for name, one in summary["structures"].items()},
        "overall": entry(summary["overall"]),
    }


def _kept(model: type[Strict], content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: content[key] for key in model.model_fields if key in content}


def _finite(value: Any) -> Any:
    """Return plain JSON: None for what is not finite, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_description(content: Any) -> tuple[Description, Contents]:
    """Check a description, and return it with what a bundle is written from.

    Args:
        content: as JSON was read.

    Raises:
        MedSSLError: it is not what :func:`describe_contents` gives; says which key.
    """
    if not isinstance(content, dict):
        raise MedSSLError("its description is no JSON object")
    if content.get("format") != FORMAT:
        raise MedSSLError(
            f"its description has format {str(content.get('format'))[:20]}, and this medssl reads "
            f"format {FORMAT}",
            fix="use the medssl that wrote it, or have it packed again",
        )
    refuse_texts(content)
    try:
        found = Description.model_validate(content)
    except ValidationError as error:
        mistake = first_mistake(error, Description, content)
        raise MedSSLError(f"its description is wrong: {mistake.what}") from None
    try:
        return found, _contents(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"[:160]
        raise MedSSLError(f"its description is wrong ({reason})") from None


def _contents(found: Description) -> Contents:
    if sum(1 for _ in _networks(found.network)) > MOST_NETWORKS:
        raise ValueError(f"more than {MOST_NETWORKS} networks")
    labels = LabelMap.from_dict(found.labels.model_dump())
    if len(set(labels.values)) != len(labels.values) or len(labels.values) != len(labels.names):
        raise ValueError("labels are not one name for each value")
    known = found.training_fingerprint
    if found.calibration is not None:
        Calibration.from_dict(found.calibration)
    return Contents(
        name=found.name,
        model=found.network,
        spec=found.spec,
        labels=labels,
        patch=tuple(found.patch),
        inference=found.inference,
        channels=found.channels,
        method=found.method,
        paper=found.paper,
        protocol=found.protocol,
        cases={str(key): n for key, n in found.cases.items()},
        iterations=found.iterations,
        summary=None if found.figures is None else _summary(found.figures),
        calibration=found.calibration,
        fingerprint=None if known is None else TrainingFingerprint.from_dict(known),
        members=found.members,
        made_with=tuple(found.plugins),
    )


def _summary(figures: _Figures) -> dict[str, Any]:
    content = figures.model_dump()
    for entry in (content["overall"], *content["structures"].values()):
        if entry["failures"] is None:
            del entry["failures"]
    return content


def _networks(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield the networks of a model's description; see :mod:`medssl.bundle.model_tree`."""
    if tree["kind"] == "network":
        yield tree
    for child in [*tree.get("members", []), *([tree["network"]] if "network" in tree else [])]:
        yield from _networks(child)


def _texts(value: Any) -> Iterator[str]:
    """Yield all keys and texts of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)


def refuse_texts(content: Any) -> None:
    """Refuse keys and texts that MONAI, or a terminal, would take for more than a text.

    Raises:
        MedSSLError: shows the first one.
    """
    for text in _texts(content):
        _refuse_text(text)


def _refuse_text(text: str) -> None:
    shown = repr(text[:40])
    if text.lstrip()[:1] in ("$", "@", "%") or (text.startswith("_") and text.endswith("_")):
        raise MedSSLError(f"its description holds {shown}, which MONAI would read as an expression")
    if not text.replace("\n", " ").isprintable():
        raise MedSSLError(f"its description holds a text that cannot be printed: {shown}")
    if len(text) > MOST_TEXT:
        raise MedSSLError(f"its description holds a text of {len(text)} letters: {shown}...")
