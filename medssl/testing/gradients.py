"""Gradients go where they belong, and nowhere else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, LabeledBatch, Method, StepOutput
from medssl.methods.settings import Stage
from medssl.testing.contract import expect
from medssl.testing.subject import (
    Subject,
    make_batch,
    optimizers,
    progress_of,
    step,
    sure_network,
)


def check_training_moves_what_is_trainable(subject: Subject) -> None:
    """Every stage moves its parameters, gives no other one a gradient, and logs its terms."""
    method = None
    for method, stage in subject.in_stages():
        trained = trained_in(method, stage)
        expect(trained, f"stage {stage.name!r} trains at least one parameter", "none")
        for iteration in range(2):
            before = {id(p): p.detach().clone() for p in trained}
            optims = optimizers(method, stage)
            batch = make_batch(method, stage, seed=iteration)
            total, output = step(method, stage, iteration, optims, batch)
            expect(torch.isfinite(total), f"the loss of stage {stage.name!r} is finite", total)
            _no_gradient_elsewhere(method, stage)
            # A method may train its parts in turn: what has no gradient is not its turn.
            moved = [not torch.equal(before[id(p)], p) for p in trained if p.grad is not None]
            expect(
                sum(moved) > len(moved) / 2 > 0,
                f"a step of stage {stage.name!r} moves most parameters that it trains",
                f"{sum(moved)} of {len(moved)} with a gradient moved",
            )
            _terms_can_be_logged(output)
    assert method is not None
    if method.settings.segments:
        _predictor_gives_logits(subject, method)


def check_unlabeled_images_move_the_student(subject: Subject) -> None:
    """Unlabeled images alone, with every label ignored, give a finite gradient that is not 0."""
    for method, stage in subject.in_stages(network=sure_network):
        if "unlabeled" not in stage.streams:
            continue
        optims = optimizers(method, stage)
        step(method, stage, 0, optims, make_batch(method, stage))
        batch = make_batch(method, stage, seed=1)
        if batch.labeled is not None:
            blank = torch.full_like(batch.labeled.label, 255)
            batch = Batch(LabeledBatch(batch.labeled.image, blank), batch.unlabeled)
        _expect_gradient(method, stage, batch, "with every label ignored")
        if method.settings.labels_optional:  # as at a site that has no labels
            _expect_gradient(method, stage, Batch(None, batch.unlabeled), "without labeled patches")


def _expect_gradient(method: Method, stage: Stage, batch: Batch, how: str) -> None:
    """Look at the end of the stage, where every ramp has risen."""
    trained = trained_in(method, stage)
    for parameter in trained:
        parameter.grad = None
    for loss in method.training_step(batch, progress_of(stage, stage.iterations - 1)).losses():
        loss.backward()
    norm = sum(p.grad.abs().sum().item() for p in trained if p.grad is not None)
    expect(
        0 < norm < float("inf"),
        f"at the end of stage {stage.name!r} unlabeled images alone give a gradient, {how}",
        f"sum of absolute values {norm}",
    )


def trained_in(method: Method, stage: Stage) -> list[nn.Parameter]:
    """Return the parameters that a stage trains."""
    return [p for group in method.trainable(stage.name).values() for p in group]


def _no_gradient_elsewhere(method: Method, stage: Stage) -> None:
    trained = {id(p) for p in trained_in(method, stage)}
    for name, parameter in method.named_parameters():
        expect(
            id(parameter) in trained or parameter.grad is None,
            f"parameter {name!r} has no gradient, since stage {stage.name!r} does not train it "
            "(a teacher predicts under torch.no_grad, and its parameters require no gradient)",
            "a gradient",
        )


def _terms_can_be_logged(output: StepOutput) -> None:
    expect(
        any(key.startswith("loss/") for key in output.terms),
        "the terms name at least one loss (loss/labeled, loss/unlabeled, ...)",
        sorted(output.terms),
    )
    for key, value in output.terms.items():
        good = isinstance(value, Tensor) and value.ndim == 0 and not value.requires_grad
        expect(good, f"term {key!r} is a detached tensor without dimensions", value)
        expect(torch.isfinite(value), f"term {key!r} is finite", value)


def _predictor_gives_logits(subject: Subject, method: Method) -> None:
    with torch.no_grad():
        logits = method.predictor().eval()(torch.randn(1, 1, *subject.shape))
    wanted = (1, subject.classes, *subject.shape)
    expect(
        tuple(logits.shape) == wanted, f"the predictor gives logits {wanted}", tuple(logits.shape)
    )
