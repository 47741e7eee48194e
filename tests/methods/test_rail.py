"""RAIL: whole steps against the formulas written out again, rules, recipes, the ensemble."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import crash_after, small_recipe, write_dataset, write_recipe
from torch import Tensor, nn

import medssl
from medssl.errors import MedSSLError
from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.rail import Rail
from medssl.methods.rail_schedule import alternating_position, buffered_iterations
from medssl.methods.rail_settings import RailSettings
from medssl.networks.build import build_network
from medssl.networks.ensemble import Ensemble
from medssl.networks.resvnet import ResVNet
from medssl.networks.vnet import VNet
from medssl.recipe.find import find_recipe
from medssl.recipe.load import load_recipe, resolve
from medssl.runs.checkpoint import load_checkpoint
from medssl.settings.recipe import Recipe
from medssl.settings.training import ScheduleSettings
from medssl.training.optimization import learning_rate

SHAPE = (6, 5, 4)


class Fixed(nn.Module):
    """A network whose output is its parameter, whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return the last ``len(x)`` logits: an eval-mode teacher sees the unlabeled part alone."""
        return self.logits[-len(x) :]


def scene(
    best: int, *, classes: int = 2, labeled: int = 1, ignored: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Return a label and the logits of four students and two teachers; student ``best`` is best."""
    g = torch.Generator().manual_seed(11 + best)
    label = torch.randint(0, classes, (labeled + 1, *SHAPE), generator=g)
    hot = F.one_hot(label, classes).movedim(-1, 1).float()
    noise = torch.randn(6, labeled + 1, classes, *SHAPE, generator=g)
    strength = [3.0 if k == best else 1.0 for k in range(6)]
    logits = [2 * noise[k] + s * (2 * hot - 1) for k, s in enumerate(strength)]
    label = label[:labeled]
    if ignored:
        label[:, :2] = 255
    return label, logits


def fixed_method(logits: list[Tensor], classes: int, **settings: Any) -> Rail:
    """Return a method whose students and teachers predict ``logits``."""
    official = settings.get("preset") == "official"
    supply: Iterator[Tensor] = iter(logits)
    method = Rail(
        RailSettings(**settings),
        lambda **_: Fixed(next(supply)),
        num_classes=classes,
        spatial_dims=3,
    )
    if not official:
        for teacher, values in zip(method.teachers, logits[4:], strict=True):
            teacher.logits.data.copy_(values)
    return method


def sharpened(p: Tensor) -> Tensor:
    return p**10 / (p**10).sum(1, keepdim=True)


def reference(
    label: Tensor, logits: list[Tensor], s: int, group: int, rho: float, *, official: bool
) -> Tensor:
    """Write the loss of student ``s`` out for an annotated label, after the sheet of formulas."""
    n, classes = len(label), logits[0].shape[1]
    hot = F.one_hot(label, classes).movedim(-1, 1).to(logits[0])
    p = [z.softmax(1) for z in logits]
    hard = [q.argmax(1) for q in p]

    def dice(q: Tensor) -> Tensor:
        q, y, dims = q[:n, 1:], hot[:, 1:], (0, 2, 3, 4)
        sums = (q * q).sum(dims) + (y * y).sum(dims)
        return (1 - (2 * (q * y).sum(dims) + 1e-5) / (sums + 1e-5)).mean()

    b = min(range(4), key=lambda k: dice(p[k]).item())
    loss = F.cross_entropy(logits[s][:n], label) + dice(p[s])
    d = torch.ones_like(label, dtype=torch.bool) if s == b else hard[s][:n] != hard[b][:n]
    squared = ((p[s][:n] - hot) ** 2).mean(1)
    if official:
        plane = label.argmax(1, keepdim=True) == 1
        e = (hard[s][:n] == 1) != plane
        fg = p[s][:n, 1]
        t, q = label.to(fg).softmax(1), fg.softmax(1)
        kl = t * (t.log() - q.log())
    else:
        e = hard[s][:n] != label
        kl = F.cross_entropy(logits[s][:n], label, reduction="none")
    both = (d & e).to(squared)
    d = d.to(squared)
    loss = loss + 0.5 * (d * squared).sum() / (d.sum() + 1e-16)
    loss = loss + 0.05 * (both * kl).sum() / (both.sum() + 1e-16)
    target = sharpened(p[4 + group][n:]).detach()
    loss = loss + 10 * rho * ((p[s][n:] - target) ** 2).mean()
    if s == b:
        return loss
    m = (hard[s][n:] != hard[b][n:]).to(squared)
    consistency = ((p[s][n:] - sharpened(p[b][n:]).detach()) ** 2).mean()
    if official:
        u = -F.log_softmax(p[s][n:], 1).mean(1)
    else:
        u = -F.log_softmax(logits[s][n:], 1).mean(1) - math.log(classes)
    uniform = (m * u).sum() / (m.sum() + 1e-16)
    return loss + 20 * rho * (consistency + 0.1 * uniform)


