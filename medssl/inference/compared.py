"""Compare every scan with the training scans before it is predicted, and say what is unusual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from monai.data import MetaTensor

from medssl.data.datasets.modality import dicom_kind, kind_beside
from medssl.data.preprocessing.scan_facts import scan_facts
from medssl.errors import MedSSLError
from medssl.inference.task import Task
from medssl.inference.unlike_training import Unlike
from medssl.progress import Display
from medssl.settings.spec import DataSpec

MOST_NAMED = 10
"""Scans of which is said in words what is unusual; of the others, that something is."""


def compared(image: MetaTensor, task: Task, *, force: bool) -> tuple[DataSpec, tuple[str, ...]]:
    """Compare a scan with those of the training.

    Args:
        image: as it was read.
        task: what the model was trained for; nothing is compared where it does not know its
            training scans, as in runs of older versions.
        force: do not refuse a scan that the model cannot be meant for.

    Returns:
        The data spec for the scan, which brings voxels of a native run into the range of training,
        and what of it is unusual.

    Raises:
        MedSSLError: the model cannot be meant for it.
    """
    spec, trained = task.spec, task.fingerprint
    if trained is None:
        return spec, ()
    facts = scan_facts(image, spec)
    own_spec = trained.spec_for(facts, spec, slices=len(task.patch) == 2)
    by_header = "modality" in image.meta
    found = Unlike(trained).compare(facts, own_spec, _stated_kind(image), by_header=by_header)
    if found.impossible is None:
        return own_spec, found.unusual
    if not force:
        raise MedSSLError(
            f"this model cannot be meant for the image: {found.impossible}",
            fix="use a model trained on such scans, or predict it all the same with --force",
        )
    return own_spec, (found.impossible, *found.unusual)


def say_unusual(unusual: Mapping[str, Sequence[str]], display: Display) -> None:
    """Say what of scans, by case id, is unlike the training scans."""
    named = [(case_id, lines) for case_id, lines in unusual.items() if lines]
    for case_id, lines in named[:MOST_NAMED]:
        display.say(f"warning: {case_id} is unlike the training scans: {'; '.join(lines)}")
    if len(named) > MOST_NAMED:
        others = ", ".join(case_id for case_id, _ in named[MOST_NAMED:])
        display.say(f"warning: unlike the training scans, too: {others}")


def _stated_kind(image: MetaTensor) -> str | None:
    """Return what DICOM, or the dataset.json beside a file, says an image is; None: nothing."""
    if "modality" in image.meta:
        return dicom_kind(str(image.meta["modality"]))
    return kind_beside(Path(image.meta["files"][0]))
