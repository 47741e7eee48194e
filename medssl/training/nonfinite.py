"""What happens when a loss or a gradient is not finite: the iteration is skipped, and remembered.

A skipped iteration moves no weight, no momentum and no buffer (normalization statistics, a method's
own memory). On a CPU the flag is simply read. On a CUDA device reading it in every step would make
the host wait, so there it stays on the device: the fused optimizers take it as their
``found_inf``, buffers are put back by arithmetic, and the host reads the flags of many steps at
once where it reads the logged terms anyway. With a gradient scaler (fp16) gradients overflow in
ordinary training; the scaler then skips on its own, and the loss alone is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medssl.errors import MedSSLError
from medssl.paths import command
from medssl.runs.folder import RunFolder
from medssl.settings.training import TrainingSettings
from medssl.training.state import State

NOT_FINITE_FIX = (
    "lower training.optimizer.lr, set training.gradient_clip: 1, or use --precision fp32; "
    "the last checkpoint is from before"
)
SAID = 3
"""So many skipped iterations are told; all are counted and recorded."""

_SAME_WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Guard:
    """Keep a step that is not finite away from weights and buffers.

    Args:
        deferred: never read a flag; needs optimizers with ``fused=True`` where there is no active
            scaler.
    """

    def __init__(self, method: nn.Module, scaler: torch.amp.GradScaler, *, deferred: bool) -> None:
        self.method, self.scaler, self.deferred = method, scaler, deferred
        self._held: list[Tensor] = []

    def hold(self) -> None:
        """Remember the buffers before the forward pass."""
        buffers = list(self.method.buffers())
        same = [(b.shape, b.dtype, b.device) for b in buffers]
        if [(b.shape, b.dtype, b.device) for b in self._held] != same:
            self._held = [b.clone() for b in buffers]
        elif buffers:
            torch._foreach_copy_(self._held, buffers)

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Return whether a step may be taken, as a bool tensor on the device."""
        finite = loss.isfinite()
        return finite if self.scaler.is_enabled() else finite & norm.isfinite()

    def step(self, optimizers: Sequence[torch.optim.Optimizer], finite: Tensor) -> None:
        """Let the optimizers step if ``finite``, else put the buffers back."""
        if self.deferred:
            self._step_on_device(optimizers, finite)
            return
        good = bool(finite)
        if good or self.scaler.is_enabled():
            for optimizer in optimizers:
                self.scaler.step(optimizer)
        if not good and self._held:
            torch._foreach_copy_(list(self.method.buffers()), self._held)

    def _step_on_device(self, optimizers: Sequence[torch.optim.Optimizer], finite: Tensor) -> None:
        scaled = self.scaler.is_enabled()
        for optimizer in optimizers:
            if not scaled:
                _give_momentum(optimizer)
                optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            try:
                self.scaler.step(optimizer)
            finally:
                if not scaled:
                    del optimizer.found_inf  # type: ignore[attr-defined]
        keep_if(list(self.method.buffers()), self._held, finite)


