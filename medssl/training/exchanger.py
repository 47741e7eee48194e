"""The engine's side of an :class:`~medssl.training.exchange.Exchange`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from medssl.errors import MedSSLError
from medssl.methods.base import Method, Progress
from medssl.methods.settings import Stage
from medssl.runs.folder import RunFolder
from medssl.training.exchange import FEDERATED, Exchange, Update, parts_of, shared_tensors
from medssl.training.state import State

_RECEIVED = "received"


class Exchanger:
    """When an exchange is due, what is offered, what is taken.

    Args:
        exchange: brings the tensors to the others.
        method: whose tensors they are; on the device that trains.
        stages: of the run.
        run: its folder.
        labeled_patients: see :class:`Update`.
    """

    def __init__(
        self,
        exchange: Exchange,
        method: Method,
        stages: Sequence[Stage],
        run: RunFolder,
        labeled_patients: int,
    ) -> None:
        self.exchange, self.method, self.run = exchange, method, run
        self.names = list(shared_tensors(method, stages, exchange.parts, exchange.norms))
        self.labeled_patients = labeled_patients
        self.total = sum(stage.iterations for stage in stages)
        self.kept: dict[str, dict[str, Tensor]] = {}
        """What a checkpoint needs to have of the exchange, by key: what last came, for FedProx."""
        parts = parts_of(method, stages)
        self._pulled = [n for n in self.names if parts[n] == "student"] if exchange.proximal else []

    def open(self, saved: Mapping[str, Any] | None) -> None:
        """Meet the others; a run that begins takes what all start from.

        Args:
            saved: the checkpoint that a run goes on from.
        """
        base = self.exchange.open(self.run.path, self._copies())
        if saved is None:
            self._take(self._copies() if base is None else base)
        elif self._pulled:
            self.kept = {_RECEIVED: {n: t.clone() for n, t in saved[_RECEIVED].items()}}
        record = {
            "name": self.exchange.name,
            "every": self.exchange.every,
            "parts": list(self.exchange.parts),
            "norms": self.exchange.norms,
            "proximal": self.exchange.proximal,
            "tensors": len(self.names),
        }
        self.run.write_manifest(**{FEDERATED: record})

    def is_due(self, state: State) -> bool:
        """Say whether an exchange belongs to the iteration just finished, and has not been."""
        now = state.step > 0 and (state.step % self.exchange.every == 0 or state.step == self.total)
        return now and state.exchanged < state.step

    def swap(self, state: State, stopped: Callable[[], bool]) -> bool:
        """Exchange; weights and buffers change in place, optimizers are left alone.

        Returns:
            False if it was stopped before anything came.

        Raises:
            MedSSLError: what came is not what is shared, or not finite.
        """
        update = Update(self._copies(), state.step, self._iterations(state), self.labeled_patients)
        found = self.exchange.swap(update, stopped)
        if found is None and stopped():
            return False
        if found is not None:
            self._take(found)
        state.exchanged = state.step
        return True

    def _iterations(self, state: State) -> int:
        """Return the iterations since the last exchange, one or more.

        Where nothing is labeled each counts as much as guesses do by then. An optimizer that scales
        its steps, as Adam does, makes as long ones of a loss of small weight: guesses of the first
        rounds would move the common model as far as labels do.
        """
        since = range(state.exchanged, state.step)
        if self.labeled_patients:
            return len(since)
        places = (Progress("", done, self.total) for done in since)
        return max(1, round(sum(map(self.method.unlabeled_ramp, places))))

    @torch.no_grad()
    def pull(self, scale: float) -> None:
        """Add the gradient of FedProx's term, times ``scale``, where there is a gradient."""
        parameters, received = dict(self.method.named_parameters()), self.kept[_RECEIVED]
        for name in self._pulled:
            own = parameters[name]
            if own.grad is not None:
                away = own - received[name].to(own.device)
                own.grad.add_(away, alpha=self.exchange.proximal * scale)

    def _shared(self) -> dict[str, Tensor]:
        state = self.method.state_dict()
        return {name: state[name] for name in self.names}

    def _copies(self) -> dict[str, Tensor]:
        return {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self._shared().items()
        }

    @torch.no_grad()
    def _take(self, found: Mapping[str, Tensor]) -> None:
        own = self._shared()
        wrong = [n for n in {**own, **found} if n not in own or n not in found]
        wrong += [n for n in own if n in found and found[n].shape != own[n].shape]
        wrong += [n for n, tensor in found.items() if not bool(tensor.isfinite().all())]
        if wrong:
            raise MedSSLError(
                f"what came from the others does not fit, or is not finite: {wrong[0]}",
                where=self.exchange.name,
                fix="all sites need the same recipe and version of medssl",
            )
        for name, tensor in own.items():
            tensor.copy_(found[name])
        if self._pulled:
            self.kept = {_RECEIVED: {name: own[name].detach().clone() for name in self._pulled}}
        self.method.received(self.names)
