"""The one training loop: stages, optimizer steps, validation, and when checkpoints are written.

Everything random in an iteration is a function of (seed, stage, iteration): patches are addressed,
methods draw from ``Progress.rng`` and torch's generator is seeded before each step. A resumed run
therefore continues bit for bit, with no generator state to save.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medssl.data.patches.loader import StreamLoader
from medssl.data.patches.sampling import PatchSampler
from medssl.errors import Stopped
from medssl.methods.base import Method, Progress
from medssl.methods.settings import Stage
from medssl.progress import Display
from medssl.runs.budget import LENGTHS, lengths
from medssl.runs.checkpoint import load_weights
from medssl.runs.folder import RunFolder
from medssl.settings.recipe import Recipe
from medssl.training.batches import batch_addresses, torch_seed
from medssl.training.compute import Compute
from medssl.training.exchange import Exchange
from medssl.training.exchanger import Exchanger
from medssl.training.nonfinite import Watch, check_terms, check_weights
from medssl.training.optimization import (
    build_optimizers,
    learning_rate,
    set_learning_rate,
    state_dicts,
)
from medssl.training.records import Records
from medssl.training.run_checkpoints import RunCheckpoints
from medssl.training.setup import Feed
from medssl.training.state import SignalCatcher, State
from medssl.training.step import Stepper
from medssl.training.step_log import StepLog
from medssl.training.validation import Validation

logger = logging.getLogger(__name__)


class Engine:
    """Train a method.

    Args:
        method: networks on any device; they are moved to the one that computes.
        recipe: the resolved recipe.
        feed: how patches come.
        validation: what is measured on the validation cases; None when there are none.
        run: the run folder.
        compute: what trains.
        display: shows progress.

    Raises:
        MedSSLError: the network cannot be divided between processes.
    """

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        feed: Feed,
        *,
        validation: Validation | None,
        run: RunFolder,
        compute: Compute,
        display: Display,
    ) -> None:
        device, world = compute.device, compute.world
        self.method, self.world = method.to(device), world
        self.recipe, self.training = recipe, recipe.training
        self.feed, self.validation = feed, validation
        self.run, self.display = run, display
        self.device = device
        self.stages = method.stages(self.training.iterations)
        self.state = State()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.records = Records(run, display, recipe.training.loggers)
        self.signals = SignalCatcher()
        self._log = StepLog()
        self.checkpoints = RunCheckpoints(run, recipe, device=device, world=world, say=display.say)
        deferred = device.type == "cuda"
        self.watch = Watch(run, self.training, deferred=deferred, say=display.say)
        self.stepper = Stepper(
            self.method, self.training, feed, compute, watch=self.watch, log=self._log
        )
        self.exchanger: Exchanger | None = None

    def join(self, exchange: Exchange, labeled_patients: int) -> None:
        """Train together with other sites, before `fit`.

        Args:
            exchange: brings tensors to them and back.
            labeled_patients: whose labels are trained on; only the exchange is told.
        """
        self.exchanger = Exchanger(exchange, self.method, self.stages, self.run, labeled_patients)
        self.stepper.pull = self.exchanger.pull if exchange.proximal else None

    # ------------------------------------------------------------------ the loop

    def fit(self, *, resume: bool = False, on_resume: Callable[[int], None] | None = None) -> State:
        """Train all stages from where the run stands.

        Args:
            resume: go on from the last checkpoint.
            on_resume: called with the iteration the run goes on from.

        Raises:
            Stopped: SIGINT, SIGTERM or SIGUSR1 arrived; a checkpoint was written first.
            MedSSLError: the loss is not finite, or the disk is full.
        """
        saved = self._resume() if resume else None
        if resume and on_resume is not None:
            on_resume(self.state.step)
        try:
            with self.signals:
                if self.exchanger is not None:
                    self.exchanger.open(saved)
                for index in range(self.state.stage, len(self.stages)):
                    self._start_stage(index, saved if index == self.state.stage else None)
                    self._run_stage(self.stages[index])
        finally:
            self.records.close()
        return self.state

    def _run_stage(self, stage: Stage) -> None:
        state, training = self.state, self.training
        samplers = self.feed.samplers(stage)
        self.batch_sizes = {stream: s.batch_size for stream, s in samplers.items()}
        loader = self._loader(stage, samplers)
        describe = partial(batch_addresses, self.method, samplers, stage.name, training.accumulate)
        self.watch.start(stage.name, describe, state)
        self._log.restart_clock()
        bar = self.display.stage(
            stage.name, stage.iterations, state.iteration, later=self._iterations_after(stage)
        )
        with loader, bar:
            batches = iter(loader)
            if self.exchanger is not None and self.exchanger.is_due(state):
                # It was stopped while it waited for the others.
                self._set_learning_rates(stage, state.iteration - 1)
                self._finish_iteration(stage)
            while state.iteration < stage.iterations and not state.ended:
                started = time.perf_counter()
                self._step(stage, batches)
                state.iteration += 1
                state.step += 1
                state.seconds += time.perf_counter() - started
                self._finish_iteration(stage)
        self._end_stage(stage)

    def _finish_iteration(self, stage: Stage) -> None:
        """Do what follows a step, as far as it is due: exchange, log, validate, stop, save."""
        state, training = self.state, self.training
        self._exchange(stage)
        self.display.advance(state.iteration)
        done = state.iteration == stage.iterations
        if done or state.iteration % training.log_every == 0:
            self._report(stage)
        every = training.validate_every
        if self.validation is not None and (done or state.iteration % every == 0):
            self._validate(stage, self.validation)
            if training.early_stop and state.stale >= training.early_stop:
                self.display.say(
                    f"{stage.name}: no better validation in {state.stale} tries, "
                    f"stage ends at iteration {state.iteration}"
                )
                state.ended = True
        # One process may have been told before another: all stop at the same iteration.
        caught = self.world.largest(self.signals.caught or 0)
        if caught:
            self._save(stage)
            raise Stopped(caught, state.step, self.run.path)
        if not done and state.iteration % training.checkpoint_every == 0:
            self._save(stage)

    def _exchange(self, stage: Stage) -> None:
        """Exchange tensors with other sites; saved before, since the others may take days."""
        if self.exchanger is None or not self.exchanger.is_due(self.state):
            return
        self._save(stage)
        if not self.exchanger.swap(self.state, lambda: self.signals.caught is not None):
            raise Stopped(self.signals.caught or 0, self.state.step, self.run.path)
        self._log.restart_clock()

    def _step(self, stage: Stage, batches: Iterator[Any]) -> None:
        """Take one optimizer step, at the learning rate of its iteration."""
        self._set_learning_rates(stage, self.state.iteration)
        progress = Progress(
            stage.name, self.state.iteration, stage.iterations, self.recipe.seed, lr=self._lr
        )
        self.stepper.take(batches, self.batch_sizes, progress, self.optimizers.values())

    # ------------------------------------------------------------------ stages

    def _start_stage(self, index: int, saved: dict[str, Any] | None) -> None:
        """Prepare networks and optimizers, fresh, carried over, or from a checkpoint."""
        stage, state = self.stages[index], self.state
        self._log.reset()
        earlier = state_dicts(self.optimizers)
        override = self.training.stages.get(stage.name)
        if saved is None:
            state.start_stage(index)
            previous = self.stages[index - 1].name if index else None
            if stage.start_from_best and previous:
                best = self.checkpoints.load_best(self.method, previous)
                if best is not None:
                    earlier = best.get("optimizers", earlier)
                    self.display.say(f"{stage.name}: starts from the best weights of {previous}")
            torch.manual_seed(
                torch_seed(Progress(stage.name, -1, stage.iterations, self.recipe.seed))
            )
            self.method.start_stage(stage.name)
            if override and override.reuse:
                source = Path(override.reuse)
                path = self.checkpoints.load_reused(self.method, stage.name, source)
                state.ended = True
                self.display.say(f"{stage.name}: taken from {path}")
        else:
            # What a stage sets besides tensors (frozen parts, modes) first, then the weights.
            self.method.start_stage(stage.name)
            load_weights(self.method, saved["method_state"], self.run.last)
            if "log" in saved:
                self._log.load_state_dict(saved["log"])
        self.optimizers = build_optimizers(
            self.method.trainable(stage.name),
            self.training.optimizer_of(stage.name),
            self.device,
            states=saved["optimizers"] if saved else (earlier if stage.carry_optimizer else {}),
        )
        self.method.train()

    def _end_stage(self, stage: Stage) -> None:
        """Leave a checkpoint from which the next stage, or nothing, remains to be done."""
        if self.state.best is not None:
            self.state.bests[stage.name] = self.state.best
        self._save(stage)
        if self.state.stage < len(self.stages) - 1:
            # Kept for other runs, which may start after this stage (`training.stages.NAME.reuse`).
            content = {"method_state": self.method.state_dict()}
            path = self.run.stage_end(stage.name)
            self.checkpoints.write(content, path, step=self.state.step)
            logger.info("stage %s finished after %d iterations", stage.name, self.state.iteration)
        self.world.wait()  # the next stage may read what the first process has written

    def _iterations_after(self, stage: Stage) -> int:
        """Return the iterations of the stages that follow; one that is taken over has none."""
        following = self.stages[self.stages.index(stage) + 1 :]
        overrides = self.training.stages
        return sum(
            s.iterations for s in following if not (s.name in overrides and overrides[s.name].reuse)
        )

    def _loader(self, stage: Stage, samplers: dict[str, PatchSampler]) -> StreamLoader:
        accumulate = self.training.accumulate
        return StreamLoader(
            samplers,
            start=self.state.iteration * accumulate,
            stop=stage.iterations * accumulate,
            workers=self.feed.workers,
            address=partial(self.method.batch_address, stage.name),
            rows=None if self.world.alone else self.world.rows,
            pin_memory=self.device.type == "cuda",
        )

    def _set_learning_rates(self, stage: Stage, iteration: int) -> None:
        position, total = self.method.learning_rate_position(stage, iteration)
        base = self.training.optimizer_of(stage.name).lr
        schedule = self.training.schedule_of(stage.name)
        self._lr = learning_rate(position, total, base, schedule)
        set_learning_rate(self.optimizers.values(), self._lr)

    # ------------------------------------------------------------------ records

    def _report(self, stage: Stage) -> None:
        """Write the means since the last report; the only place where the host waits."""
        state = self.state
        self.watch.read()
        terms, speed = self._log.take()
        check_terms(terms, stage.name, state.iteration, self.run.path)
        if state.skipped:
            terms["nonfinite/skipped"] = state.skipped
        self.records.step(stage.name, stage.iterations, state, self._lr, speed, terms)

    def _validate(self, stage: Stage, validation: Validation) -> None:
        state = self.state
        started = time.perf_counter()
        dice = validation.dice(self.method.predictor())
        progress = Progress(
            stage.name, state.iteration - 1, stage.iterations, self.recipe.seed, lr=self._lr
        )
        terms: dict[str, float] = {}
        if validation.diagnose is not None and self.run.writes:  # it is for the log alone
            terms = validation.diagnose(self.method, progress)
        if validation.write is not None and self.run.writes:
            validation.write(self.method)
        self.method.train()
        better = state.best is None or dice > state.best
        state.stale = 0 if better else state.stale + 1
        if better:
            state.best = dice
            following = self.stages[state.stage + 1 : state.stage + 2]
            content = {"method_state": self.method.state_dict(), "dice": dice}
            if any(s.carry_optimizer for s in following):
                # Momentum belongs to the weights it was gathered on.
                content["optimizers"] = state_dicts(self.optimizers)
            path = self.run.best(stage.name if following else None)
            self.checkpoints.write(content, path, step=state.step)
        seconds = time.perf_counter() - started
        self.records.validation(stage.name, state, dice, seconds, best=better, terms=terms)
        self._log.restart_clock()

    # ------------------------------------------------------------------ survival

    def _save(self, stage: Stage) -> None:
        """Write last.pt with everything needed to continue, unless it stands there already."""
        if self.checkpoints.is_last(self.state):
            return
        self.watch.read()
        check_weights(self.method, self.run.path)
        content = {
            "stage_name": stage.name,
            LENGTHS: lengths(self.stages),
            "state": self.state.to_dict(),
            "method_state": self.method.state_dict(),
            "optimizers": state_dicts(self.optimizers),
            "scaler": self.stepper.scaler.state_dict(),
            "log": self._log.state_dict(),
        }
        if self.exchanger is not None:
            content |= self.exchanger.kept
        self.checkpoints.write_last(content, self.state)

    def _resume(self) -> dict[str, Any] | None:
        """Go back to the last good checkpoint; ``_start_stage`` takes weights and optimizers."""
        found = self.checkpoints.resume(self.stages, self.stepper.scaler)
        if found is None:
            return None
        self.state, self.stages = found.state, found.stages
        if self.exchanger is not None:
            self.exchanger.total = sum(stage.iterations for stage in self.stages)
            if self.exchanger.is_due(self.state):  # what followed the exchange follows it again
                self.run.truncate_metrics(self.state.step, again=True)
        return found.content
