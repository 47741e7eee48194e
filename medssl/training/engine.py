"""The one training loop: stages, optimizers, precision, validation, checkpoints, progress.

Everything random in an iteration is a function of (seed, stage, iteration): patches are addressed,
methods draw from ``Progress.rng`` and torch's generator is seeded before each step. A resumed run
therefore continues bit for bit, with no generator state to save.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medssl.data.device_cases import DeviceCases
from medssl.data.loader import StreamLoader
from medssl.data.sampling import PatchSampler
from medssl.errors import MedSSLError
from medssl.methods.base import Batch, Method, Progress, Stage
from medssl.recipe_schema import Recipe
from medssl.training.batches import batch_addresses, to_batch, torch_seed, whole_batch
from medssl.training.checkpoint import (
    load_checkpoint,
    load_newest,
    load_weights,
    save_checkpoint,
)
from medssl.training.distributed import ALONE, World
from medssl.training.extension import LENGTHS, extended, lengths
from medssl.training.memory_format import follow_layout
from medssl.training.nonfinite import (
    NOT_FINITE_FIX,
    Guard,
    Watch,
    check_weights,
    gradient_norm,
)
from medssl.training.optimization import build_optimizer, learning_rate, load_optimizer
from medssl.training.precision import autocast, make_scaler
from medssl.training.progress import Display
from medssl.training.records import Records
from medssl.training.run_folder import RunFolder
from medssl.training.sharing import SharedBatches
from medssl.training.state import SignalCatcher, State, Stopped
from medssl.training.step_log import StepLog

logger = logging.getLogger(__name__)

SamplerFactory = Callable[[Stage], dict[str, PatchSampler]]


class Engine:
    """Train a method.

    Args:
        method: networks on any device; they are moved to ``device``.
        recipe: the resolved recipe.
        samplers: makes the patch samplers of a stage.
        validate: returns the mean foreground Dice of a predictor on the validation cases, or None
            when there are none.
        diagnose: returns what the method says about itself on validation cases; None for nothing.
        resident: the cases on the device, for samplers that deliver places.
        world: the processes that train this run together.

    Raises:
        MedSSLError: the network cannot be divided between processes.
    """

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        *,
        samplers: SamplerFactory,
        validate: Callable[[torch.nn.Module], float] | None,
        diagnose: Callable[[Method, Progress], dict[str, float]] | None = None,
        run: RunFolder,
        device: torch.device,
        precision: str,
        workers: int,
        display: Display,
        resident: DeviceCases | None = None,
        world: World = ALONE,
    ) -> None:
        self.method = method.to(device)
        self.world, self.sharing = world, SharedBatches(self.method, world)
        self.recipe, self.training = recipe, recipe.training
        self.samplers, self.validate, self.diagnose = samplers, validate, diagnose
        self.run, self.device, self.precision = run, device, precision
        self.workers, self.display, self.resident = workers, display, resident
        self.stages = method.stages(self.training.iterations)
        self.state = State()
        self.scaler = make_scaler(device, precision)
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.records = Records(run, display)
        self.signals = SignalCatcher()
        self._log = StepLog()
        self._saved: dict[str, Any] | None = None
        deferred = device.type == "cuda"
        self.guard = Guard(method, self.scaler, deferred=deferred)
        self.watch = Watch(run, self.training, deferred=deferred, say=display.say)

    # ------------------------------------------------------------------ the loop

    def fit(self, *, resume: bool = False) -> State:
        """Train all stages from where the run stands.

        Raises:
            Stopped: SIGINT, SIGTERM or SIGUSR1 arrived; a checkpoint was written first.
            MedSSLError: the loss is not finite, or the disk is full.
        """
        saved = self._restore() if resume else None
        try:
            with self.signals:
                for index in range(self.state.stage, len(self.stages)):
                    self._start_stage(index, saved if index == self.state.stage else None)
                    self._run_stage(self.stages[index])
        finally:
            self.records.close()
        return self.state

    def _run_stage(self, stage: Stage) -> None:
        state, training = self.state, self.training
        samplers = self.samplers(stage)
        self.batch_sizes = {stream: s.batch_size for stream, s in samplers.items()}
        loader = self._loader(stage, samplers)
        describe = partial(batch_addresses, self.method, samplers, stage.name, training.accumulate)
        self.watch.start(stage.name, describe, state)
        self._log.restart_clock()
        with loader, self.display.stage(stage.name, stage.iterations, state.iteration):
            batches = iter(loader)
            while state.iteration < stage.iterations and not state.ended:
                started = time.perf_counter()
                self._step(stage, batches)
                state.iteration += 1
                state.step += 1
                state.seconds += time.perf_counter() - started
                self.display.advance(state.iteration)
                done = state.iteration == stage.iterations
                if done or state.iteration % training.log_every == 0:
                    self._report(stage)
                if self.validate and (done or state.iteration % training.validate_every == 0):
                    self._validate(stage)
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
        self._end_stage(stage)

    def _step(self, stage: Stage, batches: Any) -> None:
        """Take one optimizer step: accumulate gradients, clip, step, let the method follow.

        If the loss or the gradient is not finite, weights and buffers stay as they are.
        """
        method, training, state = self.method, self.training, self.state
        progress = Progress(stage.name, state.iteration, stage.iterations, self.recipe.seed)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        self.guard.hold()
        losses_of_step: list[Tensor] = []
        for micro in range(training.accumulate):
            progress = Progress(
                stage.name, state.iteration, stage.iterations, self.recipe.seed, micro
            )
            torch.manual_seed(torch_seed(progress))
            _, arrays = next(batches)
            rows = to_batch(arrays, self.device, self.resident)
            batch = whole_batch(rows, self.batch_sizes, self.world)
            with self.sharing.active():
                total, terms = self._losses(batch, progress)
            self._log.add(total, terms)
            losses_of_step.append(total.float())
        self._set_learning_rates(stage)
        # Networks that rest in this iteration have no gradient; their momentum must not move them.
        active = [
            o for o in self.optimizers.values() if any(p.grad is not None for p in _parameters(o))
        ]
        parameters = [p for optimizer in active for p in _parameters(optimizer)]
        self.world.sum_gradients(parameters)
        if training.gradient_clip:
            for optimizer in active:
                self.scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
        else:
            norm = gradient_norm(parameters)
        loss = torch.stack(losses_of_step).mean()
        finite = self.guard.judge(loss, norm)
        self.guard.step(active, finite)
        self.watch.see(loss, finite)
        self.scaler.update()
        method.after_step(progress)

    def _losses(self, batch: Batch, progress: Progress) -> tuple[Tensor, dict[str, Tensor]]:
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

    # ------------------------------------------------------------------ stages

    def _start_stage(self, index: int, saved: dict[str, Any] | None) -> None:
        """Prepare networks and optimizers, fresh, carried over, or from a checkpoint."""
        stage = self.stages[index]
        state = self.state
        self._log.reset()
        earlier = {k: o.state_dict() for k, o in self.optimizers.items()}
        if saved is None:
            state.stage, state.iteration, state.ended = index, 0, False
            state.best, state.stale = None, 0
            previous = self.stages[index - 1].name if index else None
            if stage.start_from_best and previous and self.run.best(previous).is_file():
                path = self.run.best(previous)
                best = load_checkpoint(path, map_location=self.device)
                load_weights(self.method, best["method_state"], path)
                earlier = best.get("optimizers", earlier)
                self.display.say(f"{stage.name}: starts from the best weights of {previous}")
            torch.manual_seed(
                torch_seed(Progress(stage.name, -1, stage.iterations, self.recipe.seed))
            )
            self.method.start_stage(stage.name)
        else:
            # What a stage sets besides tensors (frozen parts, modes) first, then the weights.
            self.method.start_stage(stage.name)
            load_weights(self.method, saved["method_state"], self.run.last)
            if "log" in saved:
                self._log.load_state_dict(saved["log"])
        override = self.training.stages.get(stage.name)
        if saved is None and override and override.reuse:
            self._reuse(stage, Path(override.reuse))
        settings = (override and override.optimizer) or self.training.optimizer
        self.optimizers = {
            key: build_optimizer(parameters, settings, self.device)
            for key, parameters in self.method.trainable(stage.name).items()
        }
        states = saved["optimizers"] if saved else (earlier if stage.carry_optimizer else {})
        for key, optimizer in self.optimizers.items():
            if key in states:
                load_optimizer(optimizer, states[key])
        follow_layout(self.optimizers.values())
        self.method.train()

    def _reuse(self, stage: Stage, source: Path) -> None:
        """Take what another run trained in this stage, and end the stage at once.

        Only the modules the stage trains are taken, so the others still depend on this run's seed.
        """
        path = RunFolder(source).stage_end(stage.name) if source.is_dir() else source
        other = load_checkpoint(path, map_location=self.device, method=self.recipe.method.name)
        trained = {id(p) for group in self.method.trainable(stage.name).values() for p in group}
        modules = {n.split(".")[0] for n, p in self.method.named_parameters() if id(p) in trained}
        taken = {k: v for k, v in other["method_state"].items() if k.split(".")[0] in modules}
        load_weights(self.method, {**self.method.state_dict(), **taken}, path)
        self.state.ended = True
        self.display.say(f"{stage.name}: taken from {path}")

    def _end_stage(self, stage: Stage) -> None:
        """Leave a checkpoint from which the next stage, or nothing, remains to be done."""
        if self.state.best is not None:
            self.state.bests[stage.name] = self.state.best
        self._save(stage)
        if self.state.stage < len(self.stages) - 1:
            # Kept for other runs, which may start after this stage (`training.stages.NAME.reuse`).
            self._write({"method_state": self.method.state_dict()}, self.run.stage_end(stage.name))
            logger.info("stage %s finished after %d iterations", stage.name, self.state.iteration)
        self.world.wait()  # the next stage may read what the first process has written

    def _loader(self, stage: Stage, samplers: dict[str, PatchSampler]) -> StreamLoader:
        accumulate = self.training.accumulate
        return StreamLoader(
            samplers,
            start=self.state.iteration * accumulate,
            stop=stage.iterations * accumulate,
            workers=self.workers,
            address=partial(self.method.batch_address, stage.name),
            rows=None if self.world.alone else self.world.rows,
            pin_memory=self.device.type == "cuda",
        )

    def _set_learning_rates(self, stage: Stage) -> None:
        override = self.training.stages.get(stage.name)
        settings = (override and override.optimizer) or self.training.optimizer
        schedule = (override and override.schedule) or self.training.schedule
        position, total = self.method.learning_rate_position(stage, self.state.iteration)
        self._lr = learning_rate(position, total, settings.lr, schedule)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self._lr

    # ------------------------------------------------------------------ records

    def _report(self, stage: Stage) -> None:
        """Write the means since the last report; the only place where the host waits."""
        state = self.state
        self.watch.read()
        terms, speed = self._log.take()
        if not all(math.isfinite(v) for k, v in terms.items() if k.startswith("loss")):
            broken = ", ".join(f"{k} {v}" for k, v in terms.items() if not math.isfinite(v))
            raise MedSSLError(
                f"the loss is no longer finite near iteration {state.iteration} of stage "
                f"{stage.name!r}: {broken}",
                where=self.run.path,
                fix=NOT_FINITE_FIX,
            )
        if state.skipped:
            terms["nonfinite/skipped"] = state.skipped
        self.records.step(stage.name, stage.iterations, state, self._lr, speed, terms)

    def _validate(self, stage: Stage) -> None:
        assert self.validate is not None
        state = self.state
        started = time.perf_counter()
        dice = self.validate(self.method.predictor())
        progress = Progress(stage.name, state.iteration - 1, stage.iterations, self.recipe.seed)
        diagnosed = self.diagnose is not None and self.run.writes  # it is for the log alone
        terms = self.diagnose(self.method, progress) if diagnosed else {}
        self.method.train()
        better = state.best is None or dice > state.best
        state.stale = 0 if better else state.stale + 1
        if better:
            state.best = dice
            following = self.stages[state.stage + 1 : state.stage + 2]
            content = {"method_state": self.method.state_dict(), "dice": dice}
            if any(s.carry_optimizer for s in following):
                # Momentum belongs to the weights it was gathered on.
                content["optimizers"] = {k: o.state_dict() for k, o in self.optimizers.items()}
            self._write(content, self.run.best(stage.name if following else None))
        seconds = time.perf_counter() - started
        self.records.validation(stage.name, state, dice, seconds, best=better, terms=terms)
        self._log.restart_clock()

    # ------------------------------------------------------------------ survival

    def _identity(self) -> dict[str, Any]:
        return {
            "method": self.recipe.method.name,
            "network": self.recipe.network.name,
            "seed": self.recipe.seed,
            "step": self.state.step,
        }

    def _write(self, content: dict[str, Any], path: Path, previous: Path | None = None) -> None:
        """Save a checkpoint; of several processes the first does."""
        if self.run.writes:
            save_checkpoint({**self._identity(), **content}, path, previous=previous)

    def _save(self, stage: Stage) -> None:
        """Write last.pt with everything needed to continue, unless it stands there already."""
        if self._saved == self.state.to_dict():
            return
        self.watch.read()
        check_weights(self.method, self.run.path)
        self._write(
            {
                "stage_name": stage.name,
                LENGTHS: lengths(self.stages),
                "state": self.state.to_dict(),
                "method_state": self.method.state_dict(),
                "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
                "scaler": self.scaler.state_dict(),
                "log": self._log.state_dict(),
            },
            self.run.last,
            previous=self.run.previous,
        )
        self._saved = self.state.to_dict()
        self.run.write_manifest(
            iterations_done=self.state.step,
            training_seconds=self.state.seconds,
            skipped_iterations=self.state.skipped,
        )

    def _restore(self) -> dict[str, Any] | None:
        """Load the last good checkpoint; return it, ``_start_stage`` hands it to the optimizers.

        A run that was stopped before its first checkpoint starts from the beginning.
        """
        candidates = (self.run.last, self.run.previous)
        if not any(path.is_file() for path in candidates):
            self.run.truncate_metrics(-1)
            return None
        saved, path, damage = load_newest(
            candidates, map_location=self.device, method=self.recipe.method.name
        )
        if saved["seed"] != self.recipe.seed:
            raise MedSSLError(
                f"the run was started with seed {saved['seed']}, not {self.recipe.seed}",
                where=self.run.path,
                fix="resume with the seed it was started with, or use another --output",
            )
        stages = extended(self.stages, saved)
        self.scaler.load_state_dict(saved["scaler"])
        self.state = State.from_dict(saved["state"])
        if path != self.run.last:
            reason = damage.what if damage else "it is missing"
            self.display.say(
                f"warning: {self.run.last.name}: {reason}; the run goes back to {path.name}, "
                f"saved after {self.state.step} iterations"
            )
            self.world.wait()  # until all have read it
            if self.run.writes:
                # The next checkpoint must not push the only good one out.
                os.replace(path, self.run.last)
        self.run.truncate_metrics(self.state.step)
        self._saved = self.state.to_dict()
        self._plan(stages, saved)
        self.display.say(
            f"resuming stage {saved['stage_name']} after iteration {self.state.iteration}"
        )
        return saved

    def _plan(self, stages: list[Stage], saved: dict[str, Any]) -> None:
        """Go on with these stages; a larger budget than the checkpoint's is recorded."""
        self.stages = stages
        before = sum(saved.get(LENGTHS, lengths(stages)).values())
        total = sum(stage.iterations for stage in stages)
        if total == before:
            return
        override = self.training.stages.get(stages[-1].name)
        if self.state.stage == len(stages) - 1 and not (override and override.reuse):
            # The user wants more of a stage that early stopping may have ended.
            self.state.ended, self.state.stale = False, 0
        self.display.say(f"the run is extended from {before} to {total} iterations")
        extensions = self.run.read_manifest().get("extensions", [])
        entry = {"step": self.state.step, "from": before, "to": total}
        if entry not in extensions:
            self.run.write_manifest(extensions=[*extensions, entry])


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
