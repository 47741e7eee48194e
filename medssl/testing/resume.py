"""What is random is addressed, and what is state is in the state dict."""

from __future__ import annotations

import io

import torch

from medssl.methods.base import Method
from medssl.methods.settings import Stage
from medssl.testing.contract import expect
from medssl.testing.subject import BUDGET, Optimizers, Subject, make_batch, optimizers, step

HINT = (
    "all state is parameters and buffers, and randomness comes from torch's generator or "
    "Progress.rng, never from a generator that outlives the iteration"
)


def check_a_resumed_stage_is_bit_equal(subject: Subject) -> None:
    """A stage that is saved, rebuilt and resumed ends with the same bits as without a stop."""
    for method, stage in subject.in_stages():
        optims = optimizers(method, stage)
        _train(method, stage, optims, 0, 2)
        file = io.BytesIO()
        torch.save([method.state_dict(), {k: o.state_dict() for k, o in optims.items()}], file)
        _train(method, stage, optims, 2, 4)

        file.seek(0)
        weights, states = torch.load(file, weights_only=True)
        resumed = subject.make(seed=99)
        resumed.start_stage(stage.name)
        resumed.load_state_dict(weights)
        again = optimizers(resumed, stage)
        for key, optimizer in again.items():
            optimizer.load_state_dict(states[key])
        _train(resumed, stage, again, 2, 4)
        other = resumed.state_dict()
        unlike = [k for k, v in method.state_dict().items() if not torch.equal(v, other[k])]
        expect(
            not unlike,
            f"stage {stage.name!r}, resumed after 2 of 4 iterations, is bit-equal ({HINT})",
            f"{len(unlike)} tensors differ, first {unlike[:1]}",
        )


def check_a_step_is_determined(subject: Subject) -> None:
    """The same seed and iteration give the same loss; another iteration draws otherwise."""
    losses = []
    for iteration in (3, 3, 4):
        method = subject.make()
        stage = method.stages(BUDGET)[-1]
        method.start_stage(stage.name)
        batch = make_batch(method, stage)
        total, _ = step(method, stage, iteration, optimizers(method, stage), batch)
        losses.append(total.item())
    expect(
        losses[0] == losses[1], f"the same seed and iteration give the same loss ({HINT})", losses
    )
    expect(losses[1] != losses[2], "another iteration draws other randomness", losses)


def _train(method: Method, stage: Stage, optims: Optimizers, start: int, stop: int) -> None:
    for iteration in range(start, stop):
        step(method, stage, iteration, optims, make_batch(method, stage, seed=iteration))
