"""Whether a run may go on with a recipe: it must continue the same training."""

from __future__ import annotations

import json
import shlex
from typing import Any

from medssl.data.datasets.case import Dataset, LabelMap
from medssl.errors import MedSSLError
from medssl.recipe.load import LoadedRecipe, load_recipe
from medssl.recipe.method import continued
from medssl.runs.changes import changed_settings, flatten
from medssl.runs.folder import STATUS_FINISHED, RunFolder
from medssl.settings.recipe import Recipe


def check_same_experiment(loaded: LoadedRecipe, run: RunFolder) -> None:
    """Refuse to resume with a recipe that would not continue the same training.

    Args:
        loaded: the recipe to resume with.
        run: whose own recipe says what was started.

    Raises:
        MedSSLError: method, network, seed, data spec, patch, optimizer (but for its learning rate),
            region of interest or patients differ, or the budget is smaller.
    """
    before = load_recipe(run.recipe).recipe
    now = loaded.recipe
    old, new = (flatten(_fixed(recipe, loaded)) for recipe in (before, now))
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            raise MedSSLError(
                f"the run was started with {key} = {old.get(key)!r}, not {new.get(key)!r}",
                where=run.recipe,
                fix=f"resume with --set {_assignment(key, old.get(key))}, or train into another "
                "--output",
            )
    if now.training.iterations < before.training.iterations:
        raise MedSSLError(
            f"the run was started for {before.training.iterations} iterations, not "
            f"{now.training.iterations}; a run can be extended but not shortened",
            where=run.recipe,
            fix=f"resume with training.iterations={before.training.iterations} or more, or train "
            "into another --output",
        )


def check_same_cases(run: RunFolder, splits: str) -> None:
    """Refuse to go on with a run whose cases are no longer the same.

    Args:
        run: whose manifest says which cases it was started with.
        splits: hash of the split there is now, see
            :func:`medssl.data.datasets.split_file.split_hash`.

    Raises:
        MedSSLError: another split.
    """
    recorded = run.read_manifest().get("splits_sha256")
    if recorded and recorded != splits:
        raise MedSSLError(
            "the cases of the run have changed since it was started (another split)",
            where=run.splits,
            fix="restore the dataset and data.labeled, or train into another --output",
        )


def check_same_labels(run: RunFolder, dataset: Dataset) -> None:
    """Refuse a dataset whose structures are no longer those that a run learned.

    Another name for a value would give one structure the numbers of another.

    Args:
        run: whose manifest says what its label values mean.
        dataset: as it is now.

    Raises:
        MedSSLError: a value has another name, or there are others.
    """
    recorded = run.read_manifest().get("labels")
    if not recorded:  # it was killed before that
        return
    before = dict(zip(recorded["values"], recorded["names"], strict=True))
    now = dict(zip(dataset.labels.values, dataset.labels.names, strict=True))
    for value in {**before, **now}:
        if before.get(value) != now.get(value):
            raise MedSSLError(
                f"the value {value} is called {now.get(value)!r}, but the run learned it as "
                f"{before.get(value)!r}",
                where=dataset.root / "dataset.json",
                fix="restore 'labels' there, or train into another --output",
            )
    if recorded.get("ignore_value") != dataset.labels.ignore_value:
        raise MedSSLError(
            f"the value without annotation is {dataset.labels.ignore_value}, but the run was "
            f"started with {recorded.get('ignore_value')}",
            where=dataset.root / "dataset.json",
            fix="restore 'labels' there, or train into another --output",
        )


def check_same_regions(run: RunFolder, dataset: Dataset) -> None:
    """Refuse to go on where the structures of a dataset are other unions of labels than before.

    They decide which weights are the best, and a loss of regions. A finished run may be measured by
    others.

    Raises:
        MedSSLError: they are.
    """
    recorded = run.read_manifest().get("labels")
    if recorded and LabelMap.from_dict(recorded).regions != dataset.labels.regions:
        raise MedSSLError(
            "the regions are not those that the run was started with",
            where=dataset.root / "dataset.json",
            fix="restore them there or in data.regions, or train into another --output",
        )


def _assignment(key: str, value: Any) -> str:
    return shlex.quote(f"{key}={json.dumps(value)}")


def _fixed(recipe: Recipe, loaded: LoadedRecipe) -> dict[str, Any]:
    """Return what must stay the same: weights and the optimizer's state are made for it."""
    training, data = recipe.training, recipe.data.model_dump()
    stages = [stage.name for stage in loaded.settings.stages(training.iterations)]
    return {
        "method": continued(recipe),
        "network": recipe.network.model_dump(),
        "seed": recipe.seed,
        "spec": recipe.spec.model_dump(),
        "training": {
            "patch": training.patch,
            "optimizer": training.optimizer.model_dump(exclude={"lr"}),
            "stages": {
                name: {"optimizer": training.optimizer_of(name).model_dump(exclude={"lr"})}
                for name in stages
            },
        },
        "data": {"roi": data["roi"], "patients": data["patients"]},
    }


def is_finished(run: RunFolder, loaded: LoadedRecipe) -> bool:
    """Tell whether a run has nothing left to train, so that its record stays as it is.

    Args:
        run: which is asked to go on.
        loaded: the recipe it is to go on with.

    Raises:
        MedSSLError: it has nothing left to train, but something is to be changed.
    """
    if run.read_manifest().get("status") != STATUS_FINISHED:
        return False
    before, now = load_recipe(run.recipe).recipe, loaded.recipe
    if now.training.iterations != before.training.iterations:
        return False  # it is extended, or that is refused
    for key, (old, new) in changed_settings(before, now).items():
        more = f"training.iterations=N, N above {before.training.iterations}"
        raise MedSSLError(
            f"the run is finished: it was trained with {key} = {old!r}, and {new!r} would change "
            "nothing but its record",
            where=run.recipe,
            fix=f"correct {key} in this file, if the data have moved"
            if key.startswith("data.")
            else f"leave it out; or let the run go on with --set {more}; or train into another "
            "--output",
        )
    return True
