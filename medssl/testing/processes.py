"""Two processes that share a batch do what one does; here they take turns in one process."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medssl.methods.base import Method
from medssl.methods.settings import Stage
from medssl.testing.contract import expect
from medssl.testing.subject import (
    BUDGET,
    SEED,
    Optimizers,
    Subject,
    back_propagate,
    make_batch,
    optimizers,
    progress_of,
    step,
)
from medssl.training.distributed import World, rows_of
from medssl.training.own_rows import SharedBatches

STEPS = 2
PATIENCE_S = 120.0
HINT = (
    "(a network that is given a batch computes this process's rows: is each network a child of the "
    "method, or in its nn.ModuleList? does noise inside a network come from "
    "networks/whole_batch.py? is a gradient of torch.autograd.grad completed by sum_tensors?)"
)


class _Left(Exception):  # noqa: N818 - ends a thread whose partner has failed
    """The other process is gone."""


class _Table:
    """Where two threads meet: one at a time runs, and what each brings is seen by both.

    Torch's generator belongs to the whole process, so each thread takes its state along.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turn = 0
        self._gone: list[bool] = [False, False]
        self._brought: list[list[Tensor]] = [[], []]
        self.failed: list[BaseException] = []

    def exchange(self, rank: int, tensor: Tensor) -> list[Tensor]:
        """Bring a tensor; return both processes', in their order."""
        number = len(self._brought[rank])
        self._brought[rank].append(tensor.detach().clone())
        random = torch.get_rng_state()
        with self._changed:
            self._pass_on(rank)
            self._wait(rank)
        torch.set_rng_state(random)
        if any(len(brought) <= number for brought in self._brought):
            raise _Left
        return [brought[number] for brought in self._brought]

    def run(self, rank: int, work: Any) -> None:
        """Do ``work`` when it is this process's turn; note what fails."""
        try:
            with self._changed:
                self._wait(rank)
            work()
        except _Left:
            pass
        except BaseException as error:
            self.failed.append(error)
        with self._changed:
            self._gone[rank] = True
            self._pass_on(rank)

    def _pass_on(self, rank: int) -> None:
        self._turn = 1 - rank
        self._changed.notify_all()

    def _wait(self, rank: int) -> None:
        mine = self._changed.wait_for(
            lambda: self._turn == rank or self._gone[1 - rank], timeout=PATIENCE_S
        )
        if not mine:
            raise _Left

    def equal(self) -> bool:
        """Say whether both brought as much."""
        return len(self._brought[0]) == len(self._brought[1])


@dataclass(frozen=True)
class _Seat(World):
    """One of the two processes, which exchange over a table instead of a network."""

    table: _Table = field(default_factory=_Table)

    def add_up(self, tensor: Tensor) -> None:
        """Add a tensor up over both, in place."""
        first, second = self.table.exchange(self.rank, tensor)
        tensor.copy_(first + second)

    def whole(self, rows: Tensor, count: int) -> Tensor:
        """Put the rows of both together."""
        if count < self.size:
            return rows
        parts = self.table.exchange(self.rank, rows)
        assert [len(p) for p in parts] == [len(rows_of(count, r, self.size)) for r in (0, 1)]
        return torch.cat(parts)

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Add tensors up over both, in place."""
        for tensor in tensors:
            self.add_up(tensor)


def check_two_processes_are_one(subject: Subject) -> None:
    """Each passes its rows through the networks; losses and weights are those of one process."""
    for index, stage in enumerate(subject.make().stages(BUDGET)):
        alone = _in_stage(subject, index)
        optims = optimizers(alone, stage)
        losses = [
            step(alone, stage, i, optims, make_batch(alone, stage, seed=i))[0] for i in range(STEPS)
        ]
        table = _Table()
        seats = [_Seat(rank, 2, table=table) for rank in (0, 1)]
        both = [_in_stage(subject, index) for _ in seats]
        seen: list[list[Tensor]] = [[], []]
        threads = [
            threading.Thread(
                target=table.run,
                args=(seat.rank, _Work(both[seat.rank], stage, seat, seen[seat.rank])),
                daemon=True,
            )
            for seat in seats
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        if table.failed:
            raise table.failed[0]
        expect(table.equal() and len(seen[0]) == len(seen[1]) == STEPS, "both take every step")
        for rank in (0, 1):
            _same(stage, losses, seen[rank], "the loss of the whole batch")
            _same_weights(stage, alone, both[rank])


@dataclass
class _Work:
    """The steps of one process."""

    method: Method
    stage: Stage
    world: World
    losses: list[Tensor]

    def __call__(self) -> None:
        sharing = SharedBatches(self.method, self.world)
        optims = optimizers(self.method, self.stage)
        for iteration in range(STEPS):
            batch = make_batch(self.method, self.stage, seed=iteration)
            with sharing.active():
                total, _ = back_propagate(self.method, self.stage, iteration, optims, batch)
            self.losses.append(total)
            self._finish(optims, iteration)

    def _finish(self, optims: Optimizers, iteration: int) -> None:
        groups = self.method.trainable(self.stage.name).values()
        self.world.sum_gradients([p for group in groups for p in group])
        for optimizer in optims.values():
            optimizer.step()
        self.method.after_step(progress_of(self.stage, iteration))


def _in_stage(subject: Subject, index: int) -> Method:
    method = subject.make()
    for stage in method.stages(BUDGET)[: index + 1]:
        torch.manual_seed(SEED)
        method.start_stage(stage.name)
    return method


def _same(stage: Stage, one: list[Tensor], two: list[Tensor], what: str) -> None:
    for a, b in zip(one, two, strict=True):
        expect(
            torch.allclose(a, b, rtol=1e-3, atol=1e-4),
            f"in stage {stage.name!r} {what} is the same in two processes as in one {HINT}",
            f"{a.item():.6g} in one, {b.item():.6g} in two",
        )


def _same_weights(stage: Stage, one: Method, two: Method) -> None:
    other = two.state_dict()
    unlike = {
        key: f"{(value.float() - other[key].float()).abs().max().item():.3g}"
        for key, value in one.state_dict().items()
        if not torch.allclose(value.float(), other[key].float(), rtol=1e-3, atol=1e-4)
    }
    expect(
        not unlike,
        f"in stage {stage.name!r} two processes leave the weights of one {HINT}",
        f"{len(unlike)} tensors differ, as {list(unlike.items())[:1]}",
    )
