"""The preprocessing cache: keys, contents, repair, and what it never opens."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medssl.data.datasets import known_files
from medssl.data.datasets.case import IGNORE_INDEX, Case, LabelMap
from medssl.data.preprocessing import cache as cache_module
from medssl.data.preprocessing.cache import CaseCache
from medssl.data.preprocessing.cache_entry import MAX_CLASS_INDICES, class_indices
from medssl.errors import MedSSLError
from medssl.files import default_cache_root
from medssl.settings.spec import DataSpec

LABELS = LabelMap((0, 7, 11), ("background", "a", "b"), ignore_value=200)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    rng = np.random.default_rng(0)
    image = rng.normal(100, 30, (12, 10, 8)).astype(np.float32)
    label = rng.choice([0, 7, 11, 200], (12, 10, 8)).astype(np.uint8)
    for name, array in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1])), tmp_path / f"{name}.nii.gz")
    return Case("c1", (tmp_path / "image.nii.gz",), tmp_path / "label.nii.gz", "p1")


def make(tmp_path: Path, spec: DataSpec | None = None, labels: LabelMap = LABELS) -> CaseCache:
    return CaseCache(tmp_path / "cache", spec or DataSpec(), labels)


def entries(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache").iterdir() if p.name != "files")


def test_contents(tmp_path: Path, case: Case) -> None:
    cached = make(tmp_path).prepare([case])["c1"]
    assert isinstance(cached.image, np.memmap)
    assert not cached.image.flags.writeable
    assert (cached.id, cached.patient) == ("c1", "p1")
    assert (cached.image.shape, cached.image.dtype) == ((1, 12, 10, 8), np.float16)
    assert abs(float(cached.image.astype(np.float32).mean())) < 1e-3
    raw = np.asarray(nib.load(case.label).dataobj)
    assert cached.label is not None
    assert cached.label.dtype == np.uint8
    for index, value in enumerate(LABELS.values):
        np.testing.assert_array_equal(cached.label == index, raw == value)
        np.testing.assert_array_equal(
            cached.class_indices[index], np.flatnonzero(raw.ravel() == value)
        )
    np.testing.assert_array_equal(cached.label == IGNORE_INDEX, raw == 200)
    assert set(cached.class_indices) == {0, 1, 2}


def test_class_indices_are_a_bounded_seeded_subset() -> None:
    label = np.zeros((40, 40, 40), np.uint8)
    label[:2] = 3
    first, second = class_indices(label, seed=1), class_indices(label, seed=1)
    assert len(first[0]) == MAX_CLASS_INDICES
    assert first[0].dtype == np.int32
    assert len(np.unique(first[0])) == MAX_CLASS_INDICES
    assert (label.ravel()[first[0]] == 0).all()
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[3], np.arange(2 * 1600))
    assert not np.array_equal(class_indices(label, seed=2)[0], first[0])


def test_key_depends_on_preprocessing_and_files_alone(tmp_path: Path, case: Case) -> None:
    key = make(tmp_path).key(case)
    assert make(tmp_path).key(case) == key
    assert make(tmp_path, DataSpec(name="other", flip_axes=[0], nsd_tolerance=9)).key(case) == key
    assert make(tmp_path, DataSpec(spacing=[1, 1, 1])).key(case) != key
    assert make(tmp_path, DataSpec(intensity={"rule": "minmax"})).key(case) != key
    assert make(tmp_path, DataSpec(orientation="LPS")).key(case) != key
    assert make(tmp_path, labels=replace(LABELS, values=(0, 11, 7))).key(case) != key
    assert make(tmp_path).key(case.without_label()) != key
    assert make(tmp_path).key(replace(case, id="renamed")) == key
    unlabeled = make(tmp_path).key(case.without_label())
    assert case.label is not None
    os.utime(case.label, ns=(1, 1))
    os.utime(case.images[0], ns=(2, 2))
    assert make(tmp_path).key(case) == key
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    copy = replace(
        case, images=(tmp_path / "copy" / "image.nii.gz",), label=tmp_path / "copy" / "label.nii.gz"
    )
    assert make(tmp_path).key(copy) == key
    change_a_byte(case.label)
    assert make(tmp_path).key(case) != key
    assert make(tmp_path).key(case.without_label()) == unlabeled
    change_a_byte(case.images[0])
    assert make(tmp_path).key(case.without_label()) != unlabeled


def change_a_byte(path: Path, at: int = -9) -> None:
    """Change a file in place; size and time stay."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


