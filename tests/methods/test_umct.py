"""UMCT: views, fusion, Monte-Carlo passes, the two stages, what a recipe must offer, prediction."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medssl.errors import MedSSLError
from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.umct import UMCT
from medssl.methods.umct_settings import UMCTSettings
from medssl.models.create import create_method
from medssl.networks.ahnet_resnet18 import AHNetResNet18
from medssl.networks.build import build_network
from medssl.networks.kernels import has_symmetric_kernels
from medssl.networks.registry import check_patch
from medssl.networks.weights_2d import load_2d_weights
from medssl.ops.fusion import fuse_others, vote_scores
from medssl.ops.losses import half_dice_half_ce
from medssl.ops.orientations import permute_axes, restore_axes, standard_orientations
from medssl.ops.uncertainty import (
    dropout_layers,
    mc_statistics,
    predictive_entropy,
    reduce_uncertainty,
    stochastic_mode,
)
from medssl.ops.variants import DiceVariant
from medssl.recipe.load import load_recipe
from medssl.settings.recipe import MethodSection, Recipe

SIX = standard_orientations(6, 3)
CO_TRAIN = Progress("co_train", 1, 10)


def small_network(dropout=0.2, norm="batch", classes=3):
    settings = {"channels": [4, 8], "strides": [2], "num_res_units": 0, "norm": norm}
    return build_network(
        "unet",
        spatial_dims=3,
        in_channels=1,
        num_classes=classes,
        settings={**settings, "dropout": dropout},
    )


def make(*, dropout=0.2, network=small_network, seed=0, **settings) -> UMCT:
    torch.manual_seed(seed)
    built = UMCT(
        UMCTSettings(**settings),
        lambda **_: network(dropout),
        num_classes=3,
        spatial_dims=3,
    )
    return built.train()


def make_batch(labeled=2, unlabeled=2, shape=(8, 8, 8), seed=0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (labeled, *shape), generator=g)
    image = torch.randn(labeled, 1, *shape, generator=g) + label.unsqueeze(1)
    return Batch(
        LabeledBatch(image, label), UnlabeledBatch(torch.randn(unlabeled, 1, *shape, generator=g))
    )


def random_probs(n, seed=0, classes=3, shape=(4, 4, 4)):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(2, classes, *shape, generator=g).softmax(dim=1) for _ in range(n)]


# ------------------------------------------------------------------------------------ views


@pytest.mark.parametrize("view", SIX, ids=str)
def test_a_view_is_undone_exactly(view):
    image, label = torch.randn(2, 3, 4, 5, 6), torch.randint(0, 3, (2, 4, 5, 6))
    seen = permute_axes(image, view)
    assert seen.data_ptr() == image.data_ptr()
    assert torch.equal(restore_axes(seen, view), image)
    assert torch.equal(restore_axes(permute_axes(label, view), view), label)
    # Voxel by voxel: the index of a voxel is permuted as the axes are.
    place = (1, 2, 3)
    there = tuple(place[axis] for axis in view)
    assert torch.equal(seen[(..., *there)], image[(..., *place)])


@pytest.mark.parametrize("view", SIX, ids=str)
def test_left_stays_left_in_every_view(view):
    """A network that tells left from right by an axis of the volume needs no exchange of labels."""
    label = torch.zeros(1, 6, 4, 4, dtype=torch.long)
    label[:, :2], label[:, 4:] = 1, 2
    seen = permute_axes(label, view)
    axis = 1 + view.index(0)
    assert (seen.select(axis, 0) == 1).all()
    assert (seen.select(axis, 5) == 2).all()


def test_three_views_put_each_axis_last_once():
    assert sorted(view[2] for view in standard_orientations(3, 3)) == [0, 1, 2]
    assert [view[2] for view in standard_orientations(2, 3)] == [2, 1]
    assert standard_orientations(2, 2) == ((0, 1), (1, 0))
    with pytest.raises(ValueError, match="2 standard views, not 3"):
        standard_orientations(3, 2)


# ------------------------------------------------------------------------------------ statistics


def test_variance_of_known_values():
    mean, variance = mc_statistics(torch.tensor([[0.2, 0.5], [0.4, 0.5], [0.9, 0.5]]))
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(variance, torch.tensor([(0.09 + 0.01 + 0.16) / 3, 0.0]))


def test_variance_of_near_certainty_is_right_in_float32_and_never_negative():
    g = torch.Generator().manual_seed(0)
    truth = 1 - 1e-4 * torch.rand(10, 1000, generator=g, dtype=torch.float64)
    _, expected = mc_statistics(truth)
    _, single = mc_statistics(truth.float())
    # The difference of two sums would be wrong by about 1e-7, a hundred times the variance.
    torch.testing.assert_close(single.double(), expected, rtol=0.01, atol=0)
    _, half = mc_statistics((1 - 1e-3 * torch.rand(10, 1000, generator=g)).half())
    assert half.dtype == torch.float32
    assert (half >= 0).all()
    _, constant = mc_statistics(torch.full((7, 5), 0.3))
    assert (constant == 0).all()


def test_statistics_take_a_generator_and_refuse_nothing():
    samples = list(torch.rand(4, 2, 3))
    for one, other in zip(mc_statistics(iter(samples)), mc_statistics(samples), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="no samples"):
        mc_statistics([])


def test_entropy_of_known_distributions():
    probs = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0]]).view(2, 4, 1, 1)
    expected = torch.tensor([4.0, 1.0]).log().view(2, 1, 1)
    torch.testing.assert_close(predictive_entropy(probs), expected, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------ fusion


def test_fusion_of_three_by_hand():
    p = [torch.tensor([[a, 1 - a]]).view(1, 2, 1, 1) for a in (0.1, 0.5, 0.9)]
    u = [torch.full((1, 1, 1, 1), v) for v in (0.2, 0.1, 0.3)]
    fused = fuse_others(p, u, exclude=0, eps=0.1)
    # Weights 1/0.2 = 5 and 1/0.4 = 2.5.
    assert fused[0, 0].item() == pytest.approx((5 * 0.5 + 2.5 * 0.9) / 7.5)
    fused = fuse_others(p, u, eps=0.1)
    c = (1 / 0.3, 5, 2.5)
    expected = (c[0] * 0.1 + c[1] * 0.5 + c[2] * 0.9) / sum(c)
    assert fused[0, 0].item() == pytest.approx(expected)
    assert fused.sum().item() == pytest.approx(1)


def test_certain_views_take_over():
    p = random_probs(4)
    zero, much = torch.zeros(2, 1, 4, 4, 4), torch.full((2, 1, 4, 4, 4), 0.1)
    one = fuse_others(p, [much, zero, much, much], exclude=0)
    torch.testing.assert_close(one, p[1], rtol=0, atol=1e-4)
    two = fuse_others(p, [much, zero, zero, much], exclude=0)
    torch.testing.assert_close(two, (p[1] + p[2]) / 2, rtol=0, atol=1e-4)
    none = fuse_others(p, [zero] * 4, exclude=0)
    torch.testing.assert_close(none, (p[1] + p[2] + p[3]) / 3)


@pytest.mark.parametrize("granularity", ["voxel", "class", "sample"])
def test_granularity(granularity):
    p = random_probs(3)
    variance = [0.1 * torch.rand(2, 3, 4, 4, 4) for _ in p]
    fused = fuse_others(p, [reduce_uncertainty(v, granularity) for v in variance], exclude=1)
    sums = fused.sum(dim=1)
    assert torch.allclose(sums, torch.ones_like(sums)) == (granularity != "class")
    a, b = variance[0][1], variance[2][1]
    if granularity == "sample":
        c = [1 / (v.mean() + 1e-6) for v in (a, b)]
    elif granularity == "voxel":
        c = [1 / (v.mean(dim=0) + 1e-6) for v in (a, b)]
    else:
        c = [1 / (v + 1e-6) for v in (a, b)]
    torch.testing.assert_close(fused[1], (c[0] * p[0][1] + c[1] * p[2][1]) / (c[0] + c[1]))


def test_votes_and_ties():
    p = torch.tensor(
        [  # voxel 0: two to one against a larger sum; voxel 1: three different votes, a tie
            [[0.51, 0.49, 0.0], [0.6, 0.4, 0.0]],
            [[0.51, 0.49, 0.0], [0.1, 0.5, 0.4]],
            [[0.0, 1.0, 0.0], [0.0, 0.3, 0.7]],
        ]
    )
    views = [each.T.reshape(1, 3, 2, 1) for each in p]
    scores = vote_scores(views)
    assert scores.argmax(dim=1).flatten().tolist() == [0, 1]
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(1, 2, 1))
    assert (torch.stack(views).mean(dim=0).argmax(dim=1)).flatten().tolist() == [1, 1]


# ------------------------------------------------------------------------------------ MC passes


def test_stochastic_mode_leaves_no_trace():
    network = small_network().train()
    network.model[0].eval()
    flags = [m.training for m in network.modules()]
    state = copy.deepcopy(network.state_dict())
    x = torch.randn(2, 1, 8, 8, 8)
    with stochastic_mode(network):
        assert not torch.equal(network(x), network(x))
        assert not network(x).requires_grad
        # BatchNorm is frozen: what one sample gets does not depend on the others.
        torch.manual_seed(1)
        alone = network(x[:1])
        torch.manual_seed(1)
        torch.testing.assert_close(network(x[:1] * 1), alone)
    assert flags == [m.training for m in network.modules()]
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert len(dropout_layers(network)) > 0
    assert dropout_layers(small_network(dropout=0.0)) == []


def test_autocast_does_not_cut_the_gradients():
    """Weights cast during the passes without gradient must not be reused by the one with it."""
    method = make(mc_samples=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for loss in method.training_step(make_batch(), CO_TRAIN).losses():
            loss.backward()
    for network in method.networks:
        missing = [k for k, p in network.named_parameters() if p.grad is None]
        assert missing == []


class FixedDropout(nn.Module):
    """Has a dropout layer and does not use it, as MONAI's AHNet."""

    def __init__(self, _dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 1)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x):
        return self.conv(x)


