"""The embedded dataset: a small, seeded, Decathlon-format folder of synthetic scans.

:func:`write_phantom` writes it for inspection, :func:`ensure_phantom` keeps one in a cache. What
there is to choose from is in :mod:`medssl.data.phantoms.kinds`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl.data.images.write import write_nifti
from medssl.data.phantoms.kinds import KINDS, PhantomKind, PhantomSettings, phantom_options
from medssl.errors import MedSSLError
from medssl.files import all_or_nothing, discard_folder, write_json
from medssl.paths import AnyPath
from medssl.progress import Done

PHANTOM_VERSION = 3
"""Raise it whenever the same options give other voxels: cached phantoms are then made anew."""


def write_phantom(
    out: AnyPath,
    *,
    kind: str = "mr",
    labels: str | None = None,
    labeled: int = 40,
    unlabeled: int = 8,
    test: int = 4,
    validation: int = 0,
    seed: int = 0,
    shape: tuple[int, int, int] | None = None,
    on_progress: Done | None = None,
) -> Path:
    """Write a phantom dataset that trains, validates and tests like a real one.

    The same options give the same bytes. Case k looks the same however many others there are.
    ``phantom.json`` beside ``dataset.json`` lists the true voxels of every structure, unlabeled
    cases included, volumes that follow from a formula, and the settings each case was drawn with.

    Args:
        out: a folder that does not exist or is empty.
        kind, labels, labeled, unlabeled, test, validation, seed, shape: see
            :class:`PhantomSettings`.
        on_progress: called with each case's id when it is written.

    Returns:
        The folder.

    Raises:
        MedSSLError: wrong options, a folder in use, or one that cannot be written. Nothing is left
            behind then.

    Example:
        >>> folder = medssl.phantom("small", labeled=2, unlabeled=1, test=0, shape=(32, 32, 16))
        >>> sorted(path.name for path in (folder / "imagesTr").glob("*1.nii.gz"))
        ['mr_001.nii.gz']
    """
    options = phantom_options(
        {
            "kind": kind,
            "labels": labels,
            "labeled": labeled,
            "unlabeled": unlabeled,
            "test": test,
            "validation": validation,
            "seed": seed,
            "shape": shape,
        }
    )
    out = Path(out).resolve()
    with all_or_nothing(out, "the phantom") as building:
        _write_dataset(building, options, on_progress)
    return out


def ensure_phantom(
    cache_root: Path, options: Mapping[str, Any], on_progress: Done | None = None
) -> Path:
    """Return the phantom with these options, written on first use.

    A folder in which a file is missing or has another size than when it was written is made anew.

    Args:
        cache_root: where phantoms are kept, one folder per set of options.
        options: any of :class:`PhantomSettings`.
        on_progress: called with each case's id, if it has to be written.

    Raises:
        MedSSLError: see :func:`write_phantom`.
    """
    resolved = asdict(phantom_options(options))
    text = json.dumps({"version": PHANTOM_VERSION, **resolved}, sort_keys=True)
    folder = Path(cache_root) / f"phantom-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if is_intact(folder):
        return folder
    try:
        if folder.is_dir():
            discard_folder(folder)
        write_phantom(folder, on_progress=on_progress, **resolved)
    except MedSSLError:
        if not is_intact(folder):  # else another process was faster
            raise
    return folder


def is_intact(folder: Path) -> bool:
    """Tell whether every file of a written phantom is there with the size it had."""
    try:
        record = json.loads((folder / "phantom.json").read_text())
        json.loads((folder / "dataset.json").read_text())
        sizes: dict[str, int] = record["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write_dataset(folder: Path, options: PhantomSettings, on_progress: Done | None) -> None:
    """Write all images, labels, dataset.json and phantom.json into an existing folder."""
    kind = KINDS[options.kind]
    shape = options.shape or kind.shape
    choice = options.labels or next(iter(kind.choices))
    places = {
        "training": (options.labeled, "imagesTr", "labelsTr"),
        "validation": (options.validation, "imagesTr", "labelsTr"),
        "unlabeled": (options.unlabeled, "imagesUn", None),
        "test": (options.test, "imagesTs", "labelsTs"),
    }
    ids: dict[str, list[str]] = {role: [] for role in places}
    cases: dict[str, Any] = {}
    sizes: dict[str, int] = {}
    for position, (role, (count, images, labels)) in enumerate(places.items()):
        for index in range(count):
            # Addressed by (seed, role, index): a case does not depend on how many others there are.
            scan = kind.draw(np.random.default_rng([options.seed, position, index]), shape)
            case = f"{options.kind}_{len(cases) + 1:03d}"
            name = f"{case}.nii.gz"
            files: dict[str, NDArray[Any]] = {f"{images}/{name}": scan.image}
            label = scan.others.get(choice, scan.label)
            if labels is not None:
                files[f"{labels}/{name}"] = label
            for path, array in files.items():
                sizes[path] = write_nifti(
                    folder / path,
                    array,
                    scan.affine,
                    kind.spatial_unit,
                    code=1 if kind.in_patient else 2,
                )
            ids[role].append(case)
            voxels = _count(label, kind.choices[choice])
            analytic = {name: v for name, v in scan.analytic.items() if name in voxels}
            cases[case] = {"role": role, "voxels": voxels, "settings": scan.settings}
            if analytic:
                cases[case][f"analytic_{kind.spatial_unit}3"] = analytic
            if on_progress is not None:
                on_progress(case)
    write_json(folder / "dataset.json", _dataset_json(options, kind, choice, ids))
    record = {"version": PHANTOM_VERSION, "options": asdict(options)}
    write_json(folder / "phantom.json", {**record, **ids, "cases": cases, "files": sizes})


def _count(label: NDArray[np.uint8], names: Mapping[int, str]) -> dict[str, int]:
    counts = np.bincount(label.ravel(), minlength=max(names) + 1)
    return {name: int(counts[value]) for value, name in names.items() if value}


def _dataset_json(
    options: PhantomSettings, kind: PhantomKind, choice: str, ids: dict[str, list[str]]
) -> dict[str, Any]:
    training = ids["training"] + ids["validation"]
    return {
        "name": f"Phantom {options.kind}",
        "description": f"Synthetic {kind.modality} volumes, seed {options.seed}",
        "reference": "medssl",
        "license": "CC0-1.0",
        "release": str(PHANTOM_VERSION),
        "tensorImageSize": "3D",
        "spatialUnit": kind.spatial_unit,
        "modality": {"0": kind.modality},
        "labels": {str(value): name for value, name in kind.choices[choice].items()},
        "numTraining": len(training),
        "numTest": len(ids["test"]),
        "training": [
            {"image": f"./imagesTr/{i}.nii.gz", "label": f"./labelsTr/{i}.nii.gz"} for i in training
        ],
        "unlabeled": [{"image": f"./imagesUn/{i}.nii.gz"} for i in ids["unlabeled"]],
        "test": [f"./imagesTs/{i}.nii.gz" for i in ids["test"]],
    }
