"""medssl: semi-supervised segmentation of 3D medical images on MONAI.

Every command is a function here: ``medssl.train("quickstart")``. A function's module is imported
when the function is first asked for, so that ``import medssl`` takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from medssl._version import __version__

if TYPE_CHECKING:
    from medssl.bundle.export import export
    from medssl.bundle.verify import verify_bundle
    from medssl.comparison.compare import compare
    from medssl.cross_validation.crossval import crossval
    from medssl.cross_validation.forget import forget
    from medssl.data.importers.dataset import import_dataset, list_formats
    from medssl.data.phantoms.dataset import write_phantom as phantom
    from medssl.errors import MedSSLError
    from medssl.machine.clean import clean
    from medssl.machine.demo import demo
    from medssl.machine.doctor import doctor
    from medssl.methods.registry import list_methods
    from medssl.models.loaded_run import load_run
    from medssl.networks.registry import list_networks
    from medssl.nnunet.export import export_nnunet
    from medssl.planning.planner import plan
    from medssl.plugins import load_plugin
    from medssl.pseudo_labels.selftrain import selftrain
    from medssl.recipe.find import list_recipes
    from medssl.recipe.load import load_recipe
    from medssl.reports.page import report
    from medssl.rounds.accept import accept
    from medssl.rounds.next_labels import next_labels
    from medssl.settings.specs import list_specs
    from medssl.sharing.deploy import deploy
    from medssl.sharing.install import install
    from medssl.sharing.installed import list_models
    from medssl.sharing.pack import pack
    from medssl.sweeps.sweep import sweep
    from medssl.workflows.atlas import atlas
    from medssl.workflows.calibrate import calibrate
    from medssl.workflows.check import check
    from medssl.workflows.evaluate import evaluate_run
    from medssl.workflows.evaluate_folders import evaluate
    from medssl.workflows.predict import predict
    from medssl.workflows.preprocess import preprocess
    from medssl.workflows.replay import replay
    from medssl.workflows.train import train
    from medssl.workflows.triage import triage

__all__ = [
    "MedSSLError",
    "__version__",
    "accept",
    "atlas",
    "calibrate",
    "check",
    "clean",
    "compare",
    "crossval",
    "demo",
    "deploy",
    "doctor",
    "evaluate",
    "evaluate_run",
    "export",
    "export_nnunet",
    "forget",
    "import_dataset",
    "install",
    "list_formats",
    "list_methods",
    "list_models",
    "list_networks",
    "list_recipes",
    "list_specs",
    "load_plugin",
    "load_recipe",
    "load_run",
    "next_labels",
    "pack",
    "phantom",
    "plan",
    "predict",
    "preprocess",
    "replay",
    "report",
    "selftrain",
    "sweep",
    "train",
    "triage",
    "verify_bundle",
]

_PLACES = {
    "MedSSLError": "errors:MedSSLError",
    "accept": "rounds.accept:accept",
    "atlas": "workflows.atlas:atlas",
    "calibrate": "workflows.calibrate:calibrate",
    "check": "workflows.check:check",
    "clean": "machine.clean:clean",
    "compare": "comparison.compare:compare",
    "crossval": "cross_validation.crossval:crossval",
    "demo": "machine.demo:demo",
    "deploy": "sharing.deploy:deploy",
    "doctor": "machine.doctor:doctor",
    "forget": "cross_validation.forget:forget",
    "evaluate": "workflows.evaluate_folders:evaluate",
    "evaluate_run": "workflows.evaluate:evaluate_run",
    "export_nnunet": "nnunet.export:export_nnunet",
    "export": "bundle.export:export",
    "import_dataset": "data.importers.dataset:import_dataset",
    "install": "sharing.install:install",
    "list_formats": "data.importers.dataset:list_formats",
    "list_methods": "methods.registry:list_methods",
    "list_models": "sharing.installed:list_models",
    "list_networks": "networks.registry:list_networks",
    "list_recipes": "recipe.find:list_recipes",
    "list_specs": "settings.specs:list_specs",
    "load_plugin": "plugins:load_plugin",
    "load_recipe": "recipe.load:load_recipe",
    "load_run": "models.loaded_run:load_run",
    "next_labels": "rounds.next_labels:next_labels",
    "pack": "sharing.pack:pack",
    "phantom": "data.phantoms.dataset:write_phantom",
    "plan": "planning.planner:plan",
    "predict": "workflows.predict:predict",
    "preprocess": "workflows.preprocess:preprocess",
    "replay": "workflows.replay:replay",
    "report": "reports.page:report",
    "selftrain": "pseudo_labels.selftrain:selftrain",
    "sweep": "sweeps.sweep:sweep",
    "train": "workflows.train:train",
    "triage": "workflows.triage:triage",
    "verify_bundle": "bundle.verify:verify_bundle",
}
"""Where each name of the API is defined."""


def __getattr__(name: str) -> Any:
    """Import a part of the API when it is first asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'medssl' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(importlib.import_module(f"medssl.{module}"), attribute)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
