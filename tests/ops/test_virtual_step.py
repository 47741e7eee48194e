"""Virtual steps: taken, looked at, and taken back."""

from __future__ import annotations

import torch
from torch import nn

from medssl.ops.ema import ema_update
from medssl.ops.virtual_step import descend, gradients_of, put_back


class Scalar(nn.Module):
    """One weight and one buffer."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))
        self.register_buffer("seen", torch.zeros(1))


def test_a_virtual_step_by_hand() -> None:
    """Theta 1, a gradient of 1, a rate of 0.2 and a decay of 0.9: the average goes to 0.08."""
    theta, phi = Scalar(1.0), Scalar(0.0)
    (gradient,) = gradients_of(3 * theta.weight.sum(), [theta.weight])
    assert gradient.item() == 3
    descend([theta.weight], [gradient], lr=0.2)  # the norm is cut at 1
    ema_update(phi, theta, 0.9)
    torch.testing.assert_close(phi.weight.data, torch.tensor([0.08]))
    descend([theta.weight], [gradient / 6], lr=0.2)
    torch.testing.assert_close(theta.weight.data, torch.tensor([0.7]))


def test_weights_buffers_and_generator_are_put_back() -> None:
    both = nn.ModuleList([Scalar(1.0), Scalar(2.0)])
    torch.manual_seed(3)
    expected, _ = torch.rand(2), torch.manual_seed(3)
    with put_back(both):
        for part in both:
            part.weight.data += torch.rand(1)
            part.seen += 1
    assert torch.equal(torch.rand(2), expected)
    assert [part.weight.item() for part in both] == [1, 2]
    assert not any(part.seen.item() for part in both)


def test_half_precision_sees_weights_as_they_are_now() -> None:
    """Autocast keeps weights that it has cast, and would not see that they moved."""
    network = nn.Linear(2, 1, bias=False)
    nn.init.ones_(network.weight)
    image = torch.ones(1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = network(image)
        with put_back(network):
            descend([network.weight], [torch.tensor([[1.0, 0.0]])], lr=0.5)
            assert network(image).item() == before.item() - 0.5
        assert network(image).item() == before.item()
