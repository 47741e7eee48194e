"""The network of a bundle as an ONNX file: written, and run by onnxruntime in its place."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medssl.bundle.contents import Contents
from medssl.errors import MedSSLError
from medssl.files import replacing
from medssl.optional import optional_module

ONNX = "models/model.onnx"
"""Its place in a bundle."""
MOST_DIFFERENCE = 1e-3
"""Of a probability; float32 in another order of sums stays below a hundredth of it."""
_FIX = "leave out --onnx; the rest of the bundle does not need it"


def needed_for_onnx() -> None:
    """Make sure that what writes and runs ONNX files is there, before long work begins.

    Raises:
        MedSSLError: names the extra that brings it.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        optional_module(module, "onnx")


def write_onnx(model: nn.Module, contents: Contents, path: Path) -> None:
    """Write a network as ONNX, and compare what onnxruntime says of a window with PyTorch.

    Input ``image``: ``(batch, channels, *patch)`` float32, as the preprocessing leaves it. Output
    ``logits``: ``(batch, classes, *patch)``, of several members the logarithm of their mean
    probability; softmax over the classes gives probabilities, argmax the class. The size of a
    window is fixed, the batch is not. The metadata of the file hold label values and names.

    Args:
        model: on the CPU, in evaluation mode.
        contents: what the model is.
        path: file to write.

    Raises:
        MedSSLError: a package is missing, the network cannot be expressed, the file says something
            else than PyTorch, or the disk refuses.
    """
    needed_for_onnx()
    generator = torch.Generator().manual_seed(0)
    windows = torch.randn(2, contents.channels, *contents.patch, generator=generator)
    with replacing(path, suffix=".onnx") as temporary:
        _export(model, windows, temporary)
        _add_metadata(temporary, contents)
        with torch.no_grad():
            ours = model(windows).float().softmax(dim=1)
        theirs = OnnxNetwork(temporary)(windows).softmax(dim=1)
        difference = float((ours - theirs).abs().max())
        if not difference <= MOST_DIFFERENCE:
            raise MedSSLError(
                f"onnxruntime gives probabilities that differ by up to {difference:.2g} from "
                "PyTorch's",
                where=path,
                fix=_FIX,
            )


def _export(model: nn.Module, windows: Tensor, path: Path) -> None:
    # Two windows: of one, the exporter would take the batch for a constant.
    try:
        with _quiet(), torch.inference_mode(False), torch.no_grad():
            torch.onnx.export(
                model,
                (windows,),
                str(path),
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # exporters raise anything at all
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise MedSSLError(
            f"the network cannot be written as ONNX: {reason}", where=path, fix=_FIX
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself from the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)


def _add_metadata(path: Path, contents: Contents) -> None:
    onnx = optional_module("onnx", "onnx")
    model = onnx.load(str(path))
    labels = dict(zip(map(str, contents.labels.values), contents.labels.names, strict=True))
    onnx.helper.set_model_props(
        model,
        {
            "producer": "medssl",
            "labels": json.dumps(labels),
            "intended_use": "Research only. Not a medical device.",
        },
    )
    onnx.save(model, str(path))


class OnnxNetwork(nn.Module):
    """A network that onnxruntime runs, on the CPU: windows in, logits out.

    Args:
        path: as :func:`write_onnx` wrote it.

    Raises:
        MedSSLError: onnxruntime is missing, or cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        runtime = optional_module("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of its own, with no common base
            raise MedSSLError(
                f"onnxruntime cannot read the file: {str(error)[:160]}",
                where=path,
                fix="export it again",
            ) from error

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, *patch)`` to ``(B, C, *patch)``, float32."""
        image = np.ascontiguousarray(x.detach().cpu().float().numpy())
        (logits,) = self.session.run(["logits"], {"image": image})
        return torch.from_numpy(logits)
