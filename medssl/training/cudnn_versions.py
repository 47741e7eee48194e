"""Versions of cuDNN that compute the convolutions of volumes slowly or wrongly.

From what PyTorch's developers and users reported, not from measurements of our own. cuDNN 9.8 to
9.14 can give wrong results in half precision; PyTorch 2.9 therefore leaves cuDNN aside, and takes
several times the time and memory. Slices (2D) are not concerned.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

_HALF = ("bf16", "fp16")
_EVER = (10**6,)


@dataclass(frozen=True)
class Trouble:
    """What is wrong with which versions, both bounds as ``first <= version < end``.

    Attributes:
        cudnn: as `torch.backends.cudnn.version` counts: 91002 is 9.10.2.
        torch: of PyTorch.
        precisions: in which it shows.
        what: one clause for the user.
        fix: an instruction.
        source: where it was reported.
    """

    cudnn: tuple[int, int]
    torch: tuple[tuple[int, ...], tuple[int, ...]]
    precisions: tuple[str, ...]
    what: str
    fix: str
    source: str


TROUBLES = (
    Trouble(
        (90800, 91500),
        ((0,), (2, 9)),
        _HALF,
        "can convolve large volumes wrongly in bf16 and fp16",
        "install nvidia-cudnn 9.15 or newer, or use --precision fp32",
        "PyTorch issue 163539",
    ),
    Trouble(
        (90800, 10**6),
        ((2, 9), (2, 9, 1)),
        _HALF,
        "is not used by PyTorch 2.9.0 for volumes in bf16 and fp16, which then take about 4 times "
        "the time and 3 times the memory or more",
        "install PyTorch 2.9.1 or newer with nvidia-cudnn 9.15 or newer",
        "PyTorch issues 166122 and 166643",
    ),
    Trouble(
        (90800, 91500),
        ((2, 9, 1), _EVER),
        _HALF,
        "is not used by PyTorch for volumes in bf16 and fp16, which then take about 4 times the "
        "time and 3 times the memory or more",
        "install nvidia-cudnn 9.15 or newer",
        "PyTorch issues 166122 and 166643",
    ),
    Trouble(
        (91002, 91501),
        ((0,), (2, 9, 1)),
        ("fp32",),
        "can convolve volumes wrongly in TF32, which fp32 training uses",
        "install nvidia-cudnn newer than 9.15.0, or PyTorch 2.9.1 or newer",
        "PyTorch pull request 167024",
    ),
)


def cudnn_warning(
    cudnn: int | None, torch_version: str, *, spatial_dims: int, precision: str
) -> str | None:
    """Return what to tell the user about a version of cuDNN, or None if nothing is known of it.

    Args:
        cudnn: as `torch.backends.cudnn.version` gives it; None where there is none.
        torch_version: PyTorch's, for instance ``2.9.1+cu128``.
        spatial_dims: 2 or 3.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    if cudnn is None or spatial_dims != 3:
        return None
    release = tuple(int(n) for n in re.findall(r"\d+", torch_version.split("+")[0])[:3])
    for t in TROUBLES:
        if precision not in t.precisions or not t.torch[0] <= release < t.torch[1]:
            continue
        if t.cudnn[0] <= cudnn < t.cudnn[1]:
            version = f"{cudnn // 10000}.{cudnn // 100 % 100}.{cudnn % 100}"
            return f"cuDNN {version} {t.what}; {t.fix} ({t.source})"
    return None


def warn_of_cudnn(device: torch.device, *, spatial_dims: int, precision: str) -> str | None:
    """Return :func:`cudnn_warning` of what is installed here, for a run on ``device``."""
    if device.type != "cuda":
        return None
    return cudnn_warning(
        torch.backends.cudnn.version(),
        torch.__version__,
        spatial_dims=spatial_dims,
        precision=precision,
    )