@pytest.mark.parametrize("best", range(4))
@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize(
    ("official", "classes", "labeled"),
    [(True, 2, 1), (False, 2, 1), (False, 2, 3), (False, 5, 2)],
)
def test_a_whole_step_and_its_gradient(
    best: int, group: int, official: bool, classes: int, labeled: int
) -> None:
    label, logits = scene(best, classes=classes, labeled=labeled)
    settings = {"preset": "official", "turn_length": 1} if official else {"preset": "corrected"}
    method = fixed_method(logits, classes, **settings)
    # Official turns of one batch: 0 | 1 1 | 0 0 | 1 1; corrected: 0 1 0 1 ...
    total, iteration = 4000, (3 + 2 * group if official else 3000 + group)
    image = torch.zeros(labeled + 1, 1, *SHAPE)
    batch = Batch(LabeledBatch(image[:labeled], label), UnlabeledBatch(image[labeled:]))
    output = method.training_step(batch, Progress("train", iteration, total))
    position = method.settings.position(iteration, total)
    assert position.group == group
    assert not position.first_term
    rho = method.settings.ramp(position.group_iteration, total)

    losses = list(output.losses())
    assert len(losses) == 2
    active = (group, group + 2)
    for k, loss in zip(active, losses, strict=True):
        loss.backward()
        doubles = [z.double() for z in logits]
        doubles[k] = doubles[k].requires_grad_()
        expected = reference(label, doubles, k, group, rho, official=official)
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-7)
        torch.testing.assert_close(
            method.students[k].logits.grad.double(), doubles[k].grad, rtol=1e-4, atol=1e-8
        )
    for k in set(range(4)) - set(active):
        assert method.students[k].logits.grad is None
    assert [output.terms[f"best/student_{k}"].item() for k in range(4)] == [
        float(k == best) for k in range(4)
    ]
    assert method.recent.argmax().item() == best


@pytest.mark.parametrize("preset", ["official", "corrected"])
def test_the_first_term_knows_labels_and_teacher_alone(preset: str) -> None:
    label, logits = scene(1)
    method = fixed_method(logits, 2, preset=preset)
    image = torch.zeros(2, 1, *SHAPE)
    batch = Batch(LabeledBatch(image[:1], label), UnlabeledBatch(image[1:]))
    output = method.training_step(batch, Progress("train", 0, 4000))
    rho = method.settings.ramp(0, 4000)
    for k, loss in zip((0, 2), output.losses(), strict=True):
        z, teacher = logits[k], logits[4]
        p, y = z.softmax(1), label.float()
        dice = 1 - (2 * (p[0, 1] * y).sum() + 1e-5) / ((p[0, 1] ** 2).sum() + y.sum() + 1e-5)
        term = ((p[1:] - sharpened(teacher.softmax(1)[1:])) ** 2).mean()
        expected = F.cross_entropy(z[:1], label) + dice + 10 * rho * term
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not any(key.startswith(("best/", "region/")) for key in output.terms)


@pytest.mark.parametrize("preset", ["official", "corrected"])
def test_ignored_voxels_change_nothing_in_a_later_turn(preset: str) -> None:
    label, logits = scene(1, ignored=True)
    values = []
    for shift in (0.0, 7.0):
        moved = [z.clone() for z in logits]
        for z in moved:
            z[:1, 1, :2] += shift
        method = fixed_method(moved, 2, preset=preset, turn_length=1)
        image = torch.zeros(2, 1, *SHAPE)
        batch = Batch(LabeledBatch(image[:1], label), UnlabeledBatch(image[1:]))
        output = method.training_step(batch, Progress("train", 300, 400))
        values.append([loss.item() for loss in output.losses()])
        assert "loss/dfs" in output.terms
    assert values[0] == pytest.approx(values[1], rel=1e-6)


