"""Hold a label that comes back against what the round asked for."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl.data.datasets.contents import channel_hashes, scan_hash, voxel_hash
from medssl.data.images.geometry import Unit
from medssl.data.images.labels import read_label
from medssl.data.images.names import EXTENSIONS, image_suffix, split_extension
from medssl.data.images.volume import check_grid, read_header, read_volume
from medssl.errors import MedSSLError
from medssl.rounds.record import DRAFT, LABEL, Round, RoundScan

NEARER = 0.1
"""A label that shares so much more (Dice) with another scan's draft than with its own is that
scan's: anatomy alone makes labels of two scans on one grid alike, but not more alike than this."""
SAME = 0.95
"""With ``confirmed``, only one that is as good as another scan's draft."""


@dataclass(frozen=True)
class Returned:
    """A label that came back and is in order.

    Attributes:
        scan: whose label it is.
        values: label values ``(X, Y, Z)`` on the image's grid.
        voxels: hash of ``values``.
        affine: of the image, in mm.
        images: the round's copies of the image, one per channel.
        edited: whether it differs from the draft.
    """

    scan: RoundScan
    values: np.ndarray
    voxels: str
    affine: np.ndarray
    images: tuple[Path, ...]
    edited: bool


def read_returned(
    found: Round,
    scan: RoundScan,
    folder: Path,
    drafts: Mapping[str, np.ndarray],
    *,
    confirmed: bool,
) -> Returned:
    """Read the label of one scan, and refuse one that cannot be it.

    Args:
        found: the round.
        scan: one of its scans.
        folder: of the round.
        drafts: of all scans, by id.
        confirmed: take a label that equals its draft, or shares nothing with it.

    Raises:
        MedSSLError: says what is wrong with which file.
    """
    place = folder / scan.id
    _refuse_links(place)
    images = tuple(place / name for name in scan.images)
    _check_image(images, scan, found.unit)
    path, values, affine = _label(place, scan)
    header = read_header(images[0])
    check_grid((values.shape, affine), (header.shape, header.affine), path=path, of=images[0])
    try:
        classes = found.labels.to_classes(values)
    except ValueError as error:
        raise MedSSLError(
            str(error),
            where=path,
            fix="use the values of the dataset alone: "
            + ", ".join(f"{v} {n}" for v, n in _structures(found)),
        ) from None
    if not ((classes > 0) & (classes < found.labels.num_classes)).any():
        raise MedSSLError(
            "the label is empty: no voxel belongs to a structure",
            where=path,
            fix="label the scan, or leave it out with --partial",
        )
    digest = voxel_hash(values)
    edited = digest != scan.draft_voxels
    if not edited and not confirmed:
        raise MedSSLError(
            "the label is the draft, voxel for voxel",
            where=path,
            fix="correct it; or, if it was looked at and is right, add --confirmed",
        )
    _refuse_other_scan(path, values, scan, drafts, confirmed=confirmed)
    return Returned(scan, values, digest, header.affine, images, edited)


def read_drafts(found: Round, folder: Path) -> dict[str, np.ndarray]:
    """Return the drafts of a round by id, those that are as they were written.

    A missing or changed one is the fault of its own scan alone: :func:`read_returned` says so.
    """
    drafts = {}
    for scan in found.scans:
        path = folder / scan.id / scan.draft
        try:
            _refuse_links(path.parent)
            values, _ = read_label(path)
        except MedSSLError:
            continue
        if voxel_hash(values) == scan.draft_voxels:
            drafts[scan.id] = values
    return drafts


def _structures(found: Round) -> list[tuple[int, str]]:
    return list(zip(found.labels.values, found.labels.names, strict=True))


def _refuse_links(place: Path) -> None:
    """Refuse a scan's folder that is none, or in which something is no plain file.

    Raises:
        MedSSLError: names it.
    """
    if not place.is_dir() or place.is_symlink():
        raise MedSSLError(
            "the scan's folder is missing, or a link",
            where=place,
            fix="put the folder that `medssl next` wrote back, with its files in it",
        )
    for path in sorted(place.iterdir()):
        if image_suffix(path) is not None and not stat.S_ISREG(os.lstat(path).st_mode):
            raise MedSSLError(
                "this is a link or no plain file",
                where=path,
                fix="put the file itself there",
            )