@pytest.mark.parametrize("what", ["image", "label"])
def test_files_edited_with_size_and_time_kept_are_read_again(
    tmp_path: Path, case: Case, what: str
) -> None:
    plain = {k: tmp_path / f"{k}.nii" for k in ("image", "label")}
    for name, path in plain.items():
        nib.save(nib.load(tmp_path / f"{name}.nii.gz"), path)
    case = replace(case, images=(plain["image"],), label=plain["label"])
    spec = DataSpec(intensity={"rule": "none"})
    before = make(tmp_path, spec).prepare([case])["c1"]
    stat = plain[what].stat()
    array = np.asarray(nib.load(plain[what]).dataobj)
    with plain[what].open("r+b") as file:
        file.seek(352)
        file.write(array[::-1].tobytes(order="F"))
    os.utime(plain[what], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = make(tmp_path, spec).prepare([case])["c1"]
    image, label = before.image, before.label
    assert label is not None
    if what == "image":
        image = image[:, ::-1]
    else:
        label = label[::-1]
    np.testing.assert_array_equal(after.image, image)
    np.testing.assert_array_equal(after.label, label)
    assert len(entries(tmp_path)) == 2


def test_images_are_hashed_whole_before_they_are_preprocessed(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a disk without the system's own time a change outside the sample is not seen at once."""
    monkeypatch.setattr(known_files, "_stat", lambda path: (path.stat().st_size, 0, 0, 0))
    image = tmp_path / "large.nii"
    data = np.random.default_rng(0).normal(100, 9, (40, 40, 40)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.eye(4)), image)
    case = Case("c1", (image,), None, "p")
    key = make(tmp_path).key(case)
    make(tmp_path).prepare([case])
    change_a_byte(image, at=6000)
    assert make(tmp_path).key(case) == key  # as far as it is known
    spec = DataSpec(intensity={"rule": "minmax"})
    make(tmp_path, spec).prepare([case])
    assert "has changed, though its size" in caplog.text
    assert make(tmp_path).key(case) != key
    # And at once where that is asked for.
    change_a_byte(image, at=6000)
    files = known_files.KnownFiles.below(tmp_path / "cache", verify=True)
    assert CaseCache(tmp_path / "cache", DataSpec(), LABELS, files=files).key(case) == key


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = cache_module.preprocess_case

    def slow(*args: object) -> object:
        result = original(*args)
        change_a_byte(case.images[0])
        return result

    monkeypatch.setattr(cache_module, "preprocess_case", slow)
    with pytest.raises(MedSSLError, match="changed while it was read"):
        make(tmp_path).prepare([case])
    assert entries(tmp_path) == []


def test_second_run_reads_the_cache(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    first = make(tmp_path).prepare([case], on_progress=seen.append)["c1"]
    monkeypatch.setattr(cache_module, "preprocess_case", None)  # calling it would fail
    second = make(tmp_path).prepare([case], on_progress=seen.append)["c1"]
    np.testing.assert_array_equal(first.image, second.image)
    assert seen == ["c1", "c1"]
    assert len(entries(tmp_path)) == 1  # and no temporary folder left


def test_label_of_an_unlabeled_case_is_never_touched(tmp_path: Path, case: Case) -> None:
    assert case.label is not None
    case.label.unlink()
    cached = make(tmp_path).prepare([case.without_label()])["c1"]
    assert cached.label is None
    assert cached.class_indices == {}
    with pytest.raises(MedSSLError, match=r"label\.nii\.gz"):
        make(tmp_path).prepare([case])


@pytest.mark.parametrize("name", ["image.npy", "label.npy", "indices.npz", "meta.json"])
@pytest.mark.parametrize("damage", ["delete", "truncate", "garbage"])
def test_damaged_entry_is_made_again(
    tmp_path: Path, case: Case, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    truth = {k: np.array(v) for k, v in vars(make(tmp_path).prepare([case])["c1"]).items()}
    file = tmp_path / "cache" / entries(tmp_path)[0] / name
    if damage == "delete":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.write_bytes(b"\x00" * file.stat().st_size)
    again = make(tmp_path).prepare([case])["c1"]
    np.testing.assert_array_equal(again.image, truth["image"])
    np.testing.assert_array_equal(again.label, truth["label"])
    assert "is damaged" in caplog.text
    assert len(entries(tmp_path)) == 1


def test_failure_leaves_nothing_behind(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(MedSSLError) as caught:
        make(tmp_path).prepare([case])
    assert "No space left" in caught.value.what
    assert caught.value.where == str(tmp_path / "cache")
    assert "--set data.cache=" in str(caught.value.fix)
    assert entries(tmp_path) == []


def test_unwritable_cache_is_named(tmp_path: Path, case: Case) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(MedSSLError, match="cannot be written"):
        make(tmp_path).prepare([case])


def test_undeclared_label_value_names_the_file(tmp_path: Path, case: Case) -> None:
    with pytest.raises(MedSSLError, match=r"not declared in dataset\.json: 11 \(\d+ voxels\)") as e:
        make(tmp_path, labels=replace(LABELS, values=(0, 7), names=("b", "a"))).prepare([case])
    assert e.value.where == str(case.label)
    assert entries(tmp_path) == []


def test_intensities_beyond_float16_are_refused(tmp_path: Path, case: Case) -> None:
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 1e6, np.float32), np.eye(4)), case.images[0])
    spec = DataSpec(intensity={"rule": "none"})
    with pytest.raises(MedSSLError, match=r"1e\+06.*float16"):
        make(tmp_path, spec).prepare([case.without_label()])


def test_entry_made_meanwhile_by_another_process_is_used(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = make(tmp_path)
    ready.prepare([case])
    folder = tmp_path / "cache" / ready.key(case)
    shutil.move(folder, tmp_path / "aside")
    original = cache_module.preprocess_case

    def slow(*args: object) -> object:
        result = original(*args)
        shutil.move(tmp_path / "aside", folder)
        return result

    monkeypatch.setattr(cache_module, "preprocess_case", slow)
    assert ready.prepare([case])["c1"].shape == (12, 10, 8)
    assert entries(tmp_path) == [ready.key(case)]


def test_default_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSSL_CACHE", "/somewhere")
    assert default_cache_root() == Path("/somewhere")
    monkeypatch.delenv("MEDSSL_CACHE")
    assert default_cache_root() == Path.home() / ".cache" / "medssl"
