"""Weights as the safetensors format has them: a JSON table, then the bytes of all tensors.

The format (https://huggingface.co/docs/safetensors) holds numbers alone: there is no pickle in it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medssl.sharing.archive import Refused
from medssl.sharing.json_text import parse_json

_LENGTH = struct.Struct("<Q")
_MOST_HEADER, _MOST_TENSORS = 2**22, 20_000
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as the content of a safetensors file."""
    table, parts, end = dict[str, Any](), list[bytes](), 0
    # Those of larger numbers first, so that each begins at a multiple of its numbers' size.
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        parts.append(plain.numpy().tobytes())
        start, end = end, end + len(parts[-1])
        table[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((_LENGTH.pack(len(text)), text, *parts))


def unpack_tensors(data: bytes, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read tensors that must be those of a known network.

    Args:
        data: content of a safetensors file.
        expected: tensors of the same names, shapes and types; their values do not count, and they
            may be on torch's ``meta`` device.

    Raises:
        Refused: the table is damaged or lies, or the tensors are others or not finite.
    """
    if len(data) < _LENGTH.size:
        raise Refused("its weights are cut off")
    (length,) = _LENGTH.unpack(data[: _LENGTH.size])
    if length > min(_MOST_HEADER, len(data) - _LENGTH.size):
        raise Refused(f"the table of its weights claims {length} bytes")
    start = _LENGTH.size + length
    table = parse_json(data[_LENGTH.size : start], "the table of its weights")
    if len(table) > _MOST_TENSORS:
        raise Refused(f"the table of its weights names {len(table)} tensors")
    if table.keys() != expected.keys():
        other = sorted(table.keys() ^ expected.keys())[0]
        raise Refused(f"its weights are not those of its network ({other[:80]!r})")
    body, out, position = memoryview(data)[start:], dict[str, Tensor](), 0
    order = sorted(table, key=lambda name: _place(table[name], name))
    for name in order:
        begin, end = _place(table[name], name)
        wanted = expected[name]
        _check_entry(table[name], name, wanted, end - begin)
        if begin != position or end > len(body):
            raise Refused(f"its weights overlap, or leave gaps, at {name[:80]!r}")
        flat = torch.empty(wanted.numel(), dtype=wanted.dtype)
        if end > begin:
            own = np.frombuffer(body[begin:end], np.uint8).copy()
            flat.view(torch.uint8).copy_(torch.from_numpy(own))
        if flat.is_floating_point() and not bool(flat.isfinite().all()):
            raise Refused(f"its weights are not finite in {name[:80]!r}")
        out[name] = flat.reshape(wanted.shape)
        position = end
    if position != len(body):
        raise Refused("bytes follow its weights")
    return {name: out[name] for name in expected}


def _place(entry: Any, name: str) -> tuple[int, int]:
    """Return where a tensor begins and ends."""
    if isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}:
        place = entry["data_offsets"]
        if isinstance(place, list) and len(place) == 2 and all(type(n) is int for n in place):
            return place[0], place[1]
    raise Refused(f"the table of its weights is damaged at {name[:80]!r}")


def _check_entry(entry: Mapping[str, Any], name: str, wanted: Tensor, length: int) -> None:
    """Compare what the table says of a tensor with the network's."""
    dtype, shape = entry["dtype"], entry["shape"]
    same = isinstance(dtype, str) and _DTYPES.get(dtype) == wanted.dtype
    if not same or shape != list(wanted.shape) or not all(type(n) is int for n in shape):
        raise Refused(f"its weights are not those of its network ({name[:80]!r} has another shape)")
    if length != math.prod(shape) * wanted.element_size():
        raise Refused(f"the table of its weights claims {length} bytes for {name[:80]!r}")
