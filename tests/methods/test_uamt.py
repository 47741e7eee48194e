"""UA-MT: its mask, its stochastic passes, one whole published step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.registry import get_method
from medssl.ops.certainty import weighted_consistency
from medssl.settings.recipe import Recipe

CLS = get_method("uamt")


class Net(nn.Module):
    """A layer with BatchNorm and dropout, counting its calls."""

    def __init__(self, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, classes, 1)
        self.norm = nn.BatchNorm2d(classes)
        self.dropout = nn.Dropout2d(dropout)
        self.seen: list[tuple[int, bool, bool]] = []

    def forward(self, x):
        self.seen.append((len(x), self.norm.training, self.dropout.training))
        return self.dropout(self.norm(self.conv(x)))


class Plain(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, classes, 1)

    def forward(self, x):
        return self.conv(x)


def make(classes=3, network=Net, **settings):
    torch.manual_seed(0)
    return CLS(
        CLS.Settings(**settings), lambda **_: network(classes), num_classes=classes, spatial_dims=2
    ).train()


def make_batch(classes=3, labeled=3, unlabeled=2):
    g = torch.Generator().manual_seed(1)
    label = torch.randint(0, classes, (labeled, 8, 8), generator=g)
    image = torch.randn(labeled + unlabeled, 1, 8, 8, generator=g)
    return Batch(LabeledBatch(image[:labeled], label), UnlabeledBatch(image[labeled:]))


@pytest.mark.parametrize(("where", "patches"), [("unlabeled", 2), ("all", 5)])
def test_passes_of_the_published_scripts(where, patches):
    method = make(preset="official", consistency_on=where)
    method.training_step(make_batch(), Progress("train", 0, 100))
    assert method.student.seen == [(5, True, True)]
    # The target, then four times two copies; dropout on and BatchNorm by batch throughout.
    assert method.teacher.seen == [(patches, True, True), *[(2 * patches, True, True)] * 4]


def test_corrected_passes_have_dropout_but_no_batch_statistics():
    method = make(passes=3)
    buffers = {k: v.clone() for k, v in method.teacher.named_buffers()}
    method.training_step(make_batch(), Progress("train", 0, 100))
    assert method.teacher.seen == [(2, False, False), (4, False, True), (2, False, True)]
    assert not method.teacher.training
    for key, value in method.teacher.named_buffers():
        assert torch.equal(value, buffers[key])


def test_the_bound_is_that_of_the_classes():
    last = Progress("train", 100, 100)
    for classes in (2, 5):
        assert make(classes).threshold(last) == pytest.approx(math.log(classes))
        assert make(classes, preset="official").threshold(last) == pytest.approx(math.log(2))
    first = make(5).threshold(Progress("train", 0, 100))
    assert first == pytest.approx((0.75 + 0.25 * math.exp(-5)) * math.log(5))


def test_uncertain_voxels_are_left_out():
    """A teacher without opinion is masked in the beginning; one that is sure is not."""
    method = make(2, noise=0, network=Plain)
    nn.init.zeros_(method.teacher.conv.bias)
    method.teacher.conv.weight.data = torch.tensor([0.0, 50.0]).view(2, 1, 1, 1)
    image = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    mask, terms = method.weigh(image, method.teacher(image), Progress("train", 0, 100))
    assert mask.flatten().tolist() == [0, 1]
    assert terms["certainty/kept"] == 0.5
    assert terms["certainty/entropy"].item() == pytest.approx(math.log(2) / 2, rel=1e-4)


def test_nothing_certain_costs_nothing():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    for normalizer in ("official", "mean", "poster"):
        loss = weighted_consistency(
            logits, torch.randn(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), normalizer=normalizer
        )
        (grad,) = torch.autograd.grad(loss, logits)
        assert loss == 0
        assert not grad.any()


@pytest.mark.parametrize("classes", [2, 3])
def test_an_official_step_by_hand(classes):
    """The loss of one step, from the formulas of the published script `unlabel`."""
    method = make(classes, preset="official", noise=0, network=Plain)
    method.teacher.conv.weight.data *= 5
    batch = make_batch(classes, labeled=2)
    output = method.training_step(batch, Progress("train", 3000, 6000))
    images = torch.cat([batch.labeled.image, batch.unlabeled.image])
    s = method.student.conv(images).softmax(1)
    t = method.teacher.conv(images[2:]).softmax(1)
    assert not torch.equal(s[2:], t), "student and teacher start independently"
    # Without dropout and noise all passes are the teacher's.
    entropy = -(t * (t + 1e-6).log()).sum(1, keepdim=True)
    mask = (entropy < 0.5695078834600942).float()
    assert 0 < mask.mean() < 1
    consistency = (mask * (s[2:] - t) ** 2).sum() / (2 * mask.sum() + 1e-16)
    label = batch.labeled.label
    ce = -s[:2].log().gather(1, label[:, None]).mean()
    score = 0.0
    for c in range(1, classes):
        p, y = s[:2, c], (label == c).float()
        score += (2 * (p * y).sum() + 1e-5) / ((p * p).sum() + y.sum() + 1e-5) / (classes - 1)
    expected = 0.5 * (ce + 1 - score) + 0.028650479686019012 * consistency
    torch.testing.assert_close(output.loss, expected)


def test_ramps_of_the_presets():
    official, corrected = make(preset="official"), make()
    scaled = make(preset="official", ramp_fraction=1.0)
    for total in (2000, 6000):
        progress = Progress("train", 1500, total)
        assert official.consistency_weight(progress) == pytest.approx(0.006005466789530795)
    # Forty plateaus over a run of 4000 are 100 iterations long.
    assert scaled.consistency_weight(Progress("train", 1099, 4000)) == scaled.consistency_weight(
        Progress("train", 1000, 4000)
    )
    assert scaled.consistency_weight(Progress("train", 4000, 4000)) == pytest.approx(0.1)
    assert corrected.consistency_weight(Progress("train", 800, 2000)) == pytest.approx(5.0)


def recipe(**changes):
    return Recipe.model_validate({"training": {"patch": [32, 32]}, **changes})


def test_refusals_and_warnings():
    assert list(CLS.Settings().check_recipe(recipe())) == []
    assert list(CLS.Settings().warn_recipe(recipe(), ())) == []
    for settings, words in (
        ({"consistency_weight": 0}, "consistency_weight is 0"),
        ({"threshold_start": 1}, "use mean_teacher"),
        ({"noise": 0}, "all stochastic passes are the same"),
        ({"ramp_every": 100}, "method.ramp_every does nothing"),
    ):
        (message,) = CLS.Settings(**settings).warn_recipe(recipe(), settings)
        assert words in message
    dropped = recipe(network={"name": "unet", "dropout": 0.1})
    assert list(CLS.Settings(noise=0).warn_recipe(dropped, ("noise",))) == []
