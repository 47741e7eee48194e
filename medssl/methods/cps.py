"""CPS: two networks, started differently, label the images for each other.

Paper: Chen, Yuan, Zeng, Wang, "Semi-Supervised Semantic Segmentation with Cross Pseudo
Supervision" (CVPR 2021, arXiv 2106.01226).

Algorithm, per iteration:
  1. both networks predict the labeled and the unlabeled patches;
  2. each takes the hard labels of the other (arg-max, no gradient) as its target;
  3. loss = sum over both networks of supervised(labeled) + w(t) * cross(labeled and unlabeled).

Presets. ``official`` with variant ``paper`` (default) follows the authors' code: cross-entropy
everywhere, one mean over labeled and unlabeled voxels, weight 1.5 from the first iteration,
labeled and unlabeled patches in passes of their own, network 1 predicts. Variant ``medical``
follows the 3D version by which medical papers report CPS (SSL4MIS): half of Dice + CE on labels,
cross-entropy of pseudo-labels on unlabeled patches only, weight 0.1 at the end of a ramp as long as
training (plateaus of 1/200), Kaiming and Xavier initialization. ``corrected`` (default) differs:
  * Dice + CE as in ``supervised``, for labels and pseudo-labels: with CE alone a small structure is
    outvoted by background;
  * pseudo-labels on labeled patches too, as in the paper's best variant: they also reach voxels
    without annotation (255);
  * weight 1 after a smooth ramp over 40 % of the iterations: with a handful of labels the first
    pseudo-labels are mostly wrong;
  * labeled and unlabeled patches in one pass: BatchNorm sees them together, and it is quicker.
Left out: the paper's CutMix.

``predict_with`` is ``first`` in all presets, so that CPS is compared with other methods network
for network; ``mean`` averages the two networks' probabilities at twice the cost of prediction.
``labels_from: eval`` takes the pseudo-labels from passes of their own, without dropout: a third
more time, but only one network's activations in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medssl.methods.base import (
    Batch,
    Method,
    NetworkBuilder,
    Progress,
    Settings,
    Stage,
    StepOutput,
    register,
)
from medssl.networks.ensemble import Ensemble
from medssl.networks.passes import forward_each
from medssl.ops.losses import DiceVariant, region_terms
from medssl.ops.pseudo_labels import hard_labels
from medssl.ops.ramps import sigmoid_ramp

LossName = Literal["ce", "dice_ce"]


class CPSSettings(Settings):
    """Settings of ``cps``; null means: as the preset and variant say."""

    preset: Literal["official", "corrected"] = "corrected"
    variant: Literal["paper", "medical"] | None = Field(
        None, description="official only: whose code to follow; null: paper"
    )
    labeled_loss: LossName | None = None
    labeled_weight: float | None = Field(None, gt=0, description="factor of the labeled loss")
    cross_loss: LossName | None = None
    cross_on: Literal["all", "unlabeled"] | None = Field(
        None, description="patches that get pseudo-labels"
    )
    cross_weight: float | None = Field(None, ge=0, description="after the ramp")
    ramp_fraction: float | None = Field(None, ge=0, le=1, description="of all iterations")
    ramp_steps: int | None = Field(None, ge=0, description="plateaus of the ramp; 0: smooth")
    joint_forward: bool | None = Field(None, description="labeled and unlabeled in one pass")
    labels_from: Literal["forward", "eval"] | None = Field(
        None, description="eval: extra passes without dropout, half the memory"
    )
    init: Literal["network", "kaiming_xavier"] | None = Field(
        None, description="initial weights: the network's own, or Kaiming and Xavier"
    )
    dice_background: bool | None = Field(None, description="Dice of the background class too")
    predict_with: Literal["first", "second", "mean"] | None = None


@dataclass(frozen=True)
class Rules:
    """The settings with the preset filled in; the defaults are preset ``corrected``."""

    labeled_loss: str = "dice_ce"
    labeled_weight: float = 1.0
    cross_loss: str = "dice_ce"
    cross_on: str = "all"
    cross_weight: float = 1.0
    ramp_fraction: float = 0.4
    ramp_steps: int = 0
    joint_forward: bool = True
    labels_from: str = "forward"
    init: str = "network"
    dice_background: bool = False
    predict_with: str = "first"

    @property
    def dice(self) -> DiceVariant:
        """The Dice loss that is meant."""
        return DiceVariant(background=self.dice_background)


OFFICIAL: dict[str, Rules] = {
    "paper": Rules(
        labeled_loss="ce",
        cross_loss="ce",
        cross_weight=1.5,
        ramp_fraction=0.0,
        joint_forward=False,
    ),
    "medical": Rules(
        labeled_weight=0.5,
        cross_loss="ce",
        cross_on="unlabeled",
        cross_weight=0.1,
        ramp_fraction=1.0,
        ramp_steps=200,
        init="kaiming_xavier",
        dice_background=True,
    ),
}


def resolve(settings: CPSSettings) -> Rules:
    """Fill in the preset and variant."""
    base = Rules()
    if settings.preset == "official":
        base = OFFICIAL[settings.variant or "paper"]
    given = {f.name: getattr(settings, f.name) for f in fields(Rules)}
    return replace(base, **{k: v for k, v in given.items() if v is not None})


def network_loss(
    logits: Tensor, label: Tensor, pseudo_label: Tensor, rules: Rules
) -> tuple[Tensor, Tensor]:
    """Compute the two losses of one network, before the cross weight.

    Args:
        logits: ``(L + U, C, *spatial)``, labeled patches first.
        label: ``(L, *spatial)`` class indices, 255 without annotation.
        pseudo_label: ``(L + U, *spatial)``, or ``(U, *spatial)`` with ``cross_on: unlabeled``.
        rules: which losses.

    Returns:
        The labeled and the cross loss.

    Source: Chen et al. 2021, eqs. 1-4.
    """
    dice, ce = _terms(logits[: len(label)], label, rules.labeled_loss, rules.dice)
    labeled = rules.labeled_weight * (dice + ce)
    first = len(logits) - len(pseudo_label)
    dice, ce = _terms(logits[first:], pseudo_label, rules.cross_loss, rules.dice)
    return labeled, dice + ce


def _terms(
    logits: Tensor, target: Tensor, loss: str, dice: DiceVariant
) -> tuple[Tensor | float, Tensor]:
    """Return Dice loss (0 if not wanted) and cross-entropy."""
    ((d, ce),) = region_terms(logits, target, [None], dice=dice)
    return (d if loss == "dice_ce" else 0.0), ce


def reinitialize(module: nn.Module, scheme: Literal["kaiming", "xavier"]) -> None:
    """Draw the weights of all convolutions anew; biases and other layers stay."""
    draw = nn.init.kaiming_normal_ if scheme == "kaiming" else nn.init.xavier_normal_
    for child in module.modules():
        if isinstance(child, (nn.Conv2d, nn.Conv3d)):
            draw(child.weight)


@register("cps")
class CPS(Method):
    """Cross pseudo supervision of two networks."""

    Settings = CPSSettings
    settings: CPSSettings
    paper = "Chen et al., CVPR 2021 (arXiv 2106.01226)"

    def __init__(
        self,
        settings: CPSSettings,
        build_network: NetworkBuilder,
        *,
        num_classes: int,
        spatial_dims: int,
    ) -> None:
        super().__init__(
            settings, build_network, num_classes=num_classes, spatial_dims=spatial_dims
        )
        self.rules = resolve(settings)
        self.first = build_network()
        self.second = build_network()
        if self.rules.init == "kaiming_xavier":
            reinitialize(self.first, "kaiming")
            reinitialize(self.second, "xavier")

    def stages(self, iterations: int) -> list[Stage]:
        """Spend the whole budget on one stage."""
        return [Stage("train", iterations)]

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize both networks, each with an optimizer of its own."""
        return {
            "first": list(self.first.parameters()),
            "second": list(self.second.parameters()),
        }

    def cross_weight(self, progress: Progress) -> float:
        """Return the weight of the cross loss at an iteration."""
        length = self.rules.ramp_fraction * progress.total
        every = max(int(length // self.rules.ramp_steps), 1) if self.rules.ramp_steps else 1
        return self.rules.cross_weight * sigmoid_ramp(progress.iteration, length, every=every)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the losses of both networks."""
        weight = self.cross_weight(progress)
        if self.rules.labels_from == "eval":
            terms: dict[str, Tensor] = {}
            return StepOutput(self._one_at_a_time(batch, weight, terms), terms)
        truth = _truth(batch)
        for net in (self.first, self.second):
            net.train()
        logits = [self._logits(net, batch) for net in (self.first, self.second)]
        labels = [hard_labels(x.detach()[self._start(batch) :]) for x in logits]
        one = network_loss(logits[0], truth, labels[1], self.rules)
        two = network_loss(logits[1], truth, labels[0], self.rules)
        loss = one[0] + two[0] + weight * (one[1] + two[1])
        return StepOutput(loss, _report([one, two], labels, weight))

    def _one_at_a_time(
        self, batch: Batch, weight: float, terms: dict[str, Tensor]
    ) -> Iterator[Tensor]:
        """Label first, then train one network after the other; ``terms`` is filled at the end."""
        assert batch.labeled is not None
        assert batch.unlabeled is not None
        images = torch.cat([batch.labeled.image, batch.unlabeled.image])[self._start(batch) :]
        labels = []
        for net in (self.first, self.second):
            net.eval()
            with torch.no_grad():
                labels.append(hard_labels(net(images)))
            net.train()
        parts = []
        for i, net in enumerate((self.first, self.second)):
            labeled, cross = network_loss(
                self._logits(net, batch), _truth(batch), labels[1 - i], self.rules
            )
            parts.append((labeled.detach(), cross.detach()))
            yield labeled + weight * cross
        terms.update(_report(parts, labels, weight))

    def _logits(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return a network's logits for labeled and unlabeled patches, labeled first."""
        assert batch.labeled is not None
        assert batch.unlabeled is not None
        images = (batch.labeled.image, batch.unlabeled.image)
        if self.rules.joint_forward:
            return network(torch.cat(images))
        return torch.cat(forward_each(network, images))

    def _start(self, batch: Batch) -> int:
        """Return the first patch, labeled ones counted first, that gets a pseudo-label."""
        return len(_truth(batch)) if self.rules.cross_on == "unlabeled" else 0

    def predictor(self) -> nn.Module:
        """Return one network, or the mean of both, as ``predict_with`` says."""
        if self.rules.predict_with == "mean":
            return Ensemble([self.first, self.second])
        return self.second if self.rules.predict_with == "second" else self.first

    @classmethod
    def warn_recipe(cls, settings: CPSSettings, recipe: Any) -> list[str]:
        """Warn of settings that can do nothing."""
        rules = resolve(settings)
        out = []
        if rules.cross_weight == 0:
            out.append("method.cross_weight is 0: the unlabeled images do nothing")
        if settings.preset == "corrected" and settings.variant is not None:
            out.append("method.variant does nothing with preset corrected")
        if rules.ramp_fraction == 0 and settings.ramp_steps:
            out.append("method.ramp_steps does nothing with ramp_fraction 0")
        if "dice_ce" not in (rules.labeled_loss, rules.cross_loss) and settings.dice_background:
            out.append("method.dice_background does nothing without a Dice loss")
        return out


def _truth(batch: Batch) -> Tensor:
    """Return the label of the labeled patches."""
    assert batch.labeled is not None
    return batch.labeled.label


def _report(
    parts: list[tuple[Tensor, Tensor]], labels: list[Tensor], weight: float
) -> dict[str, Tensor]:
    """Return what to log: means over both networks, and how far their labels agree."""
    either = (labels[0] > 0) | (labels[1] > 0)
    agree = (labels[0] == labels[1]) & either
    return {
        "loss/labeled": (parts[0][0] + parts[1][0]).detach() / 2,
        "loss/cross": (parts[0][1] + parts[1][1]).detach() / 2,
        "weight/cross": torch.tensor(weight),
        "pseudo/agreement": agree.sum() / either.sum().clamp(min=1),
    }
