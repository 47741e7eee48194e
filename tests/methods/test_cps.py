"""Cross pseudo supervision: losses by hand, who labels whom, presets, the two ways of memory."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from weighted_loss import dice_ce_loss

from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.cps import (
    CPS,
    CPSSettings,
    network_loss,
    reinitialize,
)
from medssl.networks.ensemble import Ensemble
from medssl.ops.losses import DiceVariant
from medssl.ops.ramps import sigmoid_ramp
from medssl.recipe.load import load_recipe
from medssl.settings.recipe import Recipe


def make(dims: int = 3, classes: int = 3, seed: int = 0, **settings) -> CPS:
    torch.manual_seed(seed)
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]

    def build(**_):
        return nn.Sequential(conv(1, 4, 3, padding=1), nn.PReLU(), conv(4, classes, 1))

    return CPS(CPSSettings(**settings), build, num_classes=classes, spatial_dims=dims).train()


def batch(dims: int = 3, classes: int = 3, labeled: int = 2, unlabeled: int = 3) -> Batch:
    g = torch.Generator().manual_seed(1)
    shape = (6, 5, 4)[:dims]
    label = torch.randint(0, classes, (labeled, *shape), generator=g)
    label[0, 0] = 255
    image = torch.randn(labeled, 1, *shape, generator=g)
    return Batch(
        LabeledBatch(image, label),
        UnlabeledBatch(torch.randn(unlabeled, 1, *shape, generator=g)),
    )


END = Progress("train", 99, 100)


@pytest.mark.parametrize("dims", [2, 3])
def test_official_paper_is_cross_entropy_by_hand(dims: int) -> None:
    method, data = make(dims, preset="official"), batch(dims)
    output = method.training_step(data, Progress("train", 0, 100))
    logits = [
        torch.cat([net(data.labeled.image), net(data.unlabeled.image)])
        for net in (method.first, method.second)
    ]
    truth = [F.cross_entropy(x[:2], data.labeled.label, ignore_index=255) for x in logits]
    cross = [F.cross_entropy(logits[i], logits[1 - i].argmax(1)) for i in (0, 1)]
    expected = sum(truth) + 1.5 * sum(cross)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.terms["loss/labeled"], sum(truth).detach() / 2)
    torch.testing.assert_close(output.terms["loss/cross"], sum(cross).detach() / 2)


def test_official_medical_by_hand() -> None:
    method, data = make(preset="official", variant="medical"), batch()
    progress = Progress("train", 13_000, 30_000)
    output = method.training_step(data, progress)
    images = torch.cat([data.labeled.image, data.unlabeled.image])
    one, two = method.first(images), method.second(images)
    weight = 0.1 * sigmoid_ramp(13_000 // 150, 200)
    expected = 0.0
    for mine, other in ((one, two), (two, one)):
        expected = expected + 0.5 * dice_ce_loss(mine[:2], data.labeled.label, dice=DiceVariant())
        expected = expected + weight * F.cross_entropy(mine[2:], other[2:].argmax(1))
    torch.testing.assert_close(output.loss, expected)


def test_the_target_is_the_other_networks_label_without_gradient() -> None:
    method, data = make(cross_on="unlabeled", mixing="none"), batch()
    blank = torch.full_like(data.labeled.label, 255)
    data = Batch(LabeledBatch(data.labeled.image, blank), data.unlabeled)
    output = method.training_step(data, END)
    (alone,) = torch.autograd.grad(output.loss, [method.first[2].weight], retain_graph=True)
    target = method.second(data.unlabeled.image).argmax(1)
    own = dice_ce_loss(method.first(data.unlabeled.image), target, dice=method.settings.dice)
    weight = method.cross_weight(END)
    (expected,) = torch.autograd.grad(weight * own, [method.first[2].weight])
    torch.testing.assert_close(alone, expected)


def test_labeled_patches_get_pseudo_labels_only_where_asked() -> None:
    settings = CPSSettings(cross_loss="ce")
    logits = torch.randn(3, 2, 4, 4, 4)
    label = torch.randint(0, 2, (1, 4, 4, 4))
    pseudo = torch.randint(0, 2, (3, 4, 4, 4))
    torch.testing.assert_close(
        network_loss(logits, label, pseudo, settings)[1], F.cross_entropy(logits, pseudo)
    )
    (_, cross) = network_loss(logits, label, pseudo[1:], settings)
    torch.testing.assert_close(cross, F.cross_entropy(logits[1:], pseudo[1:]))


def test_networks_differ_at_the_start() -> None:
    method = make()
    assert not torch.equal(method.first[0].weight, method.second[0].weight)
    assert set(method.trainable("train")) == {"first", "second"}


def test_medical_variant_draws_kaiming_and_xavier() -> None:
    net = nn.Sequential(nn.Conv3d(64, 32, 3))
    bias = net[0].bias.clone()
    torch.manual_seed(0)
    reinitialize(net, "kaiming")
    assert net[0].weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 27)), rel=0.02)
    reinitialize(net, "xavier")
    assert net[0].weight.std().item() == pytest.approx(math.sqrt(2 / (96 * 27)), rel=0.02)
    assert torch.equal(net[0].bias, bias)


@pytest.mark.parametrize("cross_on", ["all", "unlabeled"])
def test_one_at_a_time_gives_the_same_gradients(cross_on: str) -> None:
    """Without dropout and BatchNorm, labels from passes of their own are the same labels."""
    together, data = make(cross_on=cross_on, mixing="none"), batch()
    alone = copy.deepcopy(together)
    alone.settings = CPSSettings(cross_on=cross_on, mixing="none", labels_from="eval")
    one = together.training_step(data, END)
    one.loss.backward()
    two = alone.training_step(data, END)
    assert not isinstance(two.loss, Tensor)
    for k, loss in enumerate(two.loss):
        loss.backward()
        assert (alone.second[0].weight.grad is None) == (k == 0), "one network after the other"
    for a, b in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    assert one.terms.keys() == two.terms.keys()
    for key in one.terms:
        torch.testing.assert_close(one.terms[key], two.terms[key])
    assert alone.training


@pytest.mark.parametrize("given", [{"labels_from": "eval", "mixing": "none"}, {}])
def test_labels_of_passes_of_their_own_have_no_dropout(given: dict[str, str]) -> None:
    """As asked for, and where patches are mixed."""
    method, data = make(cross_on="unlabeled", **given), batch()
    seen = []
    for net in (method.first, method.second):
        net.register_forward_pre_hook(
            lambda module, args: seen.append((module.training, len(args[0])))
        )
    list(method.training_step(data, END).losses())
    assert seen == [(False, 3), (False, 3), (True, 5), (True, 5)]


def test_ramp() -> None:
    method = make()
    assert method.cross_weight(Progress("train", 0, 100)) == pytest.approx(math.exp(-5))
    assert method.cross_weight(Progress("train", 40, 100)) == 1.0
    assert make(preset="official").cross_weight(Progress("train", 0, 100)) == 1.5


def test_predictors() -> None:
    image = torch.randn(1, 1, 6, 5, 4)
    method = make(predict_with="mean")
    mean = method.predictor()
    assert isinstance(mean, Ensemble)
    expected = (method.first(image).softmax(1) + method.second(image).softmax(1)) / 2
    torch.testing.assert_close(mean(image).softmax(1), expected)
    assert make().predictor() is not None
    for name in ("first", "second"):
        method = make(predict_with=name)
        assert method.predictor() is getattr(method, name)
    assert set(make(predict_with="mean").state_dict()) == set(make().state_dict())


def test_agreement_counts_foreground() -> None:
    method, data = make(mixing="none"), batch()
    method.second.load_state_dict(method.first.state_dict())
    assert method.training_step(data, END).terms["pseudo/agreement"] == 1


def test_recipes() -> None:
    for settings, word in (
        ({"cross_weight": 0}, "do nothing"),
        ({"ramp_fraction": 0, "ramp_steps": 5}, "ramp_steps"),
        ({"preset": "official", "dice_background": True}, "dice_background"),
    ):
        assert word in next(iter(CPSSettings(**settings).warn_recipe(Recipe(), settings)))
    assert list(CPSSettings().warn_recipe(Recipe(), ())) == []
    published = CPSSettings(preset="official", variant="medical", labeled_loss="ce")
    assert list(published.warn_recipe(Recipe(), ("labeled_loss",))) == [], "a preset's own values"
    loaded = load_recipe("la_cps", ["protocol=clean"])
    assert loaded.settings.preset == "corrected"
    assert loaded.warnings == ()


@pytest.mark.parametrize("name", ["cps", "fixmatch", "pseudo_supervisor", "self_training"])
def test_recipes_on_the_small_network_differ_in_the_method_alone(name: str) -> None:
    ours = load_recipe(f"hippocampus_{name}").recipe.model_dump()
    theirs = load_recipe("hippocampus_mean_teacher").recipe.model_dump()
    assert {key for key in ours if ours[key] != theirs[key]} == {"name", "method"}
    assert ours["method"]["name"] == name
