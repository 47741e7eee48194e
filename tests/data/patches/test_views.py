"""From a crop to what a method is given: warp, weak changes, then strong ones on top of both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from patch_samplers import FULL, make_sampler, sampler_of

from medssl.data.datasets.case import CachedCase
from medssl.data.patches import augment_ops as ops
from medssl.data.patches.augment import STRONG as STRONG_RANGES
from medssl.data.patches.augment import UNCHANGED, Augmenter
from medssl.data.patches.augment import WEAK as WEAK_RANGES
from medssl.data.patches.augment_batch import change_intensities, finish, views_of
from medssl.settings.augment import AugmentSettings
from medssl.settings.spec import DataSpec
from medssl.training.batches import to_batch

HOST = torch.device("cpu")
QUARTER = ops.affine_matrix([(0, 1, 90.0)], 1.0, (0, 1, 2))
"""A quarter turn, whose truth is `rot90`."""


def row(**values: float) -> np.ndarray:
    out = UNCHANGED.copy()
    for name, value in values.items():
        out[("blur", "gamma", "contrast", "brightness").index(name)] = value
    return out


WEAK, STRONG = row(brightness=0.5), row(contrast=0.25, gamma=1.5)


def crop() -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    return {
        "image": torch.from_numpy(rng.normal(size=(1, 1, 7, 7, 7)).astype(np.float32)),
        "label": torch.from_numpy(rng.integers(0, 5, (1, 7, 7, 7)).astype(np.uint8)),
        "matrix": torch.from_numpy(QUARTER[None]),
        "weak": torch.from_numpy(WEAK[None]),
        "changes_0": torch.from_numpy(STRONG[None]),
        "changes_1": torch.from_numpy(UNCHANGED.copy()[None]),
    }


def test_the_label_is_warped_with_its_image() -> None:
    out = finish({k: v for k, v in crop().items() if k in ("image", "label", "matrix")}, HOST)
    turned = {k: [torch.rot90(crop()[k], n, (-3, -2)) for n in (1, 3)] for k in ("image", "label")}
    ways = [n for n in (0, 1) if torch.equal(out["label"], turned["label"][n])]
    assert len(ways) == 1, "clockwise, or the other way"
    torch.testing.assert_close(out["image"], turned["image"][ways[0]], atol=1e-5, rtol=0)
    assert not torch.equal(out["label"], crop()["label"])


def test_the_strong_view_is_made_of_the_weakly_augmented_patch() -> None:
    plain, out = crop(), finish(crop(), HOST)
    moved, _ = ops.warp(plain["image"], None, QUARTER[None])
    assert moved is not None
    weak = change_intensities(moved, WEAK[None])
    assert torch.equal(out["image"], weak)
    assert torch.equal(out["view_0"], change_intensities(weak, STRONG[None]))
    assert torch.equal(out["view_1"], weak)
    # By hand: brightness moves by half a standard deviation, the strong view has less contrast.
    spread = plain["image"].std(correction=0)
    torch.testing.assert_close(weak - moved, torch.full_like(moved, 0.5 * float(spread)))
    assert out["view_0"].std() < 0.4 * weak.std()


@pytest.mark.parametrize("number", range(6))
def test_a_sampler_draws_a_strong_view_of_each_patch(number: int) -> None:
    """Always strong, never weak, no geometry: the patch is the crop, and its view another image."""
    settings = AugmentSettings(
        flip=False, rot90=False, strong_probability=1.0, intensity_probability=0.0
    )
    drawn = {
        views: make_sampler(settings, views=views, stream="unlabeled").draw(number)
        for views in ((), ("strong",), ("strong", "strong"))
    }
    (first,), two = views_of(drawn["strong",]), views_of(drawn["strong", "strong"])
    image = drawn[()]["image"]
    assert views_of(drawn[()]) == ()
    assert torch.equal(drawn["strong",]["image"], image)
    assert torch.equal(first, two[0])
    assert not torch.equal(two[0], two[1])
    for view in two:
        assert (view - image).abs().mean() > 0.05 * image.std()
    plain = make_sampler(None, stream="unlabeled").draw(number)["image"]
    assert torch.equal(image, plain), "the same address is the same crop"


def test_strong_changes_are_drawn_from_the_wider_ranges() -> None:
    """Each range holds values that a weak change never takes."""
    augment = Augmenter(AugmentSettings(strong_probability=1.0), DataSpec(), spatial_dims=3)
    rows = np.stack([augment.draw_strong(np.random.default_rng(n)) for n in range(300)])
    for column, (low, high), weak in (
        (0, STRONG_RANGES.blur, WEAK_RANGES.blur),
        (1, STRONG_RANGES.gamma, WEAK_RANGES.gamma),
        (2, STRONG_RANGES.contrast, WEAK_RANGES.contrast),
        (3, STRONG_RANGES.brightness, WEAK_RANGES.brightness),
        (4, STRONG_RANGES.noise, WEAK_RANGES.noise),
    ):
        values = rows[:, column]
        assert low <= values.min() < values.max() <= high
        assert values.max() > weak[1]


def test_a_method_is_given_the_views_and_not_the_patch_again() -> None:
    sampler = make_sampler(FULL, views=("strong", "strong"), stream="unlabeled", labeled=False)
    rows = sampler.batch(2)
    batch = to_batch({"unlabeled": rows}, HOST)
    assert batch.unlabeled is not None
    expected = finish(rows, HOST)
    assert torch.equal(batch.unlabeled.image, expected["image"])
    assert len(batch.unlabeled.views) == 2
    for k, view in enumerate(batch.unlabeled.views):
        assert torch.equal(view, expected[f"view_{k}"])
        assert not torch.equal(view, batch.unlabeled.image)
    assert batch.unlabeled.case.tolist() == rows["case"].tolist()


@pytest.mark.parametrize("dims", [2, 3])
def test_labels_lie_on_their_structures_whatever_is_drawn(dims: int) -> None:
    """The image is the label, smooth enough to be told after rotation, zoom and mirroring."""
    grid = np.indices((24, 24, 24)) - 11.5
    label = (np.abs(grid).max(0) <= 7).astype(np.uint8)
    label[16:, :, :] *= 2  # an end of another class: mirroring and turns can be told
    image = label[None].astype(np.float16)
    case = CachedCase("a", "a", image, label, {1: np.flatnonzero(label == 1)})
    settings = AugmentSettings(
        rotate_degrees=40, rotate_probability=1.0, scale=(0.7, 1.3), scale_probability=1.0
    )
    spec = DataSpec(flip_axes=[0, 1, 2], rot90_planes=[[0, 1]], rotate_planes=[[0, 1], [1, 2]])
    augment = Augmenter(settings, spec, spatial_dims=dims)
    axis = None if dims == 3 else 2
    sampler = sampler_of(
        [case],
        stream="train/labeled",
        seed=1,
        batch_size=1,
        patch=(20,) * dims,
        foreground_fraction=1.0,
        augment=augment,
        slice_axis=axis,
    )
    shares, moved = [], set()
    for number in range(8):
        patch = sampler.draw(number)
        told = (patch["image"][0] + 0.5).floor()
        if patch["label"].any():
            shares.append(float((told == patch["label"]).float().mean()))
        moved.add(tuple(patch["label"].flatten().tolist()))
    assert min(shares) > 0.95
    assert len(moved) > 4
