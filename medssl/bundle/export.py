"""Write a run as a MONAI bundle: all of it or nothing."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medssl.bundle.card import model_card
from medssl.bundle.configs import evaluate_config, inference_config, train_config
from medssl.bundle.contents import Contents, contents_of
from medssl.bundle.metadata import make_metadata
from medssl.bundle.model_tree import needed_modules
from medssl.bundle.scripts import copy_modules
from medssl.errors import MedSSLError
from medssl.files import all_or_nothing, new_file, write_json, write_text
from medssl.models.loaded_run import LoadedRun, load_run
from medssl.paths import AnyPath

logger = logging.getLogger(__name__)

NO_LICENCE = (
    "No licence has been chosen for this model yet. Before you pass it on, choose one that the "
    "licence of the training data allows, and put its text here.\n"
)


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the bundle.
        torchscript: whether ``models/model.ts`` could be made.
        scripts: whether the bundle brings code of its own, because the network is not MONAI's.
    """

    path: Path
    torchscript: bool
    scripts: bool


def export(
    run: AnyPath,
    bundle: AnyPath,
    *,
    checkpoint: str = "auto",
    licence: AnyPath | None = None,
    authors: str = "not given",
    torchscript: bool = True,
) -> ExportResult:
    """Export a run as a MONAI bundle.

    No path, no case or patient id and no text of the dataset but the names of its labels leaves
    with it.

    Args:
        run: a run folder.
        bundle: folder to write; must not exist, or be empty.
        checkpoint: ``last``, ``best``, or ``auto`` (best where there is one).
        licence: a text file that becomes the bundle's ``LICENSE``.
        authors: for ``metadata.json``.
        torchscript: also try to write ``models/model.ts``.

    Raises:
        MedSSLError: no such run, the folder is in use, or MONAI cannot express the preprocessing.

    Example:
        >>> written = medssl.export("runs/mine", "bundle", authors="Jane Doe")
        >>> written.path.name
        'bundle'
    """
    loaded = load_run(run, checkpoint=checkpoint, device="cpu", tta=False)
    text = NO_LICENCE if licence is None else _read_text(Path(licence))
    contents = contents_of(loaded, _summary(loaded))
    with all_or_nothing(Path(bundle), "the bundle") as folder:
        traced = _write(folder, loaded, contents, text, authors, torchscript=torchscript)
    return ExportResult(Path(bundle), traced, bool(needed_modules(contents.model)))


def _write(
    folder: Path,
    run: LoadedRun,
    contents: Contents,
    licence: str,
    authors: str,
    *,
    torchscript: bool,
) -> bool:
    metadata = make_metadata(contents, authors=authors, copyright_notice=f"Copyright of {authors}")
    for name, config in {
        "metadata": metadata,
        "inference": inference_config(contents),
        "evaluate": evaluate_config(contents),
        "train": train_config(contents),
    }.items():
        write_json(folder / "configs" / f"{name}.json", config)
    model = run.predictor.model.cpu().eval()
    models = folder / "models"
    weights = {key: value.detach().clone() for key, value in model.state_dict().items()}
    with new_file(models / "model.pt") as file:
        torch.save(weights, file)
    traced = torchscript and _write_torchscript(model, contents, models / "model.ts")
    first_line = licence.strip().splitlines()[0] if licence.strip() else "not given"
    known = first_line if licence != NO_LICENCE else NO_LICENCE.strip()
    write_text(folder / "docs" / "README.md", model_card(contents, licence=f"{known}\n"))
    write_text(folder / "LICENSE", licence)
    modules = needed_modules(contents.model)
    if modules:
        copy_modules(modules, folder / "scripts")
    return traced


def _write_torchscript(model: nn.Module, contents: Contents, path: Path) -> bool:
    """Trace the network; PyTorch has announced the end of TorchScript, so this may fail."""
    example = torch.zeros(1, contents.channels, *contents.patch)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(model, example, check_trace=False)
            torch.jit.save(traced, str(path))
    except Exception as error:  # best effort, and TorchScript raises anything at all
        logger.debug("no model.ts: %s", error)
        path.unlink(missing_ok=True)
        return False
    return True


def _summary(run: LoadedRun) -> dict[str, Any] | None:
    """Return the figures of the test cases, else of the validation cases, else None."""
    for split in ("test", "validation"):
        path = run.folder.evaluation(split) / "summary.json"
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                continue
            # A summary of another checkpoint does not describe these weights.
            if found.get("checkpoint", run.checkpoint) == run.checkpoint:
                return found
    return None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MedSSLError(
            f"the licence cannot be read: {error}", where=path, fix="name a text file"
        ) from None
