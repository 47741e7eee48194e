"""Deliver the addressed batches of several streams in order, from worker processes or inline."""

from __future__ import annotations

import atexit
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medssl.data.patches.sampling import PatchSampler
from medssl.errors import MedSSLError

Streams = dict[str, dict[str, Tensor]]

_DEAD_WORKER = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)", re.S)


class StreamLoader:
    """Iterate over ``(iteration, {stream: tensors})``.

    What is delivered depends on the addresses alone: bit-identical for any number of workers.
    Use it as a context manager, so that workers end with the loop and a worker that died (it may be
    noticed anywhere in the loop's body) is explained.

    Args:
        samplers: one sampler per stream; none of them: empty batches.
        start: first iteration.
        stop: one past the last iteration.
        workers: loader processes; 0 loads in this process.
        address: from iteration to batch number of the samplers, by default the same.
        rows: from the size of a stream's batches to the rows that are loaded, by default all. Where
            processes share batches, each loads its own.
        pin_memory: copy batches to page-locked memory, for CUDA.
    """

    def __init__(
        self,
        samplers: Mapping[str, PatchSampler],
        *,
        start: int,
        stop: int,
        workers: int,
        address: Callable[[int], int] | None = None,
        rows: Callable[[int], range] | None = None,
        pin_memory: bool = False,
    ) -> None:
        self._batches = _Batches(dict(samplers), rows)
        self._addresses = _Addresses(start, stop, address)
        self._workers = workers
        self._pin_memory = pin_memory
        self._iterator: Any = None

    def __len__(self) -> int:
        """Return the number of iterations."""
        return len(self._addresses)

    def __iter__(self) -> Iterator[tuple[int, Streams]]:
        """Deliver all iterations from the first; ends the workers of an earlier pass."""
        self.close()
        if self._workers == 0:
            yield from self._inline()
            return
        self._iterator = iter(self._data_loader())
        # Registered last, so run first: multiprocessing's own exit would wait for the workers.
        atexit.register(self.close)
        try:
            while (item := next(self._iterator, None)) is not None:
                yield item
        except RuntimeError as error:
            explained = _explained(error)
            if explained is None:
                raise
            raise explained from error
        finally:
            self.close()

    def _inline(self) -> Iterator[tuple[int, Streams]]:
        for pair in self._addresses:
            iteration, streams = self._batches[pair]
            if self._pin_memory:
                streams = {
                    stream: {name: tensor.pin_memory() for name, tensor in tensors.items()}
                    for stream, tensors in streams.items()
                }
            yield iteration, streams

    def _data_loader(self) -> DataLoader[Any]:
        return DataLoader(
            self._batches,
            batch_size=None,
            sampler=self._addresses,
            num_workers=self._workers,
            pin_memory=self._pin_memory,
            worker_init_fn=_start_worker,
            # Forked workers share the opened cases. (They never touch CUDA.)
            multiprocessing_context="fork" if sys.platform == "linux" else None,
            # Otherwise each new loader would draw from the global generator.
            generator=torch.Generator(),
        )

    def close(self) -> None:
        """End the workers."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            atexit.unregister(self.close)
            iterator._shutdown_workers()

    def __enter__(self) -> StreamLoader:
        """Return the loader."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the workers, and explain the error if one of them died."""
        self.close()
        explained = _explained(error)
        if explained is not None:
            raise explained from error


class _Batches(Dataset[tuple[int, Streams]]):
    """Batches by ``(iteration, address)``."""

    def __init__(
        self, samplers: dict[str, PatchSampler], rows: Callable[[int], range] | None
    ) -> None:
        self.samplers = samplers
        self.rows = {n: rows(s.batch_size) if rows else None for n, s in samplers.items()}

    def __getitem__(self, pair: tuple[int, int]) -> tuple[int, Streams]:
        iteration, address = pair
        streams = {n: s.batch(address, self.rows[n]) for n, s in self.samplers.items()}
        return iteration, streams


class _Addresses:
    """A sampler for torch's DataLoader; addresses are computed in the main process."""

    def __init__(self, start: int, stop: int, address: Callable[[int], int] | None) -> None:
        self.iterations = range(start, stop)
        self.address = address

    def __len__(self) -> int:
        return len(self.iterations)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for iteration in self.iterations:
            yield iteration, iteration if self.address is None else self.address(iteration)


def _start_worker(_: int) -> None:
    """Leave signals to the main process, which saves and then ends the workers itself."""
    torch.set_num_threads(1)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _explained(error: BaseException | None) -> MedSSLError | None:
    """Return what to tell a user about a dead worker, or None for any other error."""
    if not isinstance(error, RuntimeError) or not _DEAD_WORKER.search(str(error)):
        return None
    reason = " ".join(str(error).split())[:200]
    return MedSSLError(
        f"a loader process ended unexpectedly, perhaps for lack of memory ({reason})",
        fix="load in the main process: `--set training.workers=0`, then resume",
    )
