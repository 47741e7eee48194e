"""What ``self_training`` remembers of earlier guesses, and what it makes of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.methods.self_training_slots import Slots
from medssl.methods.self_training_teachers import Guess
from medssl.ops import selection as rules
from medssl.ops.reliability import boundary_factor, soft_background

CONSTANT = ("fixed", "agreement", "none")
"""Rules that need no memory."""


class Memory(nn.Module):
    """A histogram of confidence by class, and which voxels count by it.

    Buffers:
        confidence: ``(3, K, 64)``: of all guesses, and of right and wrong ones on labeled patches;
            only of rules that look at it.
    """

    confidence: Tensor

    def __init__(self, settings: Slots, classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        if settings.selection not in CONSTANT:
            self.register_buffer("confidence", torch.zeros(3, classes, rules.BINS))

    @torch.no_grad()
    def believe(self, guess: Guess, checked: tuple[Guess, Tensor] | None) -> Tensor:
        """Remember guesses and weigh their voxels, ``(B, *spatial)``.

        Args:
            guess: of unlabeled patches.
            checked: a guess of labeled patches with their labels, for the rule that asks for it.
        """
        self._remember(guess, checked)
        weight = self._selected(guess)
        if self.settings.selection == "agreement" and guess.conflict is not None:
            weight = weight * ~guess.conflict
        return weight * self._factors(guess)

    def _remember(self, guess: Guess, checked: tuple[Guess, Tensor] | None) -> None:
        if self.settings.selection in CONSTANT:
            return
        new = [rules.class_histogram(guess.confidence, guess.label, self.classes)]
        if checked is not None:
            known, truth = checked
            right = torch.where(truth == known.label, known.label, 255)
            wrong = torch.where((truth == known.label) | (truth == 255), 255, known.label)
            for each in (right, wrong):
                new.append(rules.class_histogram(known.confidence, each, self.classes))
        old = self.confidence[: len(new)]
        old.copy_(rules.remembered(old, torch.stack(new), self.settings.memory_decay))

    def _selected(self, guess: Guess) -> Tensor:
        settings = self.settings
        if settings.selection == "none":
            return torch.ones_like(guess.confidence)
        if settings.selection in CONSTANT:
            return (guess.confidence >= settings.threshold).float()
        every, right, wrong = self.confidence
        if settings.selection == "softmatch":
            whole = every.sum(0)
            return rules.normal_weight(
                guess.confidence, rules.mean_of(whole), rules.variance_of(whole)
            )
        if settings.selection == "gate":
            levels = rules.reliable_threshold(right, wrong, settings.reliability)
        else:
            gmm = rules.gmm_peak if settings.gmm_at == "peak" else rules.gmm_valley
            by_name = {"adaptive": rules.adaptive, "two_level": rules.two_means, "gmm": gmm}
            levels = by_name[settings.selection](every)
        return rules.voxel_weight(
            guess.confidence, guess.label, rules.levels_or(levels, settings.threshold)
        )

    def _factors(self, guess: Guess) -> Tensor:
        settings = self.settings
        factor = torch.ones_like(guess.confidence)
        for name in settings.weight:
            if name == "confidence":
                factor = factor * guess.confidence**settings.confidence_power
            elif name == "boundary":
                extra, radius = settings.boundary_extra, settings.boundary_radius
                factor = factor * boundary_factor(guess.label, extra, radius)
            elif name == "soft_background":
                factor = factor * soft_background(guess.label, guess.probs)
        return factor
