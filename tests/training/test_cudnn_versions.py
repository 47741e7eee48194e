"""Which versions of cuDNN are warned of, and for what."""

from __future__ import annotations

import pytest
import torch

from medssl.training.cudnn_versions import cudnn_warning, warn_of_cudnn


def warning(cudnn: int | None, release: str, precision: str = "bf16", dims: int = 3) -> str:
    return cudnn_warning(cudnn, release, spatial_dims=dims, precision=precision) or ""


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(precision: str) -> None:
    assert "wrongly" in warning(91002, "2.8.0+cu128", precision)
    assert "4 times" in warning(91002, "2.9.0+cu128", precision)
    assert "2.9.1 or newer" in warning(91500, "2.9.0", precision)
    assert "4 times" in warning(91300, "2.9.1+cu130", precision)
    assert "4 times" in warning(90800, "2.13.0", precision)
    for cudnn, release in (
        (90701, "2.8.0"),
        (91500, "2.9.1"),
        (91501, "2.10.0"),
        (92100, "2.13.0"),
    ):
        assert warning(cudnn, release, precision) == ""


def test_full_precision_is_tf32_on_a_card() -> None:
    assert "TF32" in warning(91002, "2.8.0", "fp32")
    assert "TF32" in warning(91500, "2.9.0", "fp32")
    assert warning(91002, "2.9.1", "fp32") == ""
    assert warning(91501, "2.9.0", "fp32") == ""
    assert warning(90800, "2.8.0", "fp32") == ""


def test_the_message_names_the_version_a_way_out_and_its_source() -> None:
    text = warning(91002, "2.9.1+cu128")
    assert text.startswith("cuDNN 9.10.2 ")
    assert "install nvidia-cudnn 9.15 or newer" in text
    assert "166122" in text


def test_slices_other_devices_and_builds_are_left_alone() -> None:
    assert warning(91002, "2.9.0", dims=2) == ""
    assert warning(None, "2.9.0") == ""
    assert warning(91002, "2.10.0a0+git123") != ""
    assert warn_of_cudnn(torch.device("cpu"), spatial_dims=3, precision="bf16") is None
