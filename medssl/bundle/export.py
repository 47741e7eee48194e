"""Write a run as a MONAI bundle: all of it or nothing."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.data import save_net_with_metadata
from torch import nn

from medssl.bundle.card import model_card
from medssl.bundle.config_parts import CARRIED
from medssl.bundle.configs import evaluate_config, inference_config
from medssl.bundle.contents import Contents, bare_model, contents_of
from medssl.bundle.described import read_description
from medssl.bundle.metadata import make_metadata
from medssl.bundle.model_tree import needed_modules, rebuild
from medssl.bundle.onnx_file import ONNX, needed_for_onnx, write_onnx
from medssl.bundle.scripts import copy_modules
from medssl.bundle.train_config import train_config
from medssl.data.datasets.decathlon_header import read_json
from medssl.errors import MedSSLError
from medssl.files import all_or_nothing, new_file, write_json, write_text
from medssl.inference.settings import PredictSettings
from medssl.models.loaded_run import LoadedRun, load_ensemble
from medssl.paths import AnyPath, as_paths
from medssl.runs.checkpoint import load_tensors, load_weights
from medssl.settings.model_names import DESCRIPTION, find_model, is_installed_model

logger = logging.getLogger(__name__)

NO_LICENCE = (
    "No licence has been chosen for this model yet. Before you pass it on, choose one that the "
    "licence of the training data allows, and put its text here.\n"
)


NOT_GIVEN = "not given"


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        path: the bundle.
        torchscript: whether ``models/model.ts`` could be made.
        scripts: the modules in the bundle's ``scripts``, a network's among them if it is not
            MONAI's.
        notes: what of the run does not travel, one line each.
    """

    path: Path
    torchscript: bool
    scripts: tuple[str, ...]
    notes: tuple[str, ...] = ()


def export(
    run: AnyPath,
    bundle: AnyPath,
    *,
    checkpoint: str = "auto",
    ensemble: AnyPath | Sequence[AnyPath] = (),
    members: int | None = None,
    fold: int | None = None,
    licence: AnyPath | None = None,
    authors: str = NOT_GIVEN,
    torchscript: bool = True,
    onnx: bool = False,
) -> ExportResult:
    """Export a run, or several averaged as one, as a MONAI bundle that predicts what it predicts.

    Preprocessing, windows, mirror images, members and post-processing travel; what cannot is
    refused by name. No path, no case or patient id and no text of the dataset but the names of its
    labels leaves with it.

    Args:
        run: a run folder, or that of a cross-validation, whose folds predict together; or the name
            of an installed model.
        bundle: folder to write; must not exist, or be empty.
        checkpoint: ``last``, ``best``, or ``auto`` (best where there is one).
        ensemble: more runs (other seeds or folds), whose probabilities are averaged with it.
        members, fold: of a cross-validation, its first so many folds, or one of them alone, counted
            from 0.
        licence: a text file that becomes the bundle's ``LICENSE``.
        authors: for ``metadata.json``.
        torchscript: also try to write ``models/model.ts``.
        onnx: also write ``models/model.onnx``, see :func:`medssl.bundle.onnx_file.write_onnx`.

    Raises:
        MedSSLError: no such run, the folder is in use, or MONAI cannot express the preprocessing.

    Example:
        >>> written = medssl.export("runs/mine", "bundle", authors="Jane Doe")
        >>> written.path.name
        'bundle'
    """
    if onnx:
        needed_for_onnx()
    text = NO_LICENCE if licence is None else read_licence(Path(licence))
    source, notes = find_model(run), tuple[str, ...]()
    if is_installed_model(source):
        refuse_choices(source, checkpoint, ensemble, members, fold)
        found, contents = read_description(read_json(source / DESCRIPTION)[0].get("description"))
        model = rebuild(contents.model)
        file = source / "models" / "model.pt"
        load_weights(model, load_tensors(file), file)
        authors = found.authors if authors == NOT_GIVEN else authors
        if licence is None:
            text = read_licence(source / "LICENSE")
    else:
        loaded = load_choice(source, checkpoint, ensemble, members, fold)
        contents, notes = contents_and_notes(loaded)
        model = bare_model(loaded)
    with all_or_nothing(Path(bundle), "the bundle") as folder:
        written = write_bundle(
            folder, contents, model, licence=text, authors=authors, torchscript=torchscript
        )
        if onnx:
            write_onnx(model, contents, folder / ONNX)
    return replace(written, path=Path(bundle), notes=notes)