def test_a_network_without_effective_dropout_is_refused_in_the_first_iteration():
    method = make(network=FixedDropout)
    start = Progress("views", 0, 10)
    batch = Batch(make_batch().labeled, None)
    with pytest.raises(MedSSLError, match="two passes of the network with dropout on are equal"):
        method.training_step(batch, start)
    make(network=FixedDropout, views=2).training_step(batch, start)


def test_the_first_check_draws_nothing_from_the_run():
    method = make(mc_samples=2)
    torch.manual_seed(5)
    method.training_step(Batch(make_batch().labeled, None), Progress("views", 0, 10))
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


# ------------------------------------------------------------------------------------ the step


def test_the_label_of_a_view_ignores_that_view():
    method = make()
    probs, uncertainty = method.estimate(make_batch().unlabeled.image)
    for i in range(3):
        before = method.pseudo_label(probs, uncertainty, exclude=i)
        other = [p if j != i else torch.rand_like(p) for j, p in enumerate(probs)]
        unsure = [u if j != i else torch.rand_like(u) for j, u in enumerate(uncertainty)]
        assert torch.equal(before, method.pseudo_label(other, unsure, exclude=i))
        j = (i + 1) % 3
        other = [p if k != j else p.flip(1) for k, p in enumerate(probs)]
        assert not torch.equal(before, method.pseudo_label(other, uncertainty, exclude=i))


