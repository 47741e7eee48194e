"""Scans of other kinds and sizes, as people have them: caught, and scans of the kind are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from medssl.data.dicom.series import find_series
from medssl.data.phantoms.kinds import KINDS
from medssl.data.phantoms.parts import Scan
from medssl.data.preprocessing.scan_facts import ScanFacts, scan_facts
from medssl.data.preprocessing.tensors import make_image, read_images, series_image
from medssl.inference.training_fingerprint import TrainingFingerprint, learn_fingerprint
from medssl.inference.unlike_training import Unlike
from medssl.settings.spec import DataSpec
from medssl.settings.specs import load_spec

SPECS = {"mr": "mr", "ct": "ct", "cbct": "cbct_tooth", "oct": "oct_fluid"}
DATASETS = {
    "Task04_Hippocampus": ("mr_hippocampus", 2),
    "Task101_ACDC": ("mr_cardiac", 2),
    "Task102_LeftAtrium": ("mr_atrium", 1),
}
"""Spec of each, and that each so many-th patient is looked at: eighty scans are enough."""


@cache
def phantom(kind: str, seed: int) -> Scan:
    return KINDS[kind].draw(np.random.default_rng([seed, 7]), KINDS[kind].shape)


def phantoms(kind: str, spec: DataSpec, seeds: Iterable[int]) -> list[ScanFacts]:
    """Describe phantoms as one model sees them."""
    found = []
    for seed in seeds:
        scan = phantom(kind, seed)
        in_mm = np.diag([*[0.001 if KINDS[kind].spatial_unit == "um" else 1.0] * 3, 1.0])
        image = scan.image.astype(np.float32)[None]
        affine = in_mm @ scan.affine
        unit = spec.spatial_unit
        found.append(scan_facts(make_image(image, affine, files=["x"], spatial_unit=unit), spec))
    return found


def learned(scans: Sequence[ScanFacts], patients: int | None = None) -> TrainingFingerprint:
    return learn_fingerprint(scans, patients=patients or len(scans), modality=None)


@pytest.mark.parametrize(
    ("trained", "other"),
    [("mr", "ct"), ("ct", "mr"), ("mr", "oct"), ("oct", "mr"), ("oct", "ct"), ("ct", "oct")],
)
def test_every_phantom_of_another_kind_is_refused(trained: str, other: str) -> None:
    spec = load_spec(SPECS[trained])
    fingerprint = learned(phantoms(trained, spec, range(6)))
    for facts in phantoms(other, spec, range(10, 16)):
        assert Unlike(fingerprint).compare(facts, spec, None).impossible is not None
    for facts in phantoms(trained, spec, range(10, 16)):  # and its own is not
        assert Unlike(fingerprint).compare(facts, spec, None).impossible is None


@pytest.mark.parametrize("trained", ["mr", "ct"])
def test_cone_beam_ct_is_at_least_worth_a_word(trained: str) -> None:
    spec = load_spec(SPECS[trained])
    fingerprint = learned(phantoms(trained, spec, range(6)))
    for facts in phantoms("cbct", spec, range(10, 16)):
        found = Unlike(fingerprint).compare(facts, spec, None)
        assert found.unusual or found.impossible


def facts_of(path: Path, spec: DataSpec) -> ScanFacts:
    return scan_facts(read_images([path], spatial_unit=spec.spatial_unit), spec)


def test_the_example_scans_are_told_apart(shared_data: Path) -> None:
    folder = shared_data / "ct_example"
    mr, ct = load_spec("mr"), load_spec("ct")
    trained_mr, trained_ct = (
        learned(phantoms(k, s, range(6))) for k, s in (("mr", mr), ("ct", ct))
    )
    ct_file, mr_file = folder / "example_ct_sm.nii.gz", folder / "example_mr_sm.nii.gz"
    assert Unlike(trained_mr).compare(facts_of(ct_file, mr), mr, None).impossible is not None
    assert Unlike(trained_ct).compare(facts_of(mr_file, ct), ct, None).impossible is not None
    assert Unlike(trained_ct).compare(facts_of(ct_file, ct), ct, None).impossible is None
    assert Unlike(trained_mr).compare(facts_of(mr_file, mr), mr, None).impossible is None
    [series] = find_series(folder / "dicom", min_slices=2).series
    facts = scan_facts(series_image(series), mr)
    assert Unlike(trained_mr).compare(facts, mr, None).impossible is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_few_of_the_remaining_scans_get_a_warning(shared_data: Path, name: str) -> None:
    """At most 5 % of the scans that are not in the training part, for each of 40 choices of it."""
    spec_name, step = DATASETS[name]
    spec = load_spec(spec_name)
    files: dict[str, list[Path]] = {}
    for path in sorted((shared_data / name / "imagesTr").glob("*.nii.gz")):
        files.setdefault(path.name.partition("_frame")[0], []).append(path)
    chosen = list(files)[::step]
    patients = {patient: [facts_of(p, spec) for p in files[patient]] for patient in chosen}
    shares = []
    for count in (8, 12, 16, 20):
        for seed in range(10):
            ids = sorted(patients)
            np.random.default_rng([count, seed]).shuffle(ids)
            training: list[ScanFacts] = []
            while len(training) < count:
                training += patients[ids.pop()]
            fingerprint = learned(training, len(patients) - len(ids))
            found = [Unlike(fingerprint).compare(f, spec, "MR") for i in ids for f in patients[i]]
            assert not any(f.impossible for f in found)
            shares.append(np.mean([bool(f.unusual) for f in found]))
    assert max(shares) <= 0.05
    assert np.mean(shares) <= 0.02
