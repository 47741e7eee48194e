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
from typing import Any

import torch
from torch import Tensor, nn

from medssl.errors import MedSSLError
from medssl.methods.base import (
    Batch,
    LabeledBatch,
    Method,
    NetworkBuilder,
    Progress,
    Stage,
    StepOutput,
    register,
)
from medssl.methods.umct_predictor import FusedViews, SingleView
from medssl.methods.umct_settings import (
    ADD_DROPOUT,
    UMCTSettings,
    recipe_problems,
    recipe_warnings,
)
from medssl.ops.fusion import fuse_others
from medssl.ops.losses import DiceVariant, dice_loss, region_terms
from medssl.ops.pseudo_labels import hard_labels
from medssl.ops.uncertainty import mc_statistics, reduce_uncertainty, stochastic_mode
from medssl.ops.views import invert_view, permute_view

logger = logging.getLogger(__name__)


def segmentation_loss(
    logits: Tensor, target: Tensor, *, dice: DiceVariant, ce: bool = True
) -> Tensor:
    """Compute ``1/2 CE + 1/2 Dice``, or the Dice loss alone.

    Args:
        logits: ``(B, C, *spatial)``.
        target: ``(B, *spatial)`` classes, 255 where there is none, or ``(B, C, *spatial)``
            probabilities.
        dice: which Dice.
        ce: with the cross-entropy.
    """
    if target.ndim < logits.ndim:
        ((dice_term, ce_term),) = region_terms(logits, target, [None], dice=dice)
    else:
        log_probs = torch.log_softmax(logits.float(), dim=1)
        dice_term = dice_loss(log_probs.exp(), target.float(), variant=dice)
        ce_term = -(log_probs * target).sum(dim=1).mean()
    return 0.5 * ce_term + 0.5 * dice_term if ce else dice_term


