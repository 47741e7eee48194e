"""Whether a run may go on with a recipe: it must continue the same training."""

from __future__ import annotations

from medssl.errors import MedSSLError
from medssl.recipe.load import LoadedRecipe, load_recipe
from medssl.recipe.method import continued
from medssl.runs.folder import RunFolder


def check_same_experiment(loaded: LoadedRecipe, run: RunFolder) -> None:
    """Refuse to resume with a recipe that would not continue the same training.

    Args:
        loaded: the recipe to resume with.
        run: whose own recipe says what was started.

    Raises:
        MedSSLError: method, network, seed, data spec, patch or region of interest differ, or the
            budget is smaller.
    """
    before = load_recipe(run.recipe).recipe
    now = loaded.recipe
    for key, old, new in (
        ("method", continued(before), continued(now)),
        ("network", before.network.model_dump(), now.network.model_dump()),
        ("seed", before.seed, now.seed),
        ("spec", before.spec.model_dump(), now.spec.model_dump()),
        ("training.patch", before.training.patch, now.training.patch),
        ("data.roi", before.data.model_dump()["roi"], now.data.model_dump()["roi"]),
    ):
        if old != new:
            if isinstance(old, dict) and isinstance(new, dict):
                changed = next(k for k in {**old, **new} if old.get(k) != new.get(k))
                key, old, new = f"{key}.{changed}", old.get(changed), new.get(changed)
            raise MedSSLError(
                f"the run was started with {key} = {old!r}, not {new!r}",
                where=run.recipe,
                fix=f"resume with {key}={old!r}, or train into another --output",
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
        splits: hash of the split there is now, see :func:`medssl.data.datasets.split.split_hash`.

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
