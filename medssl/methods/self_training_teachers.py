"""Who labels in ``self_training``: averages of the student, and how two of them are fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from medssl.methods.base import Progress
from medssl.methods.self_training_slots import Slots
from medssl.ops.ema import ema_decay
from medssl.ops.fusion import fuse_by_entropy, surer_of
from medssl.ops.modes import eval_mode, set_mode
from medssl.ops.pseudo_labels import confidence, hard_labels, sharpen
from medssl.ops.reliability import overruled
from medssl.ops.turns import Turn, draw_turns, turn_at

AVERAGES = ("teacher", "second")
"""The averages by the names under which a method holds them."""


@dataclass(frozen=True)
class Guess:
    """What teachers say of patches, without gradient.

    Attributes:
        probs: ``(B, K, *spatial)``, of several teachers fused.
        label: ``(B, *spatial)`` class indices.
        confidence: ``(B, *spatial)``.
        conflict: boolean ``(B, *spatial)``, where two teachers' own labels differ.
    """

    probs: Tensor
    label: Tensor
    confidence: Tensor
    conflict: Tensor | None = None


@torch.no_grad()
def guess_of(image: Tensor, teachers: Sequence[nn.Module], settings: Slots) -> Guess:
    """Label patches ``(B, C, *spatial)``.

    Args:
        image: the patches.
        teachers: one network or two.
        settings: their mode, and how two are fused: in turns as ``fusion`` says, here and elsewhere
            by the surer, else by the mean.
    """
    each = []
    for network in teachers:
        set_mode(network, settings.teacher_mode)
        each.append(torch.softmax(network(image).float(), dim=1))
    if len(each) == 1:
        return Guess(each[0], hard_labels(each[0]), confidence(each[0]))
    if settings.teacher == "global":
        probs = surer_of(*each)
    elif settings.teacher == "dual" and settings.fusion == "entropy":
        probs = fuse_by_entropy(each)
    else:
        probs = torch.stack(each).mean(0)
    first, second = (hard_labels(p) for p in each)
    return Guess(probs, hard_labels(probs), confidence(probs), first != second)


@torch.no_grad()
def settled(guess: Guess, image: Tensor, arbiter: nn.Module) -> Guess:
    """Let a network, in eval mode, overrule two teachers where they conflict and it is surer."""
    assert guess.conflict is not None
    with eval_mode(arbiter):
        probs = torch.softmax(arbiter(image).float(), dim=1)
    label, sure = overruled(
        guess.label, guess.confidence, hard_labels(probs), confidence(probs), guess.conflict
    )
    return replace(guess, label=label, confidence=sure)


def soft_of(guess: Guess, settings: Slots) -> Tensor | None:
    """Return the probabilities ``(B, K, *spatial)`` of a guess that the loss asks for."""
    if not settings.needs_probabilities:
        return None
    sharp = settings.target == "sharpened"
    return sharpen(guess.probs, settings.temperature) if sharp else guess.probs


def turn_of(settings: Slots, progress: Progress) -> Turn:
    """Return whose turn an iteration is; it depends on seed, stage and iteration alone."""
    longest = settings.longest_turn(progress.total)
    lengths = _turns(progress.seed, progress.stage, progress.total, longest, settings.turn_random)
    return turn_at(progress.iteration, lengths)


@lru_cache(maxsize=8)
def _turns(seed: int, stage: str, total: int, longest: int, random: bool) -> np.ndarray:
    rng = Progress(stage, 0, total, seed=seed).rng("turns")
    return draw_turns(total, longest, rng, random=random)


def decays(settings: Slots, progress: Progress) -> dict[str, float]:
    """Return which averages follow the student after an iteration, by name, with their decay."""
    iteration, warmup = progress.iteration, settings.ema_warmup
    first, second = AVERAGES
    if settings.teacher == "dual":
        turn = turn_of(settings, progress)
        decay = ema_decay(turn.updates, settings.ema_decay, warmup=warmup)
        return {AVERAGES[turn.active]: decay}
    found = {first: ema_decay(iteration, settings.ema_decay, warmup=warmup)}
    if settings.teacher == "slow":
        found[second] = ema_decay(iteration, settings.slow_decay, warmup=warmup)
    return found
