"""Losses are float32 and finite under mixed precision."""

from __future__ import annotations

import torch

from medssl.testing.contract import expect
from medssl.testing.subject import Subject, make_batch, progress_of


def check_losses_under_autocast(subject: Subject, *, dtype: torch.dtype) -> None:
    """Losses and gradients are finite, and losses float32, where networks compute in ``dtype``."""
    for method, stage in subject.in_stages():
        progress = progress_of(stage, 1)
        with torch.autocast("cpu", dtype=dtype):
            losses = list(method.training_step(make_batch(method, stage), progress).losses())
        for loss in losses:
            expect(
                loss.dtype == torch.float32,
                "losses are float32 under autocast (call .float() on logits first)",
                loss.dtype,
            )
            expect(torch.isfinite(loss), f"the loss of stage {stage.name!r} is finite", loss)
            loss.backward()
        grads = [(n, p.grad) for n, p in method.named_parameters() if p.grad is not None]
        expect(grads, f"stage {stage.name!r} gives gradients", "none")
        bad = [name for name, grad in grads if not torch.isfinite(grad).all()]
        expect(not bad, "all gradients are finite", f"not those of {', '.join(bad)}")
