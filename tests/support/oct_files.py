"""Small OCT files in vendors' formats for tests, written byte by byte."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

FLT_MAX = np.finfo(np.float32).max


def write_vol(
    path: Path,
    raw: np.ndarray,
    *,
    spacing_mm: tuple[float, float, float] = (0.0117, 0.12, 0.0039),
    pattern: int = 3,
    layers: np.ndarray | None = None,
    starts: Sequence[tuple[float, float, float, float]] | None = None,
    side: bytes = b"OS",
) -> None:
    """Write a Heidelberg .vol.

    Args:
        raw: ``(B-scan, depth, A-scan)`` reflectivity.
        spacing_mm: A-scan, B-scan, depth.
        layers: ``(B-scan, N, A-scan)`` boundaries.
        starts: start x, y and end x, y of each B-scan in mm; default: from below upward.
    """
    count, depth, width = raw.shape
    layers = np.zeros((count, 0, width)) if layers is None else layers
    header_size = 256 + 4 * layers.shape[1] * width
    parts = [
        struct.pack(
            "<12s3I3d", b"HSF-OCT-103", width, count, depth, spacing_mm[0], *spacing_mm[1:]
        ),
        struct.pack("<2I2dId4sQ", 4, 3, 0.01, 0.01, 30, 0.5, side, 131_000_000_000_000_000),
        struct.pack("<iI16s16sI24sd", pattern, header_size, b"1", b"1", 7, b"Secret^Name", 30000.0),
        struct.pack("<I24sd4I34s", 1, b"#visit", 40000.0, 0, 0, 0, 0, b"progress"),
    ]
    head = b"".join(parts)
    assert len(head) == 2048 - 1790
    body = [head, bytes(1790), bytes(range(12))]  # spare bytes, en-face picture
    for j in range(count):
        y = 5.0 - spacing_mm[1] * j
        place = starts[j] if starts else (1.0, y, 1.0 + width * spacing_mm[0], y)
        body.append(
            struct.pack(
                "<12sI4d2IfI", b"HSF-BS-103", header_size, *place, layers.shape[1], 256, 20, 0
            )
        )
        body.append(bytes(24 + 168))
        body.append(layers[j].astype("<f4").tobytes())
        body.append(raw[j].astype("<f4").tobytes())
    path.write_bytes(b"".join(body))


def e2e_float(value: float) -> int:
    """Encode a number as the unsigned 16-bit float of .e2e: 6 bits exponent, 10 bits mantissa."""
    exponent = int(np.floor(np.log2(value)))
    return ((exponent + 63) << 10) | round((value / 2.0**exponent - 1) * 1024)


def _e2e_mantissa(code: int) -> int:
    return int(f"{code & 1023:010b}"[::-1], 2) | (code & ~1023)


def write_e2e(
    path: Path,
    raw: np.ndarray,
    *,
    pattern: int = 3,
    axial_mm: float = 0.0039,
    without: Sequence[int] = (),
    announced: int | None = None,
    places: Sequence[float] | None = None,
) -> None:
    """Write an .e2e with one series of B-scans ``(B-scan, depth, A-scan)``.

    Those of ``without`` are listed, but have no image; ``announced`` is how many the file says that
    there are; ``places`` are where they lie, 0, 1, 2, ... by default.

    The layout, and the order of the mantissa's bits, are those that eyepy reads; oct-converter
    reads the same file alike.
    """
    count, depth, width = raw.shape
    folders: list[tuple[int, int, int, bytes]] = []  # slice id, index, type, data
    folders.append((-1, 0, 11, bytes(14) + b"L" + bytes(12)))
    for j in range(count):
        y = 10.0 - (j if places is None else places[j])
        meta = struct.pack("<3I4f", 0, depth, width, -10.0, y, 10.0, y)
        meta += struct.pack("<If2fI2fI", 0, 0.0, axial_mm, 0.0, 0, 0.0, 0.0, 0)
        meta += struct.pack(
            "<4I2fIQI2f", width, announced or count, j, pattern, 0.0, y, 0, 10**16, 1, 0.8, 0.0
        )
        meta += bytes(12) + struct.pack("<I", 9) + bytes(16) + bytes(4) + bytes(12) + bytes(4)
        folders.append((2 * j, 0, 10004, meta.ljust(428, b"\0")))
        if j in without:
            continue
        codes = np.vectorize(lambda v: _e2e_mantissa(e2e_float(v)))(raw[j]).astype("<u2")
        image = struct.pack("<5I", 2 * codes.size, 35652097, codes.size, depth, width)
        folders.append((2 * j, 1, 1073741824, image + codes.tobytes()))
    chunk_at = 36 + 52
    data_at = chunk_at + 52 + 44 * len(folders)
    headers, data = b"", b""
    for slice_id, index, kind, content in folders:
        start, ids = data_at + len(data), (3, 5, 8, slice_id)
        headers += struct.pack("<4I4i2H2I", 1, start, len(content), 0, *ids, index, 0, kind, 0)
        data += struct.pack(
            "<12s5I4i2H2I", b"MDbData", 0, 0, start, len(content), 0, *ids, index, 0, kind, 0
        )
        data += content
    version = struct.pack("<12sI10H", b"CMDb", 100, *[0] * 10)
    main = struct.pack("<12sI10H4I", b"MDbMDir", 100, *[0] * 10, 0, chunk_at, chunk_at, 0)
    chunk = struct.pack("<12sI10H4I", b"MDbDir", 100, *[0] * 10, len(folders), chunk_at, 0, 0)
    path.write_bytes(version + main + chunk + headers + data)


def write_fda(
    path: Path, volume: np.ndarray, *, jpeg: bool = False, scan: str = "04", eye: int = 0
) -> None:
    """Write a Topcon .fda of ``(B-scan, depth, A-scan)``, 0.12 x 0.3 mm, with 2.6 um of depth."""
    count, depth, width = volume.shape
    if jpeg:
        data = struct.pack("<B6I", 2, 0, 0, width, depth, count, 0)
        for bscan in volume:
            buffer = io.BytesIO()
            Image.fromarray(bscan).save(buffer, "JPEG2000", irreversible=False)
            data += struct.pack("<i", len(buffer.getvalue())) + buffer.getvalue()
        chunks = {"@IMG_JPEG": data}
    else:
        head = struct.pack("<B4IBI", 2, width, depth, 16, count, 0, 2 * volume.size)
        chunks = {"@IMG_MOT_COMP_03": head + volume.astype("<u2").tobytes()}
    before = 12 if scan == "04" else 21
    chunks[f"@PARAM_SCAN_{scan}"] = (
        bytes(before) + struct.pack("<5d", 0.12, 0.3, 2.6, 0, 0) + bytes(20)
    )
    chunks["@CAPTURE_INFO_02"] = struct.pack("<2BI100s6H", eye, 2, 0, b"", 2001, 2, 3, 4, 5, 6)
    chunks["@PATIENT_INFO_02"] = b"Secret-1".ljust(32, b"\0") + b"Secret".ljust(256, b"\0")
    chunks["@HW_INFO_03"] = b"3DOCT-2000".ljust(16, b"\0") + bytes(84)
    out = b"FOCTFDA" + struct.pack("<2I", 2, 1)
    for name, content in chunks.items():
        out += bytes([len(name)]) + name.encode() + struct.pack("<I", len(content)) + content
    path.write_bytes(out + b"\0")


def write_bioptigen(path: Path, volume: np.ndarray, *, kind: int = 1, repeats: int = 1) -> None:
    """Write a Bioptigen .OCT of ``(B-scan, A-scan, depth)`` uint16."""
    count, lines, depth = volume.shape

    def record(key: str, data: bytes, size: int | None = None) -> bytes:
        name = key.encode()
        length = len(data) if size is None else size
        return struct.pack("<I", len(name)) + name + struct.pack("<I", length) + data

    def whole(key: str, value: int) -> bytes:
        return record(key, struct.pack("<I", value))

    def real(key: str, value: float) -> bytes:
        return record(key, struct.pack("<d", value))

    fields = [whole("FRAMECOUNT", count), whole("LINECOUNT", lines), whole("LINELENGTH", depth)]
    fields += [whole("SAMPLEFORMAT", 2), record("DESCRIPTION", b"macula\0")]
    fields += [real("XMIN", 0), real("XMAX", 1), record("XCAPTION", b"x\0")]
    fields += [
        real("YMIN", 0),
        real("YMAX", 1),
        record("YCAPTION", b"y\0"),
        whole("SCANTYPE", kind),
    ]
    fields += [real(k, 6.0) for k in ("SCANDEPTH", "SCANLENGTH", "AZSCANLENGTH", "ELSCANLENGTH")]
    fields += [real("OBJECTDISTANCE", 0), real("SCANANGLE", 0), whole("SCANS", count // repeats)]
    fields += [whole("FRAMES", repeats), whole("DOPPLERFLAG", 0), record("CONFIG", bytes(5))]
    out = struct.pack("<IH", 0x0A, 1) + record("FRAMEHEADER", b"", len(b"".join(fields)))
    out += b"".join(fields) + bytes(4)
    for frame in volume.astype("<u2"):
        date = record("FRAMEDATETIME", struct.pack("<8H", 2001, 2, 0, 3, 4, 5, 6, 7))
        body = date + real("FRAMETIMESTAMP", 0) + whole("FRAMELINES", lines)
        body += record("FRAMESAMPLES", frame.tobytes())
        out += record("FRAMEDATA", b"", len(body)) + body + bytes(4)
    path.write_bytes(out)


def write_mhd(path: Path, array: np.ndarray, spacing: Sequence[float]) -> None:
    """Write a MetaImage ``(z, y, x)`` with its .raw beside it; spacing is x, y, z in mm."""
    kind = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT"}[array.dtype.name]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: Mapping[str, object] = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "ElementSpacing": " ".join(map(str, spacing)),
        "DimSize": " ".join(map(str, array.shape[::-1])),
        "ElementType": kind,
        "ElementDataFile": path.with_suffix(".raw").name,
    }
    path.write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
    path.with_suffix(".raw").write_bytes(array.tobytes())
