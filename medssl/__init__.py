"""medssl: semi-supervised segmentation of 3D medical images on MONAI.

The functions behind the commands can be imported from here: ``from medssl import train, predict``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from medssl._version import __version__

if TYPE_CHECKING:
    from medssl.bundle.export import export
    from medssl.bundle.verify import verify_bundle
    from medssl.comparison.compare import compare
    from medssl.data.importers.dataset import import_dataset
    from medssl.errors import MedSSLError
    from medssl.models.loaded_run import load_run
    from medssl.planning.planner import plan
    from medssl.recipe.load import load_recipe
    from medssl.reports.page import report
    from medssl.sweeps.sweep import sweep
    from medssl.workflows.calibrate import calibrate
    from medssl.workflows.check import check
    from medssl.workflows.evaluate import evaluate, evaluate_run
    from medssl.workflows.predict import predict
    from medssl.workflows.preprocess import preprocess
    from medssl.workflows.replay import replay
    from medssl.workflows.train import train
    from medssl.workflows.triage import triage

__all__ = [
    "MedSSLError",
    "__version__",
    "calibrate",
    "check",
    "compare",
    "evaluate",
    "evaluate_run",
    "export",
    "import_dataset",
    "load_recipe",
    "load_run",
    "plan",
    "predict",
    "preprocess",
    "replay",
    "report",
    "sweep",
    "train",
    "triage",
    "verify_bundle",
]

_MODULES = {
    "MedSSLError": "errors",
    "calibrate": "workflows.calibrate",
    "check": "workflows.check",
    "compare": "comparison.compare",
    "evaluate": "workflows.evaluate",
    "evaluate_run": "workflows.evaluate",
    "export": "bundle.export",
    "import_dataset": "data.importers.dataset",
    "load_recipe": "recipe.load",
    "load_run": "models.loaded_run",
    "plan": "planning.planner",
    "predict": "workflows.predict",
    "preprocess": "workflows.preprocess",
    "replay": "workflows.replay",
    "report": "reports.page",
    "sweep": "sweeps.sweep",
    "train": "workflows.train",
    "triage": "workflows.triage",
    "verify_bundle": "bundle.verify",
}
"""Where each name of the API is defined; imported when first asked for."""


def __getattr__(name: str) -> Any:
    """Import a part of the API when it is first asked for, so that ``medssl --help`` is quick."""
    if name not in _MODULES:
        raise AttributeError(f"module 'medssl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"medssl.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
