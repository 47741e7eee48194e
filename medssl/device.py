"""Devices and numerical precision: what was asked for, what the hardware allows."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Literal, cast

import torch

from medssl.errors import MedSSLError
from medssl.freed_memory import keep_freed_memory

Precision = Literal["fp32", "bf16", "fp16"]
"""Of forward passes; see :func:`autocast`."""
AUTOCAST_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device to use: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        MedSSLError: the device is unknown or not present on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise MedSSLError(
            f"unknown device {name!r}", where="--device", fix="use auto, cpu, cuda, cuda:0 or mps"
        ) from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise MedSSLError(
                f"device {name!r} was asked for but {count} CUDA devices are visible",
                where="--device",
                fix="use --device cpu, or check the driver with nvidia-smi",
            )
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise MedSSLError("no MPS device here", where="--device", fix="use --device cpu")
    elif device.type not in ("cpu", "cuda", "mps"):
        raise MedSSLError(
            f"device {name!r} is not supported", where="--device", fix="use cpu or cuda"
        )
    return device


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Return ``fp32``, ``bf16`` or ``fp16``; ``auto`` is the fastest safe one for the device.

    Raises:
        MedSSLError: the device cannot compute in that precision.
    """
    if name == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name not in ("fp32", *AUTOCAST_DTYPE):
        raise MedSSLError(
            f"unknown precision {name!r}", where="--precision", fix="use auto, fp32, bf16 or fp16"
        )
    if name != "fp32" and device.type == "mps":
        raise MedSSLError(
            f"{name} is not trained on MPS: it lacks transposed convolutions of volumes in it",
            where="--precision",
            fix="use --precision fp32",
        )
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise MedSSLError(
            "this GPU has no bfloat16", where="--precision", fix="use --precision fp16"
        )
    return cast(Precision, name)


def cpu_computes_bf16() -> bool:
    """Return whether this computer's CPU multiplies matrices of bf16 in hardware (Intel's AMX)."""
    asked = getattr(torch.cpu, "get_capabilities", None)  # older PyTorch cannot say
    return asked is not None and bool(asked().get("amx_bf16", False))


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """Run the enclosed forward passes in ``precision`` where the operations allow it."""
    if precision == "fp32":
        yield
        return
    with torch.autocast(device.type, dtype=AUTOCAST_DTYPE[precision]):
        yield


def make_scaler(device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return a gradient scaler: active for fp16 alone, since bf16 has the range of fp32."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def speed_up(device: torch.device) -> None:
    """Switch on what makes fixed-size training fast on a CUDA card, or on a CPU."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    elif device.type == "cpu":
        keep_freed_memory()


_WORDS = re.compile(
    r"out of memory|not enough memory|can't allocate memory|_ALLOC_FAILED|cannot allocate memory",
    re.I,
)


_BINARY = re.compile(r"tried to allocate ([\d.]+) ([KMGT])i?B", re.I)


_PLAIN = re.compile(r"tried to allocate (\d+) bytes", re.I)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error says that a device, or the host, has too little memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_WORDS.search(str(error)))


def bytes_asked(error: BaseException) -> int:
    """Return how many bytes were asked for when memory ran out; 0 where the error says nothing."""
    if found := _BINARY.search(str(error)):
        return int(float(found[1]) * 1024 ** ("KMGT".index(found[2].upper()) + 1))
    found = _PLAIN.search(str(error))
    return int(found[1]) if found else 0
