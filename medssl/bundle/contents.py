"""What a bundle is made from: everything of a run that may leave, and nothing that may not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from torch import nn

from medssl.bundle.model_tree import Tree, describe, network_names
from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError
from medssl.inference.calibration import portable
from medssl.inference.training_fingerprint import TrainingFingerprint
from medssl.methods.registry import get_settings
from medssl.models.loaded_run import LoadedRun
from medssl.networks.ensemble import Ensemble
from medssl.networks.mirror_mean import MirrorMean
from medssl.plugins import record_plugins
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec


@dataclass(frozen=True)
class Contents:
    """A model ready to be written down. No path, no case or patient id, no text of the dataset.

    Attributes:
        name: letters, digits and underscores.
        model: description of the network or networks, see :mod:`medssl.bundle.model_tree`.
        spec, labels, patch, inference, channels: as the run predicts.
        method, paper: the method it was trained by, and where that was published.
        protocol: ``clean`` or ``literature``.
        cases: numbers of labeled, unlabeled, validation and test cases.
        iterations: of the training.
        summary: figures of the test or validation cases, None if it was not evaluated.
        calibration: what of calibration.json may leave, None if there is none for these weights.
        fingerprint: numbers over all training scans, None in runs of older versions.
        members: how many runs are averaged.
        made_with: plugins that it needs, as somebody else recorded them.
    """

    name: str
    model: Tree
    spec: DataSpec
    labels: LabelMap
    patch: tuple[int, ...]
    inference: InferenceSettings
    channels: int
    method: str
    paper: str
    protocol: str
    cases: dict[str, int]
    iterations: int
    summary: dict[str, Any] | None
    calibration: dict[str, Any] | None = None
    fingerprint: TrainingFingerprint | None = None
    members: int = 1
    made_with: tuple[dict[str, Any], ...] = ()

    def plugins(self) -> list[dict[str, Any]]:
        """Return what of plugins predicts: networks, and a rule of intensities."""
        used = {f"network {name}" for name in network_names(self.model)}
        return record_plugins(used | {f"intensity {self.spec.intensity.rule}"}) or list(
            self.made_with
        )

    @property
    def largest_component(self) -> bool:
        """Whether only the largest piece of each structure is kept."""
        choice = self.inference.largest_component
        return self.spec.largest_component if choice is None else choice


def contents_of(run: LoadedRun, summary: dict[str, Any] | None) -> tuple[Contents, str | None]:
    """Collect what of a run, or of several averaged as one, goes into its bundle.

    Args:
        run: loaded as `medssl predict` loads it.
        summary: figures of this model, None if it was not evaluated.

    Returns:
        The contents, and what the run's calibration is for if it is not for this model.

    Raises:
        MedSSLError: the run works inside regions of interest, or only some members are mirrored.
    """
    if run.regions is not None:
        raise MedSSLError(
            "a bundle cannot express that the run works inside a region another run finds",
            where=run.folder.path,
            fix="use `medssl predict RUN` for this run, or train one without data.roi",
        )
    recipe = run.recipe
    manifest = run.folder.read_manifest()
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in recipe.name)
    other = run.use_calibration()
    contents = Contents(
        name=name,
        model=describe(bare_model(run)),
        spec=recipe.spec,
        labels=run.label_map,
        patch=tuple(recipe.training.patch),
        inference=recipe.inference,
        channels=run.channels,
        method=recipe.method.name,
        paper=get_settings(recipe.method.name).paper,
        protocol=recipe.protocol,
        cases={k: int(v) for k, v in (manifest.get("cases") or {}).items()},
        iterations=recipe.training.iterations,
        summary=summary,
        calibration=_calibration(run),
        fingerprint=run.predictor.task.fingerprint,
        members=len(run.weights),
    )
    return contents, other


def bare_model(run: LoadedRun) -> nn.Module:
    """Return a run's networks without what mirrors them: the bundle's inferer does that.

    Raises:
        MedSSLError: only some members are mirrored.
    """
    model = run.predictor.model
    if len(run.weights) == 1:
        return model.network if isinstance(model, MirrorMean) else model
    assert isinstance(model, Ensemble)
    mirrored = [isinstance(member, MirrorMean) for member in model.members]
    if len(set(mirrored)) > 1:
        raise MedSSLError(
            f"{sum(mirrored)} of {len(mirrored)} members are averaged over mirror images (their "
            "recipes' inference.tta), which a bundle does for all or for none",
            where=run.folder.path,
            fix="use `medssl predict RUN --ensemble ...`, or export members of one inference.tta",
        )
    return Ensemble([m.network if isinstance(m, MirrorMean) else m for m in model.members])


def _calibration(run: LoadedRun) -> dict[str, Any] | None:
    if run.predictor.calibration is None:
        return None
    found = portable(json.loads(run.home.calibration.read_text(encoding="utf-8")))
    # Of the folds of a cross-validation a single one has its own.
    return found | {"temperature": run.predictor.calibration.temperature}
