"""Settings of ``pseudo_supervisor``; the method is in :mod:`medssl.methods.pseudo_supervisor`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar, Literal

from medssl.methods.fields import (
    BelowOne,
    Count,
    Natural,
    NotNegative,
    Off,
    Positive,
    Share,
    setting,
)
from medssl.methods.plan_hints import Advice, PlanHints
from medssl.methods.settings import Sections, Tables, TeacherSettings
from medssl.ops.variants import LossName

LEAST_TRAVEL = 0.1
"""Updates times learning rate, about how far a weight of the policy can go, to be worth it."""


class PseudoSupervisorSettings(TeacherSettings):
    """Settings of ``pseudo_supervisor``."""

    paper = "after Luo et al., ICCV 2023 (experimental: a voxelwise version, unproven)"
    scales = True
    regions = True
    plan_hints = PlanHints(
        "experimental: learns which of its guesses to trust",
        advice=(Advice("buffer", 20, "often updated, as the training is short", below=10_000),),
    )
    presets: ClassVar[Tables] = {
        "official": {
            "loss": "ce",
            "unlabeled_weight": 1.0,
            "ramp_fraction": 0.0,
            "reward": "rectified",
            "scale_reward": False,
            "gamma": 0.9,
            "restart": True,
            "advantage": "standardize",
            "entropy": 0.0,
            "floor": 0.0,
            "drop": "labels",
            "policy_lr": 1e-4,
            "policy_clip": "off",
            "policy_betas": (0.0, 0.1),
            "predict_with": "student",
        }
    }

    selection: Literal["learned", "random", "always_0.5", "always_0.95"] = setting(
        "learned", "medssl"
    )
    """Thresholds drawn by the policy, drawn uniformly, or one for all."""
    buffer: int = setting(50, "sec. 4", ge=2)
    """Rewards per policy update."""
    buffer_patches: Count = setting(16, "medssl")
    """Patches of a batch that the policy recalls."""
    measure_every: Count = setting(1, "medssl")
    """Iterations between rewards."""
    reward_patches: Natural = setting(1, "medssl")
    """Labeled patches held out for the reward; 0: measure on all."""
    virtual_lr: Positive = setting(0.01, "medssl")
    """Length of the virtual step."""
    policy_lr: Positive = setting(0.01, "published code")
    """Learning rate of the policy."""
    loss: LossName = setting("dice_ce", "sec. 4")
    """Of labels, rewards and all."""
    unlabeled_weight: NotNegative = setting(0.5, "sec. 4")
    """Factor of the pseudo-labels' loss after the ramp."""
    ramp_fraction: Share = setting(0.4, "medssl")
    """Share of all iterations until the ramp ends."""
    reward: Literal["signed", "rectified"] = setting("signed", "sec. 4")
    """Signed is e0 - e1, rectified max(exp(e0 - e1) - 1, 0)."""
    scale_reward: bool = setting(True, "medssl")
    """Divide by the running root mean square."""
    alpha: Positive = setting(1.0, "sec. 4")
    """Rectified only: steepness."""
    gamma: Share = setting(0.0, "sec. 4")
    """Discount of later rewards."""
    restart: bool = setting(False, "published code")
    """Returns restart at a reward of 0."""
    advantage: Literal["baseline", "standardize"] = setting("baseline", "published code")
    """Returns over a moving baseline, or over their mean."""
    entropy: NotNegative = setting(0.1, "medssl")
    """Weight of the entropy bonus."""
    floor: Share = setting(0.2, "medssl")
    """Share of the draws that are uniform whatever was learned."""
    drop: Literal["labels", "class"] = setting("class", "medssl")
    """What dropping a class takes out: its labels, or all evidence about it."""
    policy_clip: Positive | Off = setting(1.0, "medssl")
    """Largest norm of the policy's gradient."""
    policy_betas: tuple[BelowOne, BelowOne] = setting((0.9, 0.999), "published code")
    """Of Adam, for the policy."""

    def check_recipe(self, recipe: Sections) -> Iterator[str]:
        """Refuse batches from which nothing can be held out."""
        held, labeled = self.reward_patches, recipe.training.labeled_batch
        if held >= labeled:
            yield (
                f"method.reward_patches ({held}) leaves none of training.labeled_batch ({labeled}) "
                "to train on; use a larger batch, or reward_patches: 0 to measure on all of it"
            )

    def warn_recipe(self, recipe: Sections, overridden: Collection[str]) -> Iterator[str]:
        """Warn of settings that can do nothing."""
        updates = recipe.training.iterations // (self.buffer * self.measure_every)
        if self.unlabeled_weight == 0:
            yield "method.unlabeled_weight is 0: the unlabeled images do nothing"
        if self.selection == "learned" and updates * self.policy_lr < LEAST_TRAVEL:
            yield (
                f"the policy is updated {updates} times (training.iterations / method.buffer / "
                f"measure_every) at a learning rate of {self.policy_lr:g}: it will hardly differ "
                "from selection: random; use a smaller buffer or a larger policy_lr"
            )
        if self.reward != "rectified" and "alpha" in overridden:
            yield "method.alpha does nothing without reward: rectified"
        if self.gamma == 0 and self.restart and "restart" in overridden:
            yield "method.restart does nothing with gamma 0"
