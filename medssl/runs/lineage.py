"""Whose labels and whose images a run learned from, itself and through what it started from.

A run may start from others: a coarse run finds its regions, a stage is taken from an earlier run,
labels were predicted, a teacher was trained before. Whoever's label one of these saw is no test
patient any more, however clean the last split is. So each run records the patients it used, with
those of its ancestors, in ``lineage.json``; nothing scores a patient whose label one of them saw,
and a score is marked transductive where they saw the image alone.

A patient is recognized by its name within one dataset, and by the voxels of its scans anywhere. The
file names patients as ``splits.json`` does, and belongs to the run like it: nothing of it goes into
log, manifest, report or bundle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.errors import MedSSLError
from medssl.files import write_json
from medssl.methods.registry import get_settings
from medssl.recipe.load import load_recipe
from medssl.runs.folder import RunFolder
from medssl.settings.recipe import Recipe

if TYPE_CHECKING:  # the readers of images: whoever has scans has loaded them
    from medssl.data.datasets.case import Case, Dataset
    from medssl.data.datasets.contents import Contents
    from medssl.data.datasets.split import Splits

FORMAT = 1
CROSSVAL = "crossval.json"
"""Marks the folder of a cross-validation, whose folds together saw all its labels."""
ANCESTORS, ROI, INIT = "data.ancestors", "data.roi", "network.init"
TEACHER = "method.teacher"
"""Keys of a recipe that name what a run starts from."""
PREDICTIONS = "predictions.json"
"""The record beside predictions, which names the run that made them."""
_DEEPEST = 20


@dataclass(frozen=True)
class Lineage:
    """What a run learned from, and what it started from.

    Attributes:
        dataset: name of its dataset.
        labels: patients whose labels it was trained on.
        selection: patients whose labels chose its checkpoint.
        images: hashes of the voxels of the scans it was trained on, by patient.
        ancestors: what it started from.
        how: the key of the descendant's recipe that names this one; empty for the run itself.
        source: folder or file of an ancestor.
        known: False where nobody recorded whose labels and images an ancestor saw.
    """

    dataset: str = ""
    labels: tuple[str, ...] = ()
    selection: tuple[str, ...] = ()
    images: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ancestors: tuple[Lineage, ...] = ()
    how: str = ""
    source: str = ""
    known: bool = True

    def everyone(self) -> Iterator[Lineage]:
        """Yield the run itself, then its ancestors."""
        yield self
        for ancestor in self.ancestors:
            yield from ancestor.everyone()

    @property
    def named(self) -> str:
        """What messages call it."""
        return f"{self.how}: {self.source}" if self.how else "the run itself"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            **({"how": self.how, "source": self.source} if self.how else {}),
            **({} if self.known else {"known": False}),
            "dataset": self.dataset,
            "labels": list(self.labels),
            "selection": list(self.selection),
            "images": {patient: list(found) for patient, found in self.images.items()},
            "ancestors": [a.as_dict() for a in self.ancestors],
        }


def voxel_hashes(case: Case, contents: Contents | None) -> tuple[str, ...]:
    """Return the hashes by which a case's images are recognized anywhere; none without contents."""
    return () if contents is None else contents.all_of(case)


def lineage_of(
    recipe: Recipe, dataset: Dataset, splits: Splits, contents: Contents | None
) -> Lineage:
    """Return the lineage of a run that is to be trained.

    Args:
        recipe: says what it starts from.
        dataset, splits: what it learns from.
        contents: knows the voxels of images; None leaves them out.

    Raises:
        MedSSLError: an image cannot be read, or the record of an ancestor is damaged.
    """
    trained = (*splits.labeled, *splits.unlabeled)
    segments = get_settings(recipe.method.name).segments
    chosen = (*splits.labeled, *splits.validation) if segments else ()
    images: dict[str, tuple[str, ...]] = {}
    for case in sorted(trained, key=lambda c: c.id):
        own = voxel_hashes(case, contents)
        images[case.patient] = (*images.get(case.patient, ()), *own)
    return Lineage(
        dataset=dataset.name,
        labels=_patients(splits.labeled if segments else ()),
        selection=_patients(splits.validation if segments else ()),
        images=images,
        ancestors=tuple(
            read_ancestor(how, Path(path))
            for how, path in (*sources_of(recipe), *predicted_by(c.label for c in chosen))
        ),
    )


def predicted_by(labels: Iterable[Path | None]) -> list[tuple[str, str]]:
    """Return what predicted some label maps, where a record of predictions lies beside them.

    Labels that a run predicted (pseudo-labels) carry what it learned from the labels that it saw.
    A link is one to the file it leads to. Labels that the record does not list were drawn by
    someone else; one that lists none counts for all.
    """
    files: dict[Path, set[str]] = {}
    for label in labels:
        if label is not None:
            for path in (label, label.resolve()):
                files.setdefault(path.parent, set()).add(path.name)
    found: dict[tuple[str, str], None] = {}
    for folder, names in files.items():
        for named in _models_of(_content(folder / PREDICTIONS), names):
            sources = [source for source in named.split(", ") if source]
            found |= {(PREDICTIONS, _found_from(folder, source)): None for source in sources}
    return list(found)


