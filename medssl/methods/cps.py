"""CPS: two networks, started differently, label the images for each other.

Paper: Chen, Yuan, Zeng, Wang, "Semi-Supervised Semantic Segmentation with Cross Pseudo
Supervision" (CVPR 2021, arXiv 2106.01226).

Algorithm, per iteration:
  1. both networks predict the labeled and the unlabeled patches;
  2. each takes the hard labels of the other (arg-max, no gradient) as its target; where unlabeled
     patches are mixed, the labels come from passes before that, and are mixed alike;
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
  * labeled and unlabeled patches in one pass: BatchNorm sees them together, and it is quicker;
  * ``mixing: cutmix`` of unlabeled patches, as in the paper's best results; ``official`` leaves
    it out.

``predict_with`` is ``first`` in all presets, so that CPS is compared with other methods network
for network; ``mean`` averages the two networks' probabilities at twice the cost of prediction.
``labels_from: eval`` takes the pseudo-labels from passes of their own, without dropout, as happens
wherever patches are mixed: a third more time, but only one network's activations in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, Method, NetworkBuilder, Progress, StepOutput
from medssl.methods.cps_settings import CPSSettings
from medssl.methods.starting import Loader, start_peers
from medssl.networks.ensemble import Ensemble
from medssl.networks.passes import forward_each
from medssl.ops.deep_supervision import Prediction, finest, joined
from medssl.ops.label_unions import Unions
from medssl.ops.losses import supervised_loss
from medssl.ops.modes import eval_mode
from medssl.ops.perturb import mixing_of
from medssl.ops.pseudo_labels import hard_labels


def network_loss(
    logits: Prediction,
    label: Tensor,
    pseudo_label: Tensor,
    settings: CPSSettings,
    unions: Unions = (),
) -> tuple[Tensor, Tensor]:
    """Compute the two losses of one network, before the cross weight.

    Args:
        logits: ``(L + U, C, *spatial)``, labeled patches first.
        label: ``(L, *spatial)`` class indices, 255 without annotation.
        pseudo_label: ``(L + U, *spatial)``, or ``(U, *spatial)`` with ``cross_on: unlabeled``.
        settings: which losses.
        unions: see :func:`medssl.ops.losses.region_terms`.

    Returns:
        The labeled and the cross loss.

    Source: Chen et al. 2021, eqs. 1-4.
    """
    first, dice = len(logits) - len(pseudo_label), settings.dice
    loss = partial(supervised_loss, dice=dice, unions=unions)
    labeled = loss(logits[: len(label)], label, loss=settings.labeled_loss)
    cross = loss(logits[first:], pseudo_label, loss=settings.cross_loss)
    return settings.labeled_weight * labeled, cross


def reinitialize(module: nn.Module, scheme: Literal["kaiming", "xavier"]) -> None:
    """Draw the weights of all convolutions anew; biases and other layers stay."""
    draw = nn.init.kaiming_normal_ if scheme == "kaiming" else nn.init.xavier_normal_
    for child in module.modules():
        if isinstance(child, (nn.Conv2d, nn.Conv3d)):
            draw(child.weight)


class CPS(Method):
    """Cross pseudo supervision of two networks."""

    Settings = CPSSettings
    settings: CPSSettings

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make both networks, which start differently."""
        self.first = build()
        self.second = build()
        if self.settings.init == "kaiming_xavier":
            reinitialize(self.first, "kaiming")
            reinitialize(self.second, "xavier")

    def start_from(self, load: Loader) -> None:
        """Load both; the second keeps a head of its own, or the two would always agree."""
        start_peers(load, [self.first, self.second])

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Optimize both networks, each with an optimizer of its own."""
        return {
            "first": list(self.first.parameters()),
            "second": list(self.second.parameters()),
        }

    def cross_weight(self, progress: Progress) -> float:
        """Return the weight of the cross loss at an iteration."""
        s = self.settings
        return s.cross_weight * progress.ramp(s.ramp_fraction, s.ramp_steps)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the losses of both networks."""
        weight = self.cross_weight(progress)
        if self.settings.labels_from == "eval" or self.settings.mixing != "none":
            terms: dict[str, Tensor] = {}
            return StepOutput(self._one_at_a_time(batch, progress, terms), terms)
        labeled, _ = batch.both()
        for net in (self.first, self.second):
            net.train()
        logits = [self._logits(net, batch) for net in (self.first, self.second)]
        labels = [hard_labels(finest(x).detach()[self._start(batch) :]) for x in logits]
        one = network_loss(logits[0], labeled.label, labels[1], self.settings, self.unions)
        two = network_loss(logits[1], labeled.label, labels[0], self.settings, self.unions)
        loss = one[0] + two[0] + weight * (one[1] + two[1])
        return StepOutput(loss, _report([one, two], labels, weight))

    def _one_at_a_time(
        self, batch: Batch, progress: Progress, terms: dict[str, Tensor]
    ) -> Iterator[Tensor]:
        """Label first, then train one network after the other; ``terms`` is filled at the end."""
        labeled, unlabeled = batch.both()
        weight = self.cross_weight(progress)
        images = torch.cat([labeled.image, unlabeled.image])[self._start(batch) :]
        mixed = mixing_of(self.settings.mixing, unlabeled.image, progress.rng("mixing"))
        batch = Batch(labeled, replace(unlabeled, image=mixed(unlabeled.image)))
        labels = []
        for net in (self.first, self.second):
            with eval_mode(net), torch.no_grad():
                labels.append(mixed(hard_labels(net(images))))
        parts = []
        for i, net in enumerate((self.first, self.second)):
            logits, other = self._logits(net, batch), labels[1 - i]
            own, cross = network_loss(logits, labeled.label, other, self.settings, self.unions)
            del logits
            parts.append((own.detach(), cross.detach()))
            yield own + weight * cross
        terms.update(_report(parts, labels, weight))

    def _logits(self, network: nn.Module, batch: Batch) -> Prediction:
        """Return a network's logits for labeled and unlabeled patches, labeled first."""
        labeled, unlabeled = batch.both()
        images = (labeled.image, unlabeled.image)
        if self.settings.joint_forward:
            both: Prediction = network(torch.cat(images))
            return both
        return joined(forward_each(network, images))

    def _start(self, batch: Batch) -> int:
        """Return the first patch, labeled ones counted first, that gets a pseudo-label."""
        return len(batch.both()[0].label) if self.settings.cross_on == "unlabeled" else 0

    def predictor(self) -> nn.Module:
        """Return one network, or the mean of both, as ``predict_with`` says."""
        if self.settings.predict_with == "mean":
            return Ensemble([self.first, self.second])
        return self.second if self.settings.predict_with == "second" else self.first


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