def test_each_loss_reaches_its_own_view_only():
    method = make(mc_samples=2)
    for i, loss in enumerate(method.training_step(make_batch(), CO_TRAIN).losses()):
        method.zero_grad(set_to_none=True)
        loss.backward()
        for j, network in enumerate(method.networks):
            grads = [p.grad is not None for p in network.parameters()]
            assert all(grads) if j == i else not any(grads)


class Watched(nn.Module):
    """Keeps weak references to the activations that wait for a backward pass."""

    alive: list[weakref.ref]

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.network = small_network(dropout)

    def forward(self, x):
        activation = self.network(x).tanh()
        if activation.requires_grad:
            Watched.alive.append(weakref.ref(activation))
        return activation * 2.0


@pytest.mark.parametrize("stage", ["views", "co_train"])
def test_one_view_is_in_memory_at_a_time(stage):
    Watched.alive = []
    method = make(network=Watched, mc_samples=2)
    batch = make_batch()
    given = batch if stage == "co_train" else Batch(batch.labeled, None)
    seen = []
    for loss in method.training_step(given, Progress(stage, 1, 10)).losses():
        seen.append(sum(ref() is not None for ref in Watched.alive))
        loss.backward()
    assert len(Watched.alive) == 3
    assert max(seen) <= 1


