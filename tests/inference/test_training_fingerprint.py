"""What a model was trained on, and what of another scan is said to be unlike it or refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from medssl.data.preprocessing.scan_facts import ChannelFacts, ScanFacts
from medssl.inference.training_fingerprint import (
    TrainingFingerprint,
    learn_fingerprint,
    read_fingerprint,
)
from medssl.inference.unlike_training import Unlike
from medssl.settings.spec import DataSpec

MR = ChannelFacts((0, 20, 50, 100, 150, 180, 200), 0.0)
CT = ChannelFacts((-1020, -1000, -900, -50, 40, 80, 300), 0.5)
NATIVE = DataSpec()


def scan(spacing=(1.0, 1.0, 1.0), extent=(50.0, 60.0, 40.0), channel=MR) -> ScanFacts:
    return ScanFacts(tuple(spacing), tuple(extent), (channel,))


def learned(*scans: ScanFacts, patients: int | None = None, modality: str | None = None):
    return learn_fingerprint(scans, patients=patients or len(scans), modality=modality)


ALIKE = learned(*[scan()] * 10)


# ------------------------------------------------------------------ what is said


def test_a_scan_like_the_training_scans_is_not_worth_a_word() -> None:
    found = Unlike(ALIKE).compare(scan((1.05, 1, 0.95), (90, 35, 40)), NATIVE, None)
    assert found.unusual == ()
    assert found.impossible is None


def test_voxels_of_another_size_are_named_with_what_becomes_of_them() -> None:
    facts = scan((0.6, 0.6, 1.2))
    said = "voxels of 0.6 x 0.6 x 1.2 mm, in training 1 x 1 x 1; "
    assert Unlike(ALIKE).compare(facts, NATIVE, None).unusual == (said + "not resampled",)
    target = DataSpec(spacing=[1, 1, None])
    assert Unlike(ALIKE).compare(facts, target, None).unusual == (
        said + "resampled to 1 x 1 x 1.2",
    )


def test_a_model_that_sees_scans_as_stored_tells_axes_it_has_not_seen() -> None:
    stored, turned = DataSpec(orientation=None), DataSpec()
    trained = learned(*[replace(scan(), axes=axes) for axes in ("LPS", "RAS", "LPS")])
    other = replace(scan(), axes="PIR")
    assert Unlike(trained).compare(other, stored, None).unusual == (
        "its axes are stored as PIR, in training as LPS or RAS, and this model sees scans as they "
        "are stored: turn them alike",
    )
    assert Unlike(trained).compare(other, turned, None).unusual == ()
    for facts, of in ((replace(scan(), axes="RAS"), trained), (other, ALIKE), (scan(), trained)):
        assert Unlike(of).compare(facts, stored, None).unusual == ()
    again = read_fingerprint(json.loads(json.dumps(trained.as_dict())))
    assert again == trained


def test_an_extent_is_named_by_its_side() -> None:
    facts = scan(extent=(50, 250, 10))
    assert Unlike(ALIKE).compare(facts, NATIVE, None).unusual == (
        "it measures 250 mm front-back, in training 60",
        "it measures 10 mm up-down, in training 40",
    )
    stored = DataSpec(orientation=None)
    assert "250 mm along axis 2" in Unlike(ALIKE).compare(facts, stored, None).unusual[0]


def test_values_that_are_spread_otherwise_are_told_by_the_most_unusual_percentile() -> None:
    dark = ChannelFacts((0, 2, 5, 8, 10, 150, 200), 0.0)
    (said,) = Unlike(ALIKE).compare(scan(channel=dark), NATIVE, None).unusual
    assert said == (
        "its values are spread otherwise: 75 % of them lie in the lowest 5% of their range, in "
        "training in the lowest 75% to 75%"
    )


def test_the_scale_of_values_does_not_matter_where_it_is_taken_away() -> None:
    bright = ChannelFacts(tuple(1000 * v for v in MR.percentiles), 0.0)
    assert Unlike(ALIKE).compare(scan(channel=bright), NATIVE, None).impossible is None
    assert Unlike(ALIKE).compare(scan(channel=bright), NATIVE, None).unusual == ()
    window = DataSpec(intensity={"rule": "window", "lower": 0, "upper": 200})
    said = Unlike(ALIKE).compare(scan(channel=bright), window, None).impossible
    assert said == "its values reach from 0 to 2e+05, in training over 200"


def test_what_varied_in_training_may_vary() -> None:
    sizes = (0.6, 0.7, 0.8, 0.9, 1.0)
    varied = learned(*(scan((s, s, 5 * s)) for s in sizes))
    assert Unlike(varied).compare(scan((1.2, 1.2, 6)), NATIVE, None).unusual == ()
    assert Unlike(varied).compare(scan((9, 9, 9)), NATIVE, None).unusual
    # Of two patients nobody can say how much their scans vary; of ten scans of theirs neither.
    two = [scan((s, s, s)) for s in (0.8, 1.0)]
    assert (
        Unlike(learned(*two * 5, patients=2)).compare(scan((3, 3, 3)), NATIVE, None).unusual == ()
    )
    assert Unlike(learned(*two * 5, patients=10)).compare(scan((3, 3, 3)), NATIVE, None).unusual


# ------------------------------------------------------------------ what is refused


def refused(fingerprint: TrainingFingerprint, facts: ScanFacts, modality=None) -> str:
    said = Unlike(fingerprint).compare(facts, NATIVE, modality).impossible
    assert said is not None
    return said


def test_another_modality_is_refused_if_it_is_stated() -> None:
    trained = learned(*[scan()] * 4, modality="MR")
    said = refused(trained, scan(), "CT")
    assert said == "it is stated to be CT, the model was trained on MR"
    assert Unlike(trained).compare(scan(), NATIVE, "MR").impossible is None
    assert Unlike(trained).compare(scan(), NATIVE, None).impossible is None
    assert Unlike(ALIKE).compare(scan(), NATIVE, "CT").impossible is None  # nobody knows of what


def test_a_header_that_says_ct_of_values_like_the_trainings_is_doubted() -> None:
    trained = learned(*[scan()] * 4, modality="MR")
    found = Unlike(trained).compare(scan(), NATIVE, "CT", by_header=True)
    assert found.impossible is None
    [said] = found.unusual
    assert said.startswith("it is stated to be CT, the model was trained on MR; but its values")
    # Not where values are Hounsfield units, or spread otherwise, or another kind is stated.
    even = ChannelFacts((0, 150, 160, 170, 180, 190, 200), 0.0)
    for facts, kind in ((scan(channel=CT), "CT"), (scan(channel=even), "CT"), (scan(), "PET")):
        assert Unlike(trained).compare(facts, NATIVE, kind, by_header=True).impossible is not None


def test_values_tell_ct_from_mr_where_nothing_is_stated() -> None:
    lung = ChannelFacts((-950, -940, -920, -900, -880, -860, -800), 1.0)
    assert "Hounsfield" in refused(ALIKE, scan(channel=lung))
    said = refused(ALIKE, scan(channel=CT))
    assert "reach from -1020 to 300, as Hounsfield units of CT do" in said
    said = refused(learned(*[scan(channel=CT)] * 5), scan())
    assert "reach from 0 to 200, and the training scans all hold Hounsfield units" in said


@pytest.mark.parametrize(
    ("trained", "own"),
    [
        ((CT, MR), CT),  # training knew both
        ((CT, MR), MR),
        # Standardized values are negative, and small.
        ((MR,), ChannelFacts((-2, -1.5, -0.5, 0, 0.5, 1.5, 3), 0.0)),
        # Interpolation leaves a few voxels of an MR below 0.
        ((MR,), ChannelFacts((-4, 0, 14, 100, 300, 500, 690), 0.001)),
        ((replace(MR, below=0.002),), ChannelFacts((-60, 20, 50, 100, 150, 180, 200), 0.006)),
        # A CT of soft tissue with little fat is still one.
        ((CT,), ChannelFacts((-45, 0, 30, 40, 60, 100, 250), 0.003)),
    ],
)
def test_what_may_be_is_not_refused(trained, own) -> None:
    scans = [scan(channel=c) for c in trained * 3]
    assert Unlike(learned(*scans)).compare(scan(channel=own), NATIVE, None).impossible is None


def test_a_blank_scan_is_refused() -> None:
    blank = ChannelFacts((7.0,) * 7, 0.0)
    assert refused(ALIKE, scan(channel=blank)) == "it is blank: nearly all its values are 7"
    assert (
        Unlike(learned(scan(channel=blank))).compare(scan(channel=blank), NATIVE, None) is not None
    )
    assert (
        Unlike(learned(scan(channel=blank))).compare(scan(channel=MR), NATIVE, None).impossible
        is None
    )


def test_voxels_a_thousand_times_as_large_are_a_wrong_unit() -> None:
    said = refused(ALIKE, scan((1000, 1000, 1000), (5e4, 6e4, 4e4)))
    assert "voxels of 1e+03 x 1e+03 x 1e+03 mm" in said
    assert "the unit in its header is likely wrong" in said
    # Slices ten times as thick are a scan like others.
    assert Unlike(ALIKE).compare(scan((1, 1, 12)), NATIVE, None).impossible is None


# ------------------------------------------------------------------ native voxels


def test_native_voxels_are_brought_into_the_range_of_training() -> None:
    trained = learned(scan((0.8, 1, 2)), scan((1.0, 1, 2)))
    spec_for = trained.spec_for
    assert spec_for(scan((0.9, 1.04, 2)), NATIVE, slices=False) == NATIVE
    assert spec_for(scan((0.6, 1, 3)), NATIVE, slices=False).spacing == [0.8, None, 2]
    assert spec_for(scan((0.6, 1, 3)), NATIVE, slices=True).spacing == [0.8, None, None]
    # A target stands; what it leaves native is native.
    assert spec_for(scan((0.6, 1, 3)), DataSpec(spacing=[1, 1, 1]), slices=False).spacing == [1] * 3
    half = DataSpec(spacing=[1, 1, None])
    assert spec_for(scan((0.6, 1, 3)), half, slices=False).spacing == [1, 1, 2]


def test_b_scans_and_axes_that_are_resized_stay() -> None:
    trained = learned(scan((1, 1, 2)))
    oct_spec = DataSpec(modality="OCT", rotate_planes=[])
    assert trained.spec_for(scan((1, 2, 9)), oct_spec, slices=False).spacing == [None, 1, None]
    resized = DataSpec(resize=[256, 256, None])
    assert trained.spec_for(scan((3, 3, 2)), resized, slices=False) == resized


# ------------------------------------------------------------------ how it is kept


def test_it_comes_back_from_json() -> None:
    trained = learned(scan(), scan((2, 2, 2), channel=CT), modality="MR")
    again = read_fingerprint(json.loads(json.dumps(trained.as_dict())))
    assert again == trained
    text = json.dumps(trained.as_dict())
    assert "case" not in text


@pytest.mark.parametrize("content", [None, {}, {"modality": "MR"}, [], "x", {"measures": 3}])
def test_an_old_or_damaged_manifest_has_none(content: object) -> None:
    assert read_fingerprint(content) is None


def test_a_range_is_that_of_all_scans() -> None:
    trained = learned(scan((1, 1, 1)), scan((2, 1, 4)))
    assert trained.spacing_range(0) == pytest.approx((1, 2))
    assert trained.edge == pytest.approx((1, 2))
    assert (trained.scans, trained.patients) == (2, 2)
    with pytest.raises(ValueError, match="needs a scan"):
        learn_fingerprint([], patients=0, modality=None)


# ------------------------------------------------------------------ how often it is wrong


@pytest.mark.parametrize("count", [8, 20])
def test_few_further_scans_of_one_kind_get_a_warning(count: int) -> None:
    rng = np.random.default_rng(count)

    def draw() -> ScanFacts:
        size, shape = 0.8 * np.exp(rng.normal(0, 0.1, 3)), 50 * np.exp(rng.normal(0, 0.2, 3))
        inner = np.sort(rng.beta(5, 5, 5)) * 200
        return scan(size, shape, ChannelFacts((0, *inner.tolist(), 200), 0.0))

    warned = total = 0
    for _ in range(20):
        trained = learned(*(draw() for _ in range(count)))
        warned += sum(
            bool(Unlike(trained).compare(draw(), NATIVE, None).unusual) for _ in range(50)
        )
        total += 50
    assert warned / total <= 0.05
