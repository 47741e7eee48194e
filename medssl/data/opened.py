"""A recipe's dataset, opened; and where its cache lies."""

from __future__ import annotations

from pathlib import Path

from medssl.data.datasets.case import Dataset
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.known_files import KnownFiles
from medssl.errors import MedSSLError
from medssl.files import default_cache_root
from medssl.progress import Display
from medssl.settings.recipe import DataSettings
from medssl.settings.spec import DataSpec


def cache_root(data: DataSettings) -> Path:
    """Return the folder of the preprocessing cache."""
    return Path(data.cache).expanduser() if data.cache else default_cache_root()


def known_files(data: DataSettings, *, verify: bool = False) -> KnownFiles:
    """Return what is known of image files; with ``verify``, every one is hashed whole again."""
    return KnownFiles.below(cache_root(data), verify=verify)


def open_dataset(data: DataSettings, spec: DataSpec, display: Display | None = None) -> Dataset:
    """Read a recipe's dataset, making the phantom if that is what it asks for.

    Args:
        data: where the dataset is.
        spec: must be of its spatial unit.
        display: shows progress, and tells what of the dataset was read around.

    Raises:
        MedSSLError: ``data.root`` is not found, or holds no dataset that fits the data spec or
            ``data.regions``.
    """
    root = Path(data.root).expanduser()
    if data.root != "phantom" and not root.exists():
        looked = "" if root.is_absolute() else ", neither beside the recipe nor in this one"
        raise MedSSLError(
            f"there is no such folder{looked}",
            where=root,
            fix="say where the dataset is: --set data.root=FOLDER, or data.root in the recipe "
            "(that of a run is its recipe.yaml)",
        )
    if data.root == "phantom":
        from medssl.data.phantoms.dataset import ensure_phantom, phantom_options  # loads SciPy

        options = dict(data.phantom)
        sizes = phantom_options(options)
        total = sizes.labeled + sizes.validation + sizes.unlabeled + sizes.test
        with (display or Display(quiet=True)).counting("making the phantom", total) as done:
            root = ensure_phantom(cache_root(data), options, done)
    dataset = read_dataset(
        root,
        extra_unlabeled=data.unlabeled,
        patients=data.patients,
        allow_outside=data.allow_outside,
        regions=data.regions,
    )
    if display is not None:
        for line in dataset.deviations:
            if "stands for" not in line:  # a misspelt key that was understood is no news
                display.say(f"note: {line}")
        if dataset.guess is not None:
            display.say(f"warning: {dataset.guess.sentence}; {dataset.guess.fix}")
    if dataset.spatial_unit != spec.spatial_unit:
        raise MedSSLError(
            f"the dataset is in {dataset.spatial_unit} but the data spec "
            f"{spec.name!r} in {spec.spatial_unit}",
            where=dataset.root / "dataset.json",
            fix="choose a data spec of the same unit, or correct `spatial_unit` in dataset.json",
        )
    return dataset
