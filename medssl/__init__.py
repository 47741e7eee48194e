"""medssl: semi-supervised segmentation of 3D medical images on MONAI.

The functions behind the commands can be imported from here: ``from medssl import train, predict``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

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

if TYPE_CHECKING:
    from medssl.api import (
        MedSSLError,
        calibrate,
        check,
        compare,
        evaluate,
        evaluate_run,
        export,
        import_dataset,
        load_recipe,
        load_run,
        plan,
        predict,
        preprocess,
        replay,
        report,
        sweep,
        train,
        triage,
        verify_bundle,
    )


def __getattr__(name: str) -> Any:
    """Import the API when it is first asked for, so that ``medssl --help`` stays quick."""
    if name not in __all__:
        raise AttributeError(f"module 'medssl' has no attribute {name!r}")
    from medssl import api

    return getattr(api, name)
