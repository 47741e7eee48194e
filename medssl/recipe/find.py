"""Where recipes are: files of the user's own, those that ship, and those of runs."""

from __future__ import annotations

from pathlib import Path

from medssl.errors import MedSSLError, did_you_mean
from medssl.files import write_bytes
from medssl.paths import AnyPath
from medssl.settings.shipped import shipped_folder


def list_recipes() -> dict[str, Path]:
    """Return the shipped recipes by name.

    Example:
        >>> medssl.list_recipes()["quickstart"].name
        'quickstart.yaml'
    """
    return {p.stem: p for p in sorted(shipped_folder("recipes").glob("*.yaml"))}


def find_recipe(name_or_path: AnyPath) -> Path:
    """Return the file of a recipe given by path or by the name of a shipped one.

    Raises:
        MedSSLError: there is no such recipe; names the nearest.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = find_shipped(path)
    if shipped is not None:
        return shipped
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return path / "recipe.yaml"
    names = did_you_mean(
        path.stem, list_recipes(), listing="`medssl recipes` lists those that ship"
    )
    own = "`medssl plan FOLDER --output FILE` writes one for a dataset of yours"
    raise MedSSLError(
        "there is no such recipe: neither a file of that name nor one that ships",
        where=path,
        fix=f"{names}; {own}",
    )


def find_shipped(name: AnyPath) -> Path | None:
    """Return the file of a shipped recipe, None if there is none of that name.

    `recipes/NAME.yaml` typed as in the documentation works from any folder.
    """
    path = Path(name)
    return list_recipes().get(path.stem) if str(path.parent) in (".", "recipes") else None


def copy_recipe(name: str, folder: AnyPath) -> Path:
    """Copy a shipped recipe into ``folder`` and return its path.

    Raises:
        MedSSLError: no such recipe, or the file exists already.
    """
    source = find_recipe(name)
    target = Path(folder) / source.name
    if target.exists():
        raise MedSSLError("the file exists", where=target, fix="remove it, or copy elsewhere")
    write_bytes(target, source.read_bytes())
    return target
