"""What is predicted of regions: masks, probabilities, volumes and figures of unions of labels."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.label_regions import LabelRegion
from medssl.errors import MedSSLError
from medssl.inference.assessment import Assessment, StructureFindings
from medssl.inference.folder import predict_files
from medssl.inference.identity import options_of
from medssl.inference.postprocess import class_margins, decided_classes
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.inference.task import Task
from medssl.inference.volumes import Volumes
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec
from medssl.structures.outputs import Outputs
from medssl.uncertainty import volumes_csv
from medssl.uncertainty.volumes_csv import write_tables

REGIONS = (
    LabelRegion("whole", (1, 2, 40), 1),
    LabelRegion("core", (2, 40), 2),
    LabelRegion("enhancing", (40,), 40),
)
LABELS = LabelMap((0, 1, 2, 40), ("background", "label_1", "label_2", "enhancing"), None, REGIONS)
SAID = torch.tensor(
    [
        [0.7, 0.1, 0.1, 0.1],
        [0.4, 0.2, 0.2, 0.2],  # background is likeliest, and yet the whole is likelier than not
        [0.1, 0.35, 0.3, 0.25],  # edema is likeliest, but the core is likelier than not
        [0.1, 0.3, 0.2, 0.4],
        [0.0, 0.1, 0.3, 0.6],
    ]
)
"""Probabilities of the classes where the image is 0, 1, 2, 3, 4."""
IMAGE = np.arange(125).reshape(5, 5, 5).astype(np.float32) % 5


class Table(nn.Module):
    """Says of each voxel what the table says of its intensity."""

    def forward(self, x: Tensor) -> Tensor:
        return SAID[x[:, 0].round().long()].movedim(-1, 1).log()


def predictor(labels: LabelMap = LABELS, **settings: object) -> Predictor:
    task = Task(DataSpec(intensity={"rule": "none"}), labels, (5, 5, 5), in_channels=1)
    inference = InferenceSettings(**settings)
    return Predictor(Table(), task, inference, device=torch.device("cpu"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(IMAGE, np.diag([2.0, 1, 1, 1])), path)
    return path


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_masks_probabilities_and_volumes_by_hand(image: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    out = tmp_path / "out"
    settings = PredictSettings(
        probabilities=True, regions=True, assess=True, outputs=Outputs(False, True, "stl")
    )
    model = predictor()
    [result] = predict_files(model, [("a", (image,))], out, settings)
    assert result.error is None
    expected = np.array([0, 0, 1, 40, 40])[IMAGE.astype(int)]
    assert np.array_equal(read(out / "a.nii.gz"), expected)
    for region in REGIONS:
        mask = read(out / "regions" / f"a_{region.name}.nii.gz")
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, np.isin(expected, region.values))
        found = read(out / "probabilities" / f"a_{region.name}.nii.gz")
        summed = SAID[:, list(LABELS.classes_of(region))].sum(dim=1).numpy()
        np.testing.assert_allclose(found, summed[IMAGE.astype(int)], atol=1e-6)
        assert (out / "meshes" / f"a_{region.name}.stl").is_file()
    sizes = {name: size for _, name, size in result.volumes.structures}
    assert sizes == {"whole": 150, "core": 100, "enhancing": 100}
    write_tables(out, None, assessed=True)
    with (out / "volumes.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["label_1", "label_2", "enhancing", "whole", "core"]
    assert (rows["whole"]["label"], float(rows["whole"]["volume_mm3"])) == ("1+2+40", 150)
    assert rows["core"]["how"] == "no interval: of several labels, see theirs"
    [again] = predict_files(model, [("a", (image,))], out, settings)
    assert again.skipped


def test_masks_of_regions_that_nobody_stated_are_refused_first(image: Path, tmp_path: Path) -> None:
    model = predictor(replace(LABELS, regions=()))
    with pytest.raises(MedSSLError, match="states no regions"):
        predict_files(model, [("a", (image,))], tmp_path / "out", PredictSettings(regions=True))
    assert not (tmp_path / "out").exists()


def test_regions_decide_where_they_are_likelier_than_not(image: Path, tmp_path: Path) -> None:
    """What a sum says, no single class may: a map of regions holds each where it is above 0.5."""
    model = predictor(decide="regions")
    settings = PredictSettings(regions=True, assess=True)
    [result] = predict_files(model, [("a", (image,))], tmp_path / "out", settings)
    assert result.error is None
    expected = np.array([0, 1, 2, 2, 40])[IMAGE.astype(int)]
    assert np.array_equal(read(tmp_path / "out" / "a.nii.gz"), expected)
    for region in REGIONS:
        likely = SAID[:, list(LABELS.classes_of(region))].sum(dim=1).numpy() > 0.5
        mask = read(tmp_path / "out" / "regions" / f"a_{region.name}.nii.gz")
        assert np.array_equal(mask, likely[IMAGE.astype(int)])
    by_class = options_of(predictor())
    assert "decide" not in by_class, "folders that were predicted before are of the same model"
    assert options_of(model)["decide"] == LABELS.region_classes
    with pytest.raises(MedSSLError, match="regions are to decide"):
        predictor(replace(LABELS, regions=()), decide="regions")
    with pytest.raises(MedSSLError, match="'masks' cannot decide"):
        PredictSettings(decide="masks")


def test_the_order_of_writing_and_margins_by_hand() -> None:
    """Kidney 1, 2, 3; masses 2, 3; tumor 2: what masses write, a tumor writes over."""
    regions = [((1, 2, 3), 1), ((2, 3), 3), ((2,), 2)]
    table = torch.tensor([[0.1, 0.2, 0.6, 0.1], [0.2, 0.1, 0.3, 0.4], [0.5, 0.5, 0.0, 0.0]])
    probabilities = table.T[..., None, None]
    assert decided_classes(probabilities, regions).ravel().tolist() == [2, 3, 0]
    # The least sure region: tumor 0.6, then masses 0.7 against tumor 0.3 and kidney 0.8, then 0.5.
    assert class_margins(probabilities, regions).ravel().tolist() == [51, 102, 0]
    assert decided_classes(probabilities).ravel().tolist() == [2, 3, 0]


def test_a_region_of_one_label_has_the_interval_of_that_label(tmp_path: Path) -> None:
    volumes = Volumes("mm", ((40, "ET", 100.0), ("1+40", "core", 150.0)))
    found = [StructureFindings(40, "enhancing", 100.0, 0.9, (90.0, 110.0))]
    record = {"volumes": volumes.as_dict()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(volumes_csv, "recorded_predictions", lambda _: {"a": record})
        assessed = {"a": Assessment("mm", 1.0, tuple(found))}
        patch.setattr(volumes_csv, "read_assessments", lambda _: assessed)
        write_tables(tmp_path, None, assessed=True)
    with (tmp_path / "volumes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["name"]) for row in rows] == [("40", "ET"), ("1+40", "core")]
    assert float(rows[0]["low_mm3"]) == 90
    assert "of several labels" in rows[1]["how"]
