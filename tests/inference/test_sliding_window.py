"""Windows, their blending and their stitching, against closed forms, MONAI and golden numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from scipy import ndimage
from torch import Tensor, nn
from whole_volume import sliding_window

from medssl.inference.blocks import RollingMean, probability_blocks
from medssl.inference.postprocess import keep_largest_components
from medssl.inference.windows import (
    Empty,
    Windows,
    pad_to_patch,
    stride_from_overlap,
    window_origins,
    window_probabilities,
    window_starts,
)


def positional(x: Tensor) -> Tensor:
    """Logits that depend on the position inside the window, so that misplaced windows show."""
    grids = torch.meshgrid(*(torch.arange(n) for n in x.shape[2:]), indexing="ij")
    ramp = sum((-1) ** axis * g.float() for axis, g in enumerate(grids))
    foreground = 1.5 * x[:, :1] + 0.02 * ramp
    return torch.cat([torch.zeros_like(foreground), foreground], dim=1)


@pytest.mark.parametrize(
    ("size", "window", "stride", "expected"),
    [
        (10, 4, 2, [0, 2, 4, 6]),
        (11, 4, 3, [0, 3, 6, 7]),
        (4, 4, 1, [0]),
        (3, 4, 2, [0]),
        (130, 112, 18, [0, 18]),
        (131, 112, 18, [0, 18, 19]),
        (128, 96, 16, [0, 16, 32]),
        (129, 96, 16, [0, 16, 32, 33]),
    ],
)
def test_starts_are_those_of_the_literature(
    size: int, window: int, stride: int, expected: list[int]
) -> None:
    assert window_starts(size, window, stride) == expected


@pytest.mark.parametrize("stride", [0, -1, 5])
def test_a_stride_that_leaves_voxels_out_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride {stride} must be from 1"):
        window_starts(20, 4, stride)


@pytest.mark.parametrize(("patch", "stride"), [(96, 16), (112, 18), (80, 4), (7, 3), (10, 9)])
def test_overlap_of_a_stride_gives_back_that_stride(patch: int, stride: int) -> None:
    assert stride_from_overlap((patch,), 1 - stride / patch) == (stride,)


def test_overlap_rounds_down_and_never_to_zero() -> None:
    assert stride_from_overlap((7, 4, 2), 0.5) == (3, 2, 1)
    assert stride_from_overlap((4,), 0.99) == (1,)


def test_windows_start_exactly_one_stride_apart() -> None:
    seen: list[float] = []

    def record(x: Tensor) -> Tensor:
        seen.extend(x[:, 0, 0].tolist())
        return torch.cat([x, x], dim=1)

    ruler = torch.arange(160.0)[None]
    sliding_window(ruler, record, patch=(96,), overlap=1 - 16 / 96, blend="constant")
    assert seen == [0, 16, 32, 48, 64]


def test_golden_left_atrium_protocol(golden) -> None:
    truth = golden("bcp")["checks"]["10_inference_metrics"]["sliding"]
    noise = np.random.default_rng(51).standard_normal((130, 117, 70))
    volume = ndimage.gaussian_filter(noise, 3.0)
    image = torch.from_numpy((volume / volume.std()).astype(np.float32))[None]
    counts: list[tuple[int, int]] = []
    mean = sliding_window(
        image,
        positional,
        patch=(112, 112, 80),
        stride=(18, 18, 4),
        blend="constant",
        batch=3,
        progress=lambda done, total: counts.append((done, total)),
    )
    score = mean[1].numpy()
    assert counts == [(3, truth["windows"]), (4, truth["windows"])]
    assert list(score.shape) == truth["output_shape"]
    assert int((score > 0.5).sum()) == truth["label_sum"]
    classes = mean.argmax(0).numpy().astype(np.uint8)
    assert np.array_equal(score > 0.5, classes == 1) == truth["both_channels_equal"]
    assert int(keep_largest_components(classes).sum()) == truth["largest_cc_voxels"]
    assert score.mean(dtype=np.float64) == pytest.approx(truth["score_mean"], rel=1e-6)
    for where, value in truth["score_sample"].items():
        index = tuple(int(i) for i in where.strip("[]").split(","))
        assert score[index] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("blend", ["constant", "gaussian"])
@pytest.mark.parametrize(
    ("shape", "patch", "stride"),
    [
        ((30, 25, 11), (16, 12, 8), (5, 4, 3)),
        ((30, 9, 5), (16, 12, 8), (16, 12, 8)),  # two axes need padding
        ((31, 22), (12, 10), (2, 3)),
        ((128, 20), (96, 16), (16, 8)),
    ],
)
def test_equals_monai_at_the_same_strides(
    shape: tuple[int, ...], patch: tuple[int, ...], stride: tuple[int, ...], blend: str
) -> None:
    image = torch.randn((1, *shape), generator=torch.Generator().manual_seed(3))
    ours = sliding_window(image, positional, patch=patch, stride=stride, blend=blend)
    # MONAI floors roi * (1 - overlap): the small term keeps it from landing one voxel short.
    overlap = [max(0.0, 1 - s / p - 1e-6) for s, p in zip(stride, patch, strict=True)]
    theirs = sliding_window_inference(
        image[None],
        patch,
        4,
        lambda x: positional(x).softmax(1),
        overlap=overlap,
        mode=blend,
        padding_mode="constant",
    )[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_window_batch_changes_nothing(batch: int) -> None:
    image = torch.randn((2, 14, 13, 9), generator=torch.Generator().manual_seed(0))
    options = {"patch": (8, 6, 4), "stride": (3, 3, 2)}
    reference = sliding_window(image, positional, batch=4, **options)
    other = sliding_window(image, positional, batch=batch, **options)
    assert torch.equal(reference, other)


def test_padding_puts_the_smaller_half_on_the_low_side() -> None:
    padded, crop = pad_to_patch(torch.ones(1, 3, 6), (6, 4))
    assert padded.shape == (1, 6, 6)
    assert padded[0, :, 0].tolist() == [0, 1, 1, 1, 0, 0]
    assert torch.equal(padded[crop], torch.ones(1, 3, 6))


def test_a_patch_larger_than_the_image_sees_zeros_around_it() -> None:
    seen: list[Tensor] = []

    def record(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.cat([-x, x], dim=1)

    out = sliding_window(torch.full((1, 3, 5), 2.0), record, patch=(8, 8), overlap=0.5)
    assert out.shape == (2, 3, 5)
    assert len(seen) == 1
    expected = torch.zeros(8, 8)
    expected[2:5, 1:6] = 2.0
    assert torch.equal(seen[0][0, 0], expected)
    torch.testing.assert_close(out[1], torch.full((3, 5), 1 / (1 + np.exp(-4.0))))


def test_another_value_than_zero_may_surround_the_image() -> None:
    seen: list[Tensor] = []

    def record(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.cat([-x, x], dim=1)

    sliding_window(torch.ones(1, 3, 2), record, patch=(4, 2), pad_value=-7.0)
    assert seen[0][0, 0].tolist() == [[1, 1], [1, 1], [1, 1], [-7, -7]]
    seen.clear()
    volume = torch.ones(1, 3, 2, 2)
    sliding_window(volume, record, patch=(4, 2), slice_axis=2, pad_value=-7.0)
    assert seen[0].shape == (2, 1, 4, 2)
    assert seen[0][1, 0].tolist() == [[1, 1], [1, 1], [1, 1], [-7, -7]]


@pytest.mark.parametrize("blend", ["constant", "gaussian"])
def test_weights_are_a_partition_of_unity(blend: str) -> None:
    def constant(x: Tensor) -> Tensor:
        logits = torch.tensor([0.3, 1.1, -0.7]).reshape(1, 3, 1, 1, 1)
        return logits.expand(x.shape[0], 3, *x.shape[2:])

    out = sliding_window(torch.zeros(1, 21, 17, 9), constant, patch=(8, 8, 8), blend=blend)
    expected = torch.tensor([0.3, 1.1, -0.7]).softmax(0).reshape(3, 1, 1, 1).expand_as(out)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


def test_gaussian_mean_of_two_windows_by_hand() -> None:
    weight = compute_importance_map((4,), mode="gaussian")
    mean = RollingMean((6,), weight)
    mean.add((0,), torch.full((1, 4), 1.0))
    first = mean.roll(2)
    mean.add((2,), torch.full((1, 4), 3.0))
    whole = torch.cat([first, mean.roll(6)], dim=1)
    # Gaussian of sigma 4/8 at distances 1.5 and 0.5 from the center.
    far, near = np.exp(-(1.5**2) / 0.5), np.exp(-(0.5**2) / 0.5)
    overlap = [(near + 3 * far) / (near + far), (far + 3 * near) / (near + far)]
    np.testing.assert_allclose(whole[0].numpy(), [1, 1, *overlap, 3, 3], rtol=1e-5)


def test_softmax_comes_before_the_mean_and_in_float32() -> None:
    logits = iter([[0.0, 12.0], [0.0, 0.0]])

    def half(x: Tensor) -> Tensor:
        values = torch.tensor(next(logits), dtype=torch.bfloat16).reshape(1, 2, 1)
        return values.expand(1, 2, x.shape[2])

    out = sliding_window(
        torch.zeros(1, 5), half, patch=(4,), stride=(1,), batch=1, blend="constant"
    )
    high = 1 / (1 + np.exp(-12.0))
    np.testing.assert_allclose(
        out[1].numpy(), [high, *[(high + 0.5) / 2] * 3, 0.5], rtol=0, atol=1e-6
    )
    assert out.dtype == torch.float32


def test_no_gradient_and_an_ordinary_tensor_come_out() -> None:
    net = nn.Conv3d(1, 2, 1)
    out = sliding_window(torch.zeros(1, 6, 6, 6), net, patch=(4, 4, 4))
    assert not out.requires_grad
    assert not out.is_inference()
    out += 1  # an inference tensor would refuse


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8])
def test_half_or_integer_images_are_seen_as_float32(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def record(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return torch.cat([x, x], dim=1)

    out = sliding_window(torch.ones(1, 4, 4).to(dtype), record, patch=(4, 4))
    assert seen == [torch.float32]
    assert out.dtype == torch.float32


def test_a_network_of_another_output_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gave logits \(1, 2, 2, 2\)"):
        sliding_window(torch.zeros(1, 4, 4), nn.Conv2d(1, 2, 3), patch=(4, 4))


def test_patch_and_image_of_different_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="for an image of shape"):
        sliding_window(torch.zeros(1, 4, 4, 4), positional, patch=(4, 4))


def test_origins_run_along_the_last_axis_first() -> None:
    assert window_origins((3, 4), (2, 2), (1, 2)) == [(0, 0), (0, 2), (1, 0), (1, 2)]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("blend", ["constant", "gaussian"])
def test_slices_go_one_by_one_through_the_2d_window(axis: int, blend: str) -> None:
    image = torch.randn((2, 9, 11, 7), generator=torch.Generator().manual_seed(1))
    options = {"patch": (6, 5), "stride": (2, 3), "blend": blend}
    volume = sliding_window(image, positional, slice_axis=axis, batch=4, **options)
    each = [sliding_window(s, positional, **options) for s in image.unbind(axis + 1)]
    torch.testing.assert_close(volume, torch.stack(each, dim=axis + 1), rtol=1e-6, atol=1e-6)


def test_slices_as_large_as_the_patch_are_batched_and_seen_once() -> None:
    shapes: list[tuple[int, ...]] = []

    def record(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return torch.cat([-x, x], dim=1)

    image = torch.arange(10.0).reshape(1, 1, 1, 10).expand(1, 6, 5, 10)
    out = sliding_window(image, record, patch=(6, 5), slice_axis=2, batch=4)
    assert shapes == [(4, 1, 6, 5), (4, 1, 6, 5), (2, 1, 6, 5)]
    expected = torch.sigmoid(2 * torch.arange(10.0))
    torch.testing.assert_close(out[1, 3, 2], expected)


def test_slices_smaller_than_the_patch_are_padded_in_plane_only() -> None:
    shapes: list[tuple[int, ...]] = []

    def record(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return torch.cat([-x, x], dim=1)

    out = sliding_window(torch.ones(1, 3, 2, 5), record, patch=(8, 8), slice_axis=0)
    assert shapes == [(3, 1, 8, 8)]
    assert out.shape == (2, 3, 2, 5)


def test_slices_of_a_3d_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="across axis 2"):
        sliding_window(torch.zeros(1, 4, 4, 4), positional, patch=(4, 4, 4), slice_axis=2)


def naive_mean(
    image: Tensor, patch: tuple[int, ...], stride: tuple[int, ...], blend: str = "gaussian"
) -> Tensor:
    """The textbook way: every window of the volume into one big sum."""
    weight = compute_importance_map(patch, mode=blend)
    total, count = torch.zeros(3, *image.shape[1:]), torch.zeros(image.shape[1:])
    for corner in window_origins(image.shape[1:], patch, stride):
        where = tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
        probabilities = three_classes(image[(slice(None), *where)][None]).softmax(1)[0]
        total[(slice(None), *where)] += probabilities * weight
        count[where] += weight
    return total / count


def three_classes(x: Tensor) -> Tensor:
    two = positional(x)
    return torch.cat([two, 0.7 * x[:, :1] ** 2], dim=1)


@pytest.mark.parametrize("column", [None, (1, 9), (5, 4), (8, 3), (100, 100)])
@pytest.mark.parametrize("stride", [(3, 4, 2), (6, 5, 4)])
def test_blocks_cover_the_volume_once_and_equal_the_naive_mean(
    column: tuple[int, int] | None, stride: tuple[int, ...]
) -> None:
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 23, 17, 9))).float()
    patch = (6, 5, 4)
    out, seen = torch.zeros(3, 23, 17, 9), torch.zeros(23, 17, 9)
    windows = Windows(patch, stride, batch=1)
    blocks = probability_blocks(image, three_classes, windows, column=column)
    for where, block in blocks:
        out[(slice(None), *where)] = block
        seen[where] += 1
    assert (seen == 1).all()
    # Each voxel adds its windows in the same order, so that not even rounding differs.
    torch.testing.assert_close(out, naive_mean(image, patch, stride), rtol=0, atol=0)


def test_blocks_hold_few_rows() -> None:
    image = torch.zeros(1, 100, 6, 6)
    windows = Windows((8, 6, 6), (4, 6, 6), blend="constant")
    rows = [block.shape[1] for _, block in probability_blocks(image, three_classes, windows)]
    assert max(rows) <= 8
    assert sum(rows) == 100


def test_progress_counts_the_windows_of_all_columns() -> None:
    calls: list[tuple[int, int]] = []
    blocks = probability_blocks(
        torch.zeros(1, 8, 12, 4),
        three_classes,
        Windows((4, 4, 4), (4, 4, 4), batch=1),
        column=(6, 4),
        progress=lambda done, total: calls.append((done, total)),
    )
    list(blocks)
    # Windows at 0, 4 and 8 of an axis cut at 6: the middle one is predicted in both columns.
    assert calls == [(n, 8) for n in range(1, 9)]


def test_rolling_backwards_is_refused() -> None:
    mean = RollingMean((8,), torch.ones(4))
    mean.add((0,), torch.ones(1, 4))
    mean.roll(2)
    with pytest.raises(ValueError, match="row 0 while rows start at 2"):
        mean.add((0,), torch.ones(1, 4))


def test_empty_windows_are_background_and_cost_nothing() -> None:
    image = torch.zeros(1, 4, 12)
    image[:, :, 8:] = 1.0
    predicted: list[int] = []

    def count(x: Tensor) -> Tensor:
        predicted.append(x.shape[0])
        return three_classes(x)

    corners = [(0, 0), (0, 4), (0, 8)]
    windows = Windows((4, 4), (4, 4), batch=2)
    found = dict(window_probabilities(image, count, corners, windows, empty=Empty(0.0, 3)))
    assert sum(predicted) == 1
    assert list(found) == corners
    assert (found[0, 0][0] == 1).all()
    assert (found[0, 4][1:] == 0).all()
    everything = dict(window_probabilities(image, three_classes, corners, windows))
    torch.testing.assert_close(found[0, 8], everything[0, 8])
