"""Trained weights as tensors by name, out of a run, a MONAI bundle, or a file that torch saved.

Nothing of what is read is executed (``weights_only``).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError
from medssl.models.create import create_method
from medssl.models.loaded_run import trained_on
from medssl.networks.build import blueprint_of
from medssl.recipe.load import load_recipe
from medssl.runs.checkpoint import load_checkpoint, load_tensors, load_weights
from medssl.runs.folder import RunFolder
from medssl.runs.given_weights import WeightSource
from medssl.runs.lineage import INIT

WRAPPED_IN = ("method_state", "state_dict", "model_state_dict", "network_weights", "model", "net")
"""Under which keys checkpoints keep their weights, those of medssl first."""


@dataclass(frozen=True)
class Given:
    """Weights to start from.

    Attributes:
        source: where they come from.
        sha256: of the file.
        tensors: by name.
        labels: what the classes mean, where that is known.
    """

    source: WeightSource
    sha256: str
    tensors: Mapping[str, Tensor]
    labels: LabelMap | None = None


def read_given(source: WeightSource) -> Given:
    """Read the weights that a source holds; of a run those that predict.

    Raises:
        MedSSLError: the file is missing, damaged, or holds no weights.
    """
    file = source.file
    if not file.is_file():
        what = "checkpoint of the run" if source.kind == "run" else "model of the bundle"
        raise MedSSLError(
            f"{INIT}: the {what} is not there", where=file, fix="train it first, or name another"
        )
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    if source.kind == "run":
        network, labels = _predicting(source)
        return Given(source, sha256, network.state_dict(), labels)
    return Given(source, sha256, _unwrapped(_read(file), file))


def _predicting(source: WeightSource) -> tuple[nn.Module, LabelMap]:
    """Return the network of a run that predicts, the first of several, and its labels."""
    run = RunFolder(source.path)
    loaded = load_recipe(run.recipe)
    labels, channels = trained_on(run)
    method = create_method(
        loaded.recipe, loaded.settings, num_classes=labels.num_classes, channels=channels
    )
    state = load_checkpoint(source.file, method=loaded.recipe.method.name)
    load_weights(method, state["method_state"], source.file)
    predictor = method.predictor()
    network = next((m for m in predictor.modules() if blueprint_of(m) is not None), predictor)
    # Outputs of a pretext are no classes, however many there are.
    return network, labels if loaded.settings.segments else LabelMap((0,), ("background",))


def _read(file: Path) -> Any:
    """Read a file that torch saved, in its format of today or of before 2020.

    Raises:
        MedSSLError: it is damaged, or holds more than tensors and plain values.
    """
    if zipfile.is_zipfile(file):
        return load_tensors(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything at all for a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise MedSSLError(
            f"{INIT}: the weights cannot be read: {reason}",
            where=file,
            fix="save them where they come from with torch.save(network.state_dict(), FILE)",
        ) from None


def _unwrapped(content: Any, file: Path) -> Mapping[str, Tensor]:
    """Return the tensors of what was saved, which may lie within a checkpoint.

    Raises:
        MedSSLError: there are none.
    """
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
        content = next((content[key] for key in WRAPPED_IN if key in content), None)
    raise MedSSLError(
        f"{INIT}: the file holds no weights by name",
        where=file,
        fix="save them where they come from with torch.save(network.state_dict(), FILE)",
    )