@pytest.mark.parametrize("stage", ["views", "co_train"])
def test_without_co_training_the_views_are_supervised_networks(stage):
    """lambda_cot = 0 gives each view what it would learn alone, bit for bit."""
    method = make(lambda_cot=0.0)
    twins = copy.deepcopy(method.networks)
    batch = make_batch()
    torch.manual_seed(3)
    for loss in method.training_step(batch, Progress(stage, 1, 10)).losses():
        loss.backward()
    torch.manual_seed(3)
    for network, twin, view in zip(method.networks, twins, method.orientations, strict=True):
        logits = twin(permute_axes(batch.labeled.image, view).contiguous())
        loss = half_dice_half_ce(
            restore_axes(logits, view), batch.labeled.label, dice=method.settings.dice
        )
        loss.backward()
        for one, other in zip(network.parameters(), twin.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)


def test_two_views_are_cross_pseudo_supervision():
    method = make(views=2, mc_samples=3, dropout=0.0)
    batch = make_batch()
    image = batch.unlabeled.image
    with torch.no_grad():
        labels = [
            restore_axes(net.eval()(permute_axes(image, v)), v).argmax(dim=1)
            for net, v in zip(method.networks, method.orientations, strict=True)
        ]
    method.train()
    twin = copy.deepcopy(method)
    output = method.training_step(batch, CO_TRAIN)
    for i, loss in enumerate(output.losses()):
        images = torch.cat([batch.labeled.image, image])
        logits = twin.view_logits(i, images)
        expected = twin.loss(logits[:2], batch.labeled.label)
        expected = expected + 0.2 * twin.loss(logits[2:], labels[1 - i])
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("target", ["hard", "soft"])
@pytest.mark.parametrize("granularity", ["voxel", "class", "sample"])
@pytest.mark.parametrize("members", ["samples", "eval"])
def test_every_choice_gives_a_finite_loss(target, granularity, members):
    method = make(mc_samples=2, target=target, granularity=granularity, members=members)
    output = method.training_step(make_batch(3, 1), CO_TRAIN)
    losses = [loss.item() for loss in output.losses()]
    assert len(losses) == 3
    mean = output.terms["loss/labeled"] + 0.2 * output.terms["loss/unlabeled"]
    assert mean.item() == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert output.terms["uncertainty"] > 0


def test_equal_networks_without_dropout_are_fused_to_the_mean():
    method = make(dropout=0.0, mc_samples=2)
    for network in method.networks[1:]:
        network.load_state_dict(method.networks[0].state_dict())
    output = method.training_step(make_batch(), CO_TRAIN)
    assert all(torch.isfinite(loss) for loss in output.losses())
    assert output.terms["uncertainty"] == 0


def test_views_are_estimated_in_the_frame_of_the_image():
    """Networks that look at single voxels see the same in every view."""
    torch.manual_seed(0)
    conv = nn.Conv3d(1, 3, 1)
    method = make(network=lambda _: copy.deepcopy(conv), views=6, mc_samples=1)
    image = torch.randn(2, 1, 4, 6, 8)
    expected = conv(image).softmax(dim=1).detach()
    for probs in method.estimate(image)[0]:
        torch.testing.assert_close(probs, expected)


# ------------------------------------------------------------------------------------ the loss


def test_the_loss_is_half_cross_entropy_and_half_dice():
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 3, (2, 4, 4, 4))
    hot = F.one_hot(label, 3).movedim(-1, 1).float()
    p = logits.softmax(dim=1)
    sums = [t.sum(dim=(2, 3, 4)) for t in (p * hot, p, hot)]
    dice = 1 - ((2 * sums[0] + 1e-5) / (sums[1] + sums[2] + 1e-5)).mean()
    ce = F.cross_entropy(logits, label)
    variant = UMCTSettings().dice
    assert variant == DiceVariant(per_sample=True, squared=False)
    torch.testing.assert_close(half_dice_half_ce(logits, label, dice=variant), (ce + dice) / 2)
    torch.testing.assert_close(half_dice_half_ce(logits, hot, dice=variant), (ce + dice) / 2)
    torch.testing.assert_close(half_dice_half_ce(logits, label, dice=variant, ce=False), dice)
    soft = torch.rand(2, 3, 4, 4, 4).softmax(dim=1)
    own = half_dice_half_ce(logits, soft, dice=variant) * 2
    sums = [t.sum(dim=(2, 3, 4)) for t in (p * soft, p, soft)]
    dice = 1 - ((2 * sums[0] + 1e-5) / (sums[1] + sums[2] + 1e-5)).mean()
    torch.testing.assert_close(own, F.cross_entropy(logits, soft) + dice)


