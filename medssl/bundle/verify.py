"""Check a bundle as its receiver would: its structure, and a run of MONAI's own command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medssl.bundle.load import load_bundle
from medssl.bundle.metadata import problems_of
from medssl.bundle.onnx_file import ONNX, OnnxNetwork
from medssl.data.images.names import NIFTI, image_suffix
from medssl.data.images.volume import read_volume
from medssl.errors import MedSSLError
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.models.loaded_run import load_ensemble
from medssl.optional import is_installed
from medssl.paths import AnyPath, as_paths
from medssl.settings.model_names import find_model, is_bundle, is_installed_model

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
        differing: voxels with another label, per example image.
        foreground: voxels that either of the two calls foreground, per example image.
    """

    problems: list[str]
    agreement: list[float]
    differing: list[int]
    foreground: list[int]
    onnx_differing: list[int] = field(default_factory=list)
    """Voxels with another label than onnxruntime gives, per example image; empty without ONNX."""


def verify_bundle(
    bundle: AnyPath,
    images: AnyPath | Sequence[AnyPath] = (),
    *,
    run: AnyPath | None = None,
    checkpoint: str = "auto",
    ensemble: AnyPath | Sequence[AnyPath] = (),
    members: int | None = None,
    fold: int | None = None,
) -> Verification:
    """Check a bundle's files, run it with MONAI offline, and compare with ``medssl predict RUN``.

    Args:
        bundle: as written by :func:`medssl.bundle.export.export`, or an installed model's name.
        images: NIfTI files to segment both ways, one or several; without any, only the structure
            is checked.
        run: the run or cross-validation the bundle was made of, to compare with what it predicts;
            an installed model is compared with itself in medssl, since its run is not here.
        checkpoint, ensemble, members, fold: as given to :func:`medssl.bundle.export.export`.

    Raises:
        MedSSLError: there are images but no run, or MONAI's command cannot run or fails; says with
            which words.

    Example:
        >>> written = medssl.export("runs/mine", "bundle")
        >>> medssl.verify_bundle("bundle").problems
        []
    """
    bundle, examples = find_model(bundle).resolve(), as_paths(images)
    problems = check_structure(bundle)
    if problems or not examples:
        return Verification(problems, [], [], [])
    if run is None and not is_installed_model(bundle):
        raise MedSSLError(
            "a bundle is compared with the run it was made of, and none is named",
            where=bundle,
            fix="name it: medssl export BUNDLE --verify --against RUN --example IMAGE",
        )
    missing = [name for name in NEEDED if not is_installed(name)]
    if missing:
        raise MedSSLError(
            f"MONAI needs {' and '.join(missing)} to run a bundle, not installed here",
            fix='pip install "medssl[bundle]"',
        )
    settings = PredictSettings(
        checkpoint=checkpoint,
        ensemble=tuple(as_paths(ensemble)),
        members=members,
        fold=fold,
        device="cpu",
        precision="fp32",
    )
    predictor = _predictor(bundle if run is None else find_model(run), settings)
    found = Verification([], [], [], [])
    runtime = _with_onnx(bundle, settings)
    with tempfile.TemporaryDirectory() as work:
        data, output = Path(work) / "data", Path(work) / "out"
        data.mkdir()
        names = [_link(image, data, number) for number, image in enumerate(examples)]
        _run_monai(bundle, data, output)
        for name in names:
            theirs = read_volume(output / f"{name}.nii.gz").values().squeeze()
            image = next(data.glob(f"{name}.nii*"))
            ours = predictor.predict_file(image).values.squeeze()
            if runtime is not None:
                others = runtime.predict_file(image).values.squeeze()
                found.onnx_differing.append(int(np.count_nonzero(others != ours)))
            same = theirs.shape == ours.shape
            differing = int(np.count_nonzero(theirs != ours)) if same else ours.size
            found.agreement.append(1 - differing / ours.size)
            found.differing.append(differing)
            found.foreground.append(int(np.count_nonzero((theirs > 0) | (ours > 0))) if same else 0)
    return found


def _predictor(source: Path, settings: PredictSettings) -> Predictor:
    if is_bundle(source):
        return load_bundle(source, settings)
    loaded = load_ensemble(source, settings)
    loaded.use_calibration()  # folds are averaged with their temperatures
    return loaded.predictor


def _with_onnx(bundle: Path, settings: PredictSettings) -> Predictor | None:
    """Return the bundle's predictor with onnxruntime for PyTorch; None if it has no ONNX file."""
    file = bundle / ONNX
    if not file.is_file():
        return None
    alone = replace(settings, checkpoint="auto", ensemble=(), members=None, fold=None)
    return load_bundle(bundle, alone, network=OnnxNetwork(file))


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
