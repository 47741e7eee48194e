"""UMCT: one network per view of the volume, each taught by the others where they are sure.

Paper: Xia, Liu, Yang, Cai, Yu, Zhu, Xu, Yuille, Roth, "3D Semi-Supervised Learning with
Uncertainty-Aware Multi-View Co-Training" (WACV 2020, arXiv 1811.12506), extended in Medical Image
Analysis 65:101766 (2020, arXiv 2006.16806).

Algorithm. N views show the same patch with its axes permuted; view i has a network f_i of its own
and p_i is its prediction, turned back. Stage ``views``: every network alone, on labeled patches.
Stage ``co_train``, per iteration:
  1. K passes of each network over the unlabeled patches with dropout on, BatchNorm frozen and no
     gradient give the mean of p_j and its variance U_j over the passes;
  2. the pseudo-label of view i fuses the other views: sum_{j != i} c_j p_j / sum_{j != i} c_j with
     c_j = 1 / (U_j + eps);
  3. loss = sum_i l(p_i, label) on labeled + lambda_cot sum_i l(p_i, pseudo-label_i) on unlabeled
     patches, with l = 1/2 CE + 1/2 Dice. Networks share nothing, so each one's part is
     back-propagated before the next one runs: memory is that of one network's activations.
Prediction: mean of the views' probabilities (default), ``ulf``, ``vote``, or a single view, which
is a complete model of a single network's cost.

Cost. An iteration of ``views`` is N supervised steps. One of ``co_train`` adds to N supervised
steps N (K + 1) forward passes over the unlabeled batch (33 with N = 3 and K = 10; ``members: eval``
N more), and N backward passes over it. Weights and optimizer state are N times those of one
network. ``mc_samples: 4`` is a reasonable cheap setting. Prediction costs N passes, N K with
``ulf``.

There is no official code, hence no presets. Differences from the paper, and what it leaves open:
  * view = permutation of the axes. The paper speaks of rotations, which also mirror an axis;
  * uncertainty per voxel, averaged over classes (``granularity``); class weights give fused maps
    that do not sum to one, which are normalized before they serve as a soft target;
  * K = 10, pseudo-labels hard, Dice in its plain form per patch over all classes: not stated;
  * dropout: rate and place are not stated; the networks' own is used. Where a network has none,
    all views would be equally sure: refused, and checked with two passes in the first iteration;
  * networks start from random weights; the paper starts from ImageNet (``pretrained_2d``);
  * the paper's n x n x 1 kernels are those of network ``ahnet_r18``; any other may be used;
  * no ramp: stage ``views`` is one. The stages' learning rates are the recipe's
    (``training.stages``), and the iterations are divided by ``views_fraction``;
  * 2D slices have two views, the slice and its transpose. With two views the fusion is inert: it is
    cross pseudo supervision of two views.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from medssl.methods import umct_networks as needs
from medssl.methods.base import Batch, LabeledBatch, Method, NetworkBuilder, Progress, StepOutput
from medssl.methods.umct_predictor import FusedNetworks, OrientedNetwork
from medssl.methods.umct_settings import UMCTSettings
from medssl.networks.weights_2d import load_2d_weights
from medssl.ops.deep_supervision import Outputs, Prediction
from medssl.ops.fusion import fuse_others
from medssl.ops.losses import half_dice_half_ce
from medssl.ops.modes import eval_mode, set_mode
from medssl.ops.orientations import permute_axes, restore_axes
from medssl.ops.pseudo_labels import hard_labels
from medssl.ops.uncertainty import mc_statistics, reduce_uncertainty, stochastic_mode

logger = logging.getLogger(__name__)


class UMCT(Method):
    """Co-training of one network per view, fused by Monte-Carlo uncertainty."""

    Settings = UMCTSettings
    settings: UMCTSettings

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make one network per view."""
        self.orientations = self.settings.orientations(self.spatial_dims)
        self.networks = nn.ModuleList(build() for _ in self.orientations)

    def check_networks(self) -> list[str]:
        """Refuse networks without dropout, whose uncertainty would be 0 everywhere."""
        return needs.problems(list(self.networks))

    def warn_networks(self) -> list[str]:
        """Warn of networks that the method was not made for."""
        return needs.warnings(list(self.networks), self.settings.mc_samples, self.spatial_dims)

    def start_stage(self, stage: str) -> None:
        """Load 2D weights, if they are asked for, before the first stage."""
        if stage == "co_train" and self.settings.views_fraction > 0:
            return
        if self.settings.pretrained_2d != "off":
            load_2d_weights(self.networks, Path(self.settings.pretrained_2d))
        elif any(hasattr(network, "load_2d") for network in self.networks):
            logger.info("networks start from random weights (the paper: from 2D ImageNet weights)")

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize the network of every view, each with an optimizer of its own."""
        return {f"view{i}": list(net.parameters()) for i, net in enumerate(self.networks)}

    def view_logits(self, index: int, image: Tensor) -> Prediction:
        """Return the logits of one view for ``(B, C, *spatial)``, in the frame of the image."""
        orientation = self.orientations[index]
        seen = permute_axes(image, orientation).contiguous()
        logits: Prediction = self.networks[index](seen)
        if isinstance(logits, Outputs):
            return logits.each(lambda scale: restore_axes(scale, orientation))
        return restore_axes(logits, orientation)

    def loss(self, logits: Prediction, target: Tensor) -> Tensor:
        """Compute l(p, target), the loss of both streams."""
        with_ce = self.settings.loss == "ce_dice"
        dice, unions = self.settings.dice, self.unions
        return half_dice_half_ce(logits, target, dice=dice, ce=with_ce, unions=unions)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the losses of the views, each computed only when the one before is done with."""
        labeled, unlabeled = batch.labeled, batch.unlabeled
        assert labeled is not None
        set_mode(self.networks, "train")
        if progress.iteration == 0 and progress.micro == 0:
            seen = permute_axes(labeled.image, self.orientations[0])
            needs.require_stochastic(list(self.networks), self.settings.mc_samples, seen)
        terms: dict[str, Tensor] = {}
        image = None
        # Without a weight the unlabeled patches would still change what BatchNorm sees.
        if unlabeled is not None and self.settings.lambda_cot > 0:
            image = unlabeled.image
        return StepOutput(self._losses(labeled, image, terms), terms)

    def _losses(
        self, labeled: LabeledBatch, unlabeled: Tensor | None, terms: dict[str, Tensor]
    ) -> Iterator[Tensor]:
        """Yield one loss per view and fill in ``terms``, which are means over the views."""
        if unlabeled is None:
            for i in range(len(self.orientations)):
                loss = self.loss(self.view_logits(i, labeled.image), labeled.label)
                self._log(terms, {"loss/labeled": loss})
                yield loss
            return
        probs, uncertainty = self.estimate(unlabeled)
        for each in uncertainty:
            self._log(terms, {"uncertainty": each.mean()})
        images = torch.cat([labeled.image, unlabeled])
        for i in range(len(self.orientations)):
            target = self.pseudo_label(probs, uncertainty, exclude=i)
            yield self._co_training_loss(i, images, labeled.label, target, terms)

    def _co_training_loss(
        self, index: int, images: Tensor, label: Tensor, target: Tensor, terms: dict[str, Tensor]
    ) -> Tensor:
        """Compute one view's loss; its logits live no longer than the graph."""
        logits = self.view_logits(index, images)
        labeled = self.loss(logits[: len(label)], label)
        unlabeled = self.loss(logits[len(label) :], target)
        self._log(terms, {"loss/labeled": labeled, "loss/unlabeled": unlabeled})
        return labeled + self.settings.lambda_cot * unlabeled

    def _log(self, terms: dict[str, Tensor], values: dict[str, Tensor]) -> None:
        for key, value in values.items():
            share = value.detach() / len(self.orientations)
            terms[key] = terms[key] + share if key in terms else share

    @torch.no_grad()
    def estimate(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return each view's probabilities ``(B, C, *spatial)`` and reduced uncertainty."""
        probs, uncertainty = [], []
        for network, orientation in zip(self.networks, self.orientations, strict=True):
            with stochastic_mode(network):
                x = permute_axes(image, orientation).contiguous()
                samples = (
                    network(x).float().softmax(dim=1) for _ in range(self.settings.mc_samples)
                )
                mean, variance = mc_statistics(samples)
                if self.settings.members == "eval":
                    with eval_mode(network):
                        mean = network(x).float().softmax(dim=1)
            probs.append(restore_axes(mean, orientation))
            reduced = reduce_uncertainty(variance, self.settings.granularity)
            uncertainty.append(restore_axes(reduced, orientation))
        return probs, uncertainty

    @torch.no_grad()
    def pseudo_label(
        self, probs: list[Tensor], uncertainty: list[Tensor], *, exclude: int
    ) -> Tensor:
        """Fuse the other views into classes ``(B, *spatial)`` or probabilities."""
        fused = fuse_others(probs, uncertainty, exclude=exclude, eps=self.settings.eps)
        if self.settings.target == "hard":
            return hard_labels(fused)
        return fused / fused.sum(dim=1, keepdim=True)

    def predictor(self) -> nn.Module:
        """Return the fused views, or a single one."""
        settings, fusion = self.settings, self.settings.fusion
        samples = settings.fusion_samples
        if isinstance(fusion, int):
            return OrientedNetwork(self.networks[fusion], self.orientations[fusion])
        return FusedNetworks(
            list(self.networks),
            self.orientations,
            fusion=fusion,
            samples=settings.mc_samples if samples == "auto" else samples,
            granularity=settings.granularity,
            eps=settings.eps,
        )
