"""Updates that are not taken: each is refused by name, and the round goes on without it."""

from __future__ import annotations

import hmac
import io
import json
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from federations import base_of, begin, joined, message, never, newest, send, serve, update

from medssl.errors import MedSSLError
from medssl.federation.agreed import read_site_key
from medssl.federation.create import Created
from medssl.federation.messages import MAGIC, Header, global_name, packed, update_name
from medssl.federation.server import federate_server


def poisoned(found: Created, value: float) -> bytes:
    tensors = base_of(found)
    next(iter(tensors.values())).view(-1)[3] = value
    return message(found, "C", tensors=tensors)


def flipped(found: Created, place: int) -> bytes:
    content = bytearray(message(found, "C"))
    content[place] ^= 1
    return bytes(content)


def saved(found: Created) -> bytes:
    file = io.BytesIO()
    torch.save(base_of(found), file)
    return file.getvalue()


class Harmful:
    """Ends the test where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return pytest.fail, ("the pickle was run",)


def unknown_header(found: Created) -> bytes:
    text = json.dumps({"kind": "update", "path": "/data/anna.nii.gz"}).encode()
    body = MAGIC + struct.pack("<I", len(text)) + text
    payload = message(found, "C")
    size = sum(4 * t.numel() for t in base_of(found).values())
    secret = read_site_key(found.keys["C"]).secret
    body += payload[-32 - size : -32]
    return body + hmac.digest(secret, body, "sha256")


HOSTILE: dict[str, tuple[Callable[[Created], bytes], str]] = {
    "truncated": (lambda f: message(f, "C")[:-100], "has .* bytes, not the"),
    "cut in its header": (lambda f: message(f, "C")[:20], "cut off after 20 bytes"),
    "empty": (lambda f: b"", "cut off after 0 bytes"),
    "longer": (lambda f: message(f, "C") + b"x", "not the .* of the agreed tensors"),
    "far longer": (lambda f: message(f, "C") + bytes(2**17), "more than a message can have"),
    "wrong shapes": (
        lambda f: packed_other(f),
        "not the .* of the agreed tensors",
    ),
    "pickle": (lambda f: pickle.dumps(Harmful()), "no message of a federation"),
    "checkpoint": (saved, "no message of a federation"),
    "infinity": (lambda f: poisoned(f, float("inf")), "not finite"),
    "not a number": (lambda f: poisoned(f, float("nan")), "not finite"),
    "another recipe": (lambda f: message(f, "C", federation="0" * 64), "of another recipe"),
    "another round": (lambda f: message(f, "C", round=2), "of another round"),
    "another base": (lambda f: message(f, "C", base="0" * 64), "another base model"),
    "another kind": (lambda f: message(f, "C", kind="global"), "of another kind"),
    "another site's key": (lambda f: message(f, "C", key="B"), "not authenticated by the key of C"),
    "another site's update": (lambda f: message(f, "B"), "not authenticated by the key of C"),
    "another name": (lambda f: message(f, "C", site="B"), "names another site"),
    "changed tensor": (lambda f: flipped(f, -100), "not authenticated"),
    "changed header": (lambda f: flipped(f, 60), "not authenticated"),
    "changed hash": (lambda f: flipped(f, -1), "not authenticated"),
    "long header": (
        lambda f: MAGIC + struct.pack("<I", 2**31) + message(f, "C")[len(MAGIC) + 4 :],
        "not the .* of the agreed tensors",
    ),
    "unknown header": (unknown_header, "header is not that of a message"),
    "many iterations": (lambda f: message(f, "C", figures={"iterations": 10**9}), "figures"),
    "no figures": (lambda f: message(f, "C", figures={}), "figures"),
}


def packed_other(found: Created) -> bytes:
    """A network with one more channel, signed with the right key."""
    own = read_site_key(found.keys["C"])
    header = Header(kind="update", federation=own.federation, site="C", round=1, base=newest(found))
    return packed(header, torch.zeros(5000).numpy().tobytes(), [own.secret])


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> Created:
    return begin(tmp_path_factory.mktemp("hostile"))


def fresh(found: Created) -> None:
    """Take a federation back to its first round."""
    for path in (*found.folder.glob("update-*"), *found.folder.glob("global-0001*")):
        path.unlink()
    for name in ("rounds.json", global_name(1)):
        (found.server / name).unlink(missing_ok=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_an_update_is_refused_by_name_and_the_round_goes_on(name: str, agreed: Created) -> None:
    fresh(agreed)
    make, why = HOSTILE[name]
    send(agreed, "A", value=1.0)
    send(agreed, "B", value=3.0)
    (agreed.folder / update_name(1, "C")).write_bytes(make(agreed))
    (found,) = serve(agreed, wait_minutes=0)
    assert found.weights == {"A": 0.5, "B": 0.5}
    assert set(found.refused) == {"C"}
    assert re.search(why, found.refused["C"]), found.refused


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_file_of_its_own_is_refused(kind: str, agreed: Created) -> None:
    fresh(agreed)
    send(agreed, "A")
    send(agreed, "B")
    path = agreed.folder / update_name(1, "C")
    if kind == "link":
        elsewhere = agreed.server / "elsewhere.bin"
        elsewhere.write_bytes(message(agreed, "C"))
        path.symlink_to(elsewhere)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    try:
        (found,) = serve(agreed)
        assert "C" in found.refused
        assert found.weights.keys() == {"A", "B"}
    finally:
        path.rmdir() if kind == "folder" else path.unlink()


def test_a_replayed_round_and_a_length_that_is_unusual(agreed: Created) -> None:
    fresh(agreed)
    old = send(agreed, "C", value=1.0)
    send(agreed, "A", value=1.0)
    send(agreed, "B", value=1.0)
    assert len(serve(agreed)) == 1
    send(agreed, "A", 2, value=2.0)
    send(agreed, "B", 2, value=50.0)
    (agreed.folder / update_name(2, "C")).write_bytes(old)
    found = serve(agreed, wait_minutes=0, display=None)
    assert len(found) == 1, "one good update is not the two that were agreed"
    send(agreed, "C", 2, value=1.5)
    found = serve(agreed)
    assert found[-1].refused.keys() == {"B"}
    assert "times the usual" in found[-1].refused["B"]
    for path in (*agreed.folder.glob("*0002*"), *agreed.server.glob("*0002*")):
        path.unlink()


def test_a_site_takes_no_other_model(agreed: Created, tmp_path: Path) -> None:
    fresh(agreed)
    said: list[str] = []
    site = joined(agreed, "A", tmp_path / "run", said)
    forged = agreed.folder / global_name(1)
    send(agreed, "B", value=1.0)
    send(agreed, "C", value=1.0)
    bad = {
        "replayed": (agreed.server / global_name(0)).read_bytes(),
        "not authenticated": (agreed.server / global_name(0)).read_bytes()[:-96] + bytes(96),
    }
    for content in bad.values():
        forged.write_bytes(content)
        assert site._read(1) is None
    assert any("of another round" in line for line in said)
    assert any("not authenticated by the key of this site" in line for line in said)
    forged.unlink()
    forged.symlink_to(agreed.server / global_name(0))
    assert site._read(1) is None
    assert any("a link" in line for line in said)
    send(agreed, "A", value=1.3)
    (found,) = serve(agreed)
    taken = site.swap(update(agreed, 2, 1.3), never())
    assert taken is not None
    assert next(iter(taken.values())).view(-1)[0].item() == pytest.approx(1.1)
    assert found.refused == {}
    assert not forged.is_symlink()


def test_what_was_agreed_cannot_be_changed(agreed: Created, tmp_path: Path) -> None:
    fresh(agreed)
    path = agreed.folder / "federation.json"
    text = path.read_text()
    path.write_text(text.replace('"norm_limit": 3.0', '"norm_limit": 300.0'))
    with pytest.raises(MedSSLError, match="not what this key was made for"):
        joined(agreed, "A", tmp_path / "run")
    serve(agreed)
    assert path.read_text() == text, "the server puts back its own"
    with pytest.raises(MedSSLError, match="no folder of a server"):
        federate_server(agreed.folder, tmp_path)
