"""Numbers computed with the published code of the anatomical method and of UA-MT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from published_views import (
    center_crop,
    normalize_percentile,
    one_stream_batches,
    random_crop,
    rotate_and_flip,
    two_stream_batches,
)

from medssl.methods.anatomical_settings import AnatomicalSettings
from medssl.methods.base import Progress
from medssl.methods.registry import get_method
from medssl.methods.settings import Stage
from medssl.methods.uamt import UAMT, unroll_passes
from medssl.methods.uamt_settings import UAMTSettings
from medssl.networks.mask_autoencoder import MaskAutoencoder
from medssl.networks.vnet import VNet
from medssl.ops.certainty import (
    certainty,
    deviation,
    entropy_threshold,
    probabilities,
    weighted_consistency,
)
from medssl.ops.ema import ema_decay
from medssl.ops.losses import dice_and_ce, one_hot
from medssl.ops.mask_repair import reconstruction_terms
from medssl.ops.uncertainty import predictive_entropy
from medssl.settings.training import ScheduleSettings
from medssl.training.optimization import learning_rate


@pytest.fixture
def checks(golden):
    return {c["id"]: c for c in golden("anatomical")["checks"]}


def close(value, truth, rel):
    """Compare an array with the recorded shape, sums, extremes and ends of another."""
    array = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value, np.float64)
    assert list(array.shape) == truth["shape"]
    ours = {
        "sum": array.sum(),
        "mean": array.mean(),
        "min": array.min(),
        "max": array.max(),
        "l2": np.sqrt((array**2).sum()),
    }
    for key, number in ours.items():
        # A sum is only as exact as its addends.
        scale = {"sum": rel * np.abs(array).sum(), "mean": rel * np.abs(array).mean()}
        assert number == pytest.approx(truth[key], rel=rel, abs=scale.get(key, 1e-12)), key
    flat = array.ravel()
    assert flat[:5].tolist() == pytest.approx(truth["first5"], rel=rel, abs=rel)
    assert flat[-3:].tolist() == pytest.approx(truth["last3"], rel=rel, abs=rel)


def tensors(seed, *draws):
    """Draw float64 normal tensors ``scale * N(shape)`` one after another."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(scale * rng.standard_normal(shape)) for scale, shape in draws]


def official(name):
    """Return a method with its published settings, on a network of one layer."""
    cls = get_method(name)
    return cls(
        cls.Settings(preset="official"),
        lambda **_: torch.nn.Conv2d(1, 2, 1),
        num_classes=2,
        spatial_dims=2,
    )


# --------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("name", "key", "stage"),
    [
        ("anatomical", "anatomical_consistency_weight", "guided"),
        ("uamt", "uamt_consistency_weight", "train"),
    ],
)
def test_consistency_weights(checks, name, key, stage):
    method = official(name)
    for iteration, truth in checks["schedules"]["outputs"][key].items():
        for total in (6000, 8000):
            weight = method.consistency_weight(Progress(stage, int(iteration), total))
            assert weight == pytest.approx(truth, abs=1e-9)


def test_threshold_of_uamt(checks):
    method = official("uamt")
    for iteration, truth in checks["schedules"]["outputs"]["uamt_threshold_nats"].items():
        assert method.threshold(Progress("train", int(iteration), 6000)) == pytest.approx(
            truth, abs=1e-9
        )


def test_decay_of_the_teachers(checks):
    for name in ("anatomical", "uamt"):
        method = official(name)
        for iteration, truth in checks["schedules"]["outputs"]["ema_alpha"].items():
            assert method.decay(int(iteration)) == pytest.approx(truth, abs=1e-9)
            assert ema_decay(int(iteration), 0.99) == pytest.approx(truth, abs=1e-9)


