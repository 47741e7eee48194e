"""Pseudo-labels, components, ramps and the moving average."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from medssl.ops import components
from medssl.ops.components import begin_largest_components, largest_component
from medssl.ops.ema import copy_weights, ema_decay, ema_update, frozen_copy
from medssl.ops.pseudo_labels import confidence, hard_labels, sharpen
from medssl.ops.ramps import share_ramp, sigmoid_ramp

# --------------------------------------------------------------------------- pseudo-labels


def test_hard_labels_argmax_and_threshold():
    probs = torch.tensor([[0.4, 0.5, 0.6], [0.35, 0.5, 0.1], [0.25, 0.0, 0.3]]).view(1, 3, 3)
    assert hard_labels(probs).tolist() == [[0, 0, 0]]
    assert hard_labels(probs, threshold=0.3).tolist() == [[1, 1, 2]]
    assert hard_labels(probs, threshold=0.5).tolist() == [[0, 1, 0]]


def test_confidence_is_the_largest_probability():
    assert confidence(torch.tensor([[[0.2, 0.9], [0.8, 0.1]]])).tolist() == [
        [pytest.approx(0.8), pytest.approx(0.9)]
    ]


def test_sharpen_by_hand():
    probs = torch.tensor([[[0.8], [0.2]]])
    torch.testing.assert_close(sharpen(probs, 1.0), probs)
    a, b = 0.8**10, 0.2**10
    assert sharpen(probs, 0.1)[0, 0, 0].item() == pytest.approx(a / (a + b))
    assert sharpen(torch.tensor([[[1.0], [0.0]]]), 0.1).tolist() == [[[1.0], [0.0]]]
    with pytest.raises(ValueError, match="above 0"):
        sharpen(probs, 0.0)


# --------------------------------------------------------------------------- components


def test_connectivity_decides_what_touches():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True  # share a corner
    mask[1, 1, 2] = True  # shares a face with the second
    assert largest_component(mask, connectivity=1).sum() == 2
    assert largest_component(mask, connectivity=2).sum() == 2
    assert largest_component(mask, connectivity=3).sum() == 3
    edge = np.zeros((3, 3, 3), bool)
    edge[0, 0, 0] = edge[0, 1, 1] = True
    assert largest_component(edge, connectivity=1).sum() == 1
    assert largest_component(edge, connectivity=2).sum() == 2


def test_of_equal_components_the_first_in_raster_order_stays():
    mask = np.array([[0, 0, 1, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 0]], bool)
    assert np.array_equal(np.argwhere(largest_component(mask)), [[0, 2], [1, 2]])


def test_so_many_components_stay_as_are_asked_for():
    mask = np.array([[1, 0, 1, 0, 1], [0, 0, 1, 0, 1], [1, 0, 0, 0, 1], [0, 0, 1, 1, 0]], bool)
    # Of one, two, one and (corner to corner) five voxels; of the two single ones the first stays.
    sizes = [largest_component(mask, count=n).sum() for n in (1, 2, 3, 4, 9)]
    assert sizes == [5, 7, 8, 9, 9]
    three = largest_component(mask, count=3)
    assert (three[0, 0], three[2, 0]) == (True, False)


def test_classes_have_their_own_number_of_pieces():
    row = torch.tensor([[1, 0, 1, 1, 0, 1, 1, 1, 0, 2, 0, 2, 2, 0, 3, 0, 3]])
    out = begin_largest_components(row[None], 4, pieces={1: 2, 3: 2})()
    assert out.tolist() == [[[0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 2, 2, 0, 3, 0, 3]]]


@pytest.mark.parametrize("shape", [(9, 8), (7, 6, 5), (1, 6, 5)])
@pytest.mark.parametrize("connectivity", [1, 2, 3, None])
def test_one_pass_over_all_classes_keeps_the_same(
    shape: tuple[int, ...], connectivity: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cc3d", reason="the extra fast is not installed")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        label = rng.choice(
            np.array([0, 1, 2, 3, 255], np.uint8), shape, p=[0.3, 0.3, 0.2, 0.1, 0.1]
        )
        label = np.asfortranarray(label) if seed % 2 else label
        fast, plain = label.copy(order="K"), label.copy()
        pieces = {} if seed % 3 else {1: 2, 3: 4}
        components.keep_largest(fast, 4, connectivity=connectivity, pieces=pieces)
        with monkeypatch.context() as patch:
            patch.setattr(components, "cc3d", None)
            components.keep_largest(plain, 4, connectivity=connectivity, pieces=pieces)
        assert np.array_equal(fast, plain)
        assert (plain != label).any()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_components_are_per_sample_and_per_class_and_leave_the_input_alone(dtype):
    label = torch.zeros(2, 6, 6, dtype=dtype)
    label[0, 0, :4] = 1
    label[0, 5, 0] = 1  # removed
    label[0, 2, :2] = 2
    label[0, 4, 4] = 2  # removed
    label[1, 5, 0] = 1  # the only one of its sample
    before = label.clone()
    out = begin_largest_components(label, 4)()
    expected = label.clone()
    expected[0, 5, 0] = expected[0, 4, 4] = 0
    assert out.dtype == dtype
    assert torch.equal(out, expected)
    assert torch.equal(label, before)


def test_empty_labels_stay_empty():
    label = torch.zeros(1, 5, 5, 5, dtype=torch.int64)
    assert torch.equal(begin_largest_components(label, 3)(), label)


# --------------------------------------------------------------------------- ramps


def test_sigmoid_ramp_ends_and_middle():
    assert sigmoid_ramp(0, 100) == pytest.approx(math.exp(-5))
    assert sigmoid_ramp(50, 100) == pytest.approx(math.exp(-1.25))
    assert sigmoid_ramp(100, 100) == sigmoid_ramp(1000, 100) == 1
    assert sigmoid_ramp(0, 0) == 1
    assert share_ramp(20, 100, 0.4) == sigmoid_ramp(20, 40)
    assert share_ramp(25, 100, 0.4, steps=4) == sigmoid_ramp(20, 40)
    assert share_ramp(0, 100, 0) == 1


def test_stepwise_ramp_reproduces_published_weights(golden):
    (entry,) = [c for c in golden("anatomical")["checks"] if c["id"] == "schedules"]
    truth = entry["outputs"]
    for key, every, length in (
        ("anatomical_consistency_weight", 200, 8000),
        ("uamt_consistency_weight", 150, 6000),
    ):
        for iteration, value in truth[key].items():
            ours = 0.1 * sigmoid_ramp(int(iteration), length, every=every)
            assert ours == pytest.approx(value, abs=1e-9)
    for iteration, value in truth["ema_alpha"].items():
        assert ema_decay(int(iteration), 0.99) == pytest.approx(value, abs=1e-9)


def test_ramp_and_decay_of_rail(golden):
    truth = golden("rail")["4_schedules"]
    for iteration, value in truth["consistency_weight"].items():
        ours = 20 * sigmoid_ramp(int(iteration), 3000, every=150)
        assert ours == pytest.approx(value, rel=1e-9)
    for iteration, value in truth["ema_alpha"].items():
        assert ema_decay(int(iteration), 0.999) == pytest.approx(value, rel=1e-9)


# --------------------------------------------------------------------------- EMA


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))
    module[1].running_mean.normal_()
    module[1].running_var.uniform_(0.5, 2)
    module[1].num_batches_tracked.fill_(1000 * seed + 7)
    return module


@pytest.mark.parametrize("buffers", ["average", "copy", "keep"])
@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_ema_equals_its_closed_form_after_several_steps(buffers, decay):
    students = [net(seed) for seed in (1, 2, 3)]
    teacher = frozen_copy(net(9))
    expected = {k: v.clone() for k, v in teacher.state_dict().items()}
    parameters = {name for name, _ in teacher.named_parameters()}
    for student in students:
        ema_update(teacher, student, decay, buffers=buffers)
        for key, value in student.state_dict().items():
            if key in parameters or buffers == "average":
                mean = decay * expected[key].float() + (1 - decay) * value.float()
                expected[key] = mean.to(value.dtype)
            elif buffers == "copy":
                expected[key] = value.clone()
    for key, value in teacher.state_dict().items():
        torch.testing.assert_close(value, expected[key], msg=key)
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())


def test_ema_does_not_touch_the_student_and_never_aliases_it():
    student, teacher = net(1), net(2)
    before = copy.deepcopy(student.state_dict())
    ema_update(teacher, student, 0.5, buffers="copy")
    teacher[1].running_mean.fill_(99)
    for key, value in student.state_dict().items():
        assert torch.equal(value, before[key])


def test_ema_refuses_an_unknown_rule():
    with pytest.raises(ValueError, match="average, copy or keep"):
        ema_update(net(1), net(2), 0.5, buffers="averge")  # type: ignore[arg-type]


def test_copies_are_equal_and_independent():
    student, teacher = net(1), net(2)
    copy_weights(teacher, student)
    twin = frozen_copy(student)
    with torch.no_grad():
        student[0].weight.zero_()
    for other in (teacher, twin):
        assert other[0].weight.abs().sum() > 0
        assert torch.equal(other[1].running_var, student[1].running_var)
    assert not any(p.requires_grad for p in twin.parameters())
    assert all(p.requires_grad for p in student.parameters())


def test_decay_without_warmup_is_constant():
    assert [ema_decay(i, 0.99, warmup=False) for i in (0, 5, 500)] == [0.99] * 3
