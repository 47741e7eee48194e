"""Uncertainty of a prediction: stochastic passes (Monte-Carlo dropout), entropy, temperature."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from medssl.ops.modes import eval_mode
from medssl.ops.variants import Granularity


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    """Return the dropout layers of a network that do something (p > 0)."""
    return [m for m in network.modules() if isinstance(m, _DropoutNd) and m.p > 0]


@contextmanager
def stochastic_mode(network: nn.Module) -> Iterator[None]:
    """Switch dropout on and everything else to evaluation, without gradients; undo it afterwards.

    BatchNorm uses its running statistics and leaves them alone: otherwise the passes would differ
    by the batch, and drift.
    """
    with eval_mode(network), torch.no_grad():
        for layer in dropout_layers(network):
            layer.train()
        try:
            yield
        finally:
            # Under autocast, weights cast without gradients would be reused by the next pass.
            torch.clear_autocast_cache()


def passes_differ(network: nn.Module, image: Tensor) -> bool:
    """Return whether two stochastic passes over ``image`` differ; torch's generator stays.

    A network may have dropout layers and not use them.
    """
    devices = [image.device] if image.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), stochastic_mode(network):
        return not torch.equal(network(image), network(image))


@torch.no_grad()
def mc_statistics(samples: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean and population variance over samples, holding two maps and not all samples.

    ``U = mean_k(p_k^2) - (mean_k p_k)^2``, in Welford's centered form: the difference of two nearly
    equal sums would be noise, and sometimes negative, just where a network is certain.

    Args:
        samples: K tensors of one shape, for instance ``(B, C, *spatial)`` probabilities, or one
            tensor with K as its first axis. Half precision is summed in float32.

    Source: Xia et al., UMCT (WACV 2020), epistemic uncertainty from K dropout passes.
    """
    mean = squares = None
    count = 0
    for count, sample in enumerate(samples, start=1):
        value = sample if sample.dtype == torch.float64 else sample.float()
        if mean is None or squares is None:
            mean, squares = value.clone(), torch.zeros_like(value)
            continue
        delta = value - mean
        mean.add_(delta, alpha=1 / count)
        squares.addcmul_(delta, value - mean)
    if mean is None or squares is None:
        raise ValueError("no samples to take statistics of")
    return mean, squares.div_(count).clamp_min_(0)


def reduce_uncertainty(variance: Tensor, granularity: Granularity = "voxel") -> Tensor:
    """Reduce a variance per voxel and class to the wanted granularity, ready to broadcast.

    Args:
        variance: ``(B, C, *spatial)``.
        granularity: ``voxel`` averages over classes ``(B, 1, *spatial)``; ``class`` keeps all;
            ``sample`` averages over classes and voxels ``(B, 1, 1, ...)``.
    """
    if granularity == "class":
        return variance
    if granularity == "voxel":
        return variance.mean(dim=1, keepdim=True)
    if granularity == "sample":
        return variance.mean(dim=tuple(range(1, variance.ndim)), keepdim=True)
    raise ValueError(f"granularity must be voxel, class or sample, not {granularity!r}")


def predictive_entropy(probs: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Return ``-sum_c p log(p + eps)`` in nats, ``(B, *spatial)``, from 0 to log C.

    Args:
        probs: ``(B, C, *spatial)`` probabilities, for instance the mean of several passes.
        eps: keeps the logarithm finite.
    """
    return -(probs * (probs + eps).log()).sum(dim=1)


def tempered(probs: Tensor, temperature: float, *, dim: int = 0) -> Tensor:
    """Return ``p^(1/T)``, normalized over the classes: less certain for T > 1, more for T < 1.

    The order of the classes in a voxel stays. With ``p = softmax(z)`` it is ``softmax(z / T)``.

    Args:
        probs: float32 probabilities.
        temperature: T > 0; at 1 the probabilities are returned as they are.
        dim: axis of the classes.
    """
    if temperature == 1:
        return probs
    logs = probs.clamp_min(torch.finfo(probs.dtype).tiny).log_()
    return logs.div_(temperature).softmax(dim=dim)
