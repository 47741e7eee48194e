"""A model written down: the networks it consists of, and how they are put together.

The description is plain JSON. :func:`rebuild` makes the model again inside medssl from registered
names alone; :func:`to_config` writes it as MONAI configuration for everybody else.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from medssl.bundle.scripts import target
from medssl.errors import MedSSLError
from medssl.methods.umct_predictor import FusedNetworks, OrientedNetwork
from medssl.networks.build import Blueprint, blueprint_of
from medssl.networks.ensemble import Ensemble
from medssl.networks.tempered import Tempered

Tree = dict[str, Any]

_FUSION = ("fusion", "samples", "granularity", "eps")


def describe(model: nn.Module) -> Tree:
    """Describe a method's predictor.

    Raises:
        MedSSLError: a part of it is none of medssl's networks.
    """
    blueprint = blueprint_of(model)
    if blueprint is not None:
        return {"kind": "network", **vars(blueprint)}
    if isinstance(model, Ensemble):
        return {"kind": "ensemble", "members": [describe(m) for m in model.members]}
    if isinstance(model, Tempered):
        network = describe(model.network)
        return {"kind": "tempered", "temperature": model.temperature, "network": network}
    if isinstance(model, OrientedNetwork):
        return {"kind": "view", "view": list(model.orientation), "network": describe(model.network)}
    if isinstance(model, FusedNetworks):
        return {
            "kind": "views",
            "members": [describe(m) for m in model.members],
            **{key: getattr(model, key) for key in _FUSION},
        }
    raise MedSSLError(
        f"a {type(model).__name__} cannot be written into a bundle",
        fix="export a run whose network is one of `medssl info`",
    )


def rebuild(tree: Tree) -> nn.Module:
    """Build a freshly initialized model from its description.

    Raises:
        MedSSLError: the description is damaged or names what is not there.
    """
    try:
        match tree["kind"]:
            case "network":
                return Blueprint(**{k: v for k, v in tree.items() if k != "kind"}).build()
            case "ensemble":
                return Ensemble([rebuild(m) for m in tree["members"]])
            case "tempered":
                return Tempered(rebuild(tree["network"]), float(tree["temperature"]))
            case "view":
                return OrientedNetwork(rebuild(tree["network"]), tuple(tree["view"]))
            case "views":
                views = [tuple(m["view"]) for m in tree["members"]]
                networks = [rebuild(m["network"]) for m in tree["members"]]
                return FusedNetworks(networks, views, **{k: tree[k] for k in _FUSION})
    except (KeyError, TypeError, ValueError) as error:
        raise MedSSLError(
            f"the description of the model is damaged ({error!r})", fix="export the run again"
        ) from error
    raise MedSSLError(
        f"a model of kind {tree['kind']!r} is unknown",
        fix="read the bundle with the medssl that wrote it",
    )


def to_config(tree: Tree) -> dict[str, Any]:
    """Write a model as MONAI configuration; see :func:`needed_modules` for what it may import."""
    match tree["kind"]:
        case "network":
            kind, arguments = _blueprint(tree).constructor()
            return {"_target_": target(kind), **arguments}
        case "ensemble":
            members = [to_config(m) for m in tree["members"]]
            return {"_target_": target(Ensemble), "members": members}
        case "tempered":
            return {
                "_target_": target(Tempered),
                "network": to_config(tree["network"]),
                "temperature": tree["temperature"],
            }
        case "view":
            return {
                "_target_": target(OrientedNetwork),
                "network": to_config(tree["network"]),
                "orientation": tree["view"],
            }
    return {
        "_target_": target(FusedNetworks),
        "networks": [to_config(m["network"]) for m in tree["members"]],
        "orientations": [m["view"] for m in tree["members"]],
        **{key: tree[key] for key in _FUSION},
    }


def needed_modules(tree: Tree) -> list[str]:
    """Return the modules of the networks that are not MONAI's, for a bundle's ``scripts``."""
    return sorted({k.__module__ for k in _kinds(tree) if not k.__module__.startswith("monai.")})


def network_names(tree: Tree) -> set[str]:
    """Return the registered names of all networks of a model."""
    own = {tree["name"]} if tree["kind"] == "network" else set()
    children = [*tree.get("members", []), *([tree["network"]] if "network" in tree else [])]
    return own.union(*map(network_names, children))


def _kinds(tree: Tree) -> list[type[nn.Module]]:
    """Return the classes that a model is made of."""
    kinds: list[type[nn.Module]] = []

    def collect(node: Tree) -> None:
        match node["kind"]:
            case "network":
                kinds.append(_blueprint(node).constructor()[0])
            case "ensemble":
                kinds.append(Ensemble)
            case "tempered":
                kinds.append(Tempered)
            case "view":
                kinds.append(OrientedNetwork)
            case "views":
                kinds.append(FusedNetworks)
        for child in [*node.get("members", []), *([node["network"]] if "network" in node else [])]:
            collect(child)

    collect(tree)
    return kinds


def _blueprint(tree: Tree) -> Blueprint:
    return Blueprint(**{k: v for k, v in tree.items() if k != "kind"})
