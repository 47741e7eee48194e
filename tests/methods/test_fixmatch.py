"""Voxelwise FixMatch: threshold and normalization by hand, views, who labels, warnings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.fixmatch import FixMatch
from medssl.methods.fixmatch_settings import FixMatchSettings
from medssl.methods.self_training_losses import guess_loss
from medssl.methods.self_training_memory import Memory
from medssl.methods.self_training_teachers import guess_of
from medssl.methods.self_training_views import Shown
from medssl.ops.perturb import View
from medssl.recipe.load import load_recipe
from medssl.settings.recipe import Recipe


def make(classes: int = 2, norm: bool = False, **settings) -> FixMatch:
    torch.manual_seed(0)

    def build(**_):
        layers = [nn.Conv3d(1, 4, 1), nn.BatchNorm3d(4)] if norm else [nn.Conv3d(1, 4, 1)]
        return nn.Sequential(*layers, nn.Tanh(), nn.Conv3d(4, classes, 1))

    method = FixMatch(FixMatchSettings(**settings), build, num_classes=classes, spatial_dims=3)
    return method.train()


def batch(classes: int = 2) -> Batch:
    g = torch.Generator().manual_seed(1)
    weak = torch.randn(3, 1, 5, 4, 3, generator=g)
    label = torch.randint(0, classes, (2, 5, 4, 3), generator=g)
    return Batch(
        LabeledBatch(torch.randn(2, 1, 5, 4, 3, generator=g), label),
        UnlabeledBatch(weak, (weak + 0.5 * torch.randn(weak.shape, generator=g),)),
    )


def logits_of(probs: list[list[float]]) -> torch.Tensor:
    """Return ``(1, C, V, 1)`` logits from V lists of probabilities."""
    return torch.tensor(probs).log().T[None, :, :, None]


def confident_labels(logits: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return what a teacher with these logits is sure of, 255 elsewhere."""

    class Saying(nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            return logits

    parts = FixMatchSettings(threshold=threshold).slots
    guess = guess_of(logits, [Saying()], parts)
    weight = Memory(parts, logits.shape[1]).believe(guess, None)
    return torch.where(weight > 0, guess.label, 255)


def strong_view_loss(logits: torch.Tensor, target: torch.Tensor, **settings) -> torch.Tensor:
    guessed, weight = torch.zeros_like(target, dtype=torch.bool), (target != 255).float()
    shown = Shown(View(logits, target, guessed, weight), slice(0, 0), (slice(None),))
    return guess_loss(logits, shown, FixMatchSettings(**{"loss": "ce", **settings}).slots)


def test_threshold_is_inclusive_and_drops_the_rest() -> None:
    logits = logits_of([[0.96, 0.04], [0.06, 0.94], [0.03, 0.97], [0.5, 0.5]])
    assert confident_labels(logits, 0.95).flatten().tolist() == [0, 255, 1, 255]
    exact = logits.new_tensor([[40.0, 0.0]]).T.reshape(1, 2, 1, 1)
    assert confident_labels(exact, 1.0).item() == 0
    assert confident_labels(logits, 0.0).flatten().tolist() == [0, 1, 1, 0]


def test_cross_entropy_is_divided_by_all_voxels() -> None:
    """Eq. 4: voxels below the threshold count in the denominator."""
    student = logits_of([[0.8, 0.2], [0.5, 0.5], [0.4, 0.6], [0.5, 0.5]])
    target = torch.tensor([0, 255, 1, 255]).reshape(1, 4, 1)
    total = -(torch.tensor(0.8).log() + torch.tensor(0.6).log())
    torch.testing.assert_close(strong_view_loss(student, target), total / 4)
    torch.testing.assert_close(strong_view_loss(student, target, normalize="kept"), total / 2)
    both = strong_view_loss(student, target, loss="dice_ce")
    kept = strong_view_loss(student, target, loss="dice_ce", normalize="kept")
    torch.testing.assert_close(both, kept / 2)
    # Foreground Dice over the two counted voxels: p = .2, .6; y = 0, 1.
    dice = 1 - 2 * 0.6 / (0.04 + 0.36 + 1)
    assert (kept - total / 2).item() == pytest.approx(dice, abs=1e-4)


@pytest.mark.parametrize("loss", ["ce", "dice_ce"])
@pytest.mark.parametrize("normalize", ["all", "kept"])
def test_no_confident_voxel_is_an_exact_zero_with_zero_gradient(loss: str, normalize: str) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = strong_view_loss(logits, torch.full((2, 4, 4), 255), loss=loss, normalize=normalize)
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_official_step_by_hand() -> None:
    method, data = make(preset="official", threshold=0.6), batch()
    output = method.training_step(data, Progress("train", 0, 100))
    probs = method.student(data.unlabeled.image).softmax(1)
    confidence, label = probs.max(1)
    kept = confidence >= 0.6
    assert 0 < kept.float().mean() < 1
    ce = F.cross_entropy(method.student(data.unlabeled.views[0]), label, reduction="none")
    truth = F.cross_entropy(method.student(data.labeled.image), data.labeled.label)
    torch.testing.assert_close(output.loss, truth + (ce * kept).mean())
    torch.testing.assert_close(output.terms["pseudo/kept"], kept.float().mean())
    sure = (kept & (label == 1)).sum() / (label == 1).sum()
    torch.testing.assert_close(output.terms["pseudo/kept_foreground"], sure)


def test_the_weak_view_labels_and_the_strong_view_learns() -> None:
    method, data = make(mixing="none"), batch()
    seen: dict[str, list[torch.Tensor]] = {"student": [], "teacher": []}
    for name in seen:
        getattr(method, name).register_forward_pre_hook(
            lambda module, args, name=name: seen[name].append(args[0])
        )
    method.training_step(data, Progress("train", 1, 100))
    assert [torch.equal(x, data.unlabeled.image) for x in seen["teacher"]] == [True]
    assert len(seen["student"]) == 1
    assert torch.equal(seen["student"][0][:2], data.labeled.image)
    assert torch.equal(seen["student"][0][2:], data.unlabeled.views[0])


def test_labeling_leaves_no_gradient_and_a_teacher_in_eval_mode_no_statistics() -> None:
    method, data = make(norm=True), batch()
    before = {k: v.clone() for k, v in method.teacher.state_dict().items()}
    assert not method.guess(data.unlabeled.image).probs.requires_grad
    assert all(torch.equal(before[k], v) for k, v in method.teacher.state_dict().items())
    official = make(norm=True, preset="official")
    official.guess(data.unlabeled.image)
    assert official.student[1].num_batches_tracked == 1


def test_a_threshold_that_nothing_reaches_leaves_the_labeled_loss() -> None:
    method, data = make(threshold=1.0), batch()
    output = method.training_step(data, Progress("train", 99, 100))
    assert output.terms["pseudo/kept"] == 0
    torch.testing.assert_close(output.loss.detach(), output.terms["loss/labeled"])


def test_thresholds_of_the_presets() -> None:
    assert make(preset="official").settings.threshold == 0.95
    assert make().settings.threshold == 0.7


def test_average_of_the_weights() -> None:
    official, corrected = make(preset="official"), make()
    assert [official.decay(i) for i in (0, 5000)] == [0.999, 0.999]
    assert [corrected.decay(i) for i in (0, 1, 5000)] == [0.0, 0.5, 0.99]
    assert official.predictor() is official.teacher


def test_recipes() -> None:
    def warnings(settings: dict[str, float], **augment) -> str:
        recipe = Recipe.model_validate({"training": {"augment": augment}})
        return " ".join(FixMatchSettings(**settings).warn_recipe(recipe, settings))

    assert warnings({}) == ""
    assert "0.95" in warnings({"threshold": 1.0})
    assert "every voxel" in warnings({"threshold": 0.5})
    assert warnings({}, strong_probability=0) == ""
    assert "strong_probability" in warnings({"mixing": "none"}, strong_probability=0)
    assert "do nothing" in warnings({"unlabeled_weight": 0})
    loaded = load_recipe("hippocampus_fixmatch")
    assert loaded.warnings == ()