def _models_of(record: Mapping[str, Any], names: set[str]) -> list[str]:
    """Return what made files of a folder, as its record of predictions says."""
    models, entries = record.get("models"), record.get("predictions")
    if not isinstance(models, dict):
        return []
    keys: Iterable[str] = models
    if isinstance(entries, dict) and entries:
        listed = [e for e in entries.values() if isinstance(e, dict)]
        keys = {str(e.get("model")) for e in listed if names & {*map(str, e.get("files") or ())}}
    found = [models.get(key) for key in sorted(keys)]
    return [str(model.get("model", "")) for model in found if isinstance(model, dict)]


def _found_from(folder: Path, source: str) -> str:
    """Return where a run is that was named from the folder in which it predicted."""
    for base in (Path(), *folder.absolute().parents):
        if (base / source).exists():
            return str(base / source)
    return source


def sources_of(recipe: Recipe) -> list[tuple[str, str]]:
    """Return what a run starts from: keys of its recipe, and the folders or files they name."""
    found = [(ANCESTORS, path) for path in recipe.data.ancestors]
    if recipe.network.given is not None:
        found.append((INIT, recipe.network.given))
    if recipe.data.roi is not None:
        found.append((ROI, recipe.data.roi.run))
    if (teacher := teacher_of(recipe)) is not None:
        found.append((TEACHER, teacher))
    for name, stage in recipe.training.stages.items():
        if stage.reuse:
            found.append((f"training.stages.{name}.reuse", stage.reuse))
    return found


def teacher_of(recipe: Recipe) -> str | None:
    """Return the trained model that a method learns from, if it is such a method and one is named.

    Other methods may have a setting of that name.
    """
    if not get_settings(recipe.method.name).taught:
        return None
    return str(recipe.method.settings.get("teacher") or "") or None


def read_ancestor(how: str, path: Path, *, depth: int = 0) -> Lineage:
    """Return the lineage of a run, of the folds of a cross-validation, or of a checkpoint in a run.

    Of runs that recorded none it is put together from recipe and splits. Of anything else, nothing
    is known.

    Raises:
        MedSSLError: a record is damaged, or a declared ancestor is not there.
    """
    if how == ANCESTORS and not depth and not path.exists():
        raise MedSSLError(
            f"{how} names a run that is not there",
            where=path,
            fix="correct the path, or take it out of the recipe",
        )
    inside = path.is_file() and path.parent.name == "checkpoints"
    for folder in (path, *([path.parent.parent] if inside else [])):
        if (folder / CROSSVAL).is_file():
            folds = sorted(folder.glob("fold_*"))
            members = tuple(read_ancestor(how, fold, depth=depth + 1) for fold in folds)
            return Lineage(ancestors=members, how=how, source=str(path))
        if RunFolder(folder).recipe.is_file() and depth < _DEEPEST:
            found = read_lineage(RunFolder(folder), depth=depth)
            fields = {**found.__dict__, "how": how, "source": str(path)}
            return Lineage(**fields)
    return Lineage(how=how, source=str(path), known=False)


def read_lineage(run: RunFolder, *, depth: int = 0) -> Lineage:
    """Return the lineage of a run.

    Raises:
        MedSSLError: its record is damaged.
    """
    if run.lineage.is_file():
        return _read(run.lineage)
    # Of an earlier version: ids of cases stand for patients.
    splits, manifest = _content(run.splits), run.read_manifest()
    ids = {role: splits.get(role) or () for role in ("labeled", "unlabeled", "validation")}
    recipe = load_recipe(run.recipe).recipe
    return Lineage(
        dataset=str(manifest.get("dataset_name", "")),
        labels=tuple(ids["labeled"]),
        selection=tuple(ids["validation"]),
        images=dict.fromkeys((*ids["labeled"], *ids["unlabeled"]), ()),
        ancestors=tuple(
            read_ancestor(how, Path(path), depth=depth + 1) for how, path in sources_of(recipe)
        ),
        known=bool(ids["labeled"]),
    )


def write_lineage(lineage: Lineage, run: RunFolder) -> None:
    """Write ``lineage.json`` of a run; atomic."""
    write_json(run.lineage, {"format": FORMAT, **lineage.as_dict()})


def _patients(cases: Iterable[Case]) -> tuple[str, ...]:
    return tuple(sorted({c.patient for c in cases}))


def _content(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> Lineage:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}")
        return _from_dict(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MedSSLError(
            f"the record of whose labels the run saw is damaged: {error}",
            where=path,
            fix="restore the file, or train again; without it no score can be trusted",
        ) from None


def _from_dict(content: Mapping[str, Any]) -> Lineage:
    return Lineage(
        dataset=str(content["dataset"]),
        labels=tuple(map(str, content["labels"])),
        selection=tuple(map(str, content["selection"])),
        images={str(k): tuple(map(str, v)) for k, v in content["images"].items()},
        ancestors=tuple(_from_dict(a) for a in content["ancestors"]),
        how=str(content.get("how", "")),
        source=str(content.get("source", "")),
        known=bool(content.get("known", True)),
    )
