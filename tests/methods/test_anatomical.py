"""The anatomical method: corruption of masks, the autoencoder, its stages, weights and controls."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.registry import get_method
from medssl.networks.mask_autoencoder import MaskAutoencoder
from medssl.ops.certainty import certainty, deviation
from medssl.ops.corruption import (
    add_component,
    boundary_band,
    corrupt_coherent,
    corrupt_masks,
    corrupt_slices,
    displace,
    drop_component,
    exchange_near_boundaries,
    grey_morphology,
    leak,
    punch_hole,
)
from medssl.ops.mask_repair import encode_mask, reconstruction_terms
from medssl.settings.recipe import Recipe

CLS = get_method("anatomical")

PUBLISHED_MASKS = [1166449233, 942009827, 3372326994, 3193152385]
"""CRC-32 of :func:`organs`, each slice corrupted by the published code, after seeds 0 to 3."""


def organs(shape=(24, 20, 16)) -> np.ndarray:
    """Return a mask of three boxes, one of them in the corner."""
    label = np.zeros(shape, np.int64)
    label[(slice(0, 6),) * len(shape)] = 1
    label[(slice(8, 18),) * len(shape)] = 2
    label[(slice(10, 14),) * len(shape)] = 3
    return label


def random(seed):
    return np.random.RandomState(seed)


def dice(a, b):
    return 2 * np.sum((a > 0) & (a == b)) / (np.sum(a > 0) + np.sum(b > 0))


# ------------------------------------------------------------------------------------ corruption


@pytest.mark.parametrize("style", ["coherent", "official2d"])
@pytest.mark.parametrize("shape", [(24, 20, 16), (24, 20)])
def test_strength_goes_from_nothing_to_more(style, shape):
    label = organs(shape)
    masks = torch.from_numpy(np.stack([label] * 12))
    before = masks.clone()
    scores = []
    for strength in (0.0, 0.5, 2.0):
        out = corrupt_masks(masks, random(0), style=style, strength=strength)
        assert out.dtype == masks.dtype
        scores.append(np.mean([dice(label, o) for o in out.numpy()]))
    assert torch.equal(masks, before)
    assert scores[0] == 1
    assert 1 > scores[1] > scores[2]
    again = corrupt_masks(masks, random(0), style=style, strength=2.0)
    assert torch.equal(out, again)


def test_coherent_corruption_does_not_know_the_class_indices():
    label = organs()
    swap = np.array([0, 3, 1, 2])
    changed = 0
    for seed in range(30):
        one = corrupt_coherent(label, random(seed))
        other = corrupt_coherent(swap[label], random(seed))
        assert np.array_equal(swap[one], other)
        changed += not np.array_equal(one, label)
    assert changed > 20


def test_displacement_is_bounded_and_does_not_wrap_around():
    label = np.zeros((20, 18, 16), np.int64)
    label[:5, :5, :5] = 1
    label[12:16, 8:12, 6:12] = 2
    for seed in range(20):
        out = displace(label, random(seed), 3.0)
        for value in (1, 2):
            reach = ndimage.binary_dilation(label == value, np.ones((7, 7, 7)))
            assert not np.any((out == value) & ~reach)
        assert (out == 1).any()
        assert not np.array_equal(out, label)


def test_topological_errors_do_what_they_say():
    label = organs()
    two = np.zeros((20, 20), np.int64)
    two[2:6, 2:6] = two[10:16, 10:16] = 1
    seen = set()
    for seed in range(20):
        lost = drop_component(two, random(seed))
        assert int(lost.sum()) in (16, 36)
        seen.add(int(lost.sum()))
        part = drop_component(two[8:, 8:], random(seed))
        assert 18 <= part.sum() < 36
        assert ndimage.label(part)[1] == 1

        hole = punch_hole(label, random(seed))
        where = hole != label
        assert where.any()
        assert (hole[where] == 0).all()
        assert len(np.unique(label[where])) == 1

        more = add_component(label, random(seed))
        where = more != label
        assert where.any()
        assert (label[where] == 0).all()
        assert len(np.unique(more[where])) == 1

        flow = leak(label, random(seed), strength=2.0)
        where = flow != label
        (value,) = np.unique(flow[where])
        assert ndimage.label(flow == value)[1] == 1
        assert (flow == value).sum() > (label == value).sum()
    assert seen == {16, 36}


def test_an_empty_mask_is_left_empty():
    empty = np.zeros((8, 8, 8), np.int64)
    for seed in range(5):
        assert not corrupt_coherent(empty, random(seed), strength=5).any()
        assert not corrupt_slices(empty, random(seed), strength=5).any()


def test_grey_morphology_lets_higher_indices_win():
    """Two halves of a 20 x 20 block, dilated by a disk of 3: 656 pixels, 396 of the higher."""
    plane = np.zeros((40, 40), np.int64)
    plane[10:30, 10:20], plane[10:30, 20:30] = 1, 2
    out = grey_morphology(plane, "dilation", 3)
    assert [int((out == c).sum()) for c in (1, 2)] == [260, 396]
    opened = grey_morphology(plane, "opening", 3)
    assert (opened <= plane).all()
    assert (grey_morphology(plane, "closing", 3) >= plane).all()
    full = np.ones((9, 9), np.int64)
    assert np.array_equal(grey_morphology(full, "erosion", 3), full)


def test_the_band_is_the_inner_rim_away_from_the_far_border():
    plane = np.zeros((30, 30), np.int64)
    plane[5:15, 5:15] = 1
    x, y = boundary_band(plane, 3)
    rim = plane.astype(bool) & ~ndimage.binary_erosion(plane, iterations=3)
    assert len(x) == rim.sum() == 100 - 16
    plane = np.zeros((30, 30), np.int64)
    plane[20:, 20:] = 1
    x, y = boundary_band(plane, 3)
    assert x.max() <= 26
    assert y.max() <= 26


class Scripted:
    """A generator that draws what it was told to."""

    def __init__(self, *drawn: list[int]) -> None:
        self.drawn = list(drawn)

    def randint(self, low: int, high: int, size: int) -> np.ndarray:
        assert (low, high, size) == (0, 10, 1), "a tenth of the band's pixels"
        return np.array(self.drawn.pop(0), dtype=int)


def two_rows() -> np.ndarray:
    """Ten pixels, all of the band: 1 to 5 in row 4, 6 to 10 in row 5, from column 2 on."""
    plane = np.zeros((10, 10), np.int64)
    plane[4:6, 2:7] = np.arange(1, 11).reshape(2, 5)
    return plane


def test_all_pixels_of_a_direction_are_exchanged_at_once():
    """To the left by 2: 3 with 1, and 5 with 3, all read before anything is written.

    The partners get 3 and 5, then the drawn ones 1 and 3. One by one the row were 3 2 5 4 1, and
    with the drawn ones written first 3 2 5 4 3.
    """
    plane = two_rows()
    exchange_near_boundaries(plane, 2, Scripted([2, 4], [], [], []))
    assert plane[4].tolist() == [0, 0, 3, 2, 1, 4, 3, 0, 0, 0]
    plane[4] = two_rows()[4]
    assert np.array_equal(plane, two_rows())


def test_the_directions_come_in_the_published_order():
    """Left, right, down, up: what the pixel in the middle of row 4 holds goes on each time."""
    plane = two_rows()
    exchange_near_boundaries(plane, 2, Scripted([2], [2], [2], [2]))
    assert plane[4].tolist() == [0, 0, 3, 2, 0, 4, 1, 0, 0, 0]
    assert plane[[2, 6], 4].tolist() == [0, 5]


def test_exchange_wraps_around_as_published():
    plane = np.zeros((30, 30), np.int64)
    plane[:10, :10] = 1
    wrapped = 0
    for seed in range(20):
        out = plane.copy()
        exchange_near_boundaries(out, 5, random(seed))
        assert set(np.unique(out)) == {0, 1}
        wrapped += out[20:].any() or out[:, 20:].any()
    assert wrapped > 0


def test_official_corruption_is_that_of_the_published_code():
    """Checksums of what the published code, drawing the same, makes of masks of three organs."""
    made = [corrupt_slices(organs(), random(seed), strength=5.0) for seed in range(4)]
    assert [zlib.crc32(mask.astype(np.uint8).tobytes()) for mask in made] == PUBLISHED_MASKS


def test_official_corruption_hits_a_third_of_the_slices():
    """Two chances of 0.2 per slice: 1 - 0.8^2 = 0.36; opening and closing spare a disk: 0.28."""
    grid = np.indices((48, 48))
    disk = ((grid - 24) ** 2).sum(0) <= 15**2
    label = np.repeat(disk[..., None], 400, axis=2).astype(np.int64)
    out = corrupt_slices(label, random(0))
    share = (out != label).any((0, 1)).mean()
    assert 0.24 < share < 0.38
    assert 0.95 < dice(out, label) < 0.995


# ------------------------------------------------------------------------------------ autoencoder


@pytest.mark.parametrize("bottleneck", ["fc", "conv"])
@pytest.mark.parametrize("shape", [(20, 33), (16, 16, 8), (16, 32, 18)])
def test_any_patch_fits(bottleneck, shape):
    torch.manual_seed(0)
    net = MaskAutoencoder(
        spatial_dims=len(shape),
        in_channels=3,
        num_classes=3,
        filters=2,
        bottleneck=bottleneck,
        embedding=8,
    )
    x = torch.rand(2, 3, *shape)
    assert net(x).shape == x.shape
    net(x).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.eval()
    assert torch.equal(net(x), net(x))
    assert not torch.equal(net(x), net(x, latent_noise=0.1))
    lengths = net.embedding(x).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_nothing_passes_beside_the_code():
    """Without skip connections, a bottleneck of zeros makes all inputs equal."""
    net = MaskAutoencoder(spatial_dims=2, num_classes=2, filters=2, bottleneck="conv").eval()
    nn.init.zeros_(net.fc_mu.weight)
    one, other = net(torch.rand(1, 1, 32, 32)), net(torch.rand(1, 1, 32, 32))
    assert torch.equal(one, other)


def test_skip_connections_let_details_pass_beside_the_code():
    shape, sizes = (1, 1, 32, 32), {}
    for levels in (2, 3, 4):
        for skips in (False, True):
            torch.manual_seed(0)
            net = MaskAutoencoder(
                spatial_dims=2, filters=8, bottleneck="conv", levels=levels, skips=skips
            ).eval()
            nn.init.zeros_(net.fc_mu.weight)
            one, other = net(torch.rand(shape)), net(torch.rand(shape))
            assert torch.equal(one, other) is not skips
            sizes.setdefault(levels, set()).add(sum(p.numel() for p in net.parameters()))
    assert all(len(v) == 1 for v in sizes.values()), "skips cost no parameter"
    assert make().autoencoder.skips
    assert not make(preset="official").autoencoder.skips


def test_published_initialization():
    torch.manual_seed(0)
    net = MaskAutoencoder(spatial_dims=2, filters=16, embedding=16, init="uniform")
    for parameter in net.parameters():
        bound = 1 / math.sqrt(parameter.shape[0])
        assert parameter.abs().max() <= bound
        if parameter.numel() > 100:
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)
    scale = net.block_five.conv[1].weight
    assert 0.35 < (scale < 0).float().mean() < 0.65


def test_reconstruction_ignores_what_is_not_annotated():
    probs = torch.rand(2, 3, 8, 6)
    label = torch.randint(0, 3, (2, 8, 6))
    valid = torch.ones(2, 8, 6)
    valid[:, 5:] = 0
    hot = encode_mask(label, 3, "onehot")
    masked = reconstruction_terms(probs, hot, valid)
    cropped = reconstruction_terms(probs[:, :, :5], hot[:, :, :5])
    torch.testing.assert_close(masked, cropped)
    squared = (probs[:, :, :5] - hot[:, :, :5]).square().mean()
    torch.testing.assert_close(cropped[0], squared)


def test_the_autoencoder_learns_to_repair():
    """Trained on disks, it draws a disk with a hole nearer to the whole disk than it was."""
    torch.manual_seed(0)
    method = make(bottleneck="conv", filters=4, embedding=16, dims=2, classes=2)
    method.start_stage("autoencoder")
    optimizer = torch.optim.Adam(method.autoencoder.parameters(), lr=0.01)
    grid = torch.stack(torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij"))
    rng = random(0)

    def disks(count):
        centers = torch.from_numpy(rng.uniform(12, 20, (count, 2, 1, 1)))
        return ((grid - centers).square().sum(1) <= 64).long()

    for iteration in range(120):
        output = method.training_step(
            Batch(None, None, masks=disks(8)), Progress("autoencoder", iteration, 120)
        )
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - iteration / 120)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    clean = disks(16)
    broken = torch.from_numpy(
        np.stack([punch_hole(m, random(i)) for i, m in enumerate(clean.numpy())])
    )
    with torch.no_grad():
        logits = method.autoencoder.eval()(encode_mask(broken, 2, "onehot"))
    repaired = logits.max(1).indices
    assert dice(repaired.numpy(), clean.numpy()) > dice(broken.numpy(), clean.numpy()) + 0.03


# ------------------------------------------------------------------------------------ the method


class Calls(nn.Module):
    """Notes what it is given and returns it through a layer of its own."""

    def __init__(self, channels: int, classes: int, dims: int) -> None:
        super().__init__()
        self.conv = (nn.Conv2d, nn.Conv3d)[dims - 2](channels, classes, 1)
        self.seen: list[torch.Tensor] = []

    def forward(self, x, **_):
        self.seen.append(x)
        return self.conv(x)


def make(dims=2, classes=3, network=None, **settings):
    torch.manual_seed(0)
    network = network or (lambda **_: Calls(1, classes, dims))
    return CLS(CLS.Settings(**settings), network, num_classes=classes, spatial_dims=dims).train()


def make_batch(classes=3, shape=(16, 16), labeled=3, unlabeled=2):
    g = torch.Generator().manual_seed(1)
    label = torch.randint(0, classes, (labeled, *shape), generator=g)
    image = torch.randn(labeled + unlabeled, 1, *shape, generator=g)
    return Batch(LabeledBatch(image[:labeled], label), UnlabeledBatch(image[labeled:]))


def last(total=100):
    return Progress("guided", total - 1, total)


def test_stages_read_masks_then_images():
    first, second = make().stages(1000)
    assert first.streams == ("masks",)
    assert (first.iterations, second.iterations) == (250, 750)
    assert first.batch_sizes == {}
    first, second = make(preset="official").stages(58_000)
    assert (first.iterations, second.iterations) == (50_000, 8000)
    assert first.batch_sizes == {"masks": 4}
    (only,) = make(control="uniform", autoencoder_fraction=0).stages(100)
    assert only.name == "guided"


def test_the_guide_is_frozen_and_in_eval_mode_even_if_the_engine_says_train():
    method = make()
    method.start_stage("autoencoder")
    assert method.train().autoencoder.training
    loss = method.training_step(
        Batch(None, None, masks=torch.randint(0, 3, (2, 16, 16))), Progress("autoencoder", 0, 9)
    ).loss
    loss.backward()
    assert list(method.trainable("autoencoder")) == ["autoencoder"]

    method.start_stage("guided")
    assert list(method.trainable("guided")) == ["student"]
    for _ in range(2):
        assert not any(m.training for m in method.autoencoder.modules())
        assert not any(
            p.requires_grad or p.grad is not None for p in method.autoencoder.parameters()
        )
        method.train()
    assert method.student.training
    before = {k: v.clone() for k, v in method.autoencoder.state_dict().items()}
    method.training_step(make_batch(), last()).loss.backward()
    for key, value in method.autoencoder.state_dict().items():
        assert torch.equal(value, before[key])


def test_teacher_and_autoencoder_see_the_unlabeled_half_alone():
    method = make()
    method.autoencoder = Calls(3, 3, 2)
    method.start_stage("guided")
    method.training_step(make_batch(), last())
    assert [len(x) for x in method.student.seen] == [5]
    assert [len(x) for x in method.teacher.seen] == [2]
    assert [x.shape for x in method.autoencoder.seen] == [(2, 3, 16, 16)]
    assert set(method.autoencoder.seen[0].unique().tolist()) == {0.0, 1.0}
    official = make(preset="official")
    official.autoencoder = Calls(1, 3, 2)
    official.start_stage("guided")
    official.training_step(make_batch(), last())
    assert [x.shape for x in official.autoencoder.seen] == [(5, 1, 16, 16)]
    assert {0.0, 1.0} <= set(official.autoencoder.seen[0].unique().tolist()) <= {0.0, 1.0, 2.0}


def test_the_autoencoder_is_left_out_while_the_consistency_hardly_counts():
    method = make()
    method.autoencoder = Calls(3, 3, 2)
    method.start_stage("guided")
    shares = []
    for iteration in range(0, 100, 5):
        progress = Progress("guided", iteration, 100)
        method.training_step(make_batch(), progress)
        shares.append(method.consistency_weight(progress) / method.settings.consistency_weight)
        assert len(method.autoencoder.seen) == sum(s >= 0.03 for s in shares)
    assert shares[0] < 0.03 < shares[-1]


def test_the_uniform_control_is_the_mean_teacher():
    teacher = get_method("mean_teacher")
    method = make(control="uniform")
    torch.manual_seed(0)
    plain = teacher(
        teacher.Settings(mixing="none"), lambda **_: Calls(1, 3, 2), num_classes=3, spatial_dims=2
    ).train()
    plain.load_state_dict({k: v for k, v in method.state_dict().items() if "autoenc" not in k})
    method.start_stage("guided")
    losses = []
    for each, stage in ((method, "guided"), (plain, "train")):
        torch.manual_seed(5)
        losses.append(each.training_step(make_batch(), Progress(stage, 70, 100)).loss)
    torch.testing.assert_close(*losses)
    treated = make()
    treated.load_state_dict(method.state_dict())
    treated.start_stage("guided")
    torch.manual_seed(5)
    assert treated.training_step(make_batch(), Progress("guided", 70, 100)).loss != losses[0]


def test_the_identity_control_weighs_by_confidence_alone():
    method = make(control="identity", gamma=2.0)
    logits = torch.tensor([20.0, 0, 0]).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    logits[..., 0, 0] = 0
    weight, _ = method.weigh(torch.zeros(1, 1, 2, 2), logits, Progress("guided", 0, 100))
    unsure = math.exp(-2 * ((2 / 3) ** 2 + 2 * (1 / 3) ** 2))
    assert weight[0, 0].flatten().tolist() == pytest.approx([unsure, 1, 1, 1], rel=1e-5)


def test_weights_of_agreement_and_contradiction():
    sure = encode_mask(torch.tensor([[[0, 1]]]), 2, "onehot")
    other = encode_mask(torch.tensor([[[0, 0]]]), 2, "onehot")
    values = {}
    for reduction in ("per_class", "sum", "mean", "max"):
        u = deviation(other, sure, reduction=reduction)
        values[reduction] = u[0, :, 0, 1].tolist()
        assert u[0, :, 0, 0].abs().max() == 0
    assert values == {"per_class": [1, 1], "sum": [2], "mean": [1], "max": [1]}
    u = deviation(other, sure)
    assert certainty(u, gamma=1.5)[0, 0, 0].tolist() == pytest.approx([1, math.exp(-3)])
    assert certainty(u, kind="threshold", threshold=2.0)[0, 0, 0].tolist() == [1, 0]
    assert certainty(u, kind="none")[0, 0, 0].tolist() == [1, 1]
    half = torch.full_like(sure, 0.5)
    assert deviation(half, sure, kind="abs")[0, 0, 0].tolist() == [1, 1]
    entropy = deviation(half, sure, kind="entropy")
    assert entropy[0, 0, 0].tolist() == pytest.approx([math.log(2)] * 2, rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"dae_input": "soft"},
        {"dae_input": "index", "output": "sigmoid", "reduction": "per_class"},
        {"weight": "threshold", "threshold": 0.3, "reduction": "max"},
        {"uncertainty": "entropy", "normalizer": "poster"},
        {"uncertainty": "abs", "normalizer": "official", "consistency_on": "all"},
        {"bottleneck": "fc", "embedding": 8, "latent_noise": 0.1, "mask_noise": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("dims", [2, 3])
def test_every_option_trains(settings, dims):
    method = make(dims=dims, filters=2, **settings)
    shape = (16, 16, 8)[:dims]
    method.start_stage("autoencoder")
    masks = torch.randint(0, 3, (2, *shape))
    masks[:, :3] = 255
    repair = method.training_step(Batch(None, None, masks=masks), Progress("autoencoder", 0, 9))
    repair.loss.backward()
    method.start_stage("guided")
    output = method.training_step(make_batch(shape=shape), last())
    output.loss.backward()
    for value in (repair.loss, output.loss):
        assert torch.isfinite(value)
    assert 0 <= output.terms["certainty/weight"] <= 1


def test_an_official_step_by_hand():
    """The loss of one guided step, from the formulas of the published code."""
    method = make(preset="official", noise=0, latent_noise=0)
    autoencoder = Calls(1, 3, 2)
    method.autoencoder = autoencoder
    method.start_stage("guided")
    batch = make_batch(labeled=2)
    output = method.training_step(batch, Progress("guided", 4000, 8000))
    images = torch.cat([batch.labeled.image, batch.unlabeled.image])
    s = method.student.conv(images).softmax(1)
    t = method.teacher.conv(images).softmax(1)
    assert not torch.equal(s, t), "student and teacher start independently"
    plausible = autoencoder.conv(t.argmax(1, keepdim=True).float()).sigmoid()
    w = torch.exp(-((plausible - t) ** 2))
    consistency = (w * (s - t) ** 2).sum() / (2 * w.sum() + 1e-16)
    label = batch.labeled.label
    ce = -s[:2].log().gather(1, label[:, None]).mean()
    score = 0.0
    for c in (1, 2):
        p, y = s[:2, c], (label == c).float()
        score += (2 * (p * y).sum() + 1e-5) / ((p * p).sum() + y.sum() + 1e-5) / 2
    expected = 0.5 * (ce + 1 - score) + 0.028650479686019012 * consistency
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.terms["loss/consistency"], consistency.detach())


def test_the_teacher_of_official_becomes_the_student_after_the_first_step():
    method = make(preset="official")
    method.start_stage("autoencoder")
    before = method.teacher.conv.weight.clone()
    method.after_step(Progress("autoencoder", 0, 10))
    assert torch.equal(method.teacher.conv.weight, before)
    assert not torch.equal(method.teacher.conv.weight, method.student.conv.weight)
    method.start_stage("guided")
    method.after_step(Progress("guided", 0, 10))
    assert torch.equal(method.teacher.conv.weight, method.student.conv.weight)


# ------------------------------------------------------------------------------------ recipes


def recipe(**training):
    return Recipe.model_validate({"training": {"patch": [32, 32, 32], **training}})


@pytest.mark.parametrize(
    ("settings", "training", "words"),
    [
        ({"autoencoder_fraction": 0}, {}, "untrained autoencoder"),
        ({}, {"early_stop": 5}, "early_stop"),
        ({"grid": [2, 2]}, {}, "needs 3 numbers"),
        ({}, {"labeled_batch": 1, "patch": [8, 8, 8]}, "single voxel"),
    ],
)
def test_refusals(settings, training, words):
    (message,) = CLS.Settings(**settings).check_recipe(recipe(**training))
    assert words in message
    assert list(CLS.Settings().check_recipe(recipe())) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"consistency_weight": 0}, "consistency_weight is 0"),
        ({"grid": [2, 2, 2]}, "method.grid does nothing"),
        ({"preset": "official", "grid": [3, 3, 3]}, "method.grid: [2, 2, 2]"),
        ({"control": "uniform"}, "control experiment"),
        ({"weight": "threshold", "gamma": 2}, "method.gamma does nothing"),
        ({"threshold": 0.3}, "method.threshold does nothing"),
        ({"uncertainty": "entropy", "reduction": "max"}, "method.reduction does nothing"),
        ({"ramp_every": 10}, "method.ramp_every does nothing"),
    ],
)
def test_warnings(settings, words):
    (message,) = CLS.Settings(**settings).filled(recipe()).warn_recipe(recipe(), settings)
    assert words in message


def test_presets_alone_are_not_warned_of():
    for preset in ("corrected", "official"):
        settings = CLS.Settings(preset=preset).filled(recipe())
        assert list(settings.warn_recipe(recipe(), ())) == []


def test_what_follows_from_the_recipe():
    """Masks as labeled patches; a grid of 2 per axis where there is one."""
    given = recipe(labeled_batch=3)
    corrected, official = (CLS.Settings(preset=p).filled(given) for p in ("corrected", "official"))
    assert (corrected.mask_batch, corrected.grid) == (3, "off")
    assert (official.mask_batch, official.grid) == (4, [2, 2, 2])
    flat = CLS.Settings(preset="official").filled(recipe(patch=[32, 32]))
    assert flat.grid == [2, 2]
    own = CLS.Settings(preset="official", grid=[4, 4, 4], mask_batch=2).filled(given)
    assert (own.mask_batch, own.grid) == (2, [4, 4, 4])
