"""Write the folder of a round: images, drafts, and where they are in doubt."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from medssl.data.datasets.case import Case
from medssl.data.datasets.contents import voxel_hash
from medssl.data.images.names import image_suffix
from medssl.data.preprocessing.tensors import read_images
from medssl.errors import MedSSLError
from medssl.files import write_csv
from medssl.inference.prediction import Prediction
from medssl.inference.predictor import Predictor
from medssl.reports.overlays import draw_heat
from medssl.reports.round_page import ShownScan
from medssl.reports.thumbnails import draw_thumbnail
from medssl.rounds.doubt import SliceInDoubt, slices_in_doubt
from medssl.rounds.pool import PoolScan
from medssl.rounds.record import DRAFT, LABEL, RoundScan

SLICES = "slices.csv"


@dataclass(frozen=True)
class Drafted:
    """A scan as it stands in the folder, and its pictures."""

    scan: RoundScan
    shown: ShownScan


def draft(scan: PoolScan, why: str, predictor: Predictor, folder: Path) -> Drafted:
    """Predict a scan and write image, draft and the label to edit into the folder of its id.

    Args:
        scan: a chosen one.
        why: it was, for the page.
        predictor: draws the draft.
        folder: of the round.

    Raises:
        MedSSLError: the scan cannot be predicted, or the disk refuses.
    """
    case = scan.case
    found = predictor.predict_file(case.images, entropy=True, assess=True)
    place = folder / case.id
    place.mkdir()
    images = tuple(_copied(case.images, place))
    path = found.save(place / f"{DRAFT}{image_suffix(case.images[0])}")
    shutil.copyfile(path, place / path.name.replace(DRAFT, LABEL, 1))
    quality = None if found.assessment is None else found.assessment.quality
    written = RoundScan(
        id=case.id,
        patient=case.patient,
        images=images,
        draft=path.name,
        voxels=scan.voxels,
        draft_voxels=voxel_hash(found.values),
        of_dataset=scan.of_dataset,
        expected_dice=quality,
        slices=tuple(slices_in_doubt(found.entropy_map(), found.affine)),
    )
    return Drafted(written, _shown(case, written, found, why))


def _copied(images: Sequence[Path], place: Path) -> list[str]:
    """Copy the files of a scan as they are; return their new names."""
    names = []
    for number, path in enumerate(images):
        channel = f"_{number:04d}" if len(images) > 1 else ""
        names.append(f"image{channel}{image_suffix(path)}")
        try:
            shutil.copyfile(path, place / names[-1])
        except OSError as error:
            raise MedSSLError(
                f"the image cannot be copied: {error.strerror}",
                where=path,
                fix="check its rights and the free space",
            ) from error
    return names


def _shown(case: Case, scan: RoundScan, found: Prediction, why: str) -> ShownScan:
    image = read_images(case.images[:1])
    voxels, affine = np.nan_to_num(image.as_tensor()[0].numpy()), image.affine.numpy()
    buffer = io.BytesIO()
    figure = draw_heat(voxels, found.entropy_map(), affine, numbers=False)
    figure.savefig(buffer, format="png")
    return ShownScan(
        id=scan.id,
        why=why,
        outlines=draw_thumbnail(voxels, found.values, affine),
        doubt=buffer.getvalue(),
        slices=[asdict(one) for one in scan.slices],
        unusual=found.unusual,
    )


def write_slices(scans: Sequence[RoundScan], folder: Path) -> None:
    """Write ``slices.csv``: the slices in doubt of every scan.

    Raises:
        MedSSLError: the disk refuses.
    """
    rows = [{"case": scan.id, **asdict(one)} for scan in scans for one in scan.slices]
    columns = ("case", *(field.name for field in fields(SliceInDoubt)))
    write_csv(folder / SLICES, rows, columns=columns)
