"""Pre-training on images alone: masked blocks are filled in, or fused volumes taken apart.

Papers: MAE as in nnssl (Wald et al., arXiv 2412.17041, ICCV 2025); VolF: Wang et al., "MIS-FM"
(2023, arXiv 2306.16925). Its run predicts nothing: another recipe starts from it
(``network.init: RUN``), with every tensor but those of the output convolution.

``pretext: mae``, per iteration:
  1. blocks of the patch are masked, a draw per sample: they become 0, the mean of the image;
  2. the recipe's network, with an output channel for each of the image's, fills them in;
  3. loss = mean squared error over the masked voxels.
``pretext: volf``:
  1. boxes of shares a = 0, 1/4, ... 1 are drawn; x = a F + (1 - a) G, of each patch F and the
     next G;
  2. the network says the share of every voxel, as one of five classes;
  3. loss = Dice (per sample, with class 0) + cross-entropy.
Differences from the published code, which is made for patches of 160 voxels: blocks of an eighth of
the patch instead of 16 voxels, 60 % of them masked instead of 75 %, rest voxels belong to the last
block; VolF on patches of the ordinary stream instead of center crops, every patch in two pairs,
boxes from 4 voxels on, and voxels where F and G hardly differ do not count.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, Method, NetworkBuilder, Progress, StepOutput
from medssl.methods.masked_pretraining_settings import BLOCKS, MaskedPretrainingSettings
from medssl.networks.build import blueprint_of
from medssl.ops.losses import supervised_loss
from medssl.ops.modes import set_mode
from medssl.ops.moving import to_device
from medssl.ops.pretexts import LEVELS, fuse, fusion_shares, masked_error, visible_blocks
from medssl.ops.variants import DiceVariant

PER_SAMPLE = DiceVariant(per_sample=True, squared=False, background=True)


class MaskedPretraining(Method):
    """The recipe's network with another last layer, and no labels."""

    Settings = MaskedPretrainingSettings
    settings: MaskedPretrainingSettings

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make the network with the outputs that the pretext needs."""
        with torch.random.fork_rng(devices=[]), torch.device("meta"):  # sizes alone
            blueprint = blueprint_of(build())
        channels = 1 if blueprint is None else blueprint.in_channels
        mae = self.settings.pretext == "mae"
        self.student = build(num_classes=channels if mae else LEVELS)

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize the network."""
        return {"student": list(self.student.parameters())}

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the loss of the pretext."""
        assert batch.unlabeled is not None
        set_mode(self.student, "train")
        pretext = self.fill_in if self.settings.pretext == "mae" else self.take_apart
        loss = pretext(batch.unlabeled.image, progress)
        return StepOutput(loss, {"loss/pretext": loss.detach()})

    def fill_in(self, image: Tensor, progress: Progress) -> Tensor:
        """Compute the error of masked voxels of ``(B, C, *spatial)``."""
        settings, shape, rng = self.settings, image.shape[2:], progress.rng("mask")
        block = settings.block
        edge = block if isinstance(block, list) else [max(1, n // BLOCKS) for n in shape]
        drawn = visible_blocks(shape, edge, settings.mask_share, len(image), rng)
        visible = to_device(drawn, image.device)
        return masked_error(self.student(image * visible), image, visible)

    def take_apart(self, image: Tensor, progress: Progress) -> Tensor:
        """Compute the loss of the shares in which each of ``(B, C, *spatial)`` is fused."""
        edge, rng = self.settings.min_edge, progress.rng("fusion")
        drawn = fusion_shares(image.shape[2:], len(image), rng, min_edge=edge)
        fused, label = fuse(image, image.roll(1, dims=0), to_device(drawn, image.device))
        return supervised_loss(self.student(fused), label, dice=PER_SAMPLE)

    def predictor(self) -> nn.Module:
        """Return the network, from which others start; it segments nothing."""
        return self.student