# ------------------------------------------------------------------------------------ stages


def test_the_budget_is_divided():
    stages = make().stages(25_000)
    assert [(s.name, s.iterations) for s in stages] == [("views", 20_000), ("co_train", 5_000)]
    assert stages[0].streams == ("labeled",)
    (only,) = make(views_fraction=0.0).stages(100)
    assert (only.name, only.iterations) == ("co_train", 100)


def test_every_view_has_an_optimizer():
    groups = make(views=6).trainable("views")
    assert list(groups) == [f"view{i}" for i in range(6)]
    ids = [id(p) for group in groups.values() for p in group]
    assert len(ids) == len(set(ids))


# ------------------------------------------------------------------------------------ prediction


def view_probs(method, image):
    return [
        restore_axes(net(permute_axes(image, v)), v).softmax(dim=1)
        for net, v in zip(method.networks, method.orientations, strict=True)
    ]


@torch.no_grad()
def test_prediction_fuses_the_views():
    method = make(fusion="mean").eval()
    image = torch.randn(2, 1, 8, 8, 8)
    probs = view_probs(method, image)
    mean = method.predictor().eval()(image).softmax(dim=1)
    torch.testing.assert_close(mean, (probs[0] + probs[1] + probs[2]) / 3)
    method.settings = UMCTSettings(fusion="vote")
    vote = method.predictor().eval()(image)
    assert torch.equal(vote.argmax(dim=1), vote_scores(probs).argmax(dim=1))
    method.settings = UMCTSettings(fusion=1)
    torch.testing.assert_close(method.predictor().eval()(image).softmax(dim=1), probs[1])


def test_ulf_prediction_repeats_itself_and_leaves_no_trace():
    method = make(fusion="ulf", fusion_samples=3).eval()
    predictor = method.predictor().eval()
    image = torch.randn(1, 1, 8, 8, 8)
    torch.manual_seed(1)
    first = predictor(image)
    drawn = torch.rand(2)
    torch.manual_seed(2)
    assert torch.equal(first, predictor(image))
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(2))
    assert not any(m.training for m in predictor.modules())
    torch.testing.assert_close(first.exp().sum(dim=1), torch.ones(1, 8, 8, 8))
    mean = torch.stack(view_probs(method, image)).mean(dim=0)
    assert not torch.allclose(first.exp(), mean)
    assert (first.exp() - mean).abs().max() < 0.5


# ------------------------------------------------------------------------------------ the network


def test_the_networks_kernels_and_sizes():
    net = build_network("ahnet_r18", spatial_dims=3, in_channels=2, num_classes=5)
    assert len(dropout_layers(net)) == 5
    assert dropout_layers(build_network("vnet", spatial_dims=3, in_channels=1, num_classes=2))
    assert not has_symmetric_kernels(net)
    assert has_symmetric_kernels(small_network())
    encoder = [m for m in (net.layer1, net.layer4) for m in m.modules() if isinstance(m, nn.Conv3d)]
    assert all(m.kernel_size[2] == 1 for m in encoder)
    out = net(torch.randn(2, 2, 64, 32, 32))
    assert out.shape == (2, 5, 64, 32, 32)
    out.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    check_patch("ahnet_r18", [96, 96, 96])
    with pytest.raises(MedSSLError, match="multiple of 32"):
        check_patch("ahnet_r18", [96, 96, 80])


