"""Topcon .fda: a list of named chunks, as the uocte project's description of the format has them.

Read here because oct-converter 0.7 fails at these files with NumPy 2.3 and later.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from medssl.data.importers.oct_scan import OctScan
from medssl.errors import MedSSLError

_SCAN_AT = {b"@PARAM_SCAN_04": 12, b"@PARAM_SCAN_02": 21}
"""Where a chunk of scan parameters has width (mm), height (mm) and axial resolution (um)."""


def read_fda(path: Path) -> OctScan:
    """Read a .fda file: the motion-corrected stack (uint16) or the JPEG B-scans (lossy, uint8).

    Raises:
        MedSSLError: no .fda file, no volume or no spacing in it, or it is truncated.
    """
    data = path.read_bytes()
    if data[:4] != b"FOCT":
        raise MedSSLError("this is no Topcon .fda file", where=path, fix="check the file")
    try:
        chunks = _chunks(data)
        if b"@IMG_MOT_COMP_03" in chunks:
            volume = _corrected(chunks[b"@IMG_MOT_COMP_03"])
        elif b"@IMG_JPEG" in chunks:
            volume = _jpegs(chunks[b"@IMG_JPEG"])
        else:
            raise ValueError("it holds neither a motion-corrected nor a JPEG volume")
        spacing = _spacing(chunks, volume.shape)
    except (ValueError, struct.error, OSError) as error:
        raise MedSSLError(
            f"the .fda file cannot be read: {error}",
            where=path,
            fix="export it again, or leave it out with --option skip_broken=true",
        ) from error
    capture = chunks.get(b"@CAPTURE_INFO_02") or chunks.get(b"@CAPTURE_INFO") or b""
    patient = chunks.get(b"@PATIENT_INFO_02") or chunks.get(b"@PATIENT_INFO") or b""
    hardware = next((chunks[k] for k in sorted(chunks) if k.startswith(b"@HW_INFO")), b"")
    return OctScan(
        image=volume,
        spacing_um=spacing,
        upward=False,
        laterality={0: "OD", 1: "OS"}.get(capture[0], "") if capture else "",
        device=f"Topcon {_text(hardware[:16])}".strip(),
        patient=_text(patient[:32]),
    )


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("ascii", "ignore").strip()


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """Return the first chunk of each name."""
    found: dict[bytes, bytes] = {}
    at = 15
    while at < len(data) and data[at]:
        name = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        (size,) = struct.unpack_from("<I", data, at)
        if at + 4 + size > len(data):
            raise ValueError(f"the file ends inside its chunk {name.decode('ascii', 'replace')}")
        found.setdefault(name, data[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def _corrected(chunk: bytes) -> np.ndarray:
    _, width, height, bits, count, _, _ = struct.unpack_from("<B4IBI", chunk)
    if bits not in (8, 16):
        raise ValueError(f"its voxels have {bits} bits")
    voxels = np.frombuffer(chunk, f"<u{bits // 8}", width * height * count, offset=22)
    return voxels.reshape(count, height, width).transpose(2, 0, 1)


def _jpegs(chunk: bytes) -> np.ndarray:
    _, _, _, _, _, count, _ = struct.unpack_from("<B6I", chunk)
    at, bscans = 25, []
    for _ in range(count):
        (size,) = struct.unpack_from("<i", chunk, at)
        picture = Image.open(io.BytesIO(chunk[at + 4 : at + 4 + size]))
        bscans.append(np.asarray(picture.convert("L") if picture.mode == "RGB" else picture))
        at += 4 + size
    return np.stack(bscans).transpose(2, 0, 1)


def _spacing(chunks: dict[bytes, bytes], shape: tuple[int, ...]) -> tuple[float, float, float]:
    for name, offset in _SCAN_AT.items():
        if name in chunks:
            width, height, axial = struct.unpack_from("<3d", chunks[name], offset)
            if not (0 < width < 50 and 0 < height < 50 and 0 < axial < 20):
                raise ValueError(f"its scan size is {width:g} x {height:g} mm, {axial:g} um axial")
            return 1000 * width / shape[0], 1000 * height / shape[1], axial
    raise ValueError("it has no scan parameters, so its spacing is unknown")
