"""What was changed of a run that went on: each change is listed with its iteration.

``changes`` in ``manifest.json`` is a list of entries ``step`` (finished iterations of all stages
when it took effect), ``what`` (a key of the recipe, or a file of a case), ``from`` and ``to``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medssl.recipe.load import load_recipe, save_recipe
from medssl.runs.folder import RunFolder
from medssl.settings.recipe import OVERRIDDEN, Recipe

CHANGES = "changes"
FILES = "files"
"""Key of the manifest: SHA-256 of the files of each case, in the order of ``splits.json``."""

Files = Mapping[str, Sequence[Mapping[str, Any]]]
"""By role, the hashes of each case: ``images``, a list, and ``label``, which may be None."""


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, name)
        else:
            flat[name] = value
    return flat


def changed_settings(before: Recipe, now: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two recipes differ, with both values."""
    one, other = (flatten(recipe.model_dump(mode="json")) for recipe in (before, now))
    return {
        key: (one.get(key), other.get(key))
        for key in {**one, **other}
        if one.get(key) != other.get(key) and key != f"method.{OVERRIDDEN}"
    }


def changed_files(
    before: Files, now: Files, ids: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Any, Any]]:
    """Return the files in which two records differ, by name, with both hashes.

    Args:
        before, now: as ``files`` in the manifest has them.
        ids: of the cases by role, in their order.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for role, cases in now.items():
        recorded = before.get(role, ())
        if len(recorded) != len(cases):  # no such record, or one of other cases
            continue
        for name, old, new in zip(ids[role], recorded, cases, strict=True):
            for what in ("label", "images"):
                if old.get(what) != new.get(what):
                    found[f"{what} of {role} case {name}"] = (old.get(what), new.get(what))
    return found


class Continuation:
    """What goes into the record of a run that is gone on with.

    Args:
        run: its folder.
        recipe: what it is gone on with.
        files: hashes of the files there are now; None where they are not known.
        ids: of the cases by role, in their order.
    """

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        files: Files | None = None,
        ids: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.run, self.recipe, self.files, self.ids = run, recipe, files, ids or {}

    def record(self, step: int, say: Callable[[str], None]) -> None:
        """Write down what is changed from an iteration on, and say it.

        What was changed at a later iteration, to which the run is not going on after all, takes
        effect at this one.

        Args:
            step: finished iterations of all stages.
            say: tells the user a line.
        """
        manifest = self.run.read_manifest()
        before = load_recipe(self.run.recipe).recipe
        settings = changed_settings(before, self.recipe)
        files: dict[str, tuple[Any, Any]] = {}
        if self.files is not None:
            files = changed_files(manifest.get(FILES, {}), self.files, self.ids)
        entries = self._entries(manifest.get(CHANGES, []), step, {**settings, **files})
        fields: dict[str, Any] = {} if self.files is None else {FILES: self.files}
        if entries != manifest.get(CHANGES, []):
            fields[CHANGES] = entries
        self.run.write_manifest(**fields)
        if settings and self.run.writes:
            save_recipe(self.recipe, self.run.recipe, notes=notes_of(entries))
        for what, (old, new) in settings.items():
            say(f"note: from iteration {step} on, {what} is {new!r}, no longer {old!r}")
        for what in files:
            say(
                f"warning: the {what} has been edited since the run was started: from iteration "
                f"{step} on, the new one is used"
            )

    def _entries(
        self, recorded: Sequence[Mapping[str, Any]], step: int, changed: dict[str, tuple[Any, Any]]
    ) -> list[dict[str, Any]]:
        """Return the list with what is changed now; what took no effect yet is not kept twice."""
        settled = [dict(entry) for entry in recorded if entry["step"] < step]
        now = flatten(self.recipe.model_dump(mode="json"))
        pending: dict[str, tuple[Any, Any]] = {}
        for entry in recorded:
            if entry["step"] >= step:
                first, _ = pending.get(entry["what"], (entry["from"], None))
                pending[entry["what"]] = (first, now.get(entry["what"], entry["to"]))
        for what, (old, new) in changed.items():
            first, _ = pending.get(what, (old, None))
            pending[what] = (first, new)
        if step == 0:  # nothing was trained with anything else
            return []
        fresh = [
            {"step": step, "what": what, "from": old, "to": new}
            for what, (old, new) in pending.items()
            if old != new
        ]
        return [*settled, *fresh]


def notes_of(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each change."""
    return [
        f"from iteration {e['step']} on: {e['what']} = {e['to']!r} (before: {e['from']!r})"
        for e in entries
    ]