def resnet18_state() -> dict[str, torch.Tensor]:
    """Return random weights under the names and shapes of torchvision's ResNet-18."""
    shapes = {"conv1": (64, 3, 7, 7), "bn1": 64}
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            before = width // 2 if layer > 1 and block == 0 else width
            name = f"layer{layer}.{block}"
            shapes |= {f"{name}.conv1": (width, before, 3, 3), f"{name}.bn1": width}
            shapes |= {f"{name}.conv2": (width, width, 3, 3), f"{name}.bn2": width}
            if before != width:
                shapes[f"{name}.downsample.0"] = (width, before, 1, 1)
                shapes[f"{name}.downsample.1"] = width
    state = {"fc.weight": torch.randn(1000, 512), "fc.bias": torch.randn(1000)}
    for name, shape in shapes.items():
        if isinstance(shape, tuple):
            state[f"{name}.weight"] = 0.05 * torch.randn(shape)
        else:
            for part in ("weight", "bias", "running_mean"):
                state[f"{name}.{part}"] = torch.randn(shape)
            state[f"{name}.running_var"] = torch.rand(shape) + 0.5
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)
    return state


def test_2d_weights_make_the_same_features_slice_by_slice():
    torch.manual_seed(0)
    state = resnet18_state()
    net = AHNetResNet18().eval()
    decoder = net.up0[2].weight.clone()
    net.load_2d(state)
    assert torch.equal(net.up0[2].weight, decoder)
    assert torch.equal(net.conv1.weight[:, 0, :, :, 2], state["conv1.weight"][:, 2])
    assert torch.equal(net.bn0.running_mean, state["bn1.running_mean"])
    name = "layer2.0.downsample.0.weight"
    assert torch.equal(net.layer2[0].shortcut_conv.weight[..., 0], state[name])

    def bn(x, key):
        parts = (state[f"{key}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts)

    x = torch.randn(1, 64, 6, 5, 3)
    key = "layer1.0"
    out = net.layer1[0](x)
    for z in range(3):
        y = F.conv2d(x[..., z], state[f"{key}.conv1.weight"], padding=1)
        y = F.conv2d(bn(y, f"{key}.bn1").relu(), state[f"{key}.conv2.weight"], padding=1)
        expected = (bn(y, f"{key}.bn2") + x[..., z]).relu()
        torch.testing.assert_close(out[..., z], expected, rtol=1e-4, atol=1e-4)


def test_2d_weights_come_from_a_file(tmp_path):
    state = resnet18_state()
    path = tmp_path / "resnet18.pth"
    networks = nn.ModuleList([AHNetResNet18(in_channels=2)])
    with pytest.raises(MedSSLError, match="not there"):
        load_2d_weights(networks, path)
    torch.save({k: v for k, v in state.items() if not k.startswith("layer3")}, path)
    with pytest.raises(MedSSLError, match=r"not the weights of a ResNet-18: .*layer3"):
        load_2d_weights(networks, path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(MedSSLError, match="not a file of weights"):
        load_2d_weights(networks, path)
    torch.save(state, path)
    load_2d_weights(networks, path)
    # The sum over equal channels is what one channel would give.
    stem = networks[0].conv1.weight
    torch.testing.assert_close(stem.sum(dim=1)[..., 0], state["conv1.weight"][:, 0])


# ------------------------------------------------------------------------------------ recipes


def recipe(patch=(32, 32, 32), spacing="native", dropout=0.1, network="unet", unlabeled=2):
    data = {
        "spec": {"spacing": spacing},
        "network": {"name": network, "dropout": dropout},
        "training": {"patch": list(patch), "unlabeled_batch": unlabeled},
    }
    return Recipe.model_validate(data)


@pytest.mark.parametrize(
    ("settings", "changes", "words"),
    [
        ({}, {"spacing": [1, 1, 3]}, "spec.spacing [1.0, 1.0, 3.0] are 3.0 times"),
        (
            {},
            {"patch": (32, 48, 32)},
            "training.patch [32, 48, 32] is not a cube: use [32, 32, 32]",
        ),
        ({"views": 3}, {"patch": (32, 32)}, "2D images have 2 standard views, not 3"),
        ({"views": [[0, 1], [1, 0]]}, {}, "[0, 1] does not order 3 axes"),
        ({"fusion": 3}, {}, "method.fusion is view 3 but there are 3"),
        ({"pretrained_2d": "x.pth"}, {}, "method.pretrained_2d is for network ahnet_r18"),
        (
            {"allow_anisotropic": True},
            {"patch": (32, 32, 12), "network": "segresnet", "spacing": [1, 1, 3]},
            "must be a multiple of 8",
        ),
    ],
)
def test_what_a_recipe_must_offer(settings, changes, words):
    found = list(UMCTSettings(**settings).check_recipe(recipe(**changes)))
    assert any(words in problem for problem in found), found


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, {}),
        ({}, {"spacing": [1, 1, 2]}),
        ({}, {"patch": (32, 32)}),
        ({"views": 2}, {"dropout": 0.0}),
        ({"views": 6, "fusion": 5}, {}),
        ({"allow_anisotropic": True}, {"patch": (32, 48, 16), "spacing": [1, 1, 5]}),
        # Only the axes that a view exchanges have to be equal.
        ({"views": [[0, 1, 2], [1, 0, 2]]}, {"patch": (32, 32, 16), "spacing": [1, 1, 8]}),
    ],
)
def test_what_is_accepted(settings, changes):
    assert list(UMCTSettings(**settings).check_recipe(recipe(**changes))) == []


