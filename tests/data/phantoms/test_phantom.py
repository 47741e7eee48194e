"""The embedded dataset: layout, determinism, truth, difficulty, and errors when writing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medssl.data.datasets.decathlon import read_dataset
from medssl.data.phantoms import dataset as phantom
from medssl.data.phantoms import parts as phantom_parts
from medssl.data.phantoms.dataset import ensure_phantom, is_intact, write_phantom
from medssl.data.phantoms.kinds import KINDS, PhantomSettings, phantom_options
from medssl.errors import MedSSLError

COUNTS = {"labeled": 10, "unlabeled": 3, "test": 2, "validation": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom") / "mr", **COUNTS)


@pytest.fixture(scope="module")
def record(folder: Path) -> dict:
    return json.loads((folder / "phantom.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def load(path: Path) -> tuple[np.ndarray, nib.Nifti1Image]:
    image = nib.load(path)
    return np.asanyarray(image.dataobj), image


# --- layout ---------------------------------------------------------------------------------


def test_layout_is_decathlon(folder: Path) -> None:
    info = json.loads((folder / "dataset.json").read_text())
    assert info["numTraining"] == len(info["training"]) == 11
    assert info["numTest"] == len(info["test"]) == 2
    assert info["labels"] == {"0": "background", "1": "arc", "2": "wall", "3": "node"}
    assert info["modality"] == {"0": "MRI"}
    assert info["tensorImageSize"] == "3D"
    listed = [item[key] for item in info["training"] for key in ("image", "label")]
    listed += [item["image"] for item in info["unlabeled"]] + info["test"]
    assert len(listed) == len(set(listed)) == 2 * 11 + 3 + 2
    found = {f"./{name}" for name in contents(folder) if name.endswith(".nii.gz")}
    references = {n for n in found if n.startswith("./labelsTs/")}
    assert found - references == set(listed)
    assert {n.replace("labelsTs", "imagesTs") for n in references} == set(info["test"])


def test_the_reader_finds_every_case_and_no_deviation(folder: Path) -> None:
    data = read_dataset(folder)
    assert [len(data.training), len(data.unlabeled), len(data.test)] == [11, 3, 2]
    assert data.labels.names == ("background", "arc", "wall", "node")
    assert data.modality == ("MRI",)
    assert data.deviations == ()


def test_unlabeled_cases_have_no_label_file(folder: Path, record: dict) -> None:
    images = {p.name for p in (folder / "imagesUn").iterdir()}
    assert images == {f"{case}.nii.gz" for case in record["unlabeled"]}
    assert len(images) == 3
    labels = {p.name for d in ("labelsTr", "labelsTs") for p in (folder / d).iterdir()}
    assert not images & labels
    assert not (folder / "labelsUn").exists()


def test_roles_are_disjoint(record: dict) -> None:
    roles = {role: record[role] for role in ("training", "validation", "unlabeled", "test")}
    assert {role: len(ids) for role, ids in roles.items()} == {
        "training": 10,
        "validation": 1,
        "unlabeled": 3,
        "test": 2,
    }
    assert len({i for ids in roles.values() for i in ids}) == 16 == len(record["cases"])


def test_no_unlabeled_and_no_test_cases(tmp_path: Path) -> None:
    out = write_phantom(tmp_path / "p", labeled=1, unlabeled=0, test=0)
    assert sorted(p.name for p in out.iterdir()) == [
        "dataset.json",
        "imagesTr",
        "labelsTr",
        "phantom.json",
    ]


# --- geometry and voxels --------------------------------------------------------------------


def test_affines_are_valid_varied_and_off_origin(folder: Path, record: dict) -> None:
    oblique, codes = 0, set()
    for case, entry in record["cases"].items():
        where = {"unlabeled": "imagesUn", "test": "imagesTs"}.get(entry["role"], "imagesTr")
        voxels, image = load(folder / where / f"{case}.nii.gz")
        assert voxels.dtype == np.int16
        assert voxels.shape == (56, 56, 28)
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(image.header.get_zooms(), (1, 1, 2), atol=1e-5)
        affine = image.affine
        axes = affine[:3, :3] / np.array([1, 1, 2])
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-5)
        assert np.linalg.det(axes) == pytest.approx(1, abs=1e-5)
        assert np.abs(affine[:3, 3]).min() > 5
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
        oblique += np.abs(axes).max(axis=0).min() < 0.999
        codes.add("".join(nib.aff2axcodes(affine)))
    assert 0 < oblique < 16
    assert codes == {"RAS", "LPS"}


def test_labels_lie_on_the_images_grid_with_the_recorded_volumes(
    folder: Path, record: dict
) -> None:
    values = {"arc": 1, "wall": 2, "node": 3}
    for case in record["training"] + record["validation"] + record["test"]:
        suffix = "Ts" if case in record["test"] else "Tr"
        label, image = load(folder / f"labels{suffix}" / f"{case}.nii.gz")
        _, scan = load(folder / f"images{suffix}" / f"{case}.nii.gz")
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(image.affine, scan.affine)
        assert set(np.unique(label)) == {0, 1, 2, 3}
        truth = record["cases"][case]["voxels"]
        assert {name: int((label == v).sum()) for name, v in values.items()} == truth


def test_every_structure_is_present_in_many_cases_and_shapes() -> None:
    draw = KINDS["mr"].draw
    for shape in [(56, 56, 28), (24, 24, 12), (40, 64, 20)]:
        for seed in range(25):
            counts = np.bincount(draw(np.random.default_rng(seed), shape).label.ravel())
            assert len(counts) == 4
            # Numbers at the default resolution; at the smallest a node may be a few voxels.
            assert counts[1:].min() >= (25 if shape[0] == 56 else 2), (shape, seed, counts)


def test_anatomy_is_fixed_in_the_patient_not_in_the_array(folder: Path, record: dict) -> None:
    # The wall lies to the patient's left of the node, however the voxels are stored.
    for case in record["training"]:
        label, image = load(folder / "labelsTr" / f"{case}.nii.gz")
        center = {
            v: nib.affines.apply_affine(image.affine, np.argwhere(label == v).mean(axis=0))
            for v in (2, 3)
        }
        assert center[2][0] < center[3][0]


# --- determinism ----------------------------------------------------------------------------


def test_same_options_same_bytes_in_another_process(tmp_path: Path) -> None:
    options = {"labeled": 2, "unlabeled": 1, "test": 1, "seed": 5}
    one = write_phantom(tmp_path / "one", **options)
    code = (
        "import sys; from pathlib import Path;"
        "from medssl.data.phantoms.dataset import write_phantom;"
        f"write_phantom(Path(sys.argv[1]), **{options})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "two")], check=True)
    first, second = contents(one), contents(tmp_path / "two")
    assert len(first) == 2 * 2 + 1 + 2 + 2
    assert first == second


def test_a_case_does_not_depend_on_how_many_others_there_are(folder: Path, tmp_path: Path) -> None:
    small = contents(write_phantom(tmp_path / "p", labeled=2, unlabeled=1, test=0))
    full = contents(folder)
    for name in ("imagesTr/mr_001.nii.gz", "labelsTr/mr_002.nii.gz"):
        assert small[name] == full[name]
    assert small["imagesUn/mr_003.nii.gz"] == full["imagesUn/mr_012.nii.gz"]


def test_seeds_and_cases_differ(folder: Path, tmp_path: Path) -> None:
    other = write_phantom(tmp_path / "p", labeled=2, unlabeled=1, test=1, seed=1)
    images = [v for k, v in contents(folder).items() if k.startswith("images")]
    images += [v for k, v in contents(other).items() if k.startswith("images")]
    assert len(set(images)) == len(images) == 16 + 4


# --- difficulty -----------------------------------------------------------------------------


def best_band_dice(image: np.ndarray, mask: np.ndarray, bins: int = 48) -> float:
    """Dice of the best intensity band, found by trying them all."""
    edges = np.quantile(image, np.linspace(0, 1, bins + 1))
    inside = np.histogram(image[mask], edges)[0].cumsum()
    everywhere = np.histogram(image, edges)[0].cumsum()
    a, b = (np.subtract.outer(np.append(c, 0), np.append(0, c)) for c in (inside, everywhere))
    return float((2 * a / (np.maximum(b, 0) + mask.sum())).max())


def test_the_band_search_finds_a_band() -> None:
    image = np.random.default_rng(0).permutation(np.arange(10_000.0))
    assert best_band_dice(image, (image >= 2500) & (image < 5000), bins=4) == pytest.approx(1)


def test_no_threshold_finds_a_structure(folder: Path, record: dict) -> None:
    best = []
    for case in record["training"]:
        image, _ = load(folder / "imagesTr" / f"{case}.nii.gz")
        label, _ = load(folder / "labelsTr" / f"{case}.nii.gz")
        best.append([best_band_dice(image, label == v) for v in (1, 2, 3)])
    assert np.max(best) < 0.6


# --- the cache ------------------------------------------------------------------------------

SMALL = {"labeled": 2, "unlabeled": 1, "test": 0, "shape": [24, 24, 12]}


def test_ensure_writes_once_and_reuses(tmp_path: Path) -> None:
    calls: list[str] = []
    folder = ensure_phantom(tmp_path / "a" / "b", SMALL, calls.append)
    assert len(calls) == 3
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert ensure_phantom(tmp_path / "a" / "b", {**SMALL, "seed": 0}, lambda *_: 1 / 0) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    other = ensure_phantom(tmp_path / "a" / "b", {**SMALL, "seed": 1})
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == sorted(
        [folder.name, other.name]
    )


def test_ensure_follows_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ensure_phantom(tmp_path, SMALL)
    monkeypatch.setattr(phantom, "PHANTOM_VERSION", phantom.PHANTOM_VERSION + 1)
    assert ensure_phantom(tmp_path, SMALL) != old


@pytest.mark.parametrize("damage", ["dataset.json", "phantom.json", "truncated", "image", "all"])
def test_ensure_mends_a_damaged_folder(tmp_path: Path, damage: str) -> None:
    folder = ensure_phantom(tmp_path, SMALL)
    good = contents(folder)
    image = folder / "imagesTr" / "mr_001.nii.gz"
    if damage == "truncated":
        image.write_bytes(image.read_bytes()[:100])
    elif damage == "all":
        for name in good:
            (folder / name).unlink()
    else:
        (image if damage == "image" else folder / damage).unlink()
    assert not is_intact(folder)
    assert ensure_phantom(tmp_path, SMALL) == folder
    assert contents(folder) == good


def test_ensure_accepts_what_a_faster_process_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ensure_phantom(tmp_path, SMALL)
    finished = target.rename(tmp_path / "finished")

    def race(_case: str) -> None:
        if finished.exists():
            finished.rename(target)

    assert ensure_phantom(tmp_path, SMALL, race) == target
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


# --- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what", "fix"),
    [
        ({"labelled": 4}, "no option 'labelled'", "'labeled'"),
        ({"xyz": 4}, "no option 'xyz'", "kind, labeled, unlabeled"),
        ({"kind": "mri"}, "kind 'mri'", "'mr'"),
        ({"kind": 3}, "kind 3", "use one of: mr"),
        ({"labeled": 0}, "'labeled' is 0", "1 or more"),
        ({"test": -1}, "'test' is -1", "0 or more"),
        ({"unlabeled": 2.5}, "'unlabeled' is 2.5", "whole number"),
        ({"seed": True}, "'seed' is True", "whole number"),
        ({"shape": [56, 56]}, "'shape' is [56, 56]", "three whole numbers"),
        ({"shape": [56, 56, 4]}, "'shape' is [56, 56, 4]", "(24, 24, 12)"),
        ({"shape": "56x56x28"}, "'shape' is '56x56x28'", "three whole numbers"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict, what: str, fix: str) -> None:
    with pytest.raises(MedSSLError) as caught:
        ensure_phantom(tmp_path / "cache", options)
    assert what in caught.value.what
    assert fix in (caught.value.fix or "")
    assert not (tmp_path / "cache").exists()


def test_options_fill_in_defaults() -> None:
    assert phantom_options({"seed": 3}) == PhantomSettings(seed=3, shape=(56, 56, 28), labels="all")


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(MedSSLError, match="exists and is not empty"):
        write_phantom(tmp_path, labeled=1, unlabeled=0, test=0)
    with pytest.raises(MedSSLError, match="exists and is not empty"):
        write_phantom(tmp_path / "mine.txt", labeled=1, unlabeled=0, test=0)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


def test_an_empty_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_phantom(Path("."), labeled=1, unlabeled=0, test=0)
    assert is_intact(tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, existing: bool
) -> None:
    out = tmp_path / "new" / "p"
    if existing:
        out.mkdir(parents=True)
    real, written = os.replace, []

    def failing(source: Path, target: Path) -> None:
        if len(written) == 2:
            raise error
        written.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    expected = MedSSLError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_phantom(out, labeled=2, unlabeled=0, test=0, shape=(24, 24, 12))
    assert len(written) == 2
    assert [p for p in tmp_path.rglob("*") if p not in (out, out.parent)] == []
    assert out.exists() == out.parent.exists() == existing
    if isinstance(error, OSError):
        assert "No space left" in str(caught.value)
        assert str(out) in str(caught.value)
        assert len(str(caught.value).splitlines()) <= 6


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedSSLError, match="cannot write the phantom"):
        write_phantom(tmp_path / "file" / "p", labeled=1, unlabeled=0, test=0)

    def denied(self: Path, *_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(MedSSLError, match="Permission denied") as caught:
        ensure_phantom(tmp_path / "readonly", SMALL)
    assert "readonly" in (caught.value.where or "")


# --- parts ----------------------------------------------------------------------------------


def grid(n: int, spacing: float) -> phantom_parts.VoxelGrid:
    return phantom_parts.VoxelGrid((n, n, n), (spacing,) * 3, np.eye(3), np.zeros(3))


def test_signed_distances_match_closed_forms() -> None:
    points = grid(41, 0.5).points()
    radius = np.linalg.norm(points, axis=0)
    np.testing.assert_allclose(
        phantom_parts.ellipsoid(points, (4, 4, 4))[radius > 0.1],
        radius[radius > 0.1] - 4,
        atol=1e-4,
    )
    volume = 0.5**3 * (phantom_parts.ellipsoid(points, (3, 5, 7)) < 0).sum()
    assert volume == pytest.approx(4 / 3 * np.pi * 3 * 5 * 7, rel=0.02)
    # Off the lattice, or a circle's rim passes exactly through voxels.
    off = phantom_parts.place(points, (0.13, 0.21, 0.08))
    capsule = phantom_parts.straight_tube(off, half_length=4, radius=3)
    assert 0.5**3 * (capsule < 0).sum() == pytest.approx(
        np.pi * 9 * 8 + 4 / 3 * np.pi * 27, rel=0.02
    )
    # Half a torus with round ends: pi^2 R r^2 + 4/3 pi r^3; its middle lies at the origin.
    bow = {"bend": 5, "half_angle": np.pi / 2, "radius": (2, 2), "twist": 0}
    arc = phantom_parts.arc_tube(off + np.float32([-3, 0, 0]).reshape(3, 1, 1, 1), **bow)
    assert 0.5**3 * (arc < 0).sum() == pytest.approx(np.pi**2 * 5 * 4 + 4 / 3 * np.pi * 8, rel=0.02)
    assert phantom_parts.arc_tube(points, **bow)[20, 20, 20] == pytest.approx(-2, abs=1e-5)


def test_grid_points_agree_with_its_affine() -> None:
    drawn = phantom_parts.draw_grid(
        np.random.default_rng(3), (5, 6, 7), (1.0, 1.5, 2.0), flipped=1, oblique=1
    )
    index = np.indices(drawn.shape).reshape(3, -1).T
    world = nib.affines.apply_affine(drawn.affine, index)
    np.testing.assert_allclose(
        drawn.points().reshape(3, -1).T, world - world.mean(axis=0), atol=1e-4
    )


def test_rician_noise_has_the_known_moments() -> None:
    zero = np.zeros((60, 60, 60), np.float32)
    noise = phantom_parts.rician(zero, np.random.default_rng(0), sigma=2.0)
    assert noise.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.01)  # Rayleigh
    signal = phantom_parts.rician(zero + 5, np.random.default_rng(0), sigma=2.0)
    assert (signal**2).mean() == pytest.approx(25 + 2 * 4, rel=0.01)


def test_bias_field_is_smooth_and_bounded() -> None:
    field = phantom_parts.bias_field(grid(20, 1).points(), np.random.default_rng(0), strength=0.3)
    assert np.abs(np.log(field)).max() == pytest.approx(0.3, abs=1e-5)
    assert np.abs(np.diff(np.log(field), axis=0)).max() < 0.15


def test_paint_mixes_tissues_at_the_border_only() -> None:
    canvas = phantom_parts.Canvas((1, 1, 5), background=0.0, softness=2.0)
    canvas.paint(np.array([[[-3.0, -0.5, 0.0, 0.5, 3.0]]], np.float32), 8.0, label=2)
    np.testing.assert_allclose(canvas.image[0, 0], [8, 6, 4, 2, 0])
    np.testing.assert_array_equal(canvas.label[0, 0], [2, 2, 0, 0, 0])
