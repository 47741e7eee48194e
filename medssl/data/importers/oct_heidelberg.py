"""Heidelberg Spectralis: .vol and .e2e, through eyepy."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl.data.importers.oct_scan import OctScan, check_filled, check_raster
from medssl.errors import MedSSLError
from medssl.optional import optional_module

EXTRA = "oct"
DEVICE = "Heidelberg Spectralis"
PATTERNS = {1: "a single line", 2: "a circle", 5: "a radial (star) scan"}
"""Scan patterns that are no raster."""

WITHOUT_DATA = 1.99
"""Reflectivity above which a voxel holds no data; it goes up to 1."""

_PATTERN_OFFSET = 96
"""Where a .vol header has its scan pattern, in bytes."""


def vol_pattern(path: Path) -> str | None:
    """Return what keeps a .vol file from being a raster volume, None if nothing does."""
    with path.open("rb") as file:
        head = file.read(_PATTERN_OFFSET + 4)
    if len(head) < _PATTERN_OFFSET + 4 or not head.startswith(b"HSF-"):
        return "no Heidelberg .vol file"
    return PATTERNS.get(struct.unpack_from("<i", head, _PATTERN_OFFSET)[0])


def read_vol(path: Path) -> OctScan:
    """Read a .vol file: display intensities 0-255, spacing, boundaries and positions.

    Raises:
        MedSSLError: it is truncated, or its B-scans stand upright.
    """
    module = optional_module("eyepy.io.he.vol_reader", EXTRA)
    try:
        reader = module.HeVolReader(path)
        head = reader.parsed_file
        raw = np.stack([bscan.data for bscan in head.bscans])
        layers = reader.layers
    except Exception as error:  # construct raises its own kinds for files cut short
        raise _unreadable(path, error) from error
    positions = np.array([[b.start_x, b.start_y, b.end_x, b.end_y] for b in head.bscans])
    upward = _upward(positions, path)
    across = float(head.distance)
    check_raster(positions[:, :2], path, across)
    check_filled(raw.min(axis=(1, 2)) > WITHOUT_DATA, path)
    if across <= 0:
        across = float(np.linalg.norm(np.diff(positions[:, :2], axis=0), axis=1).mean())
    names = {number: name for name, number in reversed(module.SEG_MAPPING.items())}
    boundaries = {
        names.get(number, f"boundary {number}"): layer.T.astype(np.float32)
        for number, layer in enumerate(layers)
        if np.isfinite(layer).any()
    }
    return OctScan(
        image=display_intensity(raw, "vol").transpose(2, 0, 1),
        spacing_um=(1000 * head.scale_x, 1000 * across, 1000 * head.scale_y),
        upward=upward,
        laterality=head.scan_position.strip(" \0"),
        device=DEVICE,
        boundaries=boundaries,
        positions_mm=positions,
        patient=head.patient_id.strip(" \0"),
    )


def _upward(positions: np.ndarray, path: Path) -> bool:
    """Tell from the B-scans' places on the en-face image, whose y axis points down."""
    if not positions.any():
        return True  # nothing recorded; Heidelberg scans from below
    along = np.abs(positions[:, 2:] - positions[:, :2]).mean(axis=0)
    if along[1] > along[0]:
        raise MedSSLError(
            "its B-scans stand upright (a vertical raster)",
            where=path,
            fix="leave the file out: only horizontal rasters have a known orientation here",
        )
    return bool(positions[0, 1] >= positions[-1, 1])


def display_intensity(raw: np.ndarray, kind: str) -> np.ndarray:
    """Turn raw reflectivity in [0, 1] into the 0-255 that the vendor's viewer shows.

    ``(ln(x + 2.44e-4) + 8.3) / 8.285``; voxels without data (FLT_MAX in .vol, above 1.99 in .e2e)
    become 0.
    """
    utils = optional_module("eyepy.core.utils", EXTRA)
    transform = {"vol": utils.from_vol_intensity, "e2e": utils.from_e2e_intensity}[kind]
    return transform(np.array(raw, np.float32))