def load_choice(
    run: Path,
    checkpoint: str,
    ensemble: AnyPath | Sequence[AnyPath],
    members: int | None,
    fold: int | None,
) -> LoadedRun:
    """Load a run, or several as one, on the CPU; see :func:`export`."""
    settings = PredictSettings(
        checkpoint=checkpoint,
        ensemble=tuple(as_paths(ensemble)),
        members=members,
        fold=fold,
        device="cpu",
    )
    return load_ensemble(run, settings)


def refuse_choices(
    source: Path,
    checkpoint: str,
    ensemble: AnyPath | Sequence[AnyPath],
    members: int | None,
    fold: int | None,
) -> None:
    """Refuse to choose among what a model does not have: it is one checkpoint.

    Raises:
        MedSSLError: something is chosen.
    """
    if checkpoint != "auto" or as_paths(ensemble) or (members, fold) != (None, None):
        raise MedSSLError(
            "an installed model is one checkpoint, with all its members",
            where=source,
            fix="leave out --checkpoint, --ensemble, --members and --fold",
        )


def contents_and_notes(run: LoadedRun) -> tuple[Contents, tuple[str, ...]]:
    """Return what of a run, or of several averaged as one, goes into its bundle; and what not.

    Raises:
        MedSSLError: as :func:`medssl.bundle.contents.contents_of`.
    """
    contents, other = contents_of(run, _summary(run))
    return contents, () if other is None else (f"calibration.json is left out: it is for {other}",)


def write_bundle(
    folder: Path,
    contents: Contents,
    model: nn.Module,
    *,
    licence: str = NO_LICENCE,
    authors: str = NOT_GIVEN,
    torchscript: bool = False,
    for_monai: bool = True,
) -> ExportResult:
    """Write all files of a bundle.

    Args:
        folder: an empty one.
        model: on the CPU, as ``contents`` describes it.
        licence: text of ``LICENSE``.
        for_monai: write its configurations, too; without them medssl alone predicts.

    Raises:
        MedSSLError: MONAI cannot express the preprocessing, or the disk refuses.
    """
    configs = {
        "metadata": make_metadata(
            contents, authors=authors, copyright_notice=f"Copyright of {authors}"
        )
    }
    if for_monai:
        configs |= {
            "inference": inference_config(contents),
            "evaluate": evaluate_config(contents),
            "train": train_config(contents),
        }
    for name, config in configs.items():
        write_json(folder / "configs" / f"{name}.json", config)
    scripts: list[Path] = []
    if for_monai:
        scripts = copy_modules([*CARRIED, *needed_modules(contents.model)], folder / "scripts")
    _write_texts(folder, contents, licence)
    model = model.cpu().eval()
    weights = {key: value.detach().clone() for key, value in model.state_dict().items()}
    with new_file(folder / "models" / "model.pt") as file:
        torch.save(weights, file)
    traced = torchscript and _write_torchscript(
        model, contents, configs, folder / "models" / "model.ts"
    )
    return ExportResult(folder, traced, tuple(p.name for p in scripts))


def _write_texts(folder: Path, contents: Contents, licence: str) -> None:
    first_line = licence.strip().splitlines()[0] if licence.strip() else "not given"
    known = first_line if licence != NO_LICENCE else NO_LICENCE.strip()
    write_text(folder / "docs" / "README.md", model_card(contents, licence=f"{known}\n"))
    write_text(folder / "LICENSE", licence)


def _write_torchscript(
    model: nn.Module, contents: Contents, configs: dict[str, dict[str, Any]], path: Path
) -> bool:
    """Trace the network; PyTorch has announced the end of TorchScript, so this may fail.

    The configurations are in the file, as MONAI's own export has it.
    """
    metadata = configs["metadata"]
    files = {f"{n}.json": json.dumps(c).encode() for n, c in configs.items() if c is not metadata}
    example = torch.zeros(1, contents.channels, *contents.patch)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(model, example, check_trace=False)
            save_net_with_metadata(traced, str(path), meta_values=metadata, more_extra_files=files)
    except Exception as error:  # best effort, and TorchScript raises anything at all
        logger.debug("no model.ts: %s", error)
        path.unlink(missing_ok=True)
        return False
    return True


def _summary(run: LoadedRun) -> dict[str, Any] | None:
    """Return the figures of the test cases, else of the validation cases, else None."""
    if len(run.weights) > 1:
        return None  # those in the folder are the first member's
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


def read_licence(path: Path) -> str:
    """Read the text of a licence.

    Raises:
        MedSSLError: it is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MedSSLError(
            f"the licence cannot be read: {error}", where=path, fix="name a text file"
        ) from None
