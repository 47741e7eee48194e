"""OCT files that are little more than voxels: Zeiss .img and Bioptigen .OCT."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from medssl.data.importers.oct_scan import OctScan, three
from medssl.errors import MedSSLError

ZEISS_SIZES = {40_960_000: (200, 200, 1024), 67_108_864: (512, 128, 1024)}
"""A-scans, B-scans and depth of the two cubes a Cirrus makes, by the bytes of the file."""

ZEISS_FIELD_UM = (6000.0, 6000.0, 2000.0)
"""What those cubes cover; the file itself does not say."""


def zeiss_size(path: Path, size: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Return A-scans, B-scans and depth of a headerless .img from its bytes and its name.

    Args:
        size: what the user says it is; None asks the table.

    Raises:
        MedSSLError: the bytes fit neither, or contradict a size in the file's name.
    """
    count = path.stat().st_size
    found = size if size is not None and int(np.prod(size)) == count else ZEISS_SIZES.get(count)
    if found is None or (size is not None and size != found):
        raise MedSSLError(
            f"{count} bytes are not a Cirrus cube"
            + (f" of {size[0]}x{size[1]}x{size[2]}" if size else " (512x128x1024 or 200x200x1024)"),
            where=path,
            fix="say its A-scans, B-scans and depth: --option size=512,128,1024",
        )
    named = re.search(r"(\d{2,4})x(\d{2,4})", path.name)
    if named and (int(named[1]), int(named[2])) != found[:2]:
        raise MedSSLError(
            f"the name says {named[0]}, but {count} bytes are {found[0]}x{found[1]}x{found[2]}",
            where=path,
            fix="export the cube again: this file is not what its name says",
        )
    return found


def read_zeiss(path: Path, size: tuple[int, int, int] | None) -> OctScan:
    """Read a Cirrus .img: raw uint8, A-scans fastest, then depth, then B-scans.

    Both axes of a B-scan run backwards in the file. The spacing is assumed from a 6 x 6 x 2 mm
    field.

    Raises:
        MedSSLError: the bytes are not of a known size.
    """
    shape = zeiss_size(path, size)
    cube = np.fromfile(path, np.uint8).reshape(shape[1], shape[2], shape[0])
    side = re.search(r"(?<![A-Za-z])(OD|OS)(?![A-Za-z])", path.name)
    patient = re.match(r"P\d+|[^_]+", path.stem)
    return OctScan(
        image=cube[:, ::-1, ::-1].transpose(2, 0, 1),
        spacing_um=three(f / n for f, n in zip(ZEISS_FIELD_UM, shape, strict=True)),
        upward=False,
        laterality=side[0] if side else "",
        device="Zeiss Cirrus",
        patient=patient[0] if patient else path.stem,
    )


def read_bioptigen(path: Path, spacing_um: tuple[float | None, ...]) -> OctScan:
    """Read a Bioptigen .OCT raster: uint16 frames behind a header of named records.

    The header's scan lengths are not voxel spacings that can be relied on, so the user gives them.

    Raises:
        MedSSLError: no raster, a series of volumes, a missing spacing, or a truncated file.
    """
    data = path.read_bytes()
    try:
        header, at = _records(data, 6)
        values = {key: _number(value) for key, value in header.items()}
        kind = {0: "lines", 1: "raster", 3: "a radial scan"}.get(int(values["SCANTYPE"]))
        frames, scans = int(values["FRAMECOUNT"]), int(values["SCANS"])
        if kind != "raster" or scans != frames:
            what = f"{frames} frames at {scans} places" if kind == "raster" else kind
            raise MedSSLError(
                f"the file is no single raster volume but {what or 'of an unknown pattern'}",
                where=path,
                fix="leave it out with --option skip_broken=true",
            )
        _require_spacing(path, spacing_um, values)
        volume = []
        for _ in range(frames):
            frame, at = _records(data, at)
            lines = int(_number(frame["FRAMELINES"]))
            volume.append(np.frombuffer(frame["FRAMESAMPLES"], "<u2").reshape(lines, -1))
        image = np.stack(volume, axis=1)  # A-scan, B-scan, depth
    except (KeyError, ValueError, struct.error, IndexError) as error:
        raise MedSSLError(
            f"no readable Bioptigen file ({type(error).__name__}: {error})",
            where=path,
            fix="export it again, or leave it out with --option skip_broken=true",
        ) from error
    side = re.search(r"(?<![A-Za-z])(OD|OS)(?![A-Za-z])", path.name)
    return OctScan(
        image=image,
        spacing_um=spacing_um,  # type: ignore[arg-type]
        upward=False,
        laterality=side[0] if side else "",
        device="Bioptigen",
        patient=path.stem,
    )


def _records(data: bytes, at: int) -> tuple[dict[str, bytes], int]:
    """Read (key length, key, data length, data) records up to an empty key."""
    found: dict[str, bytes] = {}
    while True:
        (length,) = struct.unpack_from("<I", data, at)
        if length == 0:
            return found, at + 4
        key = data[at + 4 : at + 4 + length].decode("ascii").strip("\0 ").upper()
        (size,) = struct.unpack_from("<I", data, at + 4 + length)
        at += 8 + length
        if key in ("FRAMEHEADER", "FRAMEDATA"):
            continue  # its size counts the records that follow
        if at + size > len(data):
            raise ValueError(f"the file ends inside {key}")
        found[key] = data[at : at + size]
        at += size


def _number(value: bytes) -> float:
    """Read a record of 8 bytes as a double and a shorter one as a whole number."""
    if len(value) == 8:
        return float(struct.unpack("<d", value)[0])
    return float(int.from_bytes(value, "little")) if len(value) <= 4 else float("nan")


def _require_spacing(
    path: Path, spacing_um: tuple[float | None, ...], header: dict[str, float]
) -> None:
    if None in spacing_um:
        lengths = [header.get(k, float("nan")) for k in ("AZSCANLENGTH", "ELSCANLENGTH")]
        raise MedSSLError(
            "Bioptigen files do not state their voxel spacing reliably (this one says "
            f"{lengths[0]:g} x {lengths[1]:g} mm, {header.get('SCANDEPTH', float('nan')):g} deep)",
            where=path,
            fix="give it: --option lateral_um=8 --option bscan_um=80 --option axial_um=3.2",
        )
