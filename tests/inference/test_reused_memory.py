"""What windows need is learned from the first, and batch normalization needs nothing of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from medssl.inference import reused_memory
from medssl.inference.reused_memory import memory_reused


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes up to which freed blocks have been kept; 0 says that this has ended."""
    sizes: list[int] = []

    @contextmanager
    def noted(largest: int) -> Iterator[None]:
        sizes.append(largest)
        yield
        sizes.append(0)

    monkeypatch.setattr(reused_memory, "freed_memory_kept", noted)
    return sizes


def normalized(*, affine: bool = True) -> nn.Sequential:
    """Return a convolution to 5 channels, and a normalization that has seen other values."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 5, 1), nn.BatchNorm3d(5, affine=affine), nn.ReLU())
    network(torch.randn(2, 1, 4, 4, 4) * 3)
    return network.eval()


@torch.inference_mode()
def test_blocks_are_kept_up_to_the_largest_of_the_first_window(kept: list[int]) -> None:
    network = nn.Sequential(nn.Conv3d(1, 5, 1), nn.MaxPool3d(2), nn.Conv3d(5, 2, 1)).eval()
    with memory_reused(network, network) as predict:
        assert not kept
        predict(torch.zeros(3, 1, 8, 8, 8))
        assert kept == [3 * 5 * 8**3 * 4]  # the first convolution's output, in bytes
        predict(torch.zeros(6, 1, 8, 8, 8))
        assert len(kept) == 1
    assert kept[1:] == [0]


@torch.inference_mode()
def test_what_a_module_takes_counts_and_so_do_logits_that_no_module_makes(kept: list[int]) -> None:
    joins = nn.Conv3d(7, 1, 1).eval()
    with memory_reused(lambda x: joins(x.expand(-1, 7, -1, -1, -1)), joins) as predict:
        predict(torch.zeros(1, 1, 4, 4, 4))
    with memory_reused(lambda x: x.double(), joins) as predict:
        predict(torch.zeros(1, 1, 4, 4, 4))
    assert kept == [7 * 64 * 4, 0, 64 * 8, 0]


@pytest.mark.parametrize("affine", [True, False])
@torch.inference_mode()
def test_a_normalization_overwrites_what_a_convolution_made_bit_by_bit(affine: bool) -> None:
    network, image = normalized(affine=affine), torch.randn(1, 1, 4, 4, 4)
    expected = network(image)
    made = network[0](image)
    with memory_reused(network, network) as predict:
        assert torch.equal(predict(image), expected)
        assert network[1](made).data_ptr() == made.data_ptr()
    assert network[1](made).data_ptr() != made.data_ptr()


class Adding(nn.Sequential):
    """Reads what its first layer made once more after the second."""

    def forward(self, x: Tensor) -> Tensor:
        made = self[0](x)
        return made + self[1](made)


@torch.inference_mode()
def test_what_may_be_read_once_more_is_not_overwritten() -> None:
    watched, image = normalized(), torch.randn(1, 1, 4, 4, 4)
    watched[0].register_forward_hook(lambda *_: None)
    for network in (Adding(*normalized()), watched, nn.Sequential(nn.ReLU(), nn.BatchNorm3d(1))):
        network.eval()
        expected = network(image.abs())
        with memory_reused(network, network) as predict:
            assert torch.equal(predict(image.abs()), expected)
            made = network[0](image.abs())
            assert network[1](made).data_ptr() != made.data_ptr()
