"""The writer behind every importer: what it writes, checks, refuses and leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from import_sources import AFFINE, SHAPE, image_array, label_array

from medssl.data.datasets.decathlon import read_dataset
from medssl.data.images.names import safe_id
from medssl.data.importers.dataset import import_dataset, list_formats
from medssl.data.importers.importer import (
    REGISTRY,
    ImportedCase,
    Importer,
    ImportPlan,
    ImportSettings,
    Spacing,
    register,
)
from medssl.errors import MedSSLError
from medssl.optional import optional_module

Cases = list[ImportedCase | Callable[[], ImportedCase]]


def case(name: str, seed: int = 0, **changes: Any) -> ImportedCase:
    return replace(ImportedCase(name, image_array(seed), AFFINE, label_array()), **changes)


@pytest.fixture
def fake() -> Iterator[dict[str, Any]]:
    """Register a format whose plan the test decides."""
    content: dict[str, Any] = {"cases": []}

    class Settings(ImportSettings):
        spacing: Spacing | None = None

    @register("fake")
    class Fake(Importer):
        summary = "made by a test"

        def plan(self, source: Path, settings: Any) -> ImportPlan:
            content["settings"] = settings
            keys = {k: v for k, v in content.items() if k not in ("cases", "settings")}
            reads = [c if callable(c) else lambda c=c: c for c in content["cases"]]
            defaults = {"name": "Fake", "modality": ("MRI",), "labels": {0: "background", 3: "a"}}
            return ImportPlan(**{**defaults, "cases": reads, **keys})

    Fake.Settings = Settings
    yield content
    del REGISTRY["fake"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "scan.raw").write_bytes(b"abc")
    return folder


def test_values_geometry_and_roles_are_written(fake, source, tmp_path):
    scan = source / "scan.raw"
    fake["cases"] = [
        case("a", 1, patient="p1", meta={"phase": "ED"}, sources=(scan,)),
        case("b", 2, label=None),
        case("c", 3, split="test"),
    ]
    fake["splits"] = {"train": ["a"], "val": ["a", "gone"]}
    result = import_dataset("fake", source, tmp_path / "out")
    assert (result.labeled, result.unlabeled, result.test) == (1, 1, 1)
    assert any("'val' names 1 cases" in w for w in result.warnings)
    dataset = read_dataset(tmp_path / "out")
    assert dataset.deviations == ()
    first = dataset.training[0]
    assert (first.id, first.patient, first.meta) == ("a", "p1", {"phase": "ED"})
    assert dataset.test[0].label is not None
    image, label = nib.load(first.images[0]), nib.load(first.label)
    np.testing.assert_array_equal(np.asarray(image.dataobj), image_array(1))
    np.testing.assert_array_equal(np.asarray(label.dataobj), label_array())
    for file in (image, label):
        np.testing.assert_allclose(file.affine, AFFINE, rtol=1e-6)
        assert int(file.header["sform_code"]) == int(file.header["qform_code"]) == 1
        assert file.header.get_xyzt_units()[0] == "mm"
    assert image.get_data_dtype() == np.int16
    assert label.get_data_dtype() == np.uint8
    record = json.loads((tmp_path / "out/provenance.json").read_text())
    assert record["cases"]["a"]["sources"] == [
        {
            "name": "scan.raw",
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        }
    ]
    assert str(tmp_path) not in json.dumps(record)
    splits = json.loads((tmp_path / "out/splits.json").read_text())
    assert splits == {"train": ["a"], "val": ["a"], "test": ["c"]}


def test_micrometers_channels_and_ignore_value(fake, source, tmp_path):
    image = np.stack([image_array(0) + 0.5, image_array(1)], axis=-1)
    label = label_array()
    label[0, 0, 0] = 255
    fake |= {"spatial_unit": "um", "modality": ("a", "b"), "ignore_value": 255, "sform_code": 2}
    fake["cases"] = [case("a", image=image, label=label)]
    import_dataset("fake", source, tmp_path / "out")
    dataset = read_dataset(tmp_path / "out")
    assert (dataset.spatial_unit, dataset.labels.ignore_value) == ("um", 255)
    file = nib.load(dataset.training[0].images[0])
    assert file.header.get_xyzt_units()[0] == "micron"
    assert (int(file.header["sform_code"]), int(file.header["qform_code"])) == (2, 0)
    np.testing.assert_array_equal(np.asarray(file.dataobj), image.astype(np.float32))


def test_labels_without_names_are_named_by_value(fake, source, tmp_path):
    fake |= {"labels": None, "cases": [case("a")]}
    import_dataset("fake", source, tmp_path / "out")
    assert read_dataset(tmp_path / "out").labels.names == ("background", "label 3")


def wrong_label(value: float, voxels: int) -> np.ndarray:
    label = label_array().astype(np.float32)
    label.reshape(-1)[:voxels] = value
    return label


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": wrong_label(60, 5)}, r"case 'x': .*not declared: 60 \(5 voxels\)"),
        ({"label": wrong_label(0.5, 7)}, r"case 'x': .*7 voxels are not whole numbers"),
        ({"label": label_array()[1:]}, r"case 'x': the label has the shape"),
        ({"affine": np.zeros((4, 4))}, r"case 'x': the spacing or orientation is not usable"),
        ({"image": np.full(SHAPE, np.nan)}, r"case 'x': \d+ voxels are NaN"),
        ({"image": np.zeros(SHAPE)}, r"case 'x': the image is constant"),
        ({"image": np.zeros((*SHAPE, 2))}, r"case 'x': the image has 2 channels instead of 1"),
        ({"id": "a"}, r"two cases of the source have the id 'a'"),
    ],
)
def test_a_broken_case_stops_the_import_or_is_skipped(fake, source, tmp_path, changes, message):
    fake["cases"] = [case("a"), case(**{"name": "x"}, seed=4), case("y", 5)]
    fake["cases"][1] = replace(fake["cases"][1], **changes)
    with pytest.raises(MedSSLError, match=message):
        import_dataset("fake", source, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]
    result = import_dataset("fake", source, tmp_path / "out", options=["skip_broken=true"])
    assert (result.labeled, len(result.skipped)) == (2, 1)
    assert len(list((tmp_path / "out/imagesTr").iterdir())) == 2
    assert len(list((tmp_path / "out/labelsTr").iterdir())) == 2


def test_duplicates_and_empty_labels_are_warnings(fake, source, tmp_path):
    fake["cases"] = [case("a"), case("b", label=None), case("c", 1, label=np.zeros(SHAPE, int))]
    warnings = import_dataset("fake", source, tmp_path / "out").warnings
    assert "b: its image is an exact duplicate of a" in warnings
    assert any(w.startswith("c: the label is empty") for w in warnings)


def test_labels_that_dataset_json_cannot_hold_are_refused_before_any_case(fake, source, tmp_path):
    def fail() -> ImportedCase:
        raise AssertionError("a case was read")

    fake |= {"cases": [fail], "labels": {3: "background"}}
    with pytest.raises(MedSSLError, match="background has the value 3"):
        import_dataset("fake", source, tmp_path / "out")


def test_provenance_holds_no_absolute_path(fake, source, tmp_path):
    fake |= {"cases": [case("a")], "notes": (f"read {source}/scan.raw",)}
    import_dataset("fake", source, tmp_path / "out")
    record = json.loads((tmp_path / "out/provenance.json").read_text())
    assert record["notes"] == ["read source/scan.raw"]


def test_an_unexpected_failure_leaves_nothing(fake, source, tmp_path):
    def fail() -> ImportedCase:
        raise ZeroDivisionError

    fake["cases"] = [case("a"), fail]
    with pytest.raises(ZeroDivisionError):
        import_dataset("fake", source, tmp_path / "deep/out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_targets_and_options_that_are_refused(fake, source, tmp_path):
    fake["cases"] = [case("a")]
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    for target, message in [(tmp_path / "used", "not empty"), (source / "out", "own source")]:
        with pytest.raises(MedSSLError, match=message):
            import_dataset("fake", source, target)
    with pytest.raises(MedSSLError, match="did you mean 'spacing'") as caught:
        import_dataset("fake", source, tmp_path / "out", options=["spacng=1"])
    assert "--option" in str(caught.value)
    with pytest.raises(MedSSLError, match="KEY=VALUE"):
        import_dataset("fake", source, tmp_path / "out", options=["spacing"])
    with pytest.raises(MedSSLError, match="spacing"):
        import_dataset("fake", source, tmp_path / "out", options=["spacing=1,2"])
    with pytest.raises(MedSSLError, match="did you mean 'fake'"):
        import_dataset("fke", source, tmp_path / "out")
    import_dataset("fake", source, tmp_path / "out", options=["spacing=0.5,1,2", "name=N"])
    assert fake["settings"].spacing == (0.5, 1.0, 2.0)
    assert read_dataset(tmp_path / "out").name == "N"
    assert "fake" in list_formats()


def test_patient_pattern(fake, source, tmp_path):
    fake["cases"] = [case("ward7_scan1"), case("ward7_scan2", 1)]
    options = {"patient_pattern": r"(ward\d+)_"}
    import_dataset("fake", source, tmp_path / "out", options=options)
    assert {c.patient for c in read_dataset(tmp_path / "out").training} == {"ward7"}
    options = {"patient_pattern": "(room)"}
    warnings = import_dataset("fake", source, tmp_path / "a", options=options).warnings
    assert "patient_pattern matches no case id: it changes nothing" in warnings
    with pytest.raises(MedSSLError, match="has no group"):
        import_dataset("fake", source, tmp_path / "b", options={"patient_pattern": "ward"})


def test_helpers():
    assert safe_id("../Pat 1/a.b ") == "Pat_1_a.b"
    with pytest.raises(MedSSLError, match=r"medssl\[oct\]"):
        optional_module("no_such_package_at_all", "oct")
