"""The record that goes from `predict`, `triage` and `calibrate` to the network."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import medssl
from medssl.errors import MedSSLError
from medssl.inference.settings import PredictSettings
from medssl.settings.recipe import InferenceSettings
from medssl.structures.outputs import Outputs


class Enough(Exception):  # noqa: N818 - the record has arrived
    pass


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[PredictSettings]:
    """Collect the records with which something is opened, and end there."""
    found: list[PredictSettings] = []

    def note(_: Path, settings: PredictSettings) -> Any:
        found.append(settings)
        raise Enough

    # The module of `predict` loads what opens a model only when it is called; the place that the
    # others import it from comes last, or they would keep the stand-in.
    opened = ("triage.open_predictor", "calibrate.load_ensemble", "open_predictor.open_predictor")
    for place in opened:
        monkeypatch.setattr(f"medssl.workflows.{place}", note)
    return found


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    (tmp_path / "a.nii.gz").write_bytes(b"only its name is looked at")
    return tmp_path / "a.nii.gz"


OPENED: dict[str, Any] = {
    "checkpoint": "last",
    "ensemble": ("other", "third"),
    "device": "cpu",
    "precision": "bf16",
    "largest_component": False,
    "tta": True,
}
FOLDS: dict[str, Any] = {"members": 2, "fold": 1}


def test_every_keyword_of_predict_arrives(
    seen: list[PredictSettings], scan: Path, tmp_path: Path
) -> None:
    written = {"probabilities": True, "uncertainty": True, "format": "nrrd", "overwrite": True}
    written |= {"force": True, "gallery": True, "with_atlas": "atlases"}
    written |= {"regions": True, "decide": "regions"}
    more: dict[str, Any] = {"statistics": True, "meshes": "stl"}
    asked = {"calibrated": True, **OPENED, **FOLDS, **written, **more}
    with pytest.raises(Enough):
        medssl.predict("run", scan, tmp_path / "out", **asked)
    ensemble = (Path("other"), Path("third"))
    expected = {**OPENED, **FOLDS, **written}
    expected |= {"ensemble": ensemble, "calibrated": True, "assess": True}
    expected |= {"with_atlas": Path("atlases"), "outputs": Outputs(**more)}
    assert set(expected) == {f.name for f in fields(PredictSettings)}
    assert seen == [PredictSettings(**expected)]
    assert seen[0] != PredictSettings()


def test_what_is_not_asked_for_is_as_the_record_has_it(
    seen: list[PredictSettings], scan: Path, tmp_path: Path
) -> None:
    with pytest.raises(Enough):
        medssl.predict("run", scan, tmp_path / "out")
    assert seen == [PredictSettings()]


def test_triage_and_calibrate_open_what_predict_does(
    seen: list[PredictSettings], scan: Path, tmp_path: Path
) -> None:
    with pytest.raises(Enough):
        medssl.triage("run", scan, tmp_path / "a.csv", overwrite=True, **OPENED, **FOLDS)
    with pytest.raises(Enough):
        medssl.calibrate("run", **OPENED)
    opened = {**OPENED, "ensemble": (Path("other"), Path("third"))}
    assert seen == [
        PredictSettings(**opened, **FOLDS, assess=True, overwrite=True, force=True),
        PredictSettings(**opened),
    ]


def test_maps_beside_dicom_segmentations_are_nifti() -> None:
    dicom, nrrd = PredictSettings(format="dicom-seg"), PredictSettings(format="nrrd")
    assert (dicom.suffix, dicom.map_suffix) == (".dcm", ".nii.gz")
    assert (nrrd.suffix, nrrd.map_suffix) == (".nrrd", ".nrrd")
    with pytest.raises(MedSSLError, match="no output format 'jpg'"):
        PredictSettings(format="jpg")


def test_what_is_not_chosen_stays_as_the_recipe_says() -> None:
    recipe = InferenceSettings(tta=True, largest_component=True, overlap=0.25)
    assert PredictSettings().chosen(recipe) == recipe
    other = PredictSettings(tta=False).chosen(recipe)
    assert (other.tta, other.largest_component, other.overlap) == (False, True, 0.25)
    assert recipe.tta
