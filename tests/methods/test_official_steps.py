"""Whole training steps of the official presets against a second, literal writing of each method.

The references are plain PyTorch, written from the published formulas; of the package they use the
networks' weights alone. Both sides draw from torch's generator after the same seed, in the order of
the algorithm. Compared are loss, gradients, parameters after the step and the teacher with its
buffers. BCP's steps are in `test_bcp_steps.py`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from literal_steps import (
    TinyNet,
    average,
    clipped_noise,
    draw,
    exp_ramp,
    foreground_dice,
    make,
    same_gradients,
    same_state,
    sgd,
)
from torch import Tensor, nn

from medssl.methods.base import Batch, Progress
from medssl.ops.corruption import corrupt_slices
from medssl.settings.training import ScheduleSettings
from medssl.training.optimization import learning_rate

# ------------------------------------------------------------------------------------ UA-MT


def literal_uamt(
    student: nn.Module, teacher: nn.Module, batch: Batch, it: int, *, script: str
) -> tuple[Tensor, float]:
    x_l, y, x_u = batch.labeled.image, batch.labeled.label, batch.unlabeled.image
    x = torch.cat([x_l, x_u])
    logits = student(x)
    seen, mine = (x_u, logits[len(x_l) :]) if script == "unlabel" else (x, logits)
    with torch.no_grad():
        target = teacher(seen + clipped_noise(seen)).softmax(1)
        rows = []
        for _ in range(4):
            twice = seen.repeat(2, 1, 1, 1, 1)
            rows.append(teacher(twice + clipped_noise(twice)))
        mean = torch.cat(rows).reshape(8, *target.shape).softmax(2).mean(0)
        entropy = -(mean * torch.log(mean + 1e-6)).sum(1, keepdim=True)
        bound = (0.75 + 0.25 * math.exp(-5 * (1 - min(it, 6000) / 6000) ** 2)) * math.log(2)
        mask = (entropy < bound).float()
    distance = (mine.softmax(1) - target) ** 2
    consistency = (mask * distance).sum() / (2 * mask.sum() + 1e-16)
    ce = F.cross_entropy(logits[: len(x_l)], y)
    supervised = 0.5 * (ce + 1 - foreground_dice(logits[: len(x_l)].softmax(1), y))
    weight = 0.1 * exp_ramp(it // 150, 40)
    return supervised + weight * consistency, mask.mean().item()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("script", ["unlabel", "certainty"])
def test_uamt(script: str, classes: int) -> None:
    where = "unlabeled" if script == "unlabel" else "all"
    method = make(
        "uamt", classes, lambda **_: TinyNet(classes), preset="official", consistency_on=where
    )
    student, teacher = copy.deepcopy(method.student), copy.deepcopy(method.teacher)
    assert not torch.equal(student.body[0].weight, teacher.body[0].weight)
    ours, theirs = sgd(method.student, 0.01), sgd(student, 0.01)
    shares = []
    for it in (0, 1, 2999, 3000, 6000):
        batch = draw(it, classes)
        torch.manual_seed(it)
        output = method.training_step(batch, Progress("train", it, 6000))
        ours.zero_grad()
        output.loss.backward()
        torch.manual_seed(it)
        loss, share = literal_uamt(student, teacher, batch, it, script=script)
        theirs.zero_grad()
        loss.backward()
        torch.testing.assert_close(output.loss, loss, rtol=1e-5, atol=1e-6)
        same_gradients(method.student, student)
        ours.step(), theirs.step()
        method.after_step(Progress("train", it, 6000))
        average(teacher, student, min(1 - 1 / (it + 1), 0.99))
        same_state(method.student, student)
        same_state(method.teacher, teacher)
        shares.append(share)
    assert any(0 < s < 1 for s in shares), "some voxels are certain and some are not"


# ------------------------------------------------------------------------------------ anatomical

CUBE = (16, 16, 16)


def anatomical(classes: int) -> Any:
    return make(
        "anatomical",
        classes,
        lambda **_: TinyNet(classes),
        preset="official",
        filters=2,
        embedding=6,
        grid=[1, 1, 1],
    )


def test_anatomical_autoencoder() -> None:
    classes = 4
    method = anatomical(classes)
    method.start_stage("autoencoder")
    twin = copy.deepcopy(method.autoencoder).train()
    ours, theirs = sgd(method.autoencoder, 0.1), sgd(twin, 0.1)
    for it in range(3):
        g = torch.Generator().manual_seed(it)
        coarse = torch.randint(0, classes, (4, 4, 4, 4), generator=g)
        masks = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
        progress = Progress("autoencoder", it, 50_000)
        torch.manual_seed(it)
        output = method.training_step(Batch(None, None, masks), progress)
        ours.zero_grad()
        output.loss.backward()

        corrupted = method.corrupt(masks, progress)
        assert not torch.equal(corrupted, masks)
        rng = progress.rng("corruption")
        slices = [torch.from_numpy(corrupt_slices(m.numpy(), rng)) for m in masks]
        assert torch.equal(corrupted, torch.stack(slices)), "as published, mask by mask"
        torch.manual_seed(it)
        x = corrupted.float()[:, None]
        p = torch.sigmoid(twin(x + clipped_noise(x)))
        hot = F.one_hot(masks, classes).movedim(-1, 1).float()
        loss = 0.5 * (((p - hot) ** 2).mean() + 1 - foreground_dice(p, masks))
        theirs.zero_grad()
        loss.backward()
        torch.testing.assert_close(output.loss, loss, rtol=1e-5, atol=1e-6)
        same_gradients(method.autoencoder, twin)
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * it / 52_000))
            optimizer.step()
        method.after_step(progress)
        same_state(method.autoencoder, twin)


@pytest.mark.parametrize("classes", [2, 5])
def test_anatomical_guided(classes: int) -> None:
    method = anatomical(classes)
    method.start_stage("guided")
    student, teacher = copy.deepcopy(method.student), copy.deepcopy(method.teacher)
    guide = copy.deepcopy(method.autoencoder)
    codes: list[Tensor] = []
    guide.fc_mu.register_forward_hook(
        lambda _m, _i, code: codes.append(code) or code + clipped_noise(code)
    )
    ours, theirs = sgd(method.student, 0.1), sgd(student, 0.1)
    for it in (0, 1, 4000, 7999):
        batch, progress = draw(it, classes, shape=CUBE), Progress("guided", it, 8000)
        torch.manual_seed(it)
        output = method.training_step(batch, progress)
        ours.zero_grad()
        output.loss.backward()

        torch.manual_seed(it)
        x, y = torch.cat([batch.labeled.image, batch.unlabeled.image]), batch.labeled.label
        logits = student(x)
        with torch.no_grad():
            p_t = teacher(x + clipped_noise(x)).softmax(1)
            p_hat = torch.sigmoid(guide(p_t.argmax(1, keepdim=True).float()))
            w = torch.exp(-((p_hat - p_t) ** 2))
        d = (logits.softmax(1) - p_t) ** 2
        consistency = (w * d).sum() / (2 * w.sum() + 1e-16)
        supervised = 0.5 * (
            F.cross_entropy(logits[:2], y) + 1 - foreground_dice(logits[:2].softmax(1), y)
        )
        loss = supervised + 0.1 * exp_ramp(it // 200, 40) * consistency
        theirs.zero_grad()
        loss.backward()
        torch.testing.assert_close(output.loss, loss, rtol=1e-5, atol=1e-6)
        same_gradients(method.student, student)
        ours.step(), theirs.step()
        method.after_step(progress)
        average(teacher, student, min(1 - 1 / (it + 1), 0.99))
        same_state(method.student, student)
        same_state(method.teacher, teacher)
        same_state(method.autoencoder, guide)
    assert len(codes) == 4


# ------------------------------------------------------------------------------------ RAIL


class LiteralRail:
    """The published loop: epochs of batches, a buffer of two of them, groups in turn."""

    def __init__(self, students: list[nn.Module], teachers: list[nn.Module]) -> None:
        self.students, self.teachers = students, teachers
        self.optimizers = [sgd(s, 0.01, 4e-4) for s in students]
        self.counts = [0, 0]

    def run(self, loader: Callable[[int], Batch], epoch_length: int, epochs: int) -> Iterator:
        buffer: list[int] = []
        for epoch in range(epochs):
            loaded = range(epoch * epoch_length, (epoch + 1) * epoch_length)
            buffer = (buffer + list(loaded))[-2 * epoch_length :]
            for k in buffer:
                yield self.step(epoch % 2, loader(k), rate(loaded[-1]), first=epoch < 2)

    def step(self, group: int, batch: Batch, lr: float, *, first: bool) -> list[Tensor]:
        x, y = torch.cat([batch.labeled.image, batch.unlabeled.image]), batch.labeled.label
        n = self.counts[group]
        torch.manual_seed(sum(self.counts))
        mine = (group, group + 2)
        guides = [sharp(self.teachers[group](x).detach().softmax(1)[1:])]
        z: dict[int, Tensor] = {}
        for k in [k for k in range(4) if k not in mine and not first] + list(mine):
            z[k] = self.students[k](x)
        guides.append(sharp(self.teachers[group](x).detach().softmax(1)[1:]))
        p = {k: v.softmax(1) for k, v in z.items()}
        hard = {k: v.argmax(1) for k, v in p.items()}
        fg = (y == 1).float()
        dice = {
            k: 1
            - (2 * (v[:1, 1] * fg).sum() + 1e-5) / ((v[:1, 1] ** 2).sum() + (fg**2).sum() + 1e-5)
            for k, v in p.items()
        }
        best = min(sorted(dice), key=lambda k: dice[k].item())
        rho = exp_ramp(n // 150, 20)
        losses = []
        for s, guide in zip(mine, guides, strict=True):
            loss = F.cross_entropy(z[s][:1], y) + dice[s]
            loss = loss + 10 * rho * ((p[s][1:] - guide) ** 2).mean()
            if not first:
                d = (hard[s] != hard[best])[:1].float() if s != best else torch.ones_like(fg)
                loss = loss + 0.5 * (d * (p[s][:1, 1] - fg) ** 2).sum() / (d.sum() + 1e-16)
                plane = (y.argmax(1) == 1)[:, None]
                e = ((hard[s][:1] == 1) ^ plane).float()
                t, q = fg.softmax(1), p[s][:1, 1].softmax(1)
                kl = t * (t.log() - q.log())
                loss = loss + 0.05 * (d * e * kl).sum() / ((d * e).sum() + 1e-16)
                if s != best:
                    m = (hard[s] != hard[best])[1:].float()
                    con = ((p[s][1:] - sharp(p[best][1:].detach())) ** 2).mean()
                    u = -F.log_softmax(p[s][1:], 1).mean(1)
                    uni = (m * u).sum() / (m.sum() + 1e-16)
                    loss = loss + 20 * rho * (con + 0.1 * uni)
            losses.append(loss)
        for s, loss in zip(mine, losses, strict=True):
            self.optimizers[s].param_groups[0]["lr"] = lr
            self.optimizers[s].zero_grad()
            loss.backward(retain_graph=True)
        for s in mine:
            self.optimizers[s].step()
        average(self.teachers[group], self.students[group], min(1 - 1 / (n + 1), 0.999))
        self.counts[group] += 1
        return [loss.detach() for loss in losses]


def sharp(p: Tensor) -> Tensor:
    return p**10 / (p**10).sum(1, keepdim=True)


def rate(i: int) -> float:
    if i < 1000:
        return 1e-5 + (0.01 - 1e-5) * i / 1000
    return 0.01 if i < 4000 else 1e-5 + (0.01 - 1e-5) * (1 + math.cos(math.pi * (i / 4000 - 1))) / 2


def test_rail() -> None:
    """Four turns, two of each group: the first with labels and teacher alone, then everything."""
    made: list[nn.Module] = []

    def build(**_: Any) -> nn.Module:
        partner = len(made) in (2, 3)
        made.append(TinyNet(2, width=4 if partner else 5, dropout=0.0 if partner else 0.3))
        return made[-1]

    length, epochs = 2, 4
    method = make("rail", 2, build, preset="official", turn_length=length, loaded_batches=8000)
    literal = LiteralRail(
        [copy.deepcopy(s) for s in method.students], [copy.deepcopy(t) for t in method.teachers]
    )
    optimizers = [sgd(s, 0.01, 4e-4) for s in method.students]
    (stage,) = method.stages(16_000)
    schedule = ScheduleSettings(
        name="warmup_constant_cosine", warmup=1000, min_lr=1e-5, decay_start=0.5
    )

    def batch_number(k: int) -> Batch:
        return draw(k, 2, labeled=1, unlabeled=1)

    best: set[int] = set()
    steps: Iterable = literal.run(batch_number, length, epochs)
    for i, expected in enumerate(steps):
        progress = Progress("train", i, stage.iterations)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(i)
        output = method.training_step(batch_number(method.batch_address("train", i)), progress)
        losses = [loss for loss in output.losses() if loss.backward() is None]
        for loss, other in zip(losses, expected, strict=True):
            torch.testing.assert_close(loss.detach(), other, rtol=1e-5, atol=1e-6)
        lr = learning_rate(*method.learning_rate_position(stage, i), 0.01, schedule)
        for s, optimizer in zip(method.students, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            if any(p.grad is not None for p in s.parameters()):
                optimizer.step()
        method.after_step(progress)
        for ours, theirs in zip(
            [*method.students, *method.teachers],
            [*literal.students, *literal.teachers],
            strict=True,
        ):
            same_state(ours, theirs, f"iteration {i},")
        best |= {k for k in range(4) if output.terms.get(f"best/student_{k}", 0) == 1}
    assert i + 1 == length * (2 * epochs - 1)
    assert best


# ------------------------------------------------------------------------------------ UMCT

VIEWS = ((0, 1, 2), (0, 2, 1), (1, 2, 0))


def turned(x: Tensor, view: tuple[int, ...]) -> Tensor:
    return x.permute(0, 1, *(2 + a for a in view))


def turned_back(x: Tensor, view: tuple[int, ...]) -> Tensor:
    return turned(x, tuple(view.index(a) for a in range(3)))


def half_dice_half_ce(logits: Tensor, y: Tensor) -> Tensor:
    p, hot = logits.softmax(1), F.one_hot(y, logits.shape[1]).movedim(-1, 1).float()
    scores = [
        (2 * (p[b, c] * hot[b, c]).sum() + 1e-5) / (p[b, c].sum() + hot[b, c].sum() + 1e-5)
        for b in range(p.shape[0])
        for c in range(p.shape[1])
    ]
    return 0.5 * F.cross_entropy(logits, y) + 0.5 * (1 - sum(scores) / len(scores))


def test_umct_co_training() -> None:
    classes, passes = 3, 4
    method = make("umct", classes, lambda **_: TinyNet(classes), views=3, mc_samples=passes)
    networks = [copy.deepcopy(n) for n in method.networks]
    ours = [sgd(n, 1e-3, 4e-5) for n in method.networks]
    theirs = [sgd(n, 1e-3, 4e-5) for n in networks]
    contested = 0
    for it in range(1, 4):
        batch = draw(it, classes, labeled=2, unlabeled=3, shape=(6, 6, 6))
        torch.manual_seed(it)
        output = method.training_step(batch, Progress("co_train", it, 5000))
        for o in ours:
            o.zero_grad()
        losses = [loss for loss in output.losses() if loss.backward() is None]

        torch.manual_seed(it)
        x_l, y, x_u = batch.labeled.image, batch.labeled.label, batch.unlabeled.image
        means, doubts = [], []
        for network, view in zip(networks, VIEWS, strict=True):
            network.eval()
            network.body[3].train()
            with torch.no_grad():
                p = [network(turned(x_u, view)).softmax(1).double() for _ in range(passes)]
            p = torch.stack([turned_back(each, view) for each in p])
            means.append(p.mean(0))
            doubts.append(((p**2).mean(0) - p.mean(0) ** 2).clamp(min=0).mean(1, keepdim=True))
            network.train()
        for i, (network, view) in enumerate(zip(networks, VIEWS, strict=True)):
            a, b = (j for j in range(3) if j != i)
            c = {j: 1 / (doubts[j] + 1e-6) for j in (a, b)}
            target = ((c[a] * means[a] + c[b] * means[b]) / (c[a] + c[b])).argmax(1)
            contested += int((target != ((means[a] + means[b]) / 2).argmax(1)).sum())
            logits = turned_back(network(turned(torch.cat([x_l, x_u]), view)), view)
            loss = half_dice_half_ce(logits[:2], y) + 0.2 * half_dice_half_ce(logits[2:], target)
            theirs[i].zero_grad()
            loss.backward()
            torch.testing.assert_close(losses[i], loss, rtol=1e-5, atol=1e-6)
            same_gradients(method.networks[i], network)
            ours[i].step(), theirs[i].step()
            same_state(method.networks[i], network)
    assert contested > 0, "uncertainty decides some voxels"
