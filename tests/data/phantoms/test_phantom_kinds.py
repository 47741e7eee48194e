"""Phantoms of every kind: reproducible, with known geometry, units, sides and volumes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medssl import cli
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.phantoms import (
    cbct as phantom_cbct,
)
from medssl.data.phantoms import (
    ct as phantom_ct,
)
from medssl.data.phantoms import (
    oct as phantom_oct,
)
from medssl.data.phantoms import (
    parts as phantom_parts,
)
from medssl.data.phantoms.dataset import write_phantom
from medssl.data.phantoms.kinds import KINDS, phantom_options
from medssl.data.phantoms.parts import Scan
from medssl.errors import MedSSLError

NEW = ("ct", "cbct", "oct")


def draw(kind: str, seed: int, shape: tuple[int, int, int] | None = None) -> Scan:
    return KINDS[kind].draw(np.random.default_rng([seed, 0, 0]), shape or KINDS[kind].shape)


def test_help_names_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["phantom", "--help"]) == 0
    words = set(re.findall(r"\w+", capsys.readouterr().out))
    assert set(KINDS) | {c for k in NEW for c in KINDS[k].choices} <= words


@pytest.fixture(scope="module")
def scans() -> dict[str, list[Scan]]:
    return {kind: [draw(kind, seed) for seed in range(6)] for kind in NEW}


def labels_of(kind: str, choice: str, scan: Scan) -> np.ndarray:
    first = next(iter(KINDS[kind].choices))
    return scan.label if choice == first else scan.others[choice]


def center(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return nib.affines.apply_affine(affine, np.argwhere(mask).mean(axis=0))


# --- files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NEW)
def test_same_options_same_bytes_and_the_reader_sees_nothing_odd(kind: str, tmp_path: Path) -> None:
    options = {"kind": kind, "labeled": 1, "unlabeled": 1, "test": 1, "seed": 3}
    options["shape"] = KINDS[kind].min_shape
    one = write_phantom(tmp_path / "one", **options)
    two = write_phantom(tmp_path / "two", **options)
    files = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert len(files) == 5 + 2
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)
    data = read_dataset(one)
    assert [len(data.training), len(data.unlabeled), len(data.test)] == [1, 1, 1]
    assert data.deviations == ()
    assert data.spatial_unit == KINDS[kind].spatial_unit
    assert data.modality == (KINDS[kind].modality,)
    assert data.labels.values == tuple(next(iter(KINDS[kind].choices.values())))


@pytest.mark.parametrize("kind", NEW)
def test_spacing_unit_forms_and_counts_are_in_the_files(kind: str, tmp_path: Path) -> None:
    shape = KINDS[kind].min_shape
    out = write_phantom(tmp_path / "p", kind=kind, labeled=2, unlabeled=0, test=0, shape=shape)
    record = json.loads((out / "phantom.json").read_text())["cases"]
    for case, entry in record.items():
        image = nib.load(out / "imagesTr" / f"{case}.nii.gz")
        label = nib.load(out / "labelsTr" / f"{case}.nii.gz")
        spacing, unit = {
            "ct": ((2, 2, 3), "mm"),
            "cbct": ((1, 1, 1), "mm"),
            "oct": ((24, 120, 4), "micron"),
        }[kind]
        np.testing.assert_allclose(image.header.get_zooms(), spacing, rtol=1e-5)
        assert image.header.get_xyzt_units()[0] == unit
        forms = int(image.header["qform_code"]), int(image.header["sform_code"])
        assert forms == ((0, 2) if kind == "oct" else (1, 1))
        assert image.get_data_dtype() == np.int16
        assert label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(image.affine, label.affine)
        values = np.asarray(label.dataobj)
        names = KINDS[kind].choices[next(iter(KINDS[kind].choices))]
        for value, name in names.items():
            assert value == 0 or entry["voxels"][name] == (values == value).sum()


@pytest.mark.parametrize(
    ("kind", "labels"), [(k, c) for k in NEW for c in list(KINDS[k].choices)[1:]]
)
def test_other_labels_are_of_the_same_images(kind: str, labels: str, tmp_path: Path) -> None:
    options = {"kind": kind, "labeled": 1, "unlabeled": 0, "test": 0}
    options["shape"] = KINDS[kind].min_shape
    one = write_phantom(tmp_path / "one", **options)
    two = write_phantom(tmp_path / "two", labels=labels, **options)
    name = f"{kind}_001.nii.gz"
    assert (one / "imagesTr" / name).read_bytes() == (two / "imagesTr" / name).read_bytes()
    assert (one / "labelsTr" / name).read_bytes() != (two / "labelsTr" / name).read_bytes()
    assert read_dataset(two).labels.values == tuple(KINDS[kind].choices[labels])


def test_the_command_writes_a_kind_with_the_labels_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict = {}

    def spy(out: Path, **options: object) -> Path:
        seen.update(options)
        return out

    monkeypatch.setattr("medssl.data.phantoms.dataset.write_phantom", spy)
    assert cli.run(["phantom", str(tmp_path), "--kind", "oct", "--labels", "layers"]) == 0
    assert (seen["kind"], seen["labels"]) == ("oct", "layers")


@pytest.mark.parametrize(
    ("options", "what", "fix"),
    [
        ({"kind": "cbt"}, "kind 'cbt'", "'cbct'"),
        ({"kind": "cbct", "labels": "FDI"}, "cbct phantom has no labels 'FDI'", "fdi, binary"),
        ({"kind": "oct", "labels": "layer"}, "no labels 'layer'", "'layers'"),
        ({"kind": "oct", "shape": [64, 4, 96]}, "'shape' is [64, 4, 96]", "(32, 8, 48)"),
    ],
)
def test_wrong_kinds_and_labels_are_refused(options: dict, what: str, fix: str) -> None:
    with pytest.raises(MedSSLError) as caught:
        phantom_options(options)
    assert what in caught.value.what
    assert fix in (caught.value.fix or "")


# --- anatomy --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NEW)
def test_no_label_value_is_undeclared_and_all_occur(kind: str, scans: dict) -> None:
    for choice, names in KINDS[kind].choices.items():
        found = [set(np.unique(labels_of(kind, choice, s))) for s in scans[kind]]
        assert set().union(*found) == set(names), choice
        if choice in ("organs", "pancreas", "binary", "canal", "sinus", "jaws", "layers"):
            assert all(f == set(names) for f in found), choice


@pytest.mark.parametrize("kind", NEW)
def test_volumes_are_those_of_the_formula(kind: str, scans: dict) -> None:
    choices = reversed(KINDS[kind].choices.items())
    where = {name: (choice, v) for choice, names in choices for v, name in names.items()}
    ratios: dict[str, list[float]] = {}
    for scan in scans[kind]:
        voxel = abs(np.linalg.det(scan.affine[:3, :3]))
        for name, volume in scan.analytic.items():
            choice, value = where[name]
            measured = voxel * (labels_of(kind, choice, scan) == value).sum()
            ratios.setdefault(name, []).append(measured / volume)
    together = np.concatenate(list(ratios.values()))
    assert len(together) >= 5
    # Single teeth of 60 voxels scatter, and the field cuts the last molars of some.
    assert np.median(together) == pytest.approx(1, abs=0.05)
    assert np.quantile(together, 0.2) > 0.85
    assert together.max() < 1.25
    if kind == "cbct":  # the field cuts the ends of some canals
        assert len(ratios["canal"]) == len(scans[kind])
        assert max(ratios["canal"]) < 1.05
        assert np.median(ratios["canal"]) > 0.85


def test_a_tube_along_a_curve_has_the_distance_and_volume_of_a_bent_one() -> None:
    angle = np.linspace(0, np.pi / 2, 300)
    arc = 10 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    points = np.stack(np.meshgrid(*[np.arange(-3, 14, 0.25)] * 2, np.arange(-3, 3.1, 0.25)))
    distance = phantom_parts.curve_tube(points.astype(np.float32), arc, 2.0)
    assert phantom_parts.tube_volume(arc, 2.0) == pytest.approx(
        np.pi * 4 * (5 * np.pi + 8 / 3), rel=1e-4
    )
    assert 0.25**3 * (distance < 0).sum() == pytest.approx(
        phantom_parts.tube_volume(arc, 2.0), rel=0.02
    )
    x, y, z = points
    inner = (x > 0) & (y > 0) & (distance < 3)
    np.testing.assert_allclose(
        distance[inner], np.hypot(np.hypot(x, y) - 10, z)[inner] - 2, atol=0.03
    )


def test_ct_is_in_hounsfield_units_with_liver_right_and_spleen_left(scans: dict) -> None:
    for scan in scans["ct"]:
        image, label = scan.image.astype(float), scan.label
        assert image.min() >= -1024
        assert np.mean(image < -900) > 0.2  # air around
        assert np.mean(image > 300) > 0.002  # bone
        phase = phantom_ct.PHASES[str(scan.settings["phase"])]
        native = phantom_ct.PHASES["native"]
        for value, name, tolerance in ((1, "liver", 20), (4, "pancreas", 35)):
            expected = native[name] + scan.settings["uptake"] * (phase[name] - native[name])
            assert np.median(image[label == value]) == pytest.approx(expected, abs=tolerance)
        codes = "".join(nib.aff2axcodes(scan.affine))
        assert codes in ("RAS", "LPS")
        right = {v: center(label == v, scan.affine)[0] for v in (1, 2, 4)}
        assert right[1] > right[4] > right[2]
        assert np.all(scan.others["pancreas"] == (label == 4))
        assert np.all((scan.others["liver"] > 0) == (label == 1))


def test_ct_cases_differ_in_contrast_phase() -> None:
    phases = {str(draw("ct", s, (32, 32, 16)).settings["phase"]) for s in range(12)}
    assert phases == {"native", "arterial", "portal"}


def test_fdi_numbers_are_on_the_patients_sides_in_order(scans: dict) -> None:
    stored = set()
    for scan in scans["cbct"]:
        stored.add("".join(nib.aff2axcodes(scan.affine)))
        origin = center(np.ones(scan.label.shape, bool), scan.affine)
        where = {
            int(v): center(scan.label == v, scan.affine) - origin for v in np.unique(scan.label)[1:]
        }
        chewing = np.mean([p[2] for p in where.values()])
        middle = np.mean([where[v][0] for v in (11, 21, 31, 41) if v in where])
        for number, (x, _, z) in where.items():
            assert (x > middle) == (number // 10 in (1, 4)), number
            assert (z > chewing) == (number // 10 in (1, 2)), number
        for quadrant in (1, 2, 3, 4):  # counted from the front backwards
            depth = [where[n][1] for n in range(10 * quadrant + 1, 10 * quadrant + 9) if n in where]
            assert np.all(np.diff(depth) < 0.3), quadrant
    assert stored == {"RAS", "LPS"}


def test_some_teeth_are_missing_and_each_is_one_piece(scans: dict) -> None:
    from scipy.ndimage import label as components

    counts = [len(np.unique(s.label)) - 1 for s in scans["cbct"]]
    assert min(counts) >= 20
    assert max(counts) <= 32
    assert len(set(counts)) > 1
    scan = scans["cbct"][0]
    for number in np.unique(scan.label)[1:]:
        pieces, n = components(scan.label == number, np.ones((3, 3, 3)))
        largest = np.bincount(pieces.ravel())[1:].max()
        assert n == 1 or largest > 0.95 * (scan.label == number).sum(), number


def test_cbct_is_padded_around_a_cylinder_and_not_calibrated(scans: dict) -> None:
    offsets = []
    for scan in scans["cbct"]:
        image, s = scan.image, scan.settings
        corner = image[0, 0, 0]
        assert np.all(image[[0, 0, -1, -1], [0, -1, 0, -1]] == corner)  # the grid's upright edges
        assert corner == pytest.approx(-1000 * s["slope"] + s["offset"], abs=1)
        away = np.hypot(*(np.indices(image.shape)[:2] - 31.5))
        assert np.all(image[away > s["field_radius_mm"] + 0.01] == corner)
        assert np.all(scan.label[away > s["field_radius_mm"] + 0.01] == 0)
        assert np.mean(image[away < s["field_radius_mm"] - 2] == corner) < 0.05
        # Dentin and enamel stand out from what is around, whatever the offset.
        grey = (image.astype(float) - s["offset"]) / s["slope"]
        assert np.median(grey[scan.label > 0]) > 1000
        offsets.append(s["offset"])
    assert np.ptp(offsets) > 500


def test_jaws_teeth_and_canals_lie_where_they_do_in_a_head(scans: dict) -> None:
    for scan in scans["cbct"]:
        jaws, teeth = scan.others["jaws"], scan.label
        assert np.all((jaws == 5) == np.isin(teeth // 10, (1, 2)))
        assert np.all((jaws == 6) == np.isin(teeth // 10, (3, 4)))
        assert np.all((jaws == 3) == (scan.others["canal"] == 1))
        up = {v: center(jaws == v, scan.affine)[2] for v in range(1, 7)}
        assert max(up[1], up[3]) < up[6] < up[5] < min(up[2], up[4])
        grey = (scan.image.astype(float) - scan.settings["offset"]) / scan.settings["slope"]
        assert np.all((jaws == 4) == (scan.others["sinus"] == 1))
        middle = center(teeth > 0, scan.affine)[0]
        sides = nib.affines.apply_affine(scan.affine, np.argwhere(jaws == 4))[:, 0] - middle
        values = grey[jaws == 4]
        for name, inside in (("right", sides > 0), ("left", sides < 0)):
            assert inside.sum() > 50
            filling = scan.settings[f"{name}_sinus"]
            air = np.mean(values[inside] < -500)
            assert air < 0.02 if filling == "opaque" else air > 0.05, filling
            assert filling != "clear" or air > 0.6
        assert np.median(grey[jaws == 3]) < np.median(grey[jaws == 1]) - 50


def test_there_is_one_canal_on_each_side_inside_the_lower_jaw(scans: dict) -> None:
    from scipy.ndimage import binary_dilation
    from scipy.ndimage import label as components

    for scan in scans["cbct"]:
        canal, jaws = scan.others["canal"] == 1, scan.others["jaws"]
        pieces, _ = components(canal, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        largest = np.argsort(sizes)[-2:] + 1
        assert sizes[largest - 1].sum() > 0.9 * canal.sum()
        middle = center(scan.label > 0, scan.affine)[0]
        side = [center(pieces == n, scan.affine)[0] - middle for n in largest]
        assert side[0] * side[1] < 0
        assert np.abs(side).min() > 10
        around = binary_dilation(canal) & ~canal
        # Beside it are bone, a root, or, where it leaves the jaw and at the field's edge, neither.
        assert np.mean(np.isin(jaws[around], (1, 6))) > 0.85


def test_metal_streaks_reach_beyond_the_crowns() -> None:
    points = np.stack(np.meshgrid(*[np.arange(-15.0, 16.0)] * 3, indexing="ij"))
    tooth = phantom_cbct.Tooth(16, np.zeros(3), np.eye(3), (3.0, 3.0), 4.0, 0.5)
    rng = np.random.default_rng(0)
    streaks = phantom_cbct._streaks(points.astype(np.float32), [tooth], rng)
    slices = np.abs(streaks).mean(axis=(0, 1))
    assert slices.argmax() == pytest.approx(15 - 0.7 * 4, abs=1)
    assert slices[0] < 0.01 * slices.max()
    assert np.abs(streaks[25, 15, 12]) + np.abs(streaks[15, 25, 12]) > 20
    assert not phantom_cbct._streaks(points, [], rng).any()


def test_oct_affine_is_nominal_and_centered() -> None:
    for upwards in (True, False):
        affine = phantom_oct.oct_affine((64, 16, 96), upwards=upwards)
        assert "".join(nib.aff2axcodes(affine)) == ("LSP" if upwards else "LIP")
        middle = nib.affines.apply_affine(affine, [31.5, 7.5, 47.5])
        np.testing.assert_allclose(middle, 0, atol=1e-9)


def test_layers_follow_each_other_in_depth_and_fluid_lies_in_its_own(scans: dict) -> None:
    for scan in scans["oct"]:
        layers = scan.others["layers"]
        assert scan.image.min() >= 0
        assert scan.image.max() <= 255
        for line in layers.reshape(-1, layers.shape[2])[::37]:
            retina = line[line > 0].astype(int)
            inside = np.flatnonzero(line)
            assert np.ptp(inside) == len(inside) - 1  # no gap
            assert np.all(np.isin(np.diff(retina), (0, 1)) | (np.diff(retina) > 0))
        fluid = scan.label
        assert np.all(layers[fluid == 2] == 4)  # above the pigment epithelium
        assert np.all(layers[fluid == 3] == 5)  # below it
        assert np.all(layers[fluid == 1] > 0)
        voxels = [(layers == k).sum() for k in range(1, 6)]
        thickness = 4.0 * np.array(voxels) / (layers.shape[0] * layers.shape[1])
        np.testing.assert_allclose(thickness, scan.settings["thickness_um"], atol=0.6)


def test_motion_between_bscans_is_what_is_recorded(scans: dict) -> None:
    before, after = [], []
    for scan in scans["oct"]:
        shift = np.array(scan.settings["bscan_shift_um"])
        assert shift.shape == (16,)
        assert shift.mean() == pytest.approx(0, abs=0.1)
        layers = scan.others["layers"]
        # Bruch's membrane: a plane, bent a little, but for the motion.
        last = 4.0 * (layers.shape[2] - np.argmax(layers[:, :, ::-1] > 0, axis=2)).mean(axis=0)
        before.append(np.abs(np.diff(last, 2)).mean())
        after.append(np.abs(np.diff(last - shift, 2)).mean())
    assert np.max(after) < 1.0
    assert np.min(before) > 4.0


def test_fluid_is_dark_where_no_shadow_falls(scans: dict) -> None:
    for scan in scans["oct"]:
        layer = scan.others["layers"]
        for value, around in ((1, (2, 3)), (2, (4,))):
            if (scan.label == value).sum() > 50:
                outside = np.isin(layer, around) & (scan.label == 0)
                inside = scan.image[scan.label == value].mean()
                assert inside < scan.image[outside].mean()