def e2e_series(path: Path) -> tuple[list[int], list[str]]:
    """Return which series of an .e2e file are raster volumes, and why the others are not.

    Raises:
        MedSSLError: it is no .e2e file.
    """
    found, notes = [], []
    reader = _open_e2e(path)
    with reader:
        for number, series in enumerate(reader.series):
            try:
                bscans = series.get_bscan_meta()
            except KeyError:
                continue
            if not bscans:
                continue  # a series of en-face pictures
            pattern = PATTERNS.get(bscans[0]["scan_pattern"])
            if pattern is None and len(bscans) > 1:
                found.append(number)
            else:
                notes.append(f"left out series {series.id} of an .e2e file: {pattern or 'a line'}")
    return found, notes


def _open_e2e(path: Path) -> Any:
    try:
        return optional_module("eyepy.io.he.e2e_reader", EXTRA).HeE2eReader(path)
    except MedSSLError:
        raise
    except Exception as error:  # construct raises its own kinds for damaged files
        raise _unreadable(path, error) from error


def require_e2e_spacing(path: Path, lateral_um: float | None, bscan_um: float | None) -> None:
    """Ask for what an .e2e file does not hold.

    Raises:
        MedSSLError: a spacing is missing.
    """
    if lateral_um is None or bscan_um is None:
        raise MedSSLError(
            ".e2e files do not hold the spacing of A-scans and B-scans",
            where=path,
            fix="take it from the viewer: --option lateral_um=11.5 --option bscan_um=120",
        )


def read_e2e(path: Path, number: int, lateral_um: float, bscan_um: float) -> OctScan:
    """Read one series of an .e2e file.

    Args:
        number: index of the series in the file; see :func:`e2e_series`.
        lateral_um: distance of A-scans; the file holds the axial spacing alone.
        bscan_um: distance of B-scans.

    Raises:
        MedSSLError: the series is damaged, or its B-scans stand upright.
    """
    with _open_e2e(path) as reader:
        series = reader.series[number]
        try:
            bscans: Sequence[Any] = series.get_bscan_meta()
            ordered = [series.slices[k] for k in sorted(series.slices)]
            announced = max(len(ordered), *(int(b["n_bscans"]) for b in bscans))
            lost = [k for k, s in enumerate(ordered, start=1) if not _has_image(s)]
            lost += range(len(ordered) + 1, announced + 1)
            if lost:
                raise _gap(path, lost[0], len(lost), announced)
            raw = np.stack([s.get_bscan() for s in ordered])
            laterality = _e2e_side(series)
            patient = _e2e_patient(series)
        except MedSSLError:
            raise
        except Exception as error:
            raise _unreadable(path, error) from error
    starts = np.array([[*b["start_pos"], *b["end_pos"]] for b in bscans], float)
    along = np.abs(starts[:, 2:] - starts[:, :2]).mean(axis=0)
    if along[1] > along[0]:
        _upward(starts, path)
    check_raster(starts[:, :2], path)
    check_filled(raw.min(axis=(1, 2)) > WITHOUT_DATA, path)
    return OctScan(
        image=display_intensity(raw, "e2e").transpose(2, 0, 1),
        spacing_um=(lateral_um, bscan_um, 1000 * float(bscans[0]["scale_y"])),
        upward=True,
        laterality=laterality,
        device=DEVICE,
        patient=patient,
    )


def _gap(path: Path, first: int, count: int, announced: int) -> MedSSLError:
    more = f" (and {count - 1} more)" if count > 1 else ""
    return MedSSLError(
        f"B-scan {first} of {announced}{more} has no image: the volume has a gap",
        where=path,
        fix="export the volume again, or leave it out with --option skip_broken=true",
    )


def _has_image(bscan: Any) -> bool:
    return any(folder.ind == 1 for folder in bscan.folders.get(1073741824, []))


def _e2e_side(series: Any) -> str:
    """Return the eye; eyepy gives the code of the letter R or L."""
    try:
        return {str(ord("R")): "OD", str(ord("L")): "OS"}.get(series.laterality(), "")
    except KeyError:
        return ""


def _e2e_patient(series: Any) -> str:
    """Return the patient's id where the file has kept it; its internal number means nothing."""
    folders = series.patient.folders.get(9, [])
    return folders[0].data.patient_id.strip(" \0") if folders else ""


def _unreadable(path: Path, error: Exception) -> MedSSLError:
    reason = " ".join(str(error).split())[:120]
    return MedSSLError(
        f"the file cannot be read ({type(error).__name__}: {reason})",
        where=path,
        fix="export it again, or leave it out with --option skip_broken=true",
    )
