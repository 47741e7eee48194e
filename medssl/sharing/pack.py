"""Write a model as one file, with nothing in it that names a path, a case or a patient."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl.bundle.contents import bare_model
from medssl.bundle.described import describe_contents
from medssl.bundle.export import (
    NO_LICENCE,
    NOT_GIVEN,
    contents_and_notes,
    load_choice,
    read_licence,
)
from medssl.errors import MedSSLError
from medssl.paths import AnyPath
from medssl.sharing.archive import DESCRIPTION, LICENCE, WEIGHTS, write_archive
from medssl.sharing.safetensors import pack_tensors


@dataclass(frozen=True)
class Packed:
    """What was written.

    Attributes:
        path: the file.
        sha256: of the file: tell it the receiver another way than the file goes.
        name: by which it is installed, unless the receiver says otherwise.
        plugins: the receiver needs, as well as this file.
        notes: what of the run does not travel, one line each.
    """

    path: Path
    sha256: str
    name: str
    plugins: tuple[str, ...]
    notes: tuple[str, ...]


def pack(
    run: AnyPath,
    package: AnyPath,
    *,
    name: str | None = None,
    checkpoint: str = "auto",
    ensemble: AnyPath | Sequence[AnyPath] = (),
    members: int | None = None,
    fold: int | None = None,
    licence: AnyPath | None = None,
    authors: str = NOT_GIVEN,
) -> Packed:
    """Pack a run, or several averaged as one, into one file for `install` elsewhere.

    It holds weights, a description of network, preprocessing and labels in JSON, the figures of the
    evaluation, and the licence. No code, path, case or patient id, split, picture, prediction,
    atlas or plugin is in it.

    Args:
        run: a run folder, or that of a cross-validation, whose folds predict together.
        package: file to write; must not exist.
        name: of the model; default: that of the recipe.
        checkpoint, ensemble, members, fold: as for `export`.
        licence: a text file that goes along as ``LICENSE``.
        authors: whoever made it.

    Raises:
        MedSSLError: no such run, the file exists, or the run works inside regions of interest.

    Example:
        >>> packed = medssl.pack("runs/mine", "shared.zip", authors="Jane Doe")
        >>> len(packed.sha256)
        64
    """
    target = Path(package)
    if target.exists():
        raise MedSSLError("the file exists", where=target, fix="remove it, or choose another name")
    text = NO_LICENCE if licence is None else read_licence(Path(licence))
    loaded = load_choice(Path(run), checkpoint, ensemble, members, fold)
    contents, notes = contents_and_notes(loaded)
    content = describe_contents(contents, authors=authors, name=name or contents.name)
    entries = {
        DESCRIPTION: json.dumps(content, indent=1, allow_nan=False).encode() + b"\n",
        WEIGHTS: pack_tensors(bare_model(loaded).state_dict()),
        LICENCE: text.encode(),
    }
    plugins = tuple(str(one["name"]) for one in content["plugins"])
    return Packed(target, write_archive(target, entries), content["name"], plugins, notes)
