"""How far a student's voxels are from those of a teacher: divergences of two predictions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medssl.ops.variants import Divergence


def divergence(
    logits: Tensor, teacher_logits: Tensor, *, kind: Divergence = "js", temperature: float = 1.0
) -> Tensor:
    """Compute the mean over voxels of the divergence of two softmax outputs, times ``T^2``.

    With q the teacher's and p the student's probabilities at temperature T: ``kl`` is
    ``sum q log(q / p)``; ``js`` is the mean of ``sum q log(q / m)`` and ``sum p log(p / m)``, with
    ``m = (p + q) / 2``. ``T^2`` keeps the size of the gradient. No gradient reaches the teacher.

    Args:
        logits: the student's, ``(B, C, *spatial)``.
        teacher_logits: the same shape; logarithms of probabilities will do.
        kind: which divergence.
        temperature: divides both logits.

    Source: Hinton et al. 2015, section 2 (KL, T); SSLD (Cui et al. 2021, arXiv 2103.05959) for JS.
    """
    log_p = torch.log_softmax(logits.float() / temperature, dim=1)
    log_q = torch.log_softmax(teacher_logits.detach().float() / temperature, dim=1)
    p, q = log_p.exp(), log_q.exp()
    if kind == "kl":
        value = (q * (log_q - log_p)).sum(dim=1)
    else:
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        value = (q * (log_q - log_m) + p * (log_p - log_m)).sum(dim=1) / 2
    return temperature**2 * value.mean()
