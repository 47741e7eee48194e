"""What the manifest of a run says: what was trained, how it ended, how much memory it took."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import psutil
import torch

from medssl.data.datasets.split import ROLES
from medssl.data.datasets.split_file import split_hash
from medssl.errors import Stopped
from medssl.methods.base import Method
from medssl.recipe.load import LoadedRecipe, plugins_of
from medssl.runs.folder import (
    STATUS_FAILED,
    STATUS_RUNNING,
    STATUS_STOPPED,
    RunFolder,
)
from medssl.runs.log import log_to_file
from medssl.settings.recipe import OVERRIDDEN
from medssl.training.cases import CasePlan

logger = logging.getLogger(__name__)

SESSION = ("started", "command", "medssl", "git", "device_name", "threads", "precision")
"""What of the surroundings may differ between the sessions of a run."""


def description(loaded: LoadedRecipe, plan: CasePlan, method: Method) -> dict[str, Any]:
    """Return what the manifest says about what is trained."""
    dataset, splits = plan.dataset, plan.splits
    section = loaded.recipe.method
    return {
        "status": STATUS_RUNNING,
        "protocol": loaded.recipe.protocol,
        "method": section.name,
        "method_settings": {**section.settings, OVERRIDDEN: list(section.overridden)},
        "seed": loaded.recipe.seed,
        "dataset": str(dataset.root),
        "dataset_name": dataset.name,
        "splits_sha256": split_hash(splits),
        "left_out": [asdict(found) for found in splits.left_out],
        "cases": {k: len(getattr(splits, k)) for k in ROLES},
        "labels": dataset.labels.as_dict(),
        "channels": len(dataset.modality),
        "plugins": plugins_of(loaded.recipe),
        "parameters": sum(p.numel() for p in method.predictor().parameters()),
    }


def file_hashes(plan: CasePlan) -> dict[str, list[dict[str, Any]]]:
    """Return the SHA-256 of the files of each case by role, in the order of ``splits.json``.

    Raises:
        MedSSLError: a file cannot be read.
    """
    files = plan.files
    return {
        role: [
            {
                "images": [files.digest(path) for path in case.images],
                "label": None if case.label is None else files.whole(case.label),
            }
            for case in getattr(plan.splits, role)
        ]
        for role in ROLES
    }


def sessions(manifest: Mapping[str, Any], surroundings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return where, when and by which command a run was trained, up to the session that begins.

    Args:
        manifest: as the sessions before have left it; empty if there was none.
        surroundings: of this one, see :func:`medssl.runs.folder.environment`.
    """
    known = list(manifest.get("sessions", ()))
    if not known and manifest:  # a run of 0.1.0
        known = [_session(manifest, 0)]
    return [*known, _session(surroundings, manifest.get("iterations_done", 0))]


def _session(surroundings: Mapping[str, Any], step: int) -> dict[str, Any]:
    return {"step": step, **{k: surroundings[k] for k in SESSION if k in surroundings}}


@contextmanager
def recorded(run: RunFolder, device: torch.device) -> Iterator[None]:
    """Keep log.txt, from the first line said on, and write into the manifest how the run ended."""
    if not run.writes:
        yield
        return
    handler = log_to_file(run.log, run.redactor)
    try:
        yield
    except Stopped as stopped:
        logger.info("%s", stopped)
        run.write_manifest(status=STATUS_STOPPED, peak_memory_bytes=peak_memory(device))
        raise
    except BaseException as error:
        logger.info("error: %s", error or type(error).__name__)
        run.write_manifest(status=STATUS_FAILED, error=str(error)[:500])
        raise
    finally:
        logging.getLogger("medssl").removeHandler(handler)
        handler.close()


def peak_memory(device: torch.device) -> dict[str, int]:
    """Return the process's peak resident memory and, on CUDA, the peak of the card, in bytes."""
    memory = psutil.Process().memory_info()
    peak = {"host_now": memory.rss}
    if sys.platform == "win32":
        peak["host"] = memory.peak_wset
    else:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak["host"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device)
    return peak
