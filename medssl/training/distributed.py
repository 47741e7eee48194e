"""Several processes that train one run: how they find each other, and what they exchange.

``torchrun`` (or SLURM's ``srun torchrun``) starts the same command once per device. Every process
runs the same loop on the same batch of the same streams: what differs is which rows of the batch it
loads and passes through the networks (:mod:`medssl.training.own_rows`). Losses, pseudo-labels and
updates are then computed from the whole batch everywhere, so a run gives the same result on any
number of devices, whatever its method does across the batch. The first process alone writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from medssl.errors import MedSSLError, ToldElsewhere
from medssl.ranks import place

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: one may preprocess or validate larger cases."""


def rows_of(count: int, rank: int, size: int) -> range:
    """Return which of ``count`` rows belong to process ``rank`` of ``size``: a contiguous part.

    Fewer rows than processes are not divided: then all rows belong to every process.
    """
    if count < size:
        return range(count)
    return range(rank * count // size, (rank + 1) * count // size)


@dataclass(frozen=True)
class World:
    """This process among those that train together; the default is a process alone.

    Attributes:
        rank: its number; 0 is the one that writes.
        size: how many processes there are.
        local_rank: its number among those on this machine, which chooses its device.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def rows(self, count: int) -> range:
        """Return this process's rows of a batch, see :func:`rows_of`."""
        return rows_of(count, self.rank, self.size)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of a list: every ``size``-th item, perhaps none."""
        return items[self.rank :: self.size]

    def collect(self, mine: Sequence[T]) -> list[T]:
        """Put together the results for the parts that :meth:`share` gave, in the list's order."""
        if self.alone:
            return list(mine)
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(mine))
        total = sum(len(part) for part in parts)
        return [parts[i % self.size][i // self.size] for i in range(total)]

    def from_first(self, value: T) -> T:
        """Return what the first process has."""
        if self.alone:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let all processes fail if one does, before any waits for it in vain.

        For work without exchange. The first process says what is wrong, once.

        Raises:
            MedSSLError: in the first process, its own error or another's.
            ToldElsewhere: in the others.
        """
        problem: MedSSLError | None = None
        try:
            yield
        except MedSSLError as error:
            if self.alone:
                raise
            problem = error
        if self.alone:
            return
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, problem and (problem.what, str(problem.where), problem.fix))
        broken = [rank for rank, one in enumerate(told) if one]
        if not broken:
            return
        if not self.first:
            raise ToldElsewhere("another process says why")
        if problem is not None:
            raise problem
        what, where, fix = told[broken[0]]
        raise MedSSLError(f"process {broken[0]}: {what}", where=where, fix=fix)

    def wait(self) -> None:
        """Wait until all are here."""
        if not self.alone:
            dist.all_reduce(torch.zeros(1))

    def largest(self, number: int) -> int:
        """Return the largest of all processes' numbers; waits for them, but not for devices."""
        if self.alone:
            return number
        box = torch.tensor([number])
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return int(box)

    def add_up(self, tensor: Tensor) -> None:
        """Add a tensor up over all processes, in place."""
        if not self.alone:
            dist.all_reduce(tensor)

    def whole(self, rows: Tensor, count: int) -> Tensor:
        """Put together a batch of ``count`` rows of which each process has :meth:`rows`."""
        if self.alone or count < self.size:
            return rows
        sizes = [len(rows_of(count, rank, self.size)) for rank in range(self.size)]
        most = max(sizes)
        if len(rows) < most:  # collectives exchange equal shapes
            rows = torch.cat([rows, rows.new_zeros((most - len(rows), *rows.shape[1:]))])
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in sizes]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of all processes' rows; those without a gradient are left out."""
        if not self.alone:
            self.sum_tensors([p.grad for p in parameters if p.grad is not None])

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Add tensors up over all processes, in place, in one exchange for each dtype."""
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault(tensor.dtype, []).append(tensor)
        for members in groups.values():
            flat = torch.cat([t.reshape(-1) for t in members])
            dist.all_reduce(flat)
            parts = flat.split([t.numel() for t in members])
            torch._foreach_copy_(
                members, [p.view_as(t) for p, t in zip(parts, members, strict=True)]
            )


ALONE = World()


def this_world() -> World:
    """Return which process this is; nothing is started. See :func:`medssl.ranks.place`."""
    return World(*place())


def own_device(name: str, world: World) -> str:
    """Return the device of this process: the card of its local number, if there are cards.

    Raises:
        MedSSLError: one card was named for all of them, or there are fewer cards than processes.
    """
    if world.alone or not (name == "cuda" or (name == "auto" and torch.cuda.is_available())):
        if not world.alone and name.startswith("cuda:"):
            raise MedSSLError(
                f"{world.size} processes cannot share {name}",
                where="--device",
                fix="use --device cuda: each process takes a card of its own",
            )
        return name
    count = torch.cuda.device_count()
    if world.local_rank >= count:
        raise MedSSLError(
            f"process {world.local_rank} of this machine has no card: there are {count}",
            where="--nproc-per-node",
            fix=f"start at most {count} processes per machine, or use --device cpu",
        )
    return f"cuda:{world.local_rank}"


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """Connect the processes for a while.

    Raises:
        MedSSLError: they do not find each other.
    """
    if world.alone or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Small facts travel between the hosts' processors, so that no device has to be waited for.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise MedSSLError(
            f"the {world.size} processes do not find each other: {first}",
            where="MASTER_ADDR, MASTER_PORT",
            fix="start with `torchrun --nproc-per-node N -m medssl train ...`",
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()