# ------------------------------------------------------------------------------------ real nets


def small(dims: int, classes: int, **settings: Any) -> nn.Module:
    settings = {"channels": [4, 8], "strides": [2], "norm": "batch", "dropout": 0.2, **settings}
    return build_network(
        "unet", spatial_dims=dims, in_channels=1, num_classes=classes, settings=settings
    )


def real_method(dims: int = 3, classes: int = 2, **settings: Any) -> Rail:
    torch.manual_seed(0)
    return Rail(
        RailSettings(**settings),
        lambda **settings: small(dims, classes, **settings),
        num_classes=classes,
        spatial_dims=dims,
    ).train()


def real_batch(method: Rail, labeled: int = 2) -> Batch:
    g = torch.Generator().manual_seed(1)
    shape = (8,) * method.spatial_dims
    image = torch.randn(labeled + 2, 1, *shape, generator=g)
    label = torch.randint(0, method.num_classes, (labeled, *shape), generator=g)
    return Batch(LabeledBatch(image[:labeled], label), UnlabeledBatch(image[labeled:]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("preset", ["official", "corrected"])
def test_full_losses_are_finite_under_autocast(preset: str, dims: int, dtype: torch.dtype) -> None:
    method = real_method(dims, 4, preset=preset, turn_length=1)
    with torch.autocast("cpu", dtype=dtype):
        output = method.training_step(real_batch(method), Progress("train", 90, 100))
        losses = list(output.losses())
    assert "loss/dfs" in output.terms
    for loss in losses:
        assert loss.dtype == torch.float32
        loss.backward()
    grads = [p.grad for s in method.students for p in s.parameters() if p.grad is not None]
    assert grads
    assert all(torch.isfinite(g).all() for g in grads)


def test_inactive_students_leave_no_graph_and_the_number_is_the_same() -> None:
    """Without gradients the step has the same losses and gradients as with them."""
    results = []
    for graphs in (False, True):
        method = real_method(turn_length=1)
        seen: list[Tensor] = []
        for student in (method.students[1], method.students[3]):
            student.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
        if graphs:
            method.without_gradients = torch.enable_grad  # type: ignore[method-assign]
        torch.manual_seed(5)
        output = method.training_step(real_batch(method), Progress("train", 90, 100))
        losses = [loss for loss in output.losses() if loss.backward() is None]
        assert [out.requires_grad for out in seen] == [graphs, graphs]
        grads = [p.grad for k in (0, 2) for p in method.students[k].parameters()]
        results.append(([loss.item() for loss in losses], grads))
    assert results[0][0] == results[1][0]
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("preset", "calls", "size", "training"), [("official", 2, 4, True), ("corrected", 1, 2, False)]
)
def test_the_teacher_passes(preset: str, calls: int, size: int, training: bool) -> None:
    """Official: twice, in train mode, on all; corrected: once, eval, unlabeled patches alone."""
    method = real_method(preset=preset)
    seen: list[tuple[int, bool]] = []
    hook = lambda m, i, _: seen.append((len(i[0]), m.training))  # noqa: E731
    method.teachers[0].register_forward_hook(hook)
    for loss in method.training_step(real_batch(method), Progress("train", 0, 100)).losses():
        loss.backward()
    assert seen == [(size, training)] * calls
    assert all(p.grad is None for p in method.teachers.parameters())


@pytest.mark.parametrize("preset", ["official", "corrected"])
def test_a_teacher_averages_v_of_its_group_alone(preset: str) -> None:
    method = real_method(preset=preset, turn_length=1)
    keep = preset == "official"
    total = 100
    for iteration in range(5):
        group = method.settings.position(iteration, total).group
        before = [{k: v.clone() for k, v in t.state_dict().items()} for t in method.teachers]
        for student in method.students:
            for p in student.parameters():
                p.data.add_(0.1)
        method.after_step(Progress("train", iteration, total))
        n = method.settings.position(iteration, total).group_iteration
        decay = min(1 - 1 / (n + 1), 0.999)
        other = method.teachers[1 - group].state_dict()
        assert all(torch.equal(v, before[1 - group][k]) for k, v in other.items())
        parameters = {k for k, _ in method.teachers[group].named_parameters()}
        student_state = method.students[group].state_dict()
        for key, value in method.teachers[group].state_dict().items():
            expected = before[group][key]
            if key in parameters or not keep:
                mean = decay * expected.float() + (1 - decay) * student_state[key].float()
                expected = mean.to(value.dtype)
            torch.testing.assert_close(value, expected, msg=key)


def test_corrected_groups_alternate_on_new_batches() -> None:
    kinds = [alternating_position(i, groups=2, turn_length=3, first_term=4) for i in range(14)]
    assert [p.group for p in kinds] == [0, 0, 0, 1, 1, 1] * 2 + [0, 0]
    assert [p.group_iteration for p in kinds] == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7]
    assert [p.batch for p in kinds] == list(range(14))
    assert [p.first_term for p in kinds] == [p.group_iteration < 4 for p in kinds]
    method = real_method()
    assert [method.settings.position(i, 200).group for i in range(4)] == [0, 1, 0, 1]
    assert [method.settings.position(i, 200).first_term for i in (0, 9, 10, 11)] == [
        True,
        True,
        False,
        False,
    ]
    assert [method.batch_address("train", i) for i in (0, 1, 7)] == [0, 1, 7]


