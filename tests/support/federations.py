"""Small federations, and sites that send what a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from helpers import small_recipe, write_recipe
from torch import Tensor

from medssl.federation.agreed import read_agreed, read_site_key
from medssl.federation.create import Created, Terms, federate_init
from medssl.federation.messages import Header, as_bytes, packed, update_name
from medssl.federation.server import Round, federate_server
from medssl.federation.site import FolderExchange
from medssl.training.exchange import Update

LABELS = ["background", "bright", "dim"]


def begin(folder: Path, *sites: str, recipe: Path | None = None, **options: Any) -> Created:
    """Begin a federation of a small network; by default three sites and rounds of two."""
    if recipe is None:
        content = small_recipe(folder, folder, method={"name": "supervised"})
        recipe = write_recipe(folder / "agreed.yaml", content)
    return federate_init(
        folder / "shared",
        folder / "server",
        recipe,
        sites=sites or ("A", "B", "C"),
        labels=options.pop("labels", LABELS),
        overrides=options.pop("overrides", ()),
        terms=Terms(**{"every": 2, **options}),
    )


def joined(found: Created, site: str, run: Path, said: list[str] | None = None) -> FolderExchange:
    """Return the exchange of a site whose run begins, or goes on."""
    lines: list[str] = [] if said is None else said
    key = read_site_key(found.keys[site])
    exchange = FolderExchange(found.folder, key, say=lines.append, poll_seconds=0.01)
    run.mkdir(exist_ok=True)
    exchange.open(run, base_of(found))
    return exchange


def base_of(found: Created, value: float = 0.0) -> dict[str, Tensor]:
    """Return tensors of the agreed shapes, all of one value."""
    shapes = read_agreed(found.folder, None).tensors
    return {name: torch.full(tuple(shape), value) for name, shape in shapes.items()}


def message(
    found: Created,
    sender: str,
    *,
    tensors: Mapping[str, Tensor] | None = None,
    key: str | None = None,
    **changes: Any,
) -> bytes:
    """Return an update of a site for the first round; ``changes`` are to its header."""
    own = read_site_key(found.keys[sender])
    agreed = read_agreed(found.folder, None)
    header = {
        "kind": "update",
        "federation": own.federation,
        "site": sender,
        "round": 1,
        "base": agreed.base,
        "figures": {"iterations": 2},
    }
    payload = as_bytes(base_of(found) if tensors is None else tensors, agreed.tensors)
    secret = (own if key is None else read_site_key(found.keys[key])).secret
    return packed(Header.model_validate({**header, **changes}), payload, [secret])


def send(found: Created, site: str, round_: int = 1, value: float = 0.0, **changes: Any) -> bytes:
    """Let a site send tensors of one value for a round that starts from the newest model."""
    base = newest(found)
    content = message(
        found,
        site,
        tensors=base_of(found, value),
        round=round_,
        **{"base": base, **changes},
    )
    (found.folder / update_name(round_, site)).write_bytes(content)
    return content


def newest(found: Created) -> str:
    """Return the hash of the newest model."""
    ledger = found.server / "rounds.json"
    if not ledger.is_file():
        return read_agreed(found.folder, None).base
    return str(json.loads(ledger.read_text())["rounds"][-1]["model"])


def serve(found: Created, **options: Any) -> list[Round]:
    """Let the server close what can be closed."""
    return federate_server(found.folder, found.server, once=True, **options)


def update(found: Created, step: int, value: float) -> Update:
    """Return what the engine offers."""
    return Update(base_of(found, value), step, 2, 3)


def never() -> Callable[[], bool]:
    """Return what says that no signal has arrived."""
    return lambda: False
