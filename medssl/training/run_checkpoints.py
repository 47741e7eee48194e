"""The checkpoints of a run: which one is written when, and what a run or a stage goes on from.

How one file is written and read is in :mod:`medssl.runs.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medssl.errors import MedSSLError
from medssl.files import move
from medssl.methods.base import Method
from medssl.methods.settings import Stage
from medssl.runs.budget import LENGTHS, extended, lengths
from medssl.runs.checkpoint import load_checkpoint, load_newest, load_weights, save_checkpoint
from medssl.runs.folder import RunFolder
from medssl.settings.recipe import Recipe
from medssl.training.distributed import World
from medssl.training.state import State


@dataclass(frozen=True)
class Resumed:
    """What a run goes on from.

    Attributes:
        content: the checkpoint, from which the stage that was interrupted takes its weights.
        state: where the run stood.
        stages: the stages it has now; the last one is longer if the budget has grown.
    """

    content: dict[str, Any]
    state: State
    stages: list[Stage]


class RunCheckpoints:
    """Write the checkpoints of a run, and read what it goes on from.

    Args:
        run: the folder they lie in.
        recipe: what every checkpoint says it belongs to.
        device: where tensors are loaded to.
        world: the processes of the run; the first one writes.
        say: tells the user a line.
    """

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        *,
        device: torch.device,
        world: World,
        say: Callable[[str], None],
    ) -> None:
        self.run, self.recipe = run, recipe
        self.device, self.world, self.say = device, world, say
        self._last: dict[str, Any] | None = None
        """The state that last.pt was written or read with."""

    # ------------------------------------------------------------------ writing

    def write(
        self, content: dict[str, Any], path: Path, *, step: int, previous: Path | None = None
    ) -> None:
        """Save a checkpoint; of several processes the first does.

        Args:
            content: what is saved beside the names of what it belongs to.
            path: where.
            step: finished iterations of all stages.
            previous: where the checkpoint that was at ``path`` is kept.

        Raises:
            MedSSLError: the disk is full or not writable; the previous checkpoint is kept.
        """
        if self.run.writes:
            identity = {
                "method": self.recipe.method.name,
                "network": self.recipe.network.name,
                "seed": self.recipe.seed,
                "step": step,
            }
            save_checkpoint({**identity, **content}, path, previous=previous)

    def is_last(self, state: State) -> bool:
        """Say whether last.pt already holds this state."""
        return self._last == state.to_dict()

    def write_last(self, content: dict[str, Any], state: State) -> None:
        """Write last.pt, keep the one before it, and tell the manifest how far the run is.

        Raises:
            MedSSLError: as :meth:`write`.
        """
        self.write(content, self.run.last, step=state.step, previous=self.run.previous)
        self._last = state.to_dict()
        self.run.write_manifest(
            iterations_done=state.step,
            training_seconds=state.seconds,
            skipped_iterations=state.skipped,
        )

    # ------------------------------------------------------------------ resuming

    def resume(self, stages: Sequence[Stage], scaler: torch.amp.GradScaler) -> Resumed | None:
        """Load the last good checkpoint, and take the run's records back to it.

        Args:
            stages: the method's division of the budget there is now.
            scaler: gets its state back.

        Returns:
            None for a run that was stopped before its first checkpoint: it starts from the
            beginning.

        Raises:
            DamagedCheckpoint: all there are are damaged.
            MedSSLError: the checkpoint is of another method or seed, or the budget ends before the
                last stage has begun.
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
        now = extended(stages, saved)
        if scaler.is_enabled() and not saved["scaler"]:
            self.say("note: the run goes on in fp16, in which it was not begun: not bit for bit")
        else:
            scaler.load_state_dict(saved["scaler"])
        state = State.from_dict(saved["state"])
        if path != self.run.last:
            reason = damage.what if damage else "it is missing"
            self.say(
                f"warning: {self.run.last.name}: {reason}; the run goes back to {path.name}, "
                f"saved after {state.step} iterations"
            )
            self.world.wait()  # until all have read it
            if self.run.writes:
                # The next checkpoint must not push the only good one out.
                move(path, self.run.last)
        self.run.truncate_metrics(state.step)
        self._last = state.to_dict()
        self._extend(state, now, before=sum(saved.get(LENGTHS, lengths(now)).values()))
        self.say(f"resuming stage {saved['stage_name']} after iteration {state.iteration}")
        return Resumed(saved, state, now)

    def _extend(self, state: State, stages: Sequence[Stage], *, before: int) -> None:
        """Record a budget that is larger than the ``before`` of the checkpoint."""
        total = sum(stage.iterations for stage in stages)
        if total == before:
            return
        override = self.recipe.training.stages.get(stages[-1].name)
        if state.stage == len(stages) - 1 and not (override and override.reuse):
            # The user wants more of a stage that early stopping may have ended.
            state.ended, state.stale = False, 0
        self.say(f"the run is extended from {before} to {total} iterations")
        extensions = self.run.read_manifest().get("extensions", [])
        entry = {"step": state.step, "from": before, "to": total}
        if entry not in extensions:
            self.run.write_manifest(extensions=[*extensions, entry])

    # ------------------------------------------------------------------ starting a stage

    def load_best(self, method: Method, stage: str) -> dict[str, Any] | None:
        """Give a method the best weights of an earlier stage.

        Returns:
            That checkpoint; None if the stage was not validated, and the weights are as they were.
        """
        path = self.run.best(stage)
        if not path.is_file():
            return None
        best = load_checkpoint(path, map_location=self.device)
        load_weights(method, best["method_state"], path)
        return best

    def load_reused(self, method: Method, stage: str, source: Path) -> Path:
        """Give a method what another run trained in a stage.

        Only the modules the stage trains are taken, so the others still depend on this run's seed.

        Args:
            method: gets the weights.
            stage: name of the stage.
            source: the other run's folder, or a checkpoint.

        Returns:
            The checkpoint.

        Raises:
            MedSSLError: it is missing, damaged, of another method, or does not fit.
        """
        path = RunFolder(source).stage_end(stage) if source.is_dir() else source
        other = load_checkpoint(path, map_location=self.device, method=self.recipe.method.name)
        trained = {id(p) for group in method.trainable(stage).values() for p in group}
        modules = {n.split(".")[0] for n, p in method.named_parameters() if id(p) in trained}
        taken = {k: v for k, v in other["method_state"].items() if k.split(".")[0] in modules}
        load_weights(method, {**method.state_dict(), **taken}, path)
        return path