@register("umct")
class UMCT(Method):
    """Co-training of one network per view, fused by Monte-Carlo uncertainty."""

    Settings = UMCTSettings
    settings: UMCTSettings
    paper = "Xia et al., WACV 2020 (arXiv 1811.12506) and MedIA 2020 (arXiv 2006.16806)"

    def __init__(
        self,
        settings: UMCTSettings,
        build_network: NetworkBuilder,
        *,
        num_classes: int,
        spatial_dims: int,
    ) -> None:
        super().__init__(
            settings, build_network, num_classes=num_classes, spatial_dims=spatial_dims
        )
        self.views = settings.resolve_views(spatial_dims)
        self.networks = nn.ModuleList(build_network() for _ in self.views)

    def stages(self, iterations: int) -> list[Stage]:
        """Divide the budget as ``views_fraction`` says; 0 leaves out the first stage."""
        fraction = self.settings.views_fraction
        first = round(iterations * fraction)
        if fraction > 0:
            first = min(max(first, 1), iterations - 1)
        co_train = Stage("co_train", iterations - first)
        return [Stage("views", first, streams=("labeled",)), co_train] if first else [co_train]

    def start_stage(self, stage: str) -> None:
        """Load 2D weights, if they are asked for, before the first stage."""
        if stage == "co_train" and self.settings.views_fraction > 0:
            return
        if self.settings.pretrained_2d:
            load_2d_weights(self.networks, Path(self.settings.pretrained_2d))
        elif any(hasattr(network, "load_2d") for network in self.networks):
            logger.info("networks start from random weights (the paper: from 2D ImageNet weights)")

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize the network of every view, each with an optimizer of its own."""
        return {f"view{i}": list(net.parameters()) for i, net in enumerate(self.networks)}

    def view_logits(self, index: int, image: Tensor) -> Tensor:
        """Return the logits of one view for ``(B, C, *spatial)``, in the frame of the image."""
        view = self.views[index]
        return invert_view(self.networks[index](permute_view(image, view).contiguous()), view)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute l(p, target), the loss of both streams."""
        with_ce = self.settings.loss == "ce_dice"
        return segmentation_loss(logits, target, dice=self.settings.dice, ce=with_ce)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the losses of the views, each computed only when the one before is done with."""
        labeled, unlabeled = batch.labeled, batch.unlabeled
        assert labeled is not None
        if not self.networks.training:
            self.networks.train()
        if progress.iteration == 0 and progress.micro == 0:
            self._require_stochastic(labeled.image)
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
            for i in range(len(self.views)):
                loss = self.loss(self.view_logits(i, labeled.image), labeled.label)
                self._log(terms, {"loss/labeled": loss})
                yield loss
            return
        probs, uncertainty = self.estimate(unlabeled)
        for each in uncertainty:
            self._log(terms, {"uncertainty": each.mean()})
        images = torch.cat([labeled.image, unlabeled])
        for i in range(len(self.views)):
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
            share = value.detach() / len(self.views)
            terms[key] = terms[key] + share if key in terms else share

    @torch.no_grad()
    def estimate(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return each view's probabilities ``(B, C, *spatial)`` and reduced uncertainty."""
        probs, uncertainty = [], []
        for network, view in zip(self.networks, self.views, strict=True):
            with stochastic_mode(network):
                x = permute_view(image, view).contiguous()
                samples = (
                    network(x).float().softmax(dim=1) for _ in range(self.settings.mc_samples)
                )
                mean, variance = mc_statistics(samples)
                if self.settings.members == "eval":
                    mean = network.eval()(x).float().softmax(dim=1)
            probs.append(invert_view(mean, view))
            reduced = reduce_uncertainty(variance, self.settings.granularity)
            uncertainty.append(invert_view(reduced, view))
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

    def _require_stochastic(self, image: Tensor) -> None:
        """Make sure, in the first iteration, that two passes with dropout differ.

        A network may have dropout layers and not use them; the views would be plainly averaged.
        """
        if len(self.views) < 3 or self.settings.mc_samples < 2:
            return
        devices = [image.device] if image.device.type == "cuda" else []
        network = self.networks[0]
        with torch.random.fork_rng(devices=devices), stochastic_mode(network):
            x = permute_view(image, self.views[0])
            same = torch.equal(network(x), network(x))
        if same:
            raise MedSSLError(
                "two passes of the network with dropout on are equal, so the uncertainty of umct "
                "would be 0 everywhere and its views equally sure",
                fix=ADD_DROPOUT,
            )

    def predictor(self) -> nn.Module:
        """Return the fused views, or a single one."""
        fusion = self.settings.fusion
        if isinstance(fusion, int):
            return SingleView(self.networks[fusion], self.views[fusion])
        return FusedViews(
            list(self.networks),
            self.views,
            fusion=fusion,
            samples=self.settings.fusion_samples or self.settings.mc_samples,
            granularity=self.settings.granularity,
            eps=self.settings.eps,
        )

    @classmethod
    def check_recipe(cls, settings: UMCTSettings, recipe: Any) -> list[str]:
        """Refuse geometry without views, and a network without dropout."""
        return recipe_problems(settings, recipe)

    @classmethod
    def warn_recipe(cls, settings: UMCTSettings, recipe: Any) -> list[str]:
        """Warn of inert settings and of symmetric kernels."""
        return recipe_warnings(settings, recipe)


def load_2d_weights(networks: nn.ModuleList, path: Path) -> None:
    """Start every network's encoder from a file of torchvision's ResNet-18 weights.

    Raises:
        MedSSLError: the file is absent or something else, or the network has no 2D form.
    """
    fix = "give a file saved by torch.save(torchvision.models.resnet18(...).state_dict(), FILE)"
    if not path.is_file():
        raise MedSSLError(
            "method.pretrained_2d names a file that is not there", where=path, fix=fix
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises anything at all for a damaged file
        raise MedSSLError("this is not a file of weights", where=path, fix=fix) from error
    try:
        for network in networks:
            network.load_2d(state)  # type: ignore[operator]
    except (ValueError, TypeError, AttributeError) as error:
        raise MedSSLError(
            f"these are not the weights of a ResNet-18: {error}", where=path, fix=fix
        ) from error
    logger.info("encoders start from the 2D weights in %s", path)
