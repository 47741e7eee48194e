"""A method that starts from trained weights: what of them fits is loaded, and all of it is told.

Layers whose size depends on the number of classes or of image channels (found by building the
network with one more of each) may differ; they then stay new. Everything else must fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError
from medssl.methods.base import Method
from medssl.models.given_tensors import Given, read_given
from medssl.networks.build import blueprint_of
from medssl.runs.given_weights import find_weights
from medssl.runs.lineage import INIT

_SHOWN = 5
_PREFERRED = "teacher."
"""Of several networks in a file, the average is the better model."""


@dataclass(frozen=True)
class Fit:
    """What of given weights goes into a network.

    Attributes:
        tensors: those that are loaded, by the network's names.
        new: names of the network's that stay as they are, and why.
        left: names of the file's that nothing took.
        prefix: what stands before the network's names in the file.
    """

    tensors: Mapping[str, Tensor]
    new: Mapping[str, str]
    left: tuple[str, ...]
    prefix: str


def warm_start(
    method: Method, init: str, labels: LabelMap, say: Callable[[str], None]
) -> dict[str, Any]:
    """Give a method the trained weights that a recipe names, and say what was loaded.

    Args:
        method: with random weights.
        init: ``network.init``.
        labels: of the dataset that is trained on. Where those of a run are others, the head stays
            new, though it may have as many classes.
        say: tells the user a line.

    Returns:
        What the manifest says: ``source``, ``kind``, ``file``, ``sha256``, ``loaded`` (names),
        ``new`` (reasons by name), ``left`` (names in the file that were not needed), ``known``
        (whether it is recorded whose labels they were trained on).

    Raises:
        MedSSLError: it cannot be read, nothing of it fits, or its body is of another size.
    """
    given = read_given(find_weights(Path(init)))
    fits: list[Fit] = []

    def load(network: nn.Module, *, keep_head: bool = False) -> None:
        fit = fit_weights(given, network, labels)
        if not fits:
            fits.append(fit)
        kept = _parts(network)[0] if keep_head else set()
        state = {n: v for n, v in fit.tensors.items() if n not in kept}
        network.load_state_dict({**network.state_dict(), **state})

    method.start_from(load)
    if not fits:
        raise MedSSLError(
            f"{INIT}: the method has no network that could start from given weights",
            where=init,
            fix="leave it out, or say in the method's start_from which network takes them",
        )
    record = _record(given, fits[0])
    for line in described(record):
        say(line)
    return record


def fit_weights(given: Given, network: nn.Module, labels: LabelMap | None = None) -> Fit:
    """Find what of given weights goes into a network.

    Args:
        given: the weights.
        network: as built; nothing of it is changed.
        labels: of the dataset; None where only the number of classes counts.

    Raises:
        MedSSLError: no tensor fits, or one of the body has another shape.
    """
    wanted = network.state_dict()
    prefix = _prefix(given.tensors, wanted)
    found = {k.removeprefix(prefix): v for k, v in given.tensors.items() if k.startswith(prefix)}
    head, stem = _parts(network)
    other_labels = None not in (given.labels, labels) and _classes(given.labels) != _classes(labels)
    tensors: dict[str, Tensor] = {}
    new: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for name, own in wanted.items():
        there = found.get(name)
        if there is None:
            new[name] = "not in the file"
        elif there.shape != own.shape:
            sizes = f"{_size(there)} in the file, {_size(own)} here"
            (new if name in head | stem else wrong)[name] = sizes
        elif other_labels and name in head:
            new[name] = "its classes are others"
        else:
            tensors[name] = there
    if not tensors:
        raise _unfit(given, wanted)
    if wrong:
        raise _other_body(given, wrong, len(tensors))
    left = [k for k in given.tensors if k.removeprefix(prefix) not in tensors]
    return Fit(tensors, new, tuple(left), prefix)


def _parts(network: nn.Module) -> tuple[set[str], set[str]]:
    """Return the names of what depends on the number of classes, and of image channels."""
    blueprint = blueprint_of(network)
    if blueprint is None:
        return set(), set()
    own = {k: v.shape for k, v in network.state_dict().items()}
    out: list[set[str]] = []
    for field in ("num_classes", "in_channels"):
        one_more = replace(blueprint, **{field: getattr(blueprint, field) + 1})
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):  # shapes alone
                other = one_more.build().state_dict()
        except Exception:  # a network for so many classes or channels alone
            out.append(set())
            continue
        out.append({k for k, shape in own.items() if k in other and other[k].shape != shape})
    return out[0], out[1]


def _prefix(there: Iterable[str], wanted: Mapping[str, Tensor]) -> str:
    """Return what stands before the network's names in a file: what makes most of them fit."""
    names = list(there)
    known = set(names)
    possible = {
        name[: -len(own)]
        for name in names
        for own in wanted
        if name == own or name.endswith(f".{own}")
    }
    found = [(sum(p + own in known for own in wanted), p) for p in possible]
    best = min(found, key=lambda f: (-f[0], f[1] != _PREFERRED, len(f[1]), f[1]), default=(0, ""))
    return best[1]


def _classes(labels: LabelMap | None) -> tuple[str, ...]:
    return () if labels is None else tuple(name.casefold() for name in labels.names[1:])


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _unfit(given: Given, wanted: Mapping[str, Tensor]) -> MedSSLError:
    def some(tensors: Mapping[str, Tensor]) -> str:
        name = next(iter(tensors), "")
        return f"{len(tensors)} tensors, {name} {_size(tensors[name])} first" if name else "none"

    return MedSSLError(
        f"{INIT}: nothing of the file fits the network: it holds {some(given.tensors)}, and the "
        f"network wants {some(wanted)}",
        where=given.source.file,
        fix="name weights of the same network, or set `network` to the one they are of",
    )


def _other_body(given: Given, wrong: Mapping[str, str], fitting: int) -> MedSSLError:
    listed = "; ".join(f"{name}: {sizes}" for name, sizes in list(wrong.items())[:_SHOWN])
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return MedSSLError(
        f"{INIT}: the weights are of a network of other sizes: {fitting} tensors fit, {len(wrong)} "
        f"do not ({listed}{more})",
        where=given.source.file,
        fix="give `network` the settings that these weights were trained with (for a run, those in "
        "its recipe.yaml)",
    )


def _record(given: Given, fit: Fit) -> dict[str, Any]:
    source = given.source
    return {
        "source": str(source.path),
        "kind": source.kind,
        "file": source.file.name,
        "sha256": given.sha256,
        "loaded": list(fit.tensors),
        "new": dict(fit.new),
        "left": list(fit.left),
        "known": source.kind == "run",
    }


def described(record: Mapping[str, Any]) -> list[str]:
    """Lay out what was loaded: a line for all that was, and one for each layer that is new."""
    loaded, new = record["loaded"], record["new"]
    name = record["source"] + ("" if record["kind"] == "file" else f" ({record['file']})")
    lines = [f"{INIT}: {len(loaded)} of {len(loaded) + len(new)} tensors are loaded from {name}"]
    shown = list(new.items())[:_SHOWN]
    width = max((len(k) for k, _ in shown), default=0)
    lines += [f"  new  {key:<{width}}  {reason}" for key, reason in shown]
    if len(new) > _SHOWN:
        lines.append(f"  new  and {len(new) - _SHOWN} more: manifest.json lists them (init)")
    if not record["known"]:
        lines.append(
            f"warning: {INIT}: whose labels and images these weights have seen is not known: "
            "scores of patients that were among them would be too good"
        )
    return lines
