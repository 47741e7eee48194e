"""A trained model that teaches another: found, opened, and the same one each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.errors import MedSSLError
from medssl.recipe.load import LoadedRecipe
from medssl.runs.folder import RunFolder
from medssl.runs.given_weights import TAUGHT_BY
from medssl.runs.lineage import TEACHER, teacher_of
from medssl.runs.members import is_crossval, members_of
from medssl.settings.model_names import is_bundle

if TYPE_CHECKING:  # what a recipe is refused for is said before PyTorch is loaded
    from torch import nn

    from medssl.inference.predictor import Predictor
    from medssl.training.cases import CasePlan

_SEEN = ("modality", "orientation", "spacing", "resize", "resize_mode", "intensity", "slice_axis")
"""What of a data spec decides the voxels that a network sees."""


def find_teacher(loaded: LoadedRecipe) -> Path | None:
    """Return where the teacher of a recipe lies; None for a method that has none.

    Raises:
        MedSSLError: none is named, or what is named is no model that predicts.
    """
    if not loaded.settings.taught:
        return None
    named = teacher_of(loaded.recipe)
    path = Path(named or "")
    if named and is_crossval(path):
        members_of(path)
    elif not named or not (RunFolder(path).recipe.is_file() or is_bundle(path)):
        raise MedSSLError(
            f"{TEACHER} names no trained model: {named!r}",
            where=loaded.source,
            fix=f"add --set {TEACHER}=PATH, with a trained run, the folder of a cross-validation, "
            "a bundle, or the name of an installed model",
        )
    return path


def open_teacher(
    loaded: LoadedRecipe, plan: CasePlan, say: Callable[[str], None]
) -> tuple[nn.Module, dict[str, Any]]:
    """Open the teacher of a recipe, on the CPU.

    Mirroring and calibration are left out: what it says of a patch is what is learned.

    Args:
        loaded: the recipe.
        plan: says labels and channels of the dataset.
        say: tells the user a line.

    Returns:
        The model, which gives logits or logarithms of probabilities; and what the manifest says:
        ``source``, ``kind``, ``members``, ``sha256`` (of all weights), ``known`` (whether it is
        recorded whose labels it saw).

    Raises:
        MedSSLError: it cannot be read, or does not see what the student sees.
    """
    import torch

    from medssl.inference.identity import weights_sha256
    from medssl.inference.settings import PredictSettings
    from medssl.networks.ensemble import Ensemble
    from medssl.workflows.open_predictor import open_predictor

    path = find_teacher(loaded)
    assert path is not None
    settings = PredictSettings(device="cpu", precision="fp32", tta=False, calibrated=False)
    predictor, _ = open_predictor(path, settings)
    _refuse_other_data(loaded, plan, predictor, path)
    model, patch = predictor.model.eval(), loaded.recipe.training.patch
    try:
        with torch.no_grad():
            suits = [*model(torch.zeros(1, plan.sizes["channels"], *patch)).shape[2:]] == [*patch]
    except RuntimeError:  # sides that cannot be halved so often do not fit together again
        suits = False
    if not suits:
        raise MedSSLError(
            f"{TEACHER}: the model cannot predict patches of {list(patch)} voxels",
            where=path,
            fix=f"set training.patch to one that suits both, such as {list(predictor.patch)}",
        )
    kind = "crossval" if is_crossval(path) else "bundle" if is_bundle(path) else "run"
    members = model.count if isinstance(model, Ensemble) else 1
    say(f"{TEACHER}: {path} ({members} {'networks as one' if members > 1 else 'network'})")
    if kind == "bundle":
        say(
            f"warning: {TEACHER}: whose labels and images a bundle has seen is not known: scores "
            "of patients that were among them would be too good"
        )
    return model, {
        "source": str(path),
        "kind": kind,
        "members": members,
        "sha256": weights_sha256(model),
        "known": kind != "bundle",
    }


def refuse_another_teacher(run: RunFolder, record: dict[str, Any]) -> None:
    """Refuse to go on with a teacher that is not the one that a run was begun with.

    Args:
        run: which goes on.
        record: of the teacher there is now.

    Raises:
        MedSSLError: its weights are others.
    """
    begun = run.read_manifest().get(TAUGHT_BY)
    if begun is not None and begun["sha256"] != record["sha256"]:
        raise MedSSLError(
            "the teacher that the run was begun with has changed",
            where=record["source"],
            fix="restore it, or train into another --output",
        )


def taught_by(run: RunFolder, loaded: LoadedRecipe, plan: CasePlan) -> nn.Module:
    """Return the teacher of a run that was trained.

    Raises:
        MedSSLError: it is not there any more, or not the same.
    """
    teacher, record = open_teacher(loaded, plan, lambda _: None)
    refuse_another_teacher(run, record)
    return teacher


def _refuse_other_data(
    loaded: LoadedRecipe, plan: CasePlan, predictor: Predictor, path: Path
) -> None:
    """Refuse a teacher that sees other images, or knows other structures, than the student."""
    recipe, spec = loaded.recipe, predictor.spec
    pairs: list[tuple[str, Any, Any]] = [
        (f"spec.{key}", getattr(spec, key), getattr(recipe.spec, key)) for key in _SEEN
    ]
    labels = plan.dataset.labels
    pairs += [
        ("label values", predictor.label_map.values, labels.values),
        ("structures", predictor.label_map.names, labels.names),
        ("number of channels", predictor.in_channels, plan.sizes["channels"]),
        ("number of dimensions", len(predictor.patch), recipe.training.spatial_dims),
        ("region of interest", predictor.regions is not None, recipe.data.roi is not None),
    ]
    for what, there, here in pairs:
        if there != here:
            raise MedSSLError(
                f"{TEACHER}: its {what} is not that of the recipe: {there!r}, not {here!r}",
                where=path,
                fix="train the student with the data spec and labels of its teacher",
            )
