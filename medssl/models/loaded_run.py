"""A finished run read back: its predictor, and its evaluation on a split of its own dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from medssl.data.datasets.case import LabelMap
from medssl.device import resolve_device, resolve_precision
from medssl.errors import MedSSLError
from medssl.inference.calibration import Calibrated, read_calibration
from medssl.inference.identity import weights_sha256
from medssl.inference.members import temper
from medssl.inference.predictor import Predictor
from medssl.inference.search_box import RegionFinder
from medssl.inference.settings import PredictSettings
from medssl.inference.task import Task
from medssl.inference.training_fingerprint import FINGERPRINT, read_fingerprint
from medssl.models.coarse import open_finder
from medssl.models.create import create_method
from medssl.networks.deep_dynunet import without_heads
from medssl.networks.ensemble import Ensemble
from medssl.paths import AnyPath
from medssl.recipe.load import load_recipe
from medssl.runs.checkpoint import load_checkpoint, load_weights
from medssl.runs.folder import RunFolder, open_run
from medssl.runs.members import chosen_members, is_crossval
from medssl.settings.recipe import Recipe


@dataclass(frozen=True)
class LoadedRun:
    """A run ready to predict."""

    folder: RunFolder
    recipe: Recipe
    label_map: LabelMap
    predictor: Predictor
    checkpoint: str
    channels: int
    regions: RegionFinder | None = None
    weights: tuple[Path, ...] = ()
    """Checkpoint file of each run that predicts."""
    crossval: Path | None = None
    """The cross-validation whose folds predict."""

    @property
    def home(self) -> RunFolder:
        """The folder that stands for all that predicts, and keeps its calibration."""
        return self.folder if self.crossval is None else RunFolder(self.crossval)

    def calibrated(self) -> Calibrated:
        """Say what a calibration of this predictor belongs to."""
        return Calibrated(
            checkpoint=self.checkpoint,
            tta=self.recipe.inference.tta,
            largest_component=self.predictor.largest_component,
            decide=self.recipe.inference.decide,
            weights=tuple(_sha256(path) for path in self.weights),
        )

    def use_calibration(self) -> str | None:
        """Calibrate the predictor by the run's calibration.json, if it is there and fits.

        Returns:
            What the calibration is not for, in a few words, if it was left out for that.

        Raises:
            MedSSLError: the file is damaged.
        """
        if not self.home.calibration.is_file():
            return None
        found, own = read_calibration(self.home.calibration), self.calibrated()
        difference = found.of.difference(own)
        if difference is not None:
            return difference
        each = [found.temperatures[weights] for weights in own.weights if found.temperatures]
        if len(each) == 1:  # nothing is averaged, so voxels are decided as without it
            found = replace(found, temperature=each[0])
        elif each:
            self.predictor.model = temper(self.predictor.model, each)
        self.predictor.calibration = found
        return None


def load_run(
    path: AnyPath,
    *,
    checkpoint: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    largest_component: bool | None = None,
    tta: bool | None = None,
) -> LoadedRun:
    """Load a run's predictor.

    Args:
        path: the run folder.
        checkpoint: ``last``, ``best``, or ``auto`` (best where there is one, else last).
        largest_component, tta: override the recipe's choice.

    Raises:
        MedSSLError: not a run folder, no such checkpoint, or weights that do not fit.

    Example:
        >>> run = medssl.load_run("runs/mine", device="cpu")
        >>> run.label_map.names
        ('background', 'arc', 'wall', 'node')
    """
    return _load(
        Path(path),
        PredictSettings(
            checkpoint=checkpoint,
            device=device,
            precision=precision,
            largest_component=largest_component,
            tta=tta,
        ),
    )


def _load(path: Path, settings: PredictSettings) -> LoadedRun:
    """Load a run's predictor; see :func:`load_run`."""
    folder = open_run(path)
    loaded = load_recipe(folder.recipe)
    if not loaded.settings.segments:
        raise MedSSLError(
            f"the run predicts nothing: {loaded.recipe.method.name} learned images alone",
            where=path,
            fix=f"start a training from it: medssl train RECIPE --init {path}",
        )
    inference = settings.chosen(loaded.recipe.inference)
    recipe = loaded.recipe.model_copy(update={"inference": inference})
    label_map, channels = trained_on(folder)
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    method = create_method(
        recipe, loaded.settings, num_classes=label_map.num_classes, channels=channels
    )
    chosen = _choose(folder, settings.checkpoint)
    file = folder.best() if chosen == "best" else folder.last
    state = load_checkpoint(file, map_location="cpu", method=recipe.method.name)
    load_weights(method, state["method_state"], file)
    load_coarse = partial(load_run, device=settings.device, precision=settings.precision)
    regions = open_finder(recipe, folder, load_coarse)
    predictor = Predictor(
        without_heads(method.predictor()),
        Task(
            recipe.spec,
            label_map,
            tuple(recipe.training.patch),
            channels,
            read_fingerprint(folder.read_manifest().get(FINGERPRINT)),
        ),
        inference,
        device=device,
        precision=precision,
        regions=regions,
    )
    predictor.source = str(path)
    return LoadedRun(folder, recipe, label_map, predictor, chosen, channels, regions, (file,))


