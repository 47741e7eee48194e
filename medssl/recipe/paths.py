"""Turn the paths in a recipe into absolute ones, so that its run works from any folder.

What a recipe file says is looked up beside that file, then in the working folder; what was typed on
the command line the other way round, as in any shell. Trained models have names, too, once they are
installed: files and folders come first. What is found nowhere stays as it was written, for the
message that says so.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from medssl.data.datasets.patient_table import is_table
from medssl.errors import MedSSLError
from medssl.methods.registry import get_settings
from medssl.settings.model_names import find_model
from medssl.settings.recipe import (
    DataSettings,
    MethodSection,
    NetworkSettings,
    Selection,
    SplitFile,
)
from medssl.settings.yaml_file import Lines

PHANTOM = "phantom"


def refuse_no_data(data: DataSettings, *, path: Path, lines: Lines) -> None:
    """Refuse a recipe that does not say which data it is for.

    Raises:
        MedSSLError: ``data.root`` is missing; says what to write.
    """
    if data.root.strip():
        return
    raise MedSSLError(
        "the recipe does not say which data to use: data.root is missing",
        where=lines.get(("data",), str(path)),
        fix="write `data: {root: FOLDER}` with a Decathlon folder, or `root: phantom` for the "
        "built-in phantom; or add --set data.root=FOLDER",
    )


def locate(data: DataSettings, lines: Lines, path: Path) -> DataSettings:
    """Return the section with absolute paths.

    Args:
        data: the section as validated.
        lines: where each key stands; one that stands nowhere was typed on the command line.
        path: the recipe.
    """

    def bases(key: str) -> list[Path]:
        return _bases(("data", key), lines, path)

    root = data.root if data.root == PHANTOM else _found(data.root, bases("root"))
    own = [] if root == PHANTOM else [Path(root)]
    changes: dict[str, object] = {"root": root}
    if data.patients is not None and is_table(data.patients):
        changes["patients"] = _found(data.patients, [*bases("patients"), *own])
    if data.unlabeled:
        # The dataset's own folder comes first, and what lies there moves with it.
        given = [t if _lies_in(t, own) else _found(t, bases("unlabeled")) for t in data.unlabeled]
        changes["unlabeled"] = given
    changes["ancestors"] = [_found(text, bases("ancestors")) for text in data.ancestors]
    for key in ("labeled", "validation", "test"):
        changes[key] = _selection(getattr(data, key), own, bases(key))
    if data.cache:
        changes["cache"] = _absolute(Path.cwd() / Path(data.cache).expanduser())
    return data.model_copy(update=changes)


def locate_init(network: NetworkSettings, lines: Lines, path: Path) -> NetworkSettings:
    """Return the section with the place of the weights to start from as an absolute path."""
    if network.given is None:
        return network
    bases = _bases(("network", "init"), lines, path)
    return network.model_copy(update={"init": _model(network.given, bases)})


def locate_teacher(section: MethodSection, lines: Lines, path: Path) -> MethodSection:
    """Return a method's section with the place of its trained teacher as an absolute path."""
    teacher = section.settings.get("teacher")
    if not teacher or not get_settings(section.name).taught:
        return section
    bases = _bases(("method", "teacher"), lines, path)
    return section.model_copy(update={"teacher": _model(str(teacher), bases)})


def _bases(key: tuple[str, str], lines: Lines, path: Path) -> list[Path]:
    """Return where to look up what a key names; see the head of this module."""
    stands = lines.get(key)
    file = Path(stands.rpartition(":")[0]) if stands else path
    found = [file.absolute().parent, Path.cwd()]
    return found if stands else found[::-1]


def _selection(selection: Selection, own: Sequence[Path], bases: Sequence[Path]) -> Selection:
    if not isinstance(selection, SplitFile) or _lies_in(selection.file, own):
        return selection
    return selection.model_copy(update={"file": _found(selection.file, bases)})


def _lies_in(text: str, folders: Sequence[Path]) -> bool:
    return any(_matches(folder, os.path.expanduser(text)) for folder in folders)


def _matches(folder: Path, text: str) -> bool:
    """Tell whether a path or glob finds something below a folder."""
    try:
        if (folder / text).exists():
            return True
        return glob.has_magic(text) and any(
            True for _ in glob.iglob(text, root_dir=folder, recursive=True)
        )
    except (OSError, ValueError):  # no name that a file could have
        return False


def _found(text: str, bases: Sequence[Path]) -> str:
    """Return the first place where there is such a path or glob; the text itself if nowhere."""
    expanded = os.path.expanduser(text)
    if os.path.isabs(expanded):
        return expanded
    return next((_absolute(base / expanded) for base in bases if _matches(base, expanded)), text)


def _model(text: str, bases: Sequence[Path]) -> str:
    """Return where a trained model lies: a path, or the name of an installed one."""
    found = _found(text, bases)
    model = find_model(found)
    return found if model == Path(found) else os.fspath(model)


def _absolute(path: Path) -> str:
    # A link stays as its owner wrote it, unless `..` would leave it by the wrong door.
    return str(path.resolve() if ".." in path.parts else path.absolute())
