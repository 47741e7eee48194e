"""An application folder for MONAI Deploy, around a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from medssl._version import __version__
from medssl.bundle.metadata import read_own
from medssl.data.datasets.decathlon_header import read_json
from medssl.errors import MedSSLError
from medssl.files import all_or_nothing, write_text
from medssl.inference.settings import DICOM_SEG, PredictSettings
from medssl.paths import AnyPath
from medssl.settings.model_names import find_model, is_bundle

_TEMPLATE = Path(__file__).parent / "deploy_app.txt"
_KEPT = ("configs/metadata.json", "models/model.pt", "docs/README.md", "LICENSE")
"""What medssl predicts from, and what a receiver must read."""


def deploy(
    bundle: AnyPath,
    application: AnyPath,
    *,
    format: str = "dicom-seg",  # noqa: A002
) -> Path:
    """Write an application folder that MONAI Deploy runs and packages.

    ``app.py`` segments every DICOM series of its input folder by calling medssl on the model in the
    folder; ``app.yaml`` and ``requirements.txt`` are for ``monai-deploy package``.

    Args:
        bundle: as `export` wrote it, or the name of an installed model.
        application: folder to write; must not exist, or be empty.
        format: of the results, as for `predict`; with another one than ``dicom-seg`` the input may
            also be NIfTI and other files.

    Raises:
        MedSSLError: no bundle of medssl's, no such format, or the folder is in use.

    Example:
        >>> sorted(path.name for path in medssl.deploy("mine", "app").iterdir())
        ['app.py', 'app.yaml', 'model', 'requirements.txt']
    """
    suffix = PredictSettings(format=format).suffix
    source, target = find_model(bundle), Path(application)
    if not is_bundle(source):
        raise MedSSLError(
            "this is no bundle", where=source, fix="make one first: medssl export RUN BUNDLE"
        )
    metadata, _ = read_json(source / "configs" / "metadata.json")
    try:
        _, _, labels = read_own(metadata["medssl"])
        name, version = str(metadata["name"]), str(metadata["version"])
    except Exception as error:  # anything may stand there
        raise MedSSLError(
            f"this bundle was not written by medssl ({type(error).__name__})",
            where=source,
            fix="name a bundle that `medssl export` wrote",
        ) from error
    words = {
        "@NAME@": _plain(name),
        "@VERSION@": _plain(version),
        "@STRUCTURES@": _plain(", ".join(one.name for one in labels.structures)),
        "@FORMAT@": json.dumps(format),
    }
    text = _TEMPLATE.read_text(encoding="utf-8")
    for mark, word in words.items():
        text = text.replace(mark, word)
    with all_or_nothing(target, "the application") as folder:
        write_text(folder / "app.py", text)
        write_text(folder / "app.yaml", _settings(words))
        extra = "[dicom-seg]" if suffix == DICOM_SEG else "[dicom]"
        requirements = f"monai-deploy-app-sdk>=3.0\nmedssl{extra}=={__version__}\n"
        write_text(folder / "requirements.txt", requirements)
        for file in _KEPT:
            place = folder / "model" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, place)
    return target


def _plain(text: str) -> str:
    """Return a text that may stand between quotes in Python and YAML."""
    kept = (c if c.isalnum() or c in " ,.-_()" else "_" for c in text)
    return "".join(kept)[:200]


def _settings(words: dict[str, str]) -> str:
    return f"""%YAML 1.2
# For: monai-deploy package . -c app.yaml -t {words["@NAME@"].lower()}:{words["@VERSION@"]}
---
application:
  title: "{words["@NAME@"]}"
  version: "{words["@VERSION@"]}"
  inputFormats: ["file"]
  outputFormats: ["file"]
resources:
  cpu: 2
  gpu: 0
  memory: 8Gi
"""