def test_learning_rates(checks):
    truths = checks["schedules"]["outputs"]
    method = official("anatomical")
    cosine = ScheduleSettings(name="cosine")
    for key, stage in (
        ("anatomical_stage2_lr", Stage("guided", 8000)),
        ("dae_lr", Stage("autoencoder", 50_000, streams=("masks",))),
    ):
        for iteration, truth in truths[key].items():
            position = method.learning_rate_position(stage, int(iteration))
            assert learning_rate(*position, 0.1, cosine) == pytest.approx(truth, rel=1e-5)
    step = ScheduleSettings(name="step", step_size=2500, gamma=0.1)
    for done, truth in truths["uamt_lr_after_k_steps"].items():
        assert learning_rate(int(done), 6000, 0.01, step) == pytest.approx(truth, rel=1e-5)


# --------------------------------------------------------------------------- losses


def test_losses(checks):
    truth = checks["losses"]["outputs"]
    rng = np.random.default_rng(101)
    score = torch.from_numpy(rng.uniform(0, 1, (2, 4, 3, 4, 5)))
    target = torch.from_numpy(rng.integers(0, 4, (2, 3, 4, 5)))
    hot = one_hot(target, 4).double()
    squared, dice = reconstruction_terms(score, hot)
    assert squared.item() == pytest.approx(truth["b_mse"], rel=1e-6)
    assert dice.item() == pytest.approx(truth["a_dice_loss"], rel=1e-6)
    assert 0.5 * (squared + dice).item() == pytest.approx(truth["b_dae_loss"], rel=1e-6)
    for c, number in enumerate(truth["a_dice_per_class"]):
        # With two channels, the loss is that of the second alone.
        pair = [torch.stack([x[:, 0], x[:, c]], 1) for x in (score, hot)]
        _, one = reconstruction_terms(*pair)
        assert 1 - one.item() == pytest.approx(number, rel=1e-6)


@pytest.mark.parametrize(("key", "seed", "classes"), [("c", 102, 4), ("d", 103, 2)])
def test_supervised_losses(checks, key, seed, classes):
    truth = checks["losses"]["outputs"]
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.standard_normal((4, classes, 3, 4, 5)))
    label = torch.from_numpy(rng.integers(0, classes, (4, 3, 4, 5)))
    dice, ce = dice_and_ce(logits[:2], label[:2])
    assert ce.item() == pytest.approx(truth[f"{key}_ce"], rel=1e-6)
    assert dice.item() == pytest.approx(truth[f"{key}_dice_loss"], rel=1e-6)
    for settings in (AnatomicalSettings(preset="official"), UAMTSettings(preset="official")):
        loss = settings.supervised_weight * (dice + ce)
        assert loss.item() == pytest.approx(truth[f"{key}_supervised"], rel=1e-6)


# --------------------------------------------------------------------------- anatomical consistency


def consistency_inputs(seed=201, classes=5):
    shape = (4, classes, 4, 3, 6)
    return tensors(seed, (2, shape), (2, shape), (3, shape))


def official_deviation(teacher, autoencoder):
    settings = AnatomicalSettings(preset="official")
    return deviation(
        probabilities(autoencoder, settings.output),
        probabilities(teacher),
        kind=settings.uncertainty,
        reduction=settings.reduction,
    )


