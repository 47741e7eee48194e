"""Take a packed model: everything in it is checked before anything is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medssl.bundle.contents import Contents
from medssl.bundle.described import NAME, Description, read_description, refuse_texts
from medssl.bundle.export import write_bundle
from medssl.bundle.model_tree import rebuild
from medssl.errors import MedSSLError, located
from medssl.files import all_or_nothing, write_json
from medssl.paths import AnyPath
from medssl.plugins import check_plugins
from medssl.runs.checkpoint import load_weights
from medssl.settings.model_names import DESCRIPTION as INSTALLED
from medssl.settings.model_names import models_folder
from medssl.sharing.archive import DESCRIPTION, LICENCE, WEIGHTS, Refused, read_archive
from medssl.sharing.json_text import parse_json
from medssl.sharing.safetensors import unpack_tensors

RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}
"""Names that are devices to Windows."""


@dataclass(frozen=True)
class InstallResult:
    """What was installed.

    Attributes:
        name: by which commands know it.
        path: its folder, a MONAI bundle.
        sha256: of the package.
        notes: what does not work with it, one line each.
    """

    name: str
    path: Path
    sha256: str
    notes: tuple[str, ...] = ()


def install(
    package: AnyPath, *, name: str | None = None, sha256: str | None = None
) -> InstallResult:
    """Install a packed model, so that its name predicts, exports and is verified like a run.

    The package is not believed: sizes, names, texts and numbers are checked, its network is built
    from registered names, its weights must be those of that network, and the MONAI bundle is
    written anew by this medssl. Nothing in the package is executed or copied.

    Args:
        package: as `pack` wrote it.
        name: to install it by; default: its own.
        sha256: of the file, as its sender told you: what is inside a file cannot show who made it.

    Raises:
        MedSSLError: the package is refused, needs a plugin that is not here, or a model of that
            name is installed.

    Example:
        >>> medssl.install("mine.zip", name="heart").name
        'heart'
    """
    path = Path(package)
    entries, digest = read_archive(path, sha256)
    with located(path):
        content = parse_json(entries[DESCRIPTION], "its description")
        check_plugins(_plugins(content), where=path)  # before what they provide is looked up
        with _refusing():
            found, contents = read_description(content)
            model = _model(found, entries[WEIGHTS], path)
            licence = _licence(entries.get(LICENCE, b""))
    target = _free_place(name or found.name)
    record = {"package_sha256": digest, "description": content}
    options: dict[str, Any] = {"licence": licence, "authors": found.authors}
    try:
        _write(target, record, contents, model, options)
    except MedSSLError as error:
        if isinstance(error.__cause__, OSError):
            raise
        # MONAI has no such transform, or the network is a plugin's: medssl needs neither.
        _write(target, record, contents, model, {**options, "for_monai": False})
        note = f"MONAI's own tools cannot run it, `medssl predict` does: {error.what}"
        return InstallResult(target.name, target, digest, (note,))
    return InstallResult(target.name, target, digest)


def _plugins(content: dict[str, Any]) -> list[Any]:
    """Return what a description says of plugins."""
    with _refusing():
        refuse_texts(content)
    plugins = content.get("plugins")
    return plugins if isinstance(plugins, list) else []


@contextmanager
def _refusing() -> Iterator[None]:
    """Say of what is wrong inside a package that the package is refused for it."""
    try:
        yield
    except Refused:
        raise
    except MedSSLError as error:
        refused = Refused(error.what)
        refused.fix = error.fix or refused.fix
        raise refused from None


def _free_place(name: str) -> Path:
    """Return the folder for a model, which is not there yet.

    Raises:
        MedSSLError: it is no name, or taken.
    """
    if re.fullmatch(NAME, name) is None or name.lower() in RESERVED:
        raise MedSSLError(
            f"{name[:80]!r} is no name for a model",
            where="--name",
            fix="give letters, digits, - and _ with --name",
        )
    folder = models_folder()
    taken = [p for p in folder.glob("*") if p.name.lower() == name.lower()]
    if taken:
        raise MedSSLError(
            f"a model {taken[0].name!r} is installed already, and is not replaced",
            where=taken[0],
            fix="install this one by another --name, or remove that one: "
            f"medssl models --remove {taken[0].name}",
        )
    return folder / name


def _model(found: Description, weights: bytes, path: Path) -> nn.Module:
    """Build the network, its shapes first: they must be those of the weights that are there."""
    with torch.device("meta"):
        shapes = rebuild(found.network).state_dict()
    tensors = unpack_tensors(weights, shapes)
    model = rebuild(found.network)
    load_weights(model, tensors, path)
    return model


def _licence(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if not "".join(text.split()).isprintable():
        raise Refused("its licence is no text")
    return text


def _write(
    target: Path,
    record: dict[str, Any],
    contents: Contents,
    model: nn.Module,
    options: dict[str, Any],
) -> None:
    """Write the bundle, and beside it what it was made from; all or nothing."""
    with all_or_nothing(target, "the model") as folder:
        write_bundle(folder, contents, model, **options)
        write_json(folder / INSTALLED, record)
