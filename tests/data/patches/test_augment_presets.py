"""Presets of augmentation, low resolution, inverted gamma and smooth deformation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from medssl.data.patches import augment_ops as ops
from medssl.data.patches.augment import COLUMNS, UNCHANGED, Augmenter
from medssl.data.patches.augment_batch import change_intensities, finish
from medssl.errors import MedSSLError
from medssl.recipe.load import load_recipe
from medssl.settings.augment import PRESETS, AugmentSettings
from medssl.settings.spec import DataSpec

HOST = torch.device("cpu")


def augmenter(**settings: Any) -> Augmenter:
    return Augmenter(AugmentSettings(**settings), DataSpec(), spatial_dims=3)


def test_a_preset_is_written_out_and_a_key_beside_it_wins() -> None:
    named = AugmentSettings.model_validate("nnunet")
    assert (named.rotate_degrees, named.scale) == (30, (0.7, 1.4))
    assert set(named.intensity) == set(COLUMNS)
    own = AugmentSettings.model_validate({"preset": "nnunet", "rotate_degrees": 5})
    assert (own.rotate_degrees, own.scale) == (5, (0.7, 1.4))
    assert AugmentSettings.model_validate(named.model_dump(mode="json")) == named


def test_a_recipe_names_a_preset_and_its_record_holds_the_values() -> None:
    overrides = ["data.root=phantom", "training.augment=nnunet"]
    augment = load_recipe("hippocampus_supervised", overrides).recipe.training.augment
    assert augment.model_dump(mode="json")["intensity"]["gamma"] == {
        "probability": 0.3,
        "range": [0.7, 1.5],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{intensity: {low_resolution: {probability: 0.1, range: [0.5, 2]}}}", "must end at 1"),
        ("{intensity: {gamma: {probability: 0.1, range: [0, 2]}}}", "must be above 0"),
        ("{intensity: {blur: {probability: 0.1, range: [2, 1]}}}", "the smaller first"),
        ("strongest", "nnunet"),
    ],
)
def test_mistakes_are_named(text: str, words: str) -> None:
    with pytest.raises(MedSSLError, match=words):
        load_recipe("hippocampus_supervised", ["data.root=phantom", f"training.augment={text}"])


def test_each_change_is_drawn_as_often_and_as_strongly_as_said() -> None:
    aug = augmenter(preset="nnunet")
    rows = np.stack([aug.draw_weak(np.random.default_rng(s)) for s in range(4000)])
    for name, change in PRESETS["nnunet"]["intensity"].items():
        column, at_rest = rows[:, COLUMNS[name]], UNCHANGED[COLUMNS[name]]
        drawn = column[column != at_rest]
        assert abs(len(drawn) / len(rows) - change["probability"]) < 0.03
        low, high = change["range"]
        assert low <= drawn.min() < drawn.max() <= high
        assert drawn.max() - drawn.min() > 0.8 * (high - low)
    gammas = rows[:, COLUMNS["gamma"]]
    assert abs((gammas < 1).sum() / (gammas != 1).sum() - 0.5) < 0.06


def test_a_change_with_chance_0_leaves_the_others_as_they_are() -> None:
    table = PRESETS["nnunet"]["intensity"]
    without = {**table, "blur": {"probability": 0.0, "range": [0.5, 1.0]}}
    for seed in range(20):
        one = augmenter(intensity=table).draw_weak(np.random.default_rng(seed))
        other = augmenter(intensity=without).draw_weak(np.random.default_rng(seed))
        assert other[0] == 0
        assert (one[1:] == other[1:]).all()


def test_low_resolution_loses_detail_and_keeps_what_is_smooth() -> None:
    ramp = torch.arange(16.0).expand(2, 1, 16, 16).clone()
    dots = torch.zeros(2, 1, 16, 16)
    dots[..., ::2, ::2] = 1
    shares = np.array([1.0, 0.5])
    low = ops.lower_resolution(dots, shares)
    assert torch.equal(low[0], dots[0])
    assert low[1].std() < 0.1 * dots[1].std() or low[1].unique().numel() < 3
    smooth = ops.lower_resolution(ramp, shares)
    assert (smooth[1] - ramp[1])[..., 2:-2].abs().max() <= 1
    assert torch.equal(ramp, torch.arange(16.0).expand(2, 1, 16, 16))  # not changed in place


def test_inverted_gamma_is_gamma_of_the_negative() -> None:
    image = torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 3)
    out = ops.change_gamma(image, np.array([2.0]), inverted=True)
    torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 1 - 0.75**2, 1.0]))
    row = UNCHANGED.copy()
    row[COLUMNS["inverted_gamma"]] = 2.0
    torch.testing.assert_close(change_intensities(image, row[None]), out)


def test_a_deformation_is_smooth_of_the_spread_asked_for_and_moves_labels_along() -> None:
    size, seeds = (40, 30, 20), np.stack([np.arange(8), np.arange(8) + 100], 1)
    field = ops.displacement(np.full(8, 3.0), seeds, size, HOST)
    assert field.shape == (8, *size, 3)
    voxels = field * torch.tensor([s / 2 for s in size[::-1]])  # the last axis comes first
    assert 0.8 < float(voxels.std()) < 3
    assert float(voxels.diff(dim=1).abs().max()) < 1.5
    assert torch.equal(field[2:3], ops.displacement(np.array([3.0]), seeds[2:3], size, HOST))
    label = (torch.arange(40).view(1, 40, 1, 1).expand(1, *size) // 10).to(torch.uint8)
    image = label[:, None].float()
    moved, target = ops.warp(image, label, np.eye(3)[None], np.array([[3.0, 1, 2]]))
    assert moved is not None
    assert target is not None
    assert not torch.equal(target, label)
    assert ((moved[:, 0] - target).abs() < 1).all()
    same, _ = ops.warp(image, label, np.eye(3)[None], np.array([[0.0, 1, 2]]))
    assert same is image


def test_a_deformation_is_drawn_only_if_it_is_asked_for() -> None:
    drawn = [augmenter(deform_voxels=2).draw_geometry(np.random.default_rng(s)) for s in range(300)]
    some = [g.deform for g in drawn if g.deform is not None]
    assert 0.1 < len(some) / 300 < 0.3
    assert len({seeds for _, *rest in some for seeds in [tuple(rest)]}) == len(some)
    assert augmenter().draw_geometry(np.random.default_rng(0)).deform is None


def test_a_batch_deforms_its_patches_one_by_one() -> None:
    image = torch.randn(2, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    matrix = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    deform = torch.tensor([[0.0, 0, 0], [2.0, 5, 6]], dtype=torch.float64)
    out = finish({"image": image, "matrix": matrix, "deform": deform}, HOST)["image"]
    alone = finish({"image": image[1:], "matrix": matrix[1:], "deform": deform[1:]}, HOST)["image"]
    assert torch.equal(out[0], image[0])
    torch.testing.assert_close(out[1], alone[0])
    assert not torch.allclose(out[1], image[1])
