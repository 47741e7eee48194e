"""One optimizer step: the losses of its batches back-propagated, and taken if all is finite."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from medssl.device import autocast, make_scaler
from medssl.methods.base import Batch, Method, Progress
from medssl.settings.training import TrainingSettings
from medssl.training.batches import to_batch, torch_seed, whole_batch
from medssl.training.compute import Compute
from medssl.training.nonfinite import Guard, Watch, gradient_norm
from medssl.training.optimization import parameters_of, with_gradients
from medssl.training.own_rows import SharedBatches
from medssl.training.setup import Feed
from medssl.training.step_log import StepLog


class Stepper:
    """Take optimizer steps: accumulate gradients, clip, step, let the method follow.

    Args:
        method: its networks are on the device that computes.
        training: of the recipe.
        feed: how patches come.
        compute: what trains.
        watch: is told of losses that are not finite.
        log: is given the terms of each batch.

    Raises:
        MedSSLError: the network cannot be divided between processes.
    """

    def __init__(
        self,
        method: Method,
        training: TrainingSettings,
        feed: Feed,
        compute: Compute,
        *,
        watch: Watch,
        log: StepLog,
    ) -> None:
        self.method, self.training, self.feed = method, training, feed
        self.device, self.precision, self.world = compute.device, compute.precision, compute.world
        self.scaler = make_scaler(self.device, self.precision)
        self.guard = Guard(method, self.scaler, deferred=self.device.type == "cuda")
        self.sharing = SharedBatches(method, self.world)
        self.watch, self.log = watch, log
        self.pull: Callable[[float], None] | None = None
        """Adds to the gradients of an iteration, which are scaled by its argument."""

    def take(
        self,
        batches: Iterator[Any],
        sizes: Mapping[str, int],
        progress: Progress,
        optimizers: Collection[torch.optim.Optimizer],
    ) -> None:
        """Take one step.

        If the loss or the gradient is not finite, weights and buffers stay as they are.

        Args:
            batches: this process's rows of the next batches.
            sizes: rows of a whole batch, by stream.
            progress: of the step.
            optimizers: of the stage.
        """
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.guard.hold()
        losses: list[Tensor] = []
        for micro in range(self.training.accumulate):
            progress = replace(progress, micro=micro)
            torch.manual_seed(torch_seed(progress))
            _, arrays = next(batches)
            rows = to_batch(arrays, self.device, self.feed.resident)
            batch = whole_batch(rows, sizes, self.world)
            with self.sharing.active():
                total, terms = self.back_propagate(batch, progress)
            self.log.add(total, terms)
            losses.append(total.float())
        if self.pull is not None:
            self.pull(self.scaler.get_scale())
        # Networks that rest in this iteration have no gradient; their momentum must not move them.
        active = with_gradients(optimizers)
        parameters = [p for optimizer in active for p in parameters_of(optimizer)]
        self.world.sum_gradients(parameters)
        clip = self.training.gradient_clip
        if clip:
            for optimizer in active:
                self.scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(parameters, clip)
        else:
            norm = gradient_norm(parameters)
        loss = torch.stack(losses).mean()
        finite = self.guard.judge(loss, norm)
        self.guard.step(active, finite)
        self.watch.see(loss, finite)
        self.scaler.update()
        self.method.after_step(progress)

    def back_propagate(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """Back-propagate the losses of a batch, one after another; return their sum, and terms."""
        with autocast(self.device, self.precision):
            output = self.method.training_step(batch, progress)
            losses = iter(output.losses())
        total: Tensor | None = None
        while True:
            with autocast(self.device, self.precision):
                loss = next(losses, None)
            if loss is None:
                break
            self.scaler.scale(loss / self.training.accumulate).backward()
            total = loss.detach() if total is None else total + loss.detach()
        if total is None:
            raise RuntimeError(f"{type(self.method).__name__}.training_step gave no loss")
        return total, output.terms