def _give_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Start SGD's momentum at zero, which makes the same first step.

    A fused first step that is skipped would leave the momentum it has just allocated unset.
    """
    for group in optimizer.param_groups:
        if not group.get("momentum"):
            continue
        for parameter in group["params"]:
            if parameter.grad is not None:
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)


def keep_if(tensors: Sequence[Tensor], held: Sequence[Tensor], good: Tensor) -> None:
    """Leave ``tensors`` as they are if ``good``, else make them ``held``; nothing is read.

    Done on the bits, as whole numbers: a NaN cannot be multiplied away, and these sums are exact.
    """
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for now, before in zip(tensors, held, strict=True):
        width = _SAME_WIDTH[now.element_size()]
        ours, theirs = groups.setdefault(width, ([], []))
        ours.append(now.view(width))
        theirs.append(before.view(width))
    for width, (ours, theirs) in groups.items():
        torch._foreach_sub_(ours, theirs)
        torch._foreach_mul_(ours, good.to(width))
        torch._foreach_add_(ours, theirs)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the norm of all gradients together, of which there is at least one."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


class Watch:
    """Count skipped iterations, save their addresses, and stop where there are too many.

    Args:
        deferred: read the flags only when :meth:`read` is called.
        say: tells the user.
    """

    def __init__(
        self,
        run: RunFolder,
        training: TrainingSettings,
        *,
        deferred: bool,
        say: Callable[[str], None],
    ) -> None:
        self.run, self.training = run, training
        self.deferred, self.say = deferred, say
        self._seen: list[tuple[int, int, Tensor, Tensor]] = []

    def start(
        self, stage: str, describe: Callable[[int], list[dict[str, Any]]], state: State
    ) -> None:
        """Watch a stage; ``describe`` says what the batches of a 0-based iteration consist of."""
        self._seen.clear()
        self.stage, self.describe, self.state = stage, describe, state

    def see(self, loss: Tensor, finite: Tensor) -> None:
        """Note the step that is being taken.

        Raises:
            MedSSLError: as :meth:`read`, where flags are read at once.
        """
        self._seen.append((self.state.step, self.state.iteration, loss, finite))
        if not self.deferred:
            self.read()

    def read(self) -> None:
        """Read the flags noted so far, for all of them at once.

        Raises:
            MedSSLError: a step was not finite and the policy is to stop, or too many in a row.
        """
        seen, self._seen = self._seen, []
        if not seen:
            return
        losses = torch.stack([loss for _, _, loss, _ in seen]).tolist()
        flags = torch.stack([finite for _, _, _, finite in seen]).tolist()
        for (step, iteration, _, _), loss, finite in zip(seen, losses, flags, strict=True):
            if finite:
                self.state.skipped_in_row = 0
            else:
                self._skipped(step, iteration, loss)

    def _skipped(self, step: int, iteration: int, loss: float) -> None:
        state, training, number = self.state, self.training, iteration + 1
        state.skipped += 1
        state.skipped_in_row += 1
        what = "gradient" if math.isfinite(loss) else f"loss {loss}"
        self.run.append_nonfinite(
            {
                "step": step + 1,
                "stage": self.stage,
                "iteration": number,
                "loss": str(loss),
                "reason": "gradient" if math.isfinite(loss) else "loss",
                "batches": self.describe(iteration),
            }
        )
        happened = f"iteration {number} of stage {self.stage!r} is not finite ({what})"
        row = state.skipped_in_row
        if training.nonfinite == "stop" or row >= training.nonfinite_limit:
            raise MedSSLError(
                happened if row == 1 else f"{happened}, the {row}th in a row",
                where=self.run.nonfinite,
                fix=f"see its batch with `{command('replay', self.run.path)}`; {NOT_FINITE_FIX}",
            )
        if state.skipped <= SAID:
            self.say(f"warning: {happened} and was skipped; its batch is in {self.run.nonfinite}")


def check_weights(method: nn.Module, where: Path) -> None:
    """Refuse to save weights that are not finite.

    Raises:
        MedSSLError: they are not.
    """
    weights = [p.detach() for p in method.parameters() if p.is_floating_point()]
    if weights and not bool(torch.stack([w.isfinite().all() for w in weights]).all()):
        raise MedSSLError(
            "the weights are no longer finite, and are not saved", where=where, fix=NOT_FINITE_FIX
        )


def check_terms(terms: Mapping[str, float], stage: str, iteration: int, where: Path) -> None:
    """Refuse to go on with a mean loss that is not finite.

    Args:
        terms: what is logged; names of losses begin with ``loss``.
        stage: name of the stage.
        iteration: its iterations done so far.
        where: the run folder, for the message.

    Raises:
        MedSSLError: a loss is not finite.
    """
    if all(math.isfinite(v) for k, v in terms.items() if k.startswith("loss")):
        return
    broken = ", ".join(f"{k} {v}" for k, v in terms.items() if not math.isfinite(v))
    raise MedSSLError(
        f"the loss is no longer finite near iteration {iteration} of stage {stage!r}: {broken}",
        where=where,
        fix=NOT_FINITE_FIX,
    )