def test_one_group_is_always_active() -> None:
    method = real_method(groups=1)
    assert len(method.students) == 2
    assert {method.settings.position(i, 100).group for i in range(9)} == {0}
    output = method.training_step(real_batch(method), Progress("train", 50, 100))
    for loss in output.losses():
        loss.backward()
    assert all(any(p.grad is not None for p in s.parameters()) for s in method.students)


def test_partner_networks() -> None:
    def build(**settings: Any) -> nn.Module:
        name = settings.pop("network", None) or "vnet"
        return build_network(
            name, spatial_dims=2, in_channels=1, num_classes=3, settings={"filters": 2, **settings}
        )

    settings = RailSettings().filled(Recipe.model_validate({"network": {"name": "vnet"}}))
    assert settings.partner_network == "resvnet"
    method = Rail(settings, build, num_classes=3, spatial_dims=2)
    assert [type(s) for s in method.students] == [VNet, VNet, ResVNet, ResVNet]
    assert [type(t) for t in method.teachers] == [VNet, VNet]
    twins = real_method(partner_options={"num_res_units": 0})
    sizes = [sum(p.numel() for p in s.parameters()) for s in twins.students]
    assert sizes[0] == sizes[1] > sizes[2] == sizes[3]


@pytest.mark.parametrize("dims", [2, 3])
def test_resvnet_in_two_and_three_dimensions(dims: int) -> None:
    net = ResVNet(spatial_dims=dims, in_channels=2, num_classes=3, filters=2, norm="instance")
    shape = (32, 16, 16)[:dims]
    assert net(torch.randn(2, 2, *shape)).shape == (2, 3, *shape)
    assert not list(net.buffers())


# ------------------------------------------------------------------------------------ ensemble


def test_the_ensemble_averages_probabilities() -> None:
    method = real_method(classes=3)
    image = torch.randn(2, 1, 8, 8, 8)
    method.eval()
    expected = torch.stack([s(image).softmax(1) for s in method.students]).mean(0)
    predictor = method.predictor()
    torch.testing.assert_close(predictor(image).softmax(1), expected)
    torch.testing.assert_close(predictor(image).exp(), expected)
    assert not any(k.startswith("members") for k in method.state_dict())


@pytest.mark.parametrize(
    ("choice", "members"), [("all", 4), ("vnet", 2), ("resvnet", 2), ("teacher", 2)]
)
def test_predict_with(choice: str, members: int) -> None:
    method = real_method(predict_with=choice)
    pool = {
        "all": method.students,
        "vnet": method.students[:2],
        "resvnet": method.students[2:],
        "teacher": method.teachers,
    }[choice]
    predictor = method.predictor()
    assert isinstance(predictor, Ensemble)
    assert [id(m) for m in predictor.members] == [id(m) for m in pool]
    assert len(predictor.members) == members


def test_predict_with_the_best_student_of_late() -> None:
    method = real_method(predict_with="best")
    method.recent.copy_(torch.tensor([0.1, 0.2, 0.4, 0.3]))
    assert method.predictor() is method.students[2]


# ------------------------------------------------------------------------------------ recipes


def recipe_with(settings: dict[str, Any], **training: Any) -> Any:
    data = {
        "network": {"name": "unet", "channels": [4, 8], "strides": [2]},
        "method": {"name": "rail", **settings},
        "training": {"patch": [16, 16, 8], "iterations": 100, **training},
    }
    return resolve(data, path=Path("recipe.yaml"))


