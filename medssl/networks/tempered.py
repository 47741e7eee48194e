"""A network made less, or more, certain of what it says; needs PyTorch alone, bundles carry it."""

from __future__ import annotations

from torch import Tensor, nn


class Tempered(nn.Module):
    """A network whose logits are divided by a temperature, before anything is averaged.

    By itself it decides every voxel as before. Averaged with others it counts for less where it was
    too sure (T > 1), and for more where it was not sure enough.

    Args:
        network: image in, logits out.
        temperature: T > 0.

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017).
    """

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = float(temperature)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C_in, *spatial)`` to logits ``(B, C, *spatial)``, float32."""
        logits: Tensor = self.network(x)
        return logits.float() / self.temperature
