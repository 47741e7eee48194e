"""Every number among a method's settings that a step reads changes what the step does.

Formulas are held elsewhere, at the values of the presets: a weight that is 1 there may be forgotten
in the code, and nothing notices.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from literal_steps import draw, make, sgd, tiny
from torch import nn

from medssl.methods.base import Batch, Progress, UnlabeledBatch
from medssl.methods.registry import get_settings, list_methods

TOTAL = 250
SMALL: dict[str, dict[str, Any]] = {
    "anatomical": {"filters": 2, "embedding": 4, "levels": 2},
    "umct": {"mc_samples": 2},
    "self_training": {"weight": ["confidence", "boundary"], "target": "sharpened"}
    | {"selection": "adaptive"},
}
"""Settings that make a step quick, or let it read a number; the same on both sides."""
RAMP = {"ramp_fraction": 0.9}
TEACHER: dict[str, float] = {"ema_decay": 0.5}
CONSISTENCY = {"consistency_weight": 9.0, "noise": 0.7, "supervised_weight": 3.0}
COUNTED: list[tuple[str, str, dict[str, Any]]] = [
    (
        "anatomical",
        "guided",
        TEACHER | CONSISTENCY | RAMP | {"gamma": 9.0, "latent_noise": 0.5, "skip_below": 0.9},
    ),
    (
        "anatomical",
        "autoencoder",
        {"mask_noise": 0.5, "latent_noise_training": 0.5, "corruption_strength": 3.0},
    ),
    (
        "bcp",
        "self_train",
        TEACHER | {"mask_ratio": 0.4, "weight_gt": 3.0, "weight_pseudo": 3.0, "dice_smooth": 0.5},
    ),
    ("cps", "train", RAMP | {"labeled_weight": 3.0, "cross_weight": 3.0}),
    (
        "distill",
        "train",
        {"temperature": 3.0, "divergence_weight": 3.0, "dice_weight": 3.0}
        | {"labeled_weight": 3.0, "labels_from": 0.5},
    ),
    ("fixmatch", "train", TEACHER | RAMP | {"threshold": 0.4, "unlabeled_weight": 3.0}),
    ("masked_pretraining", "train", {"mask_share": 0.3}),
    ("mean_teacher", "train", TEACHER | CONSISTENCY | RAMP),
    ("pseudo_supervisor", "train", TEACHER | RAMP | {"unlabeled_weight": 3.0, "virtual_lr": 0.5}),
    (
        "rail",
        "train",
        TEACHER
        | RAMP
        | {"dfs_mse_weight": 3.0, "dfs_kl_weight": 3.0, "consistency_weight": 3.0}
        | {"uniform_weight": 3.0, "teacher_weight": 3.0, "temperature": 0.9},
    ),
    (
        "self_training",
        "train",
        TEACHER
        | RAMP
        | {"unlabeled_weight": 3.0, "temperature": 0.9, "elr_weight": 3.0, "memory_decay": 0.2}
        | {"shrink_weight": 3.0}
        | {"confidence_power": 3.0, "boundary_extra": 3.0, "boundary_radius": 2},
    ),
    ("supervised", "train", {"dice_weight": 3.0, "ce_weight": 3.0}),
    ("uamt", "train", TEACHER | CONSISTENCY | RAMP | {"passes": 4, "threshold_start": 0.1}),
    ("umct", "co_train", {"lambda_cot": 3.0, "mc_samples": 3, "eps": 0.5}),
]
ELSEWHERE = {
    # Lengths, plateaus and shares of stages, sizes of networks, and how many of something.
    *("ramp_every", "ramp_steps", "autoencoder_fraction", "pretrain_fraction", "views_fraction"),
    *("schedule_tail", "first_term_fraction", "turn_length", "groups", "connectivity"),
    *("embedding", "levels", "filters"),
    # What the policy learns with, see test_policy_memory; only with ``weight: hard``.
    *("buffer", "buffer_patches", "measure_every", "reward_patches", "policy_lr", "alpha", "gamma"),
    *("entropy", "floor", "policy_clip", "threshold"),
    # Of the other pretext, see test_masked_pretraining.
    "min_edge",
    # Parts of self_training that are off here, see test_self_training.
    *("slow_decay", "reliability", "views", "peeks", "feature_drop"),
}
"""Numbers that are held by other tests, for the steps here do not read them."""


def steps(name: str, stage: str, settings: dict[str, Any]) -> torch.Tensor:
    """Return losses and all weights of two steps on the ramp, in one row."""
    method = make(name, 3, tiny(3), **SMALL.get(name, {}) | settings)
    method.start_stage(stage)
    seen = []
    for iteration in (60, 61):
        drawn = draw(iteration, 3, labeled=3, shape=(8, 8, 8))
        image = drawn.unlabeled.image
        views = (0.5 * image.flip(0) - 1,)
        masks = drawn.labeled.label if stage == "autoencoder" else None
        batch = Batch(drawn.labeled, UnlabeledBatch(image, views), masks)
        progress = Progress(stage, iteration, TOTAL, seed=3)
        trained = nn.ModuleList([nn.ParameterList(p) for p in method.trainable(stage).values()])
        optimizer = sgd(trained, 0.05)
        torch.manual_seed(iteration)
        for loss in method.training_step(batch, progress).losses():
            loss.backward()
            seen.append(loss.detach().reshape(1))
        optimizer.step()
        method.after_step(progress)
    return torch.cat([*seen, *(v.reshape(-1).float() for v in method.state_dict().values())])


@pytest.mark.parametrize(("name", "stage", "settings"), COUNTED)
def test_each_number_changes_the_step(name: str, stage: str, settings: dict[str, Any]) -> None:
    before = steps(name, stage, {})
    assert torch.equal(before, steps(name, stage, {}))
    ignored = [k for k, v in settings.items() if torch.equal(before, steps(name, stage, {k: v}))]
    assert not ignored


def test_no_number_is_forgotten_here() -> None:
    for name in list_methods():
        numbers = {
            key
            for key, field in get_settings(name).model_fields.items()
            if isinstance(field.default, int | float) and not isinstance(field.default, bool)
        }
        counted = {key for method, _, keys in COUNTED for key in keys if method == name}
        forgotten = numbers - counted - ELSEWHERE
        assert not forgotten, f"{name}: give {forgotten} another value in COUNTED"
