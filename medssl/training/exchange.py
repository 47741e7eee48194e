"""Training together with others: every E iterations shared tensors go out, averaged ones come in.

An :class:`Exchange` brings the tensors to the others and back (a folder, a federation engine); what
the engine needs of it is here. The optimizers' state stays where it is, as in FedAvg (McMahan et
al., 2017, algorithm 1). What may be shared is told from any method by the same rule:

* ``student``: the parameters that some stage optimizes;
* ``teacher``: the other parameters, which follow by averages. An average of averages is the average
  of the averaged students, so sharing them loses nothing;
* ``buffers``: running statistics of the normalization layers of networks that are optimized; those
  of other networks go with them, as ``teacher``.

All else stays: a method's own memory (of confidences, rewards, ...) describes the site's patients.
With ``norms`` local, normalization layers stay as well, parameters and statistics (FedBN, Li et
al., 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from medssl.errors import MedSSLError
from medssl.methods.base import Method
from medssl.methods.settings import Stage
from medssl.runs.folder import RunFolder
from medssl.runs.lineage import Lineage
from medssl.settings.recipe import Recipe

Part = Literal["student", "teacher", "buffers"]
PARTS: tuple[Part, ...] = get_args(Part)
FEDERATED = "federated"
"""Key of a run's manifest, and in its lineage: whom it was trained together with."""
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Update:
    """What a site has to offer.

    Attributes:
        tensors: the shared ones by name, float32 on the CPU; copies.
        step: iterations of all stages finished so far.
        iterations: those since the last exchange; at a site without labels, each as much as
            guesses count by then.
        labeled_patients: how many patients' labels the site trains on.
    """

    tensors: Mapping[str, Tensor]
    step: int
    iterations: int
    labeled_patients: int


class Exchange(Protocol):
    """Brings tensors to others and back.

    Attributes:
        name: what records call it; names no patient.
        every: iterations between exchanges; there is one after the last iteration, too.
        parts: what is shared.
        norms: whether normalization layers are.
        proximal: mu of FedProx (Li et al., 2020, eq. 2): (mu / 2) |w - w'|^2 is added to the loss,
            w' the shared parameters of the student as they last came; 0 adds nothing.
    """

    name: str
    every: int
    parts: tuple[Part, ...]
    norms: Literal["shared", "local"]
    proximal: float

    def open(self, run: Path, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor] | None:
        """Begin, or go on with, a run.

        Args:
            run: its folder, where the exchange may note what it took.
            tensors: what will be shared, as this site would start.

        Returns:
            What all start from; used where the run begins. None: each as it is.

        Raises:
            MedSSLError: the others share something else.
        """

    def swap(self, update: Update, stopped: Callable[[], bool]) -> Mapping[str, Tensor] | None:
        """Offer an update, wait for what comes of it.

        A run that was killed and goes on asks again for a step; it must be given the same.

        Args:
            update: of this site.
            stopped: asked while waiting; True means to return at once.

        Returns:
            The shared tensors to go on with; None: stay as they are, or it was stopped.
        """


def parts_of(method: Method, stages: Sequence[Stage]) -> dict[str, Part]:
    """Say of what could be shared which part it is, by the names of the method's state.

    The order is that of the state; what is left out always stays.
    """
    trained = {id(p) for s in stages for group in method.trainable(s.name).values() for p in group}
    found: dict[str, Part] = {
        name: "student" if id(p) in trained else "teacher" for name, p in method.named_parameters()
    }
    optimized = {name.split(".")[0] for name, part in found.items() if part == "student"}
    for prefix, module in method.named_modules():
        if isinstance(module, _NormBase):
            own = {k for k, b in module.named_buffers(recurse=False) if b.is_floating_point()}
            part: Part = "buffers" if prefix.split(".")[0] in optimized else "teacher"
            found |= {f"{prefix}.{k}": part for k in own}
    stay = tuple(f"{name}." for name in method.stay)
    return {
        name: found[name]
        for name in method.state_dict()
        if name in found and not name.startswith(stay)
    }


def shared_tensors(
    method: Method,
    stages: Sequence[Stage],
    parts: Sequence[Part] = PARTS,
    norms: Literal["shared", "local"] = "shared",
) -> dict[str, Tensor]:
    """Return the tensors of a method that are shared, by name; not copies.

    Raises:
        MedSSLError: nothing would be shared, or a tensor is not float32.
    """
    of_norms = {
        f"{prefix}.{name}"
        for prefix, module in method.named_modules()
        if isinstance(module, _NORMS)
        for name in module.state_dict()
    }
    state = method.state_dict()
    names = [
        name
        for name, part in parts_of(method, stages).items()
        if part in parts and not (norms == "local" and name in of_norms)
    ]
    found = {name: state[name] for name in names}
    other = [name for name, tensor in found.items() if tensor.dtype != torch.float32]
    if not found or other:
        raise MedSSLError(
            f"{other[0]} is {found[other[0]].dtype}: only float32 is shared"
            if other
            else f"the method has nothing of {', '.join(parts)} to share",
            fix="share other parts, or use another method or network",
        )
    return found


def refuse_unsuited(recipe: Recipe, processes: int, *, regions: bool = False) -> None:
    """Refuse what cannot be trained together with others.

    Args:
        recipe: of the site, or of all.
        processes: that share the run.
        regions: whether the site's dataset states any; sites agree on labels alone.

    Raises:
        MedSSLError: stages may end at another iteration than elsewhere, processes share the run, or
            figures would be of other structures than elsewhere.
    """
    if regions:
        raise MedSSLError(
            "a run cannot be trained together with others: this dataset states regions, and sites "
            "agree on labels alone",
            where=recipe.data.root,
            fix="leave regions out of dataset.json and of data.regions; `medssl evaluate RUN` "
            "measures them once they are stated again",
        )
    if recipe.training.early_stop:
        problem, fix = "training.early_stop ends stages at other iterations than elsewhere", "null"
    elif any(stage.reuse for stage in recipe.training.stages.values()):
        problem, fix = "training.stages.NAME.reuse skips iterations that others train", "null"
    elif processes > 1:
        problem, fix = f"{processes} processes share the run", "start it without torchrun"
    else:
        return
    raise MedSSLError(
        f"a run cannot be trained together with others: {problem}",
        fix=fix if processes > 1 else f"set it to {fix}",
    )


def refuse_other_exchange(run: RunFolder, exchange: Exchange | None) -> None:
    """Refuse to go on with a run together with others than those it was begun with.

    Raises:
        MedSSLError: it was begun alone, or with others, or is asked to go on alone.
    """
    manifest = run.read_manifest()
    begun = (manifest.get(FEDERATED) or {}).get("name")
    now = None if exchange is None else exchange.name
    if manifest and begun != now:
        raise MedSSLError(
            f"the run was begun {_with(begun)}, and cannot go on {_with(now)}",
            where=run.path,
            fix="go on with it as it was begun, or train into another --output",
        )


def _with(name: str | None) -> str:
    return "alone" if name is None else f"together with others ({name})"


def federated_ancestor(exchange: Exchange) -> Lineage:
    """Return what lineage says of the others: that they are, and that their patients are unknown.

    No site learns the patients of another, so nothing more can be recorded.
    """
    return Lineage(how=FEDERATED, source=exchange.name, known=False)