@pytest.mark.parametrize(
    ("settings", "changes", "words"),
    [
        ({"lambda_cot": 0}, {}, "lambda_cot is 0"),
        ({"mc_samples": 1}, {}, "mc_samples is 1"),
        ({"views": 2}, {}, "two views"),
    ],
)
def test_what_a_recipe_is_warned_of(settings, changes, words):
    found = list(UMCTSettings(**settings).warn_recipe(recipe(**changes), settings))
    assert any(words in warning for warning in found), found


def built(settings, **changes) -> UMCT:
    chosen = recipe(**changes).model_copy(update={"method": MethodSection(name="umct")})
    return create_method(chosen, UMCTSettings(**settings), num_classes=3, channels=1)


def test_networks_without_dropout_are_refused_when_they_are_built():
    with pytest.raises(MedSSLError, match="network 'unet' has no dropout") as error:
        built({}, dropout=0.0)
    assert "network.dropout" in str(error.value)
    assert built({}, dropout=0.1).check_networks() == []
    assert built({"views": 2}, dropout=0.0).check_networks() == []


def test_what_a_network_is_warned_of():
    (alike,) = built({}).warn_networks()
    assert "kernels of network 'unet' are the same along all axes" in alike
    assert built({}, patch=(32, 32)).warn_networks() == []
    found = built({"views": 2}, dropout=0.0, patch=(32, 32)).warn_networks()
    assert "passes of method.mc_samples are all the same" in found[0]
    assert built({}, network="ahnet_r18").warn_networks() == []


def test_what_follows_from_the_recipe():
    volumes, slices = (UMCTSettings().filled(recipe(patch=p)) for p in ((32,) * 3, (32, 32)))
    assert (volumes.views, slices.views) == (3, 2)
    assert UMCTSettings(mc_samples=4).filled(recipe()).fusion_samples == 4
    assert UMCTSettings(fusion_samples=7).filled(recipe()).fusion_samples == 7


def test_wrong_views_are_refused():
    for views in (4, [[0, 1, 2]], [[0, 1, 2], [0, 1, 1]], [[0, 1, 2], [0, 1, 2]]):
        with pytest.raises(ValueError, match="views"):
            UMCTSettings(views=views)


def test_the_recipes_are_sound():
    pancreas = load_recipe("pancreas_umct")
    assert pancreas.warnings == ()
    assert pancreas.recipe.training.stages["co_train"].optimizer.lr == 0.001
    assert load_recipe("hippocampus_umct").warnings == ()


def test_native_voxels_that_are_too_long_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import helpers

    from medssl import cli

    monkeypatch.setattr(helpers, "AFFINE", np.diag([1.0, 1.0, 5.0, 1.0]))
    data = helpers.write_dataset(tmp_path / "data")
    recipe = helpers.small_recipe(data, tmp_path / "cache", method={"name": "umct"})
    recipe["network"]["dropout"] = 0.1
    recipe["training"]["patch"] = [8, 8, 8]
    file = helpers.write_recipe(tmp_path / "r.yaml", recipe)
    assert cli.run(["--quiet", "train", str(file), "-o", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert "[1.0, 1.0, 5.0]" in message
    assert "imagesTr/case_" in message
    assert not (tmp_path / "run").exists()
