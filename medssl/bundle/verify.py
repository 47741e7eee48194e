"""Check a bundle as its receiver would: its structure, and a run of MONAI's own command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl.bundle.load import load_bundle
from medssl.bundle.metadata import problems_of
from medssl.data.images.names import NIFTI, image_suffix
from medssl.data.images.volume import read_volume
from medssl.errors import MedSSLError
from medssl.inference.settings import PredictSettings
from medssl.optional import is_installed
from medssl.paths import AnyPath, as_paths

FILES = (
    "configs/metadata.json",
    "configs/inference.json",
    "configs/evaluate.json",
    "configs/train.json",
    "models/model.pt",
    "docs/README.md",
    "LICENSE",
)
NEEDED = ("ignite", "fire")


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        problems: what is wrong with files and metadata; empty if nothing is.
        agreement: share of voxels with the label of ``medssl predict``, per example image.
        foreground: voxels that either of the two calls foreground, per example image.
    """

    problems: list[str]
    agreement: list[float]
    foreground: list[int]


def verify_bundle(bundle: AnyPath, images: AnyPath | Sequence[AnyPath] = ()) -> Verification:
    """Check a bundle's files, run it with MONAI offline, and compare with ``medssl predict``.

    Args:
        bundle: as written by :func:`medssl.bundle.export.export`.
        images: NIfTI files to segment both ways, one or several; without any, only the structure
            is checked.

    Raises:
        MedSSLError: MONAI's command cannot run or fails; says with which words.

    Example:
        >>> written = medssl.export("runs/mine", "bundle")
        >>> medssl.verify_bundle("bundle").problems
        []
    """
    bundle, examples = Path(bundle).resolve(), as_paths(images)
    problems = check_structure(bundle)
    if problems or not examples:
        return Verification(problems, [], [])
    missing = [name for name in NEEDED if not is_installed(name)]
    if missing:
        raise MedSSLError(
            f"MONAI needs {' and '.join(missing)} to run a bundle, not installed here",
            fix='pip install "medssl[bundle]"',
        )
    agreement, foreground = [], []
    with tempfile.TemporaryDirectory() as work:
        data, output = Path(work) / "data", Path(work) / "out"
        data.mkdir()
        names = [_link(image, data, number) for number, image in enumerate(examples)]
        _run_monai(bundle, data, output)
        predictor = load_bundle(bundle, PredictSettings(device="cpu"))
        for name in names:
            theirs = read_volume(output / f"{name}.nii.gz").values().squeeze()
            ours = predictor.predict_file(next(data.glob(f"{name}.nii*"))).values
            agreement.append(float((theirs == ours).mean()) if theirs.shape == ours.shape else 0.0)
            foreground.append(
                int(np.count_nonzero((theirs > 0) | (ours > 0)))
                if theirs.shape == ours.shape
                else 0
            )
    return Verification([], agreement, foreground)


def check_structure(bundle: Path) -> list[str]:
    """Return what of a bundle is missing or breaks the rules of MONAI's metadata schema."""
    problems = [f"{name} is missing" for name in FILES if not (bundle / name).is_file()]
    for name in ("inference", "evaluate", "train"):
        path = bundle / "configs" / f"{name}.json"
        if path.is_file() and not isinstance(_read(path), dict):
            problems.append(f"configs/{name}.json is not a JSON mapping")
    path = bundle / "configs" / "metadata.json"
    if path.is_file():
        problems += [f"configs/metadata.json: {p}" for p in problems_of(_read(path))]
    return problems


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _link(image: Path, folder: Path, number: int) -> str:
    suffix = image_suffix(image)
    if suffix not in NIFTI:
        raise MedSSLError(
            "an example must be a NIfTI image", where=image, fix="name a .nii or .nii.gz file"
        )
    name = f"example{number}"
    (folder / f"{name}{suffix}").symlink_to(image.resolve())
    return name


def _run_monai(bundle: Path, data: Path, output: Path) -> None:
    path = os.pathsep.join(p for p in (str(bundle), os.environ.get("PYTHONPATH", "")) if p)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "monai.bundle", "run"),
            *("--config_file", str(bundle / "configs" / "inference.json")),
            *("--bundle_root", str(bundle)),
            *("--dataset_dir", str(data)),
            *("--output_dir", str(output)),
            *("--device", "$torch.device('cpu')"),
        ],
        capture_output=True,
        text=True,
        cwd=data.parent,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        # MONAI wraps the cause in errors about its own configuration: the first one says more.
        named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        raise MedSSLError(
            f"monai.bundle run failed: {(named or lines or ['no message'])[0][:200]}",
            where=bundle,
            fix="run the command of docs/README.md yourself to see all it says",
        )
