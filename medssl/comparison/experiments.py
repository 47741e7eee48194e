"""Finished runs of a comparison: what was measured, and which experiment it was.

Runs that differ only by their seed are repeats of one experiment. What else may differ without
making another experiment is listed here (paths, logging, loader processes). Which cases were
labeled is read from the run's splits, however the recipe asked for them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from medssl.errors import MedSSLError
from medssl.evaluation.summary import read_cases_csv
from medssl.paths import command
from medssl.recipe.load import LoadedRecipe, load_recipe
from medssl.runs.changes import CHANGES, flatten
from medssl.runs.folder import open_run
from medssl.runs.given_weights import STARTED_FROM
from medssl.settings.recipe import Recipe, RoiSettings

VOXEL_METRICS = ("hd95_medpy_vox", "asd_medpy_vox")

_NOT_THE_EXPERIMENT = {
    "spec": ("name", "modality", "refuse", "warn", "nsd_tolerance", "metrics"),
    "training": ("precision", "workers", "log_every", "loggers", "checkpoint_every"),
    "inference": ("window_batch",),
}
_VALIDATION_KEYS = ("training.validate_every", "training.early_stop")
_STRONG_KEY = "training.augment.strong_probability"
UNLABELED_KEYS = ("data.unlabeled", "training.unlabeled_batch", _STRONG_KEY)
"""What only methods with unlabeled data read."""


@dataclass(frozen=True)
class EvaluatedRun:
    """A run and its results on one split.

    Attributes:
        rows: ``(case, structure name)`` -> row of ``cases.csv``.
        definition: flat ``section.key`` -> value of all that defines the experiment but the seed.
    """

    path: Path
    recipe: Recipe
    manifest: Mapping[str, Any]
    summary: Mapping[str, Any]
    rows: Mapping[tuple[str, str], Mapping[str, Any]]
    definition: Mapping[str, Any] = field(repr=False)

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.recipe.seed

    @property
    def cases(self) -> list[str]:
        """The measured cases."""
        return list(dict.fromkeys(case for case, _ in self.rows))

    @property
    def structures(self) -> dict[str, int | str]:
        """Label value of each structure by name; of a region its values, such as ``1+2+3``."""
        return {name: row["label"] for (_, name), row in self.rows.items()}

    @property
    def unit(self) -> str:
        """Spatial unit of the distances."""
        columns = next(iter(self.rows.values()))
        return next(k[5:] for k in columns if k.startswith("hd95_") and k not in VOXEL_METRICS)

    @property
    def metrics(self) -> list[str]:
        """The compared columns of ``cases.csv``."""
        columns = next(iter(self.rows.values()))
        wanted = ("dice", f"hd95_{self.unit}", f"assd_{self.unit}", "nsd", *VOXEL_METRICS)
        return [m for m in wanted if m in columns]


@dataclass(frozen=True)
class Experiment:
    """The runs of one experiment under a name."""

    name: str
    runs: tuple[EvaluatedRun, ...]

    @property
    def definition(self) -> Mapping[str, Any]:
        """What the runs have in common."""
        return self.runs[0].definition

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.runs[0].recipe.method.name

    def values(self, metric: str, cases: Sequence[str], structures: Sequence[str]) -> np.ndarray:
        """Return ``(runs, cases, structures)`` values of a metric, NaN where there is none."""
        return np.array(
            [[[run.rows[c, s][metric] for s in structures] for c in cases] for run in self.runs],
            dtype=np.float64,
        )


def read_run(path: Path, split: str) -> EvaluatedRun:
    """Read a run and its evaluation on a split.

    Raises:
        MedSSLError: not a run, or not evaluated on that split.
    """
    run = open_run(path)
    folder = run.evaluation(split)
    if not (folder / "cases.csv").is_file():
        others = sorted(p.parent.name for p in run.path.glob("evaluation/*/cases.csv"))
        fix = f"run `{command('evaluate', path, '--split', split)}`, which measures it"
        if split not in ("test", "validation"):
            fix = f"name an evaluation that there is: {', '.join(others) or 'none yet'}"
        status = run.read_manifest().get("status", "unknown")
        raise MedSSLError(
            f"the run has no evaluation of {split} cases (its status: {status})",
            where=folder / "cases.csv",
            fix=fix,
        )
    table = read_cases_csv(folder / "cases.csv")
    rows = {(str(row["case"]), str(row["name"])): row for row in table}
    structures = {name for _, name in rows}
    if (
        not rows
        or len(rows) != len(table)
        or len(rows) != len({c for c, _ in rows}) * len(structures)
    ):
        raise MedSSLError(
            f"the table does not hold each of {len(structures)} structures once in every case",
            where=folder / "cases.csv",
            fix=f"run `{command('evaluate', path, '--split', split)}` again to write it",
        )
    loaded, manifest = load_recipe(run.recipe), run.read_manifest()
    summary = _read_json(folder / "summary.json")
    definition = define_experiment(loaded, summary, _read_json(run.splits))
    if loaded.recipe.network.given is not None:
        definition["network.init"] = started_from(manifest)
    return EvaluatedRun(
        path=path,
        recipe=loaded.recipe,
        manifest=manifest,
        summary=summary,
        rows=rows,
        definition=_with_changes(definition, manifest.get(CHANGES, ())),
    )


def _with_changes(
    definition: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what defines an experiment that was changed while it was trained."""
    histories: dict[str, list[Mapping[str, Any]]] = {}
    edited = []
    for entry in changes:
        what = entry["what"]
        if what == "training.iterations":
            continue  # an extended run is one of so many iterations, and warned of
        key = "training.stages" if what.startswith("training.stages.") else what
        if key in definition and not key.startswith("data."):  # cases are the same, or refused
            histories.setdefault(key, []).append(entry)
        elif " " in what:
            edited.append(f"{what} from iteration {entry['step']}")
    out = dict(definition)
    for key, entries in histories.items():
        later = [f"{entry['to']} from iteration {entry['step']}" for entry in entries]
        out[key] = ", then ".join([str(entries[0]["from"]), *later])
    if edited:
        out["data.files"] = f"edited: {', '.join(edited)}"
    return out


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def define_experiment(
    loaded: LoadedRecipe, summary: Mapping[str, Any], splits: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what defines an experiment, flat; two runs with equal mappings are repeats."""
    recipe, method = loaded.recipe, loaded.settings
    sections = recipe.model_dump(mode="json")
    pieces = sections["spec"]["pieces"]  # one setting, not one for each label
    text = ", ".join(f"{value}: {count}" for value, count in pieces.items())
    sections["spec"]["pieces"] = text or "none"
    flat: dict[str, Any] = {"method": recipe.method.name}
    flat |= flatten(loaded.settings.model_dump(mode="json"), "method")
    for section in ("spec", "network", "training", "inference"):
        dropped = (*_NOT_THE_EXPERIMENT.get(section, ()), "stages")
        flat |= flatten({k: v for k, v in sections[section].items() if k not in dropped}, section)
    flat["training.stages"] = _stages(sections["training"]["stages"])
    ids = {k: sorted(splits.get(k) or ()) for k in ("labeled", "unlabeled", "validation")}
    data = sections["data"]
    flat["data.labeled"] = tuple(ids["labeled"]) or data["labeled"]
    flat["data.validation"] = tuple(ids["validation"]) if ids["labeled"] else data["validation"]
    # All images: which of them are unlabeled follows from data.labeled.
    flat["data.unlabeled"] = tuple(sorted(ids["labeled"] + ids["unlabeled"]))
    flat["data.roi"] = None if recipe.data.roi is None else _region(recipe.data.roi)
    flat["evaluation.checkpoint"] = summary.get("checkpoint", recipe.evaluation.checkpoint)
    idle = list(_VALIDATION_KEYS) if not flat["data.validation"] else []
    if not method.uses_unlabeled:
        idle += UNLABELED_KEYS
    elif "strong" not in method.unlabeled_views:
        idle.append(_STRONG_KEY)
    return {k: v for k, v in flat.items() if k not in idle}


def started_from(*manifests: Mapping[str, Any]) -> str | None:
    """Return what weights runs started from, as one setting: the same file may lie anywhere."""
    found = [m[STARTED_FROM]["sha256"] for m in manifests if m.get(STARTED_FROM)]
    return ", ".join(f"weights {sha256[:12]}" for sha256 in dict.fromkeys(found)) or None


def _region(roi: RoiSettings) -> str:
    """Return how regions of interest are made, as one setting; which coarse run found them is free.

    Each seed may have its own.
    """
    given = {"margin_mm": roi.margin_mm} | roi.model_dump(exclude_defaults=True, exclude={"run"})
    return ", ".join(f"{key} {value}" for key, value in given.items())


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the stages change, as one setting; from which run a result is reused is free."""
    kept = {
        name: {k: k == "reuse" or v for k, v in changes.items() if v is not None}
        for name, changes in stages.items()
    }
    return {name: changes for name, changes in kept.items() if changes}


def differences(run: EvaluatedRun, another: EvaluatedRun) -> dict[str, tuple[Any, Any]]:
    """Return the keys in which two experiments differ, with both values.

    The settings of two different methods count as one difference, ``method``, and those of two
    presets as ``method.preset`` or ``method.variant``, with what was set besides; what only a
    method with unlabeled data reads does not count where the other has none.
    """
    one, other = run.definition, another.definition
    found = {k: (one.get(k), other.get(k)) for k in {**one, **other} if one.get(k) != other.get(k)}
    besides: Collection[str] = found
    if "method" in found:
        besides = ()
    elif found.keys() & {"method.preset", "method.variant"}:
        sections = (run.recipe.method, another.recipe.method)
        besides = {f"method.{k}" for s in sections for k in ("preset", "variant", *s.overridden)}
    return {
        key: values
        for key, values in found.items()
        if ((key in one and key in other) or key not in UNLABELED_KEYS)
        and (key in besides or not key.startswith("method."))
    }


def describe_difference(key: str, values: tuple[Any, Any]) -> str:
    """Return ``key (one / other)``; of lists of cases, their number."""
    first, second = (
        f"{len(v)} cases" if isinstance(v, tuple) else shorten(str(v), 40) for v in values
    )
    if first == second and isinstance(values[0], tuple):
        second = f"{len(values[1])} other cases"
    return f"{key} ({first} / {second})"


def group_experiments(runs: Sequence[EvaluatedRun]) -> list[Experiment]:
    """Group runs that differ only by seed, in the order of their first runs, and name the groups.

    An experiment is named by its method; where that is not enough, by its number of labeled cases,
    by the settings that differ from the others of the method, and last by its first run's folder.
    """
    groups: dict[str, list[EvaluatedRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.definition, sort_keys=True, default=str), []).append(run)
    members = list(groups.values())
    names = [_name(group[0], [m[0] for m in members]) for group in members]
    for i, name in enumerate(names):
        if names.count(name) > 1:
            names[i] = f"{name} ({members[i][0].path.name})"
    return [Experiment(name, tuple(group)) for name, group in zip(names, members, strict=True)]


def _name(run: EvaluatedRun, everyone: Sequence[EvaluatedRun]) -> str:
    method = run.recipe.method.name
    twins = [r for r in everyone if r is not run and r.recipe.method.name == method]
    keys = sorted({k for r in twins for k in differences(run, r)})
    # Unlabeled cases follow from the labeled ones wherever the latter are not all there are.
    keys = [k for k in keys if k != "data.unlabeled"] or keys
    if not keys:
        return method
    values = [(k, run.definition.get(k)) for k in keys[:2]]
    parts = [
        f"{len(v)} {k.rpartition('.')[2]}" if isinstance(v, tuple) else f"{k}={v}"
        for k, v in values
    ]
    return f"{method} ({', '.join(parts)})"
