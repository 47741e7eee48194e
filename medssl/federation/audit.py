"""What lies in the folder: who has answered, and all that left a site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medssl.errors import MedSSLError
from medssl.federation.agreed import read_agreed
from medssl.federation.messages import Refused, global_name, model_hash, read_body, update_name
from medssl.paths import AnyPath


def federate_status(folder: AnyPath) -> dict[str, Any]:
    """Say how far a federation is; needs no key, and so believes what lies in the folder.

    Returns:
        ``rounds`` (of all), ``closed`` (the newest that is there), ``open`` (its number; None at
        the end), ``answered`` and ``waiting`` (sites).
    """
    where = Path(folder)
    agreed = read_agreed(where, None)
    there = [n for n in range(agreed.rounds + 1) if (where / global_name(n)).is_file()]
    closed = max(there, default=0)
    due = closed + 1 if closed < agreed.rounds else None
    answered = [s for s in agreed.sites if due and (where / update_name(due, s)).is_file()]
    return {
        "federation": agreed.id,
        "rounds": agreed.rounds,
        "closed": closed,
        "open": due,
        "answered": answered,
        "waiting": [s for s in agreed.sites if due and s not in answered],
    }


def federate_audit(folder: AnyPath, round_: int) -> dict[str, Any]:
    """List all that left the sites in a round; needs no key.

    Every byte of a message is accounted for: what it says of itself, tensors by name and shape, and
    a keyed hash.

    Args:
        folder: where the sites meet.
        round_: its number.

    Returns:
        ``tensors`` (shapes by name, the same in all messages), and ``messages``: by file name
        ``header``, ``bytes``, ``sha256`` of the tensors; or ``refused``, why it is none.

    Raises:
        MedSSLError: there is no such round.
    """
    where = Path(folder)
    agreed = read_agreed(where, None)
    if not 0 <= round_ <= agreed.rounds:
        raise MedSSLError(
            f"there is no round {round_}", where=where, fix=f"name one of 1 to {agreed.rounds}"
        )
    names = {global_name(round_): len(agreed.sites)}
    names |= {update_name(round_, site): 1 for site in agreed.sites}
    messages: dict[str, Any] = {}
    for name, tags in names.items():
        try:
            body, header, payload, hashes = read_body(where / name, agreed.tensors, tags)
            messages[name] = {
                "header": json.loads(header),
                "bytes": len(body) + len(hashes),
                "sha256": model_hash(payload),
            }
        except FileNotFoundError:
            continue
        except (Refused, ValueError, RecursionError) as refused:
            messages[name] = {"refused": str(refused)}
    return {"round": round_, "tensors": agreed.tensors, "messages": messages}