def _check_image(images: tuple[Path, ...], scan: RoundScan, unit: str) -> None:
    own: Unit = "um" if unit == "um" else "mm"
    hashes = [h for path in images for h in channel_hashes(read_volume(path, unit=own))]
    if scan_hash(hashes) != scan.voxels:
        raise MedSSLError(
            "the image is not the one that was given out: its voxels have changed",
            where=images[0],
            fix="put the image back; its label must be drawn on that one",
        )


def _label(place: Path, scan: RoundScan) -> tuple[Path, np.ndarray, np.ndarray]:
    """Return the label that came back: file, values, affine.

    Raises:
        MedSSLError: there is none, there are several, or it is no label map.
    """
    files = [p for p in sorted(place.iterdir()) if image_suffix(p) and not p.name.startswith(".")]
    named = [p for p in files if split_extension(p.name)[0].lower() == LABEL]
    known = {*scan.images, scan.draft, *(p.name for p in named)}
    others = [p.name for p in files if p.name not in known]
    if not named:
        more = f" (there is {others[0]})" if others else ""
        raise MedSSLError(
            f"there is no label{more}",
            where=place,
            fix=f"save it as {LABEL}.nii.gz or {LABEL}.nrrd there",
        )
    read = [(path, *_readable(path)) for path in named]
    changed = [one for one in read if voxel_hash(one[1]) != scan.draft_voxels]
    if len(changed) > 1:
        names = " and ".join(one[0].name for one in changed)
        raise MedSSLError(
            f"{names} are both there, and neither is the draft",
            where=place,
            fix="keep the one that counts",
        )
    if not changed and others:
        raise MedSSLError(
            f"the label is the draft, and there is another file, {others[0]}",
            where=place,
            fix=f"if that is the label, save it as {LABEL}.nii.gz or {LABEL}.nrrd; else remove it",
        )
    return (changed or read)[0]


def _readable(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if image_suffix(path, EXTENSIONS) is None:
        raise MedSSLError(
            "this format keeps its voxels in a second file",
            where=path,
            fix=f"save the label as one of {', '.join(EXTENSIONS)}",
        )
    return read_label(path)


def _refuse_other_scan(
    path: Path,
    values: np.ndarray,
    scan: RoundScan,
    drafts: Mapping[str, np.ndarray],
    *,
    confirmed: bool,
) -> None:
    """Refuse a label that is rather another scan's of the round.

    Raises:
        MedSSLError: it shares more with another draft, or nothing with its own.
    """
    if scan.id not in drafts:
        raise MedSSLError(
            "the draft is missing or was changed",
            where=path.parent / scan.draft,
            fix=f"put {DRAFT} back as it was written, and save the label as {LABEL}",
        )
    own = shared(values, drafts[scan.id])
    others = {
        name: shared(values, other)
        for name, other in drafts.items()
        if name != scan.id and other.shape == values.shape
    }
    nearest = max(others, key=lambda name: others[name], default="")
    if nearest and others[nearest] > (max(own, SAME) if confirmed else own + NEARER):
        raise MedSSLError(
            f"this looks like the label of {nearest}: it shares Dice {others[nearest]:.2f} with "
            f"that scan's draft and {own:.2f} with its own",
            where=path,
            fix="save each label in the folder of its own scan",
        )
    if own == 0 and drafts[scan.id].any() and not confirmed:
        raise MedSSLError(
            "the label shares no voxel with its draft: another scan's, or another program's sides?",
            where=path,
            fix="look at it over the image; if it is right, add --confirmed",
        )


def shared(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Dice of all structures of two label maps together; 0 where both are empty."""
    total = int((one > 0).sum() + (other > 0).sum())
    return 2 * int(((one == other) & (one > 0)).sum()) / total if total else 0.0
