"""Look at what a training needs of this computer, and say what is missing and what to do."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from medssl._version import __version__
from medssl.errors import MedSSLError
from medssl.files import check_writable, default_cache_root
from medssl.optional import is_installed
from medssl.progress import Display
from medssl.settings.model_names import models_folder

Verdict = Literal["ok", "warning", "problem"]

LITTLE_MEMORY, LITTLE_DISK = 4e9, 5e9
"""Bytes below which small trainings still run and large ones may not."""
PACKAGES = ("torch", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "pydantic")
EXTRAS = {
    "bundle": "ignite",
    "dicom": "pydicom",
    "dicom-seg": "highdicom",
    "fast": "cc3d",
    "h5": "h5py",
    "oct": "eyepy",
    "onnx": "onnxruntime",
    "slurm": "submitit",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: it is, in a word or two.
        verdict: ``ok``, ``warning`` (it works, but) or ``problem``.
        found: what was seen.
        fix: what to do; empty where nothing is to be done.
    """

    what: str
    verdict: Verdict
    found: str
    fix: str = ""


@dataclass(frozen=True)
class DoctorResult:
    """What was found, in the order in which it was looked at."""

    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether there is no problem."""
        return all(finding.verdict != "problem" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"works": self.works, "findings": [asdict(f) for f in self.findings]}


def doctor(*, self_test: bool = True, display: Display | None = None) -> DoctorResult:
    """Look at versions, device, memory and disk, then train and predict on a tiny phantom.

    Nothing is kept: the test lives in a temporary folder.

    Args:
        self_test: train and predict, too: some 20 seconds.

    Example:
        >>> medssl.doctor(self_test=False).works
        True
    """
    display = display or Display(quiet=True)
    findings = [*_versions(), *_device(), _memory(), *_disk()]
    if self_test:
        findings.append(_self_test(display))
    return DoctorResult(tuple(findings))


def _versions() -> Iterator[Finding]:
    numbers = [f"{name} {metadata.version(name)}" for name in PACKAGES]
    found = f"medssl {__version__}, Python {platform.python_version()}, {', '.join(numbers)}"
    yield Finding("versions", "ok", found)
    there = [extra for extra, module in EXTRAS.items() if is_installed(module)]
    more = [extra for extra in EXTRAS if extra not in there]
    fix = f'pip install "medssl[{",".join(more)}]", if you need them' if more else ""
    yield Finding("extras", "ok", f"installed: {', '.join(there) or 'none'}", fix)


def _device() -> Iterator[Finding]:
    import torch

    from medssl.device import resolve_device, resolve_precision
    from medssl.training.cudnn_versions import warn_of_cudnn

    device = resolve_device()
    precision = resolve_precision("auto", device)
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    if device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        found = f"{name}, {free / 1e9:.0f} of {whole / 1e9:.0f} GB free, {precision}"
        busy = free < whole / 2
        fix = "another program uses the card: see nvidia-smi" if busy else ""
        yield Finding("device", "warning" if busy else "ok", found, fix)
        trouble = warn_of_cudnn(device, spatial_dims=3, precision=precision)
        if trouble:
            yield Finding("cuDNN", "warning", trouble)
    elif torch.version.cuda is not None and Path("/proc/driver/nvidia/version").exists():
        fix = "update the driver, or install the PyTorch that fits it (pytorch.org)"
        found = f"there is an NVIDIA driver, but PyTorch {torch.__version__} sees no card"
        yield Finding("device", "problem", found, fix)
    else:
        found = f"{device.type}, {precision}: no CUDA card"
        yield Finding("device", "ok", found, "small networks train on it; `medssl plan` says how")
    threads = torch.get_num_threads()
    fix = "" if threads <= cores else f"set OMP_NUM_THREADS={cores}"
    verdict: Verdict = "ok" if threads <= cores else "warning"
    found = (
        f"{cores} core{'s'[: cores != 1]} for this process, {threads} thread{'s'[: threads != 1]}"
    )
    yield Finding("processor", verdict, found, fix)


def _memory() -> Finding:
    from medssl.data.images.limits import FREE_MEMORY_SHARE, memory_limit

    free = memory_limit() / FREE_MEMORY_SHARE
    few = free < LITTLE_MEMORY
    fix = "close programs; medssl predicts large scans in parts, training takes more" if few else ""
    return Finding("memory", "warning" if few else "ok", f"{free / 1e9:.1f} GB free", fix)


def _disk() -> Iterator[Finding]:
    places = {
        "working folder": Path.cwd(),
        "cache": default_cache_root(),
        "models": models_folder(),
        "temporary files": Path(tempfile.gettempdir()),
    }
    for what, folder in places.items():
        there = next(p for p in (folder, *folder.parents) if p.exists())
        try:
            check_writable(there)
        except MedSSLError as error:
            fix = f"make it writable{_setting(what)}"
            yield Finding(what, "problem", f"{folder}: {error.what}", fix)
            continue
        free = shutil.disk_usage(there).free
        few = free < LITTLE_DISK
        fix = f"see `medssl clean`{_setting(what)}" if few else ""
        found = f"{folder}, {free / 1e9:.1f} GB free"
        yield Finding(what, "warning" if few else "ok", found, fix)


def _setting(what: str) -> str:
    """Return how to choose another folder."""
    variables = {"cache": "MEDSSL_CACHE", "models": "MEDSSL_MODELS", "temporary files": "TMPDIR"}
    return f", or set {variables[what]} to another folder" if what in variables else ""


def _self_test(display: Display) -> Finding:
    """Train and predict; whatever goes wrong is what the doctor is asked for."""
    from medssl.machine.self_test import train_and_predict

    try:
        display.say("training and predicting on a tiny phantom")
        return Finding("self-test", "ok", train_and_predict())
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:200]
        found = f"training or predicting fails: {type(error).__name__}: {first}"
        fix = "train `quickstart` with --debug, and report what it says"
        return Finding("self-test", "problem", found, fix)
