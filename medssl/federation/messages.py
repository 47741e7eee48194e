"""What lies in the folder: tensors with a header, authenticated by the key of each receiver.

A message is ``MAGIC``, the length of its header, the header (JSON), the bytes of all tensors
(little endian float32, in the agreed order), and one HMAC-SHA256 of all before for each key. Its
length follows from what was agreed; there is no pickle and no archive in it, so that nothing is
unpacked, let alone run. The keyed hash is checked before a byte of the header is read. File names
only say where to look: what a message is stands in its authenticated header.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medssl.strict import Strict

MAGIC = b"medssl-federated-1\n"
TAG_BYTES = 32
_LENGTH = struct.Struct("<I")
_MOST_HEADER = 2**16
Shapes = Mapping[str, Sequence[int]]


class Refused(Exception):  # noqa: N818 - it is an answer, not a fault of ours
    """A message that is not taken, and why.

    Attributes:
        arriving: whether it may be one that is still being copied.
    """

    def __init__(self, why: str, *, arriving: bool = False) -> None:
        super().__init__(why)
        self.arriving = arriving


class Header(Strict):
    """What a message says of itself.

    Attributes:
        kind: ``update`` from a site, or ``global`` from the server.
        federation: SHA-256 of what was agreed.
        site: who sends an update; empty for the server.
        round: counted from 1; 0 is what all start from.
        base: SHA-256 of the tensors that this round started from.
        figures: of an update, ``iterations`` and, if weights need it, ``labeled_patients``.
        used: of a global model, the sites whose updates are in it.
    """

    kind: Literal["update", "global"]
    federation: str
    site: str = ""
    round: int = Field(ge=0)
    base: str
    figures: dict[Literal["iterations", "labeled_patients"], int] = Field(default_factory=dict)
    used: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class Message:
    """An authenticated message: what it says of itself, its tensors, and their SHA-256."""

    header: Header
    tensors: dict[str, Tensor]
    model: str


def update_name(round_: int, site: str) -> str:
    """Return where a site puts its update of a round."""
    return f"update-{round_:04d}-{site}.bin"


def global_name(round_: int) -> str:
    """Return where the server puts the model of a round."""
    return f"global-{round_:04d}.bin"


def as_bytes(tensors: Mapping[str, Tensor], shapes: Shapes) -> bytes:
    """Return tensors as a message has them."""
    return b"".join(tensors[name].numpy().astype("<f4").tobytes() for name in shapes)


def model_hash(payload: bytes) -> str:
    """Return the SHA-256 of a message's tensors."""
    return hashlib.sha256(payload).hexdigest()


def packed(header: Header, payload: bytes, keys: Sequence[bytes]) -> bytes:
    """Return a message, with an HMAC-SHA256 for each key."""
    text = header.model_dump_json().encode()
    body = MAGIC + _LENGTH.pack(len(text)) + text + payload
    return body + b"".join(hmac.digest(key, body, "sha256") for key in keys)


def read_regular(path: Path, most: int) -> bytes:
    """Read a file that is no link, no device and not larger than it may be.

    Raises:
        Refused: it is one of these.
        FileNotFoundError: there is none.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        if path.is_symlink():
            raise Refused("it is a link")
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Refused(f"it cannot be opened ({error.strerror})") from None
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):  # before it is a file to Python, which raises for a folder
        os.close(handle)
        raise Refused("it is no regular file")
    with os.fdopen(handle, "rb") as file:
        if found.st_size > most:
            raise Refused(f"it has {found.st_size} bytes, more than a message can have")
        return file.read(most)


def read_body(path: Path, shapes: Shapes, tags: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Read a message without believing it.

    Args:
        shapes: of its tensors.
        tags: how many keyed hashes it ends with.

    Returns:
        All that is hashed; of this the header and the tensors; and the keyed hashes.

    Raises:
        Refused: its form is not that of a message.
        FileNotFoundError: there is none.
    """
    start = len(MAGIC) + _LENGTH.size
    size = sum(4 * int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
    end = TAG_BYTES * tags
    data = read_regular(path, start + _MOST_HEADER + size + end)
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise Refused("it is no message of a federation")
    if len(data) < start:
        raise Refused(f"it is cut off after {len(data)} bytes", arriving=True)
    (length,) = _LENGTH.unpack(data[len(MAGIC) : start])
    expected = start + length + size + end
    if length > _MOST_HEADER or len(data) != expected:
        raise Refused(
            f"it has {len(data)} bytes, not the {expected} of the agreed tensors",
            arriving=len(data) < expected,
        )
    body = data[: expected - end]
    return body, body[start : start + length], body[start + length :], data[expected - end :]


def read_message(
    path: Path, shapes: Shapes, key: bytes, *, place: int = 0, tags: int = 1, whose: str = "sender"
) -> Message:
    """Read a message, and believe it if its keyed hash is right.

    Args:
        shapes: of its tensors, as agreed.
        key: of the site that sent it, or that reads it.
        place: which of the keyed hashes is for this key.
        tags: how many there are.
        whose: key, for the message.

    Raises:
        Refused: names the reason.
        FileNotFoundError: there is none.
    """
    body, text, payload, hashes = read_body(path, shapes, tags)
    own = hashes[place * TAG_BYTES : (place + 1) * TAG_BYTES]
    if not hmac.compare_digest(own, hmac.digest(key, body, "sha256")):
        raise Refused(f"it is not authenticated by the key of {whose}")
    try:
        header = Header.model_validate(json.loads(text))
    except (ValueError, RecursionError):
        raise Refused("its header is not that of a message") from None
    flat = torch.from_numpy(np.frombuffer(payload, "<f4").astype(np.float32))
    if not bool(flat.isfinite().all()):
        raise Refused("its tensors are not finite")
    counts = [int(np.prod(shape, dtype=np.int64)) for shape in shapes.values()]
    parts = flat.split(counts)
    tensors = {n: p.reshape(tuple(s)) for (n, s), p in zip(shapes.items(), parts, strict=True)}
    return Message(header, tensors, model_hash(payload))


def refuse_other(message: Message, **expected: str | int) -> None:
    """Refuse a message that is authentic, but not the one that is due.

    Args:
        expected: values of the header.

    Raises:
        Refused: one differs: another recipe, a replayed round, another base, ...
    """
    words = {
        "kind": "it is of another kind",
        "federation": "it is of another recipe",
        "site": "it names another site",
        "round": "it is of another round",
        "base": "it was trained from another base model",
    }
    for name, value in expected.items():
        if getattr(message.header, name) != value:
            raise Refused(words[name])