@pytest.mark.parametrize(
    ("settings", "training", "message"),
    [
        ({"preset": "official"}, {}, "training.labeled_batch must be 1, not 2"),
        (
            {"preset": "official", "turn_length": 5, "loaded_batches": 23},
            {"labeled_batch": 1},
            "make 44 iterations of both groups together, but training.iterations is 100",
        ),
        ({"preset": "official"}, {"labeled_batch": 1, "accumulate": 2}, "training.accumulate of 1"),
        ({"alternation": "buffer", "groups": 1}, {}, "needs method.groups of 2"),
        ({"partner_network": "resvnet"}, {}, "must be a multiple of 16"),
        ({"partner_network": "resvne"}, {}, "did you mean 'resvnet'"),
        ({"partner_options": {"widht": 3}}, {}, "unknown key `widht`"),
    ],
)
def test_what_cannot_work_is_refused(
    settings: dict[str, Any], training: dict[str, Any], message: str
) -> None:
    with pytest.raises(MedSSLError) as error:
        recipe_with(settings, **training)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) <= 6


def test_settings_that_do_nothing_are_mentioned() -> None:
    loaded = recipe_with({"dfs_kl": "off", "err_region": "true", "loaded_batches": 8})
    text = "\n".join(loaded.warnings)
    assert "err_region and dfs_kl_weight do nothing" in text
    assert "loaded_batches does nothing" in text
    assert "same network with other initial weights" in text
    partner = {"partner_options": {"num_res_units": 0}}
    assert recipe_with(partner).warnings == ()


@pytest.mark.parametrize("name", ["cbct_rail", "hippocampus_rail"])
def test_shipped_recipes(name: str) -> None:
    loaded = load_recipe(name)
    assert loaded.recipe.method.name == "rail"
    assert loaded.warnings == ()
    assert len(find_recipe(name).read_text().splitlines()) <= 40


def test_the_schedule_of_the_published_code() -> None:
    schedule = ScheduleSettings(
        name="warmup_constant_cosine", warmup=10, min_lr=0.1, decay_start=0.5
    )
    rates = [learning_rate(i, 100, 1.1, schedule) for i in (0, 5, 10, 49, 50, 75, 100)]
    assert rates == pytest.approx([0.1, 0.6, 1.1, 1.1, 1.1, 0.6, 0.1])


# ------------------------------------------------------------------------------------ the engine


def test_official_turns_through_the_engine_survive_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffered loop on the engine: addresses, groups and rates of the published code."""
    root, cache = write_dataset(tmp_path / "data"), tmp_path / "cache"
    turn, loaded = 2, 5
    iterations = buffered_iterations(turn, loaded)
    recipe = write_recipe(
        tmp_path / "rail.yaml",
        small_recipe(
            root,
            cache,
            method={
                "name": "rail",
                "preset": "official",
                "turn_length": turn,
                "loaded_batches": loaded,
                "partner_options": {"num_res_units": 1},
            },
            training={
                "iterations": iterations,
                "labeled_batch": 1,
                "log_every": 1,
                "schedule": {"name": "warmup_constant_cosine", "warmup": 2, "min_lr": 1e-5},
            },
        ),
    )
    whole = medssl.train(recipe, output=tmp_path / "whole").path
    lines = (whole / "metrics.jsonl").read_text().splitlines()
    rates = [r["lr"] for r in map(json.loads, lines) if "lr" in r]
    schedule = load_recipe(recipe).recipe.training.schedule
    # Turns of 2, 4 and, when loading ends, 4 iterations; newest batches 1, 3, 5.
    newest = [1] * 2 + [3] * 4 + [5] * 4
    assert rates == pytest.approx([learning_rate(i, loaded, 0.01, schedule) for i in newest])

    with monkeypatch.context() as patch:
        crash_after(patch, 5)
        with pytest.raises(RuntimeError, match="power cut"):
            medssl.train(recipe, output=tmp_path / "run")
    medssl.train(recipe, output=tmp_path / "run", resume=True)
    one, other = (
        load_checkpoint(tmp_path / n / "checkpoints" / "last.pt") for n in ("whole", "run")
    )
    for key, value in one["method_state"].items():
        assert torch.equal(value, other["method_state"][key]), key