@pytest.mark.parametrize("gamma", [0, 1, 2, 5])
def test_anatomical_consistency(checks, gamma):
    truth = checks["anatomical_consistency"]["outputs"][f"gamma_{gamma}"]
    student, teacher, autoencoder = consistency_inputs()
    student.requires_grad_()
    u = official_deviation(teacher, autoencoder)
    weight = certainty(u, gamma=gamma)
    close(weight, truth["certainty"], 1e-9)
    loss = weighted_consistency(student, teacher, weight, normalizer="official")
    (grad,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(truth["loss_code"], rel=1e-9)
    assert grad.norm().item() == pytest.approx(truth["grad_student_l2"], rel=1e-9)
    assert grad.flatten()[:5].tolist() == pytest.approx(truth["grad_student_first5"], rel=1e-9)
    mean = weighted_consistency(student, teacher, weight)
    assert mean.item() == pytest.approx(truth["loss_weighted_elementwise_mean"], rel=1e-9)

    per_voxel = certainty(u.sum(1, keepdim=True), gamma=gamma)
    for normalizer, key in (
        ("poster", "loss_poster_voxelwise_sum_over_classes"),
        ("mean", "loss_voxelwise_mean_over_classes"),
    ):
        loss = weighted_consistency(student, teacher, per_voxel, normalizer=normalizer)
        assert loss.item() == pytest.approx(truth[key], rel=1e-9)


def test_uncertainties(checks):
    truth = checks["anatomical_consistency"]["outputs"]
    student, teacher, autoencoder = consistency_inputs()
    probs, plausible = probabilities(teacher), probabilities(autoencoder, "sigmoid")
    close(official_deviation(teacher, autoencoder), truth["uncertainty"], 1e-9)
    summed = deviation(plausible, probs, reduction="sum")
    close(summed[:, 0], truth["uncertainty_channel_sum_per_voxel"], 1e-9)
    entropy = next(v for k, v in truth.items() if k.startswith("entropy_variant"))
    close(deviation(plausible, probs, kind="entropy"), entropy, 1e-9)
    hard = probs.max(1).indices
    assert hard.flatten().bincount().tolist() == truth["teacher_argmax_class_counts"]
    plain = weighted_consistency(student, teacher)
    assert plain.item() == pytest.approx(truth["unweighted_softmax_mse_mean"], rel=1e-9)


def test_identity_control(checks):
    outputs = checks["anatomical_consistency"]["outputs"]
    truth = next(v for k, v in outputs.items() if k.startswith("identity_DAE_control"))
    student, teacher, _ = consistency_inputs()
    method = get_method("anatomical")(
        AnatomicalSettings(preset="official", control="identity"),
        lambda **_: torch.nn.Conv3d(1, 5, 1),
        num_classes=5,
        spatial_dims=3,
    )
    probs = probabilities(teacher)
    u = deviation(method.plausible(probs), probs, reduction="per_class")
    close(u, truth["uncertainty"], 1e-9)
    weight, _ = method.weigh(teacher[:, :1], teacher, Progress("guided", 8000, 8000))
    loss = weighted_consistency(student, teacher, weight, normalizer="official")
    assert loss.item() == pytest.approx(truth["loss_code"], rel=1e-9)


def test_two_classes(checks):
    outputs = checks["anatomical_consistency"]["outputs"]
    truth = next(v for k, v in outputs.items() if k.startswith("binary_C2_gamma1"))
    student, teacher, autoencoder = consistency_inputs(202, 2)
    student.requires_grad_()
    u = official_deviation(teacher, autoencoder)
    close(u, truth["uncertainty"], 1e-9)
    loss = weighted_consistency(student, teacher, certainty(u), normalizer="official")
    (grad,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(truth["loss_code"], rel=1e-9)
    assert grad.norm().item() == pytest.approx(truth["grad_student_l2"], rel=1e-9)
    per_voxel = certainty(u.sum(1, keepdim=True))
    poster = weighted_consistency(student, teacher, per_voxel, normalizer="poster")
    assert poster.item() == pytest.approx(truth["loss_poster_voxelwise_sum_over_classes"], rel=1e-9)


# --------------------------------------------------------------------------- UA-MT's mask


def mask_inputs(seed=301, scale=2.0, classes=2):
    shape = (2, classes, 5, 4, 6)
    base, passes, student, teacher = tensors(
        seed, (scale, (1, *shape)), (1, (8, *shape)), (1, shape), (0.5, shape)
    )
    return base + passes, base[0] + student, base[0] + teacher


def test_uamt_mask(checks):
    truth = checks["uamt_uncertainty_mask"]["outputs"]
    passes, student, teacher = mask_inputs()
    student.requires_grad_()
    mean = torch.softmax(passes, dim=2).mean(0)
    entropy = predictive_entropy(mean).unsqueeze(1)
    close(entropy, truth["entropy"], 1e-9)
    for iteration in (0, 1500, 3000, 4500, 6000):
        row = truth[f"it_{iteration}"]
        threshold = entropy_threshold(iteration, 6000)
        assert threshold == pytest.approx(row["threshold"], rel=1e-9)
        mask = (entropy < threshold).float()
        assert mask.sum().item() == row["mask_count"]
        assert mask.mean().item() == pytest.approx(row["mask_fraction"])
        loss = weighted_consistency(student, teacher, mask, normalizer="official")
        (grad,) = torch.autograd.grad(loss, student)
        assert loss.item() == pytest.approx(row["loss"], rel=1e-9)
        assert grad.norm().item() == pytest.approx(row["grad_student_l2"], rel=1e-9)


class Numbered(torch.nn.Module):
    """Adds 10 for every pass, so that an output tells volume and pass."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        out = x + 10 * self.calls
        self.calls += 1
        return out


def test_uamt_row_order(checks):
    truth = checks["uamt_uncertainty_mask"]["outputs"]
    rows = next(v for k, v in truth.items() if k.startswith("row_order"))
    method = UAMT(
        UAMTSettings(preset="official", noise=0),
        lambda **_: Numbered(),
        num_classes=2,
        spatial_dims=2,
    )
    volumes = torch.arange(2.0).view(2, 1, 1, 1)
    stacked = unroll_passes(list(method._stochastic_passes(volumes)), 2)
    assert stacked.shape == (8, 2, 1, 1, 1)
    assert stacked.flatten(1).tolist() == rows


def test_uamt_mean_is_over_all_passes():
    """The method's accumulated mean is the mean of the stacked softmax outputs."""
    method = UAMT(
        UAMTSettings(preset="official", noise=0, passes=5),
        lambda **_: Scaled(),
        num_classes=3,
        spatial_dims=2,
    )
    image = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    # Five passes are two, two and one copy: three calls, so the scales come twice, twice and once.
    expected = sum(n * torch.softmax(image * s, 1) for n, s in ((2, 1), (2, 2), (1, 3))) / 5
    torch.testing.assert_close(method.mean_probability(image), expected)


class Scaled(torch.nn.Module):
    """Multiplies by the number of the call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_uamt_with_four_classes(checks):
    outputs = checks["uamt_uncertainty_mask"]["outputs"]
    truth = next(v for k, v in outputs.items() if k.startswith("multiclass_C4"))
    passes, student, teacher = mask_inputs(302, 2.5, 4)
    entropy = predictive_entropy(torch.softmax(passes, dim=2).mean(0)).unsqueeze(1)
    close(entropy, truth["entropy"], 1e-9)
    for classes, key in ((2, "ln2 (as SSL4MIS does, wrong for C=4)"), (4, "lnC")):
        row = truth[key]
        threshold = entropy_threshold(3000, 6000, num_classes=classes)
        assert threshold == pytest.approx(row["threshold"], rel=1e-9)
        mask = (entropy < threshold).float()
        assert mask.sum().item() == row["mask_count"]
        for normalizer, name in (
            ("official", "loss_code_denominator_2"),
            ("mean", "loss_denominator_C"),
        ):
            loss = weighted_consistency(student, teacher, mask, normalizer=normalizer)
            assert loss.item() == pytest.approx(row[name], rel=1e-9)


# --------------------------------------------------------------------------- data pipeline


def pipeline_image():
    image = np.random.default_rng(402).standard_normal((24, 22, 20)).astype(np.float32)
    return image, (image > 0.5).astype(np.uint8)


def test_normalization(checks):
    volume = np.random.default_rng(401).gamma(2.0, 50.0, (20, 18, 16)).astype(np.float32)
    volume[:4] = 0
    truth = checks["data_pipeline"]["outputs"]["normalize_mean_percentile"]
    close(normalize_percentile(volume), truth, 1e-5)


def test_mirrored_arrangements(checks):
    outputs = checks["data_pipeline"]["outputs"]
    truth = next(v for k, v in outputs.items() if k.startswith("rotflip"))
    square = np.arange(9).reshape(3, 3, 1)
    rng = np.random.RandomState(0)
    seen = {tuple(rotate_and_flip([square], rng)[0].ravel().tolist()) for _ in range(200)}
    assert sorted(seen) == [tuple(row) for row in truth]


def test_crops(checks):
    truth = checks["data_pipeline"]["outputs"]
    pair = pipeline_image()
    rng = np.random.RandomState(5)
    image, label = random_crop(rotate_and_flip(pair, rng), (16, 16, 18), rng)
    entry = truth["seed5_RotFlip_then_Crop16x16x18"]
    close(image, entry["image"], 1e-5)
    assert label.sum() == entry["label_sum"]

    image, label = random_crop(pair, (24, 16, 12), np.random.RandomState(6))
    entry = truth["seed6_Crop24x16x12_equal_dim_is_padded"]
    close(image, entry["image"], 1e-5)
    assert label.sum() == entry["label_sum"]
    assert (image == 0).all((1, 2)).sum() == entry["zero_planes_axis0"]

    image, label = center_crop(pair, (16, 16, 18))
    close(image, truth["CenterCrop16x16x18"]["image"], 1e-5)
    assert label.sum() == truth["CenterCrop16x16x18"]["label_sum"]


def test_samplers(checks):
    truth = checks["data_pipeline"]["outputs"]
    batches = two_stream_batches(range(6), range(6, 15), 4, 2, np.random.RandomState(9))
    assert list(batches) == truth["sampler_seed9_lab0-5_unlab6-14_bs4_2"]
    batches = one_stream_batches(range(10), 4, np.random.RandomState(9))
    assert list(batches) == truth["DAE_sampler_seed9_10items_bs4 (drops remainder)"]


# --------------------------------------------------------------------------- networks


def test_parameter_counts(checks):
    truth = checks["dae_architecture"]["outputs"]["parameter_counts"]
    with torch.device("meta"):
        counts = {
            "VNet_C2": VNet(num_classes=2),
            "VNet_C5": VNet(num_classes=5),
            "DAE_LA_112_112_80_C2_emb512": MaskAutoencoder(num_classes=2, grid=(7, 7, 5)),
            "DAE_FLARE_144_144_96_C5_emb512": MaskAutoencoder(num_classes=5, grid=(9, 9, 6)),
            "DAE_48_48_32_C2_emb512": MaskAutoencoder(num_classes=2, grid=(3, 3, 2)),
        }
    assert {k: sum(p.numel() for p in n.parameters()) for k, n in counts.items()} == truth


def fill(network, seed):
    """Give each parameter the recorded deterministic values."""
    for i, (name, parameter) in enumerate(network.named_parameters()):
        shape = tuple(parameter.shape)
        z = np.random.default_rng([seed, i]).standard_normal(shape)
        if len(shape) > 1:
            fan = shape[0] if name.endswith("_up.conv.0.weight") else np.prod(shape[1:])
            z = z * np.sqrt(2 / fan)
        else:
            z = 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
        parameter.data = torch.from_numpy(z)
    return network.double()


def test_autoencoder_forward(checks):
    truth = checks["dae_architecture"]["outputs"]
    network = MaskAutoencoder(num_classes=3, embedding=16, grid=(2, 2, 2))
    listed = [[n, list(p.shape)] for n, p in network.named_parameters()]
    assert listed == truth["dae_parameters"]
    fill(network, 11)
    coarse = np.random.default_rng(501).integers(0, 3, (2, 4, 4, 4))
    x = torch.from_numpy(np.kron(coarse, np.ones((1, 8, 8, 8)))).double().unsqueeze(1)
    with torch.no_grad():
        close(network.eval()(x), truth["dae_eval_logits"], 1e-6)
        embedding = network.embedding(x)
        for row, expected in zip(embedding, truth["dae_eval_embedding"], strict=True):
            assert row.tolist() == pytest.approx(expected, rel=1e-6)
        close(network.train()(x), truth["dae_train_logits"], 1e-6)


def test_vnet_forward(checks):
    truth = checks["dae_architecture"]["outputs"]
    network = fill(VNet(num_classes=3, dropout=0.0), 12)
    x = torch.from_numpy(np.random.default_rng(502).standard_normal((2, 1, 32, 32, 32)))
    with torch.no_grad():
        close(network.train()(x), truth["vnet_train_logits"], 1e-6)
