"""The coarse run behind a run's regions of interest: checked, kept with the run, recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.datasets.case import CachedCase, Case, Dataset
from medssl.data.datasets.split import Splits
from medssl.data.preprocessing.region import Region, median_share
from medssl.errors import MedSSLError
from medssl.files import all_or_nothing, write_json
from medssl.inference.search_box import RegionFinder
from medssl.progress import Display
from medssl.runs.checkpoint import load_checkpoint, save_checkpoint
from medssl.runs.folder import RunFolder
from medssl.settings.recipe import Recipe, RoiSettings

MUCH_LEFT_OUT = 0.005
"""Share of a labeled structure outside of its region from which a warning is worth a line."""


def coarse_folder(settings: RoiSettings, run: RunFolder | None) -> Path:
    """Return the coarse run: the copy kept in a run's folder, or else the recipe's.

    Raises:
        MedSSLError: there is neither.
    """
    if run is not None and RunFolder(run.roi).recipe.is_file():
        return run.roi
    path = Path(settings.run)
    if not RunFolder(path).recipe.is_file():
        raise MedSSLError(
            f"data.roi.run is no run folder: {settings.run}",
            fix="train a coarse run first and name its folder, or remove data.roi",
        )
    return path


def keep_regions(run: RunFolder, settings: RoiSettings, regions: Mapping[str, Region]) -> None:
    """Keep the coarse run and the boxes with a run, so that it can predict by itself.

    Raises:
        MedSSLError: the folder cannot be written.
    """
    if not run.roi.exists():
        _copy_coarse(RunFolder(coarse_folder(settings, None)), run.roi)
    record_regions(regions, run.path / "roi.json")
    found = sum(r.found for r in regions.values())
    share = round(median_share(regions.values()), 4)
    roi = {**settings.model_dump(mode="json"), "scans": len(regions), "found": found}
    run.write_manifest(roi={**roi, "median_share": share})


def _copy_coarse(coarse: RunFolder, target: Path) -> None:
    """Copy what predicting with a coarse run takes: its recipe, manifest, splits and weights.

    The copy is there whole or not at all.
    """
    with all_or_nothing(target, "the copy of the coarse run") as building:
        for file in (coarse.recipe, coarse.manifest, coarse.splits, coarse.lineage):
            if file.is_file():
                shutil.copyfile(file, building / file.name)
        if coarse.roi.is_dir():  # a coarse run that has a coarser one
            shutil.copytree(coarse.roi, building / coarse.roi.name)
        state = load_checkpoint(coarse.best() if coarse.best().is_file() else coarse.last)
        kept = {k: state[k] for k in ("method", "network", "seed", "step", "method_state")}
        save_checkpoint(kept, RunFolder(building).last)


def open_finder(
    recipe: Recipe,
    run: RunFolder | None,
    load: Callable[[Path], Any],
    *,
    cache: Path | None = None,
) -> RegionFinder | None:
    """Open what finds the regions of interest of a recipe; None if it asks for none.

    Args:
        run: a run of the recipe, which holds a copy of the coarse run; None before there is one.
        load: loads a run folder, see :func:`medssl.models.loaded_run.load_run`.
        cache: folder in which boxes are kept for other runs, None to keep none.

    Raises:
        MedSSLError: there is no coarse run, or it does not fit.
    """
    settings = recipe.data.roi
    if settings is None:
        return None
    coarse = load(coarse_folder(settings, run))
    return RegionFinder(
        coarse.predictor,
        settings,
        folder=coarse.folder.path,
        patch=recipe.training.patch,
        slice_axis=recipe.spec.slice_axis,
        cache=cache,
    )


def check_coarse(finder: RegionFinder, dataset: Dataset, splits: Splits, display: Display) -> None:
    """Make sure that a coarse run suits a dataset and knows no label that it must not know.

    Raises:
        MedSSLError: it takes other channels, or learned from labels of test patients.
    """
    for warning in _labels_seen(RunFolder(finder.folder), dataset, splits):
        display.say(f"warning: {warning}")
    if finder.coarse.in_channels != len(dataset.modality):
        raise MedSSLError(
            f"the coarse run takes {finder.coarse.in_channels} image channel(s), the dataset has "
            f"{len(dataset.modality)}",
            where=finder.folder,
            fix="train the coarse run on images of the same channels",
        )


def _labels_seen(coarse: RunFolder, dataset: Dataset, splits: Splits) -> list[str]:
    """Refuse labels of test patients; return warnings of others. Other datasets do not matter."""
    manifest = coarse.read_manifest()
    if Path(manifest.get("dataset", "")).resolve() != dataset.root.resolve():
        return []
    try:
        content = json.loads(coarse.splits.read_text(encoding="utf-8"))
        ids = {*content["labeled"], *content["validation"]}
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{coarse.splits} cannot be read: which labels the coarse run saw is unknown"]
    everyone = (*dataset.training, *dataset.unlabeled, *dataset.test)
    patients = {c.patient for c in everyone if c.id in ids}

    def known(cases: Iterable[Case]) -> list[str]:
        return sorted(c.id for c in cases if c.patient in patients)

    if test := known(splits.test):
        raise MedSSLError(
            f"the coarse run learned from labels of {len(test)} test case(s), first {test[0]!r}: "
            "the results would be too good",
            where=coarse.splits,
            fix="train the coarse run on the same split: the same data.labeled, data.test and "
            "data.split_seed",
        )
    out = []
    for role in ("unlabeled", "validation"):
        if found := known(getattr(splits, role)):
            out.append(
                f"the coarse run learned from labels of {len(found)} {role} case(s), first "
                f"{found[0]!r}: count these labels too"
            )
    return out


def describe_regions(
    regions: Mapping[str, Region], labeled: Iterable[CachedCase], names: tuple[str, ...]
) -> list[str]:
    """Say what the regions hold, and what they leave out of the labeled structures.

    Raises:
        MedSSLError: the coarse run found nothing at all.
    """
    lost = sorted(name for name, region in regions.items() if not region.found)
    if len(lost) == len(regions):
        raise MedSSLError(
            f"the coarse run finds nothing in any of {len(regions)} scans",
            where="data.roi.run",
            fix="look at its predictions; train it longer, or remove data.roi",
        )
    share = median_share(r for r in regions.values() if r.found)
    out = [
        f"regions of interest: found in {len(regions) - len(lost)} of {len(regions)} scans, where "
        f"they hold {share:.0%} of a scan (median)"
    ]
    if lost:
        out.append(f"warning: nothing found, so the whole scan is used: {_listed(lost)}")
    cut = []
    for case in labeled:
        left_out = np.array(case.outside[1:])
        if case.label is None or not left_out.any():
            continue
        inside = np.bincount(case.label.ravel(), minlength=256)[1 : len(names)]
        parts = left_out / np.maximum(left_out + inside, 1)
        worst = int(parts.argmax())
        if parts[worst] > MUCH_LEFT_OUT:
            cut.append(f"{case.id} ({parts[worst]:.1%} of {names[1 + worst]})")
    if cut:
        out.append(
            f"warning: regions leave out parts of labeled structures: {_listed(cut)}; raise "
            "data.roi.margin_mm, or let all pieces count (data.roi.pieces: all)"
        )
    return out


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return ", ".join(items[:3]) + more


def record_regions(regions: Mapping[str, Region], path: Path) -> None:
    """Write the boxes, in voxels of the files, one entry per case."""
    write_json(path, {name: region.to_dict() for name, region in sorted(regions.items())})