def trained_on(folder: RunFolder) -> tuple[LabelMap, int]:
    """Return the labels and the number of image channels of a run's dataset.

    Raises:
        MedSSLError: the run's manifest does not say.
    """
    manifest = folder.read_manifest()
    try:
        return LabelMap.from_dict(manifest["labels"]), int(manifest["channels"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise MedSSLError(
            "the run's manifest does not say which labels it was trained on",
            where=folder.manifest,
            fix="restore manifest.json, or train again",
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_ensemble(path: Path, settings: PredictSettings) -> LoadedRun:
    """Load a run and those it is averaged with as one whose probabilities are the mean of theirs.

    The first run says how images are prepared and windows laid; see :func:`load_run` for the rest.
    The folder of a cross-validation stands for the runs of its folds.

    Raises:
        MedSSLError: a run sees other images, windows or labels than the first, or two have the
            same weights.
    """
    chosen = chosen_members(path, members=settings.members, fold=settings.fold)
    runs = [_load(one, settings) for one in (*chosen, *settings.ensemble)]
    first = runs[0]
    if is_crossval(path):
        first = replace(first, crossval=path)
        first.predictor.folds = tuple(one.name for one in chosen)
    if len(runs) == 1:
        return first
    for run in runs[1:]:
        for what, one, other in (
            ("data spec", first.recipe.spec, run.recipe.spec),
            ("training.patch", first.recipe.training.patch, run.recipe.training.patch),
            ("labels", first.label_map, run.label_map),
            ("number of channels", first.channels, run.channels),
        ):
            if one != other:
                raise MedSSLError(
                    f"its {what} is not that of {first.folder.path}",
                    where=run.folder.path,
                    fix="average runs of one recipe that differ by seed, fold or method only",
                )
    _check_unlike(runs)
    # Each predictor's model already mirrors, where that is asked for.
    first.predictor.source = ", ".join(run.predictor.source for run in runs)
    first.predictor.model = Ensemble([run.predictor.model for run in runs])
    return replace(first, weights=tuple(path for run in runs for path in run.weights))


def _check_unlike(runs: Sequence[LoadedRun]) -> None:
    """Refuse members that are one model: they agree with each other and look certain."""
    seen: dict[str, LoadedRun] = {}
    for run in runs:
        other = seen.setdefault(weights_sha256(run.predictor.model), run)
        if other is not run:
            itself = other.folder.path.resolve() == run.folder.path.resolve()
            named = "is named twice" if itself else f"has the same weights as {other.folder.path}"
            raise MedSSLError(
                f"a run cannot be a second member of its own ensemble: it {named}",
                where=run.folder.path,
                fix="leave it out, or name runs with other seeds, folds or methods (--ensemble)",
            )


def _choose(folder: RunFolder, checkpoint: str) -> str:
    """Return ``last`` or ``best``."""
    if checkpoint == "auto":
        return "best" if folder.best().is_file() else "last"
    if checkpoint not in ("last", "best"):
        raise MedSSLError(
            f"unknown checkpoint {checkpoint!r}", where="--checkpoint", fix="use last, best or auto"
        )
    if checkpoint == "best" and not folder.best().is_file():
        raise MedSSLError(
            "the run has no best checkpoint: it had no validation cases",
            where=folder.checkpoints,
            fix="use --checkpoint last",
        )
    return checkpoint
