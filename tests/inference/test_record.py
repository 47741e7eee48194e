"""The record beside predictions: one folder, one model, and nothing that it did not make."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers import AFFINE, blob_case, small_recipe, write_dataset, write_recipe

import medssl
from medssl import cli
from medssl.data.datasets.known_files import KnownFiles
from medssl.errors import MedSSLError
from medssl.inference import folder as predicting
from medssl.inference.prediction import Prediction


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs that differ by their seed."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_dataset(folder / "data", cases=6)
    recipe = small_recipe(data, folder / "cache", method={"name": "supervised"})
    file = write_recipe(folder / "recipe.yaml", recipe)
    first = medssl.train(file, output=folder / "run").path
    return first, medssl.train(file, overrides=["seed=9"], output=folder / "run2").path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three scans."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        nib.save(nib.Nifti1Image(blob_case(number)[0], AFFINE), folder / f"c{number}.nii.gz")
    return folder


def voxels(folder: Path) -> dict[str, np.ndarray]:
    return {p.name: np.asarray(nib.load(p).dataobj) for p in sorted(folder.glob("*.nii.gz"))}


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "predictions.json").read_text())


def test_another_model_is_refused_or_replaces(
    runs: tuple[Path, Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs
    out = tmp_path / "out"
    assert cli.run(["predict", str(first), str(images), "--output", str(out)]) == 0
    before = {p: p.read_bytes() for p in out.iterdir()}
    made = record(out)
    [key] = made["models"]
    assert made["models"][key]["model"] == str(first)
    source = images / "c1.nii.gz"
    sums = [{"file": str(source), "sha256": KnownFiles(None).whole(source)}]
    entry = made["predictions"]["c1"]
    values = voxels(out)["c1.nii.gz"]
    sizes = [s["volume"] for s in entry.pop("volumes")["structures"]]
    assert sizes == [2 * (values == label).sum() for label in (1, 2)]
    assert entry == {"model": key, "images": sums, "files": ["c1.nii.gz"]}

    capsys.readouterr()
    command = ["predict", str(second), str(images), "--output", str(out)]
    assert cli.run(command) == 2
    said = capsys.readouterr().err
    assert f"there are predictions here made by another model ({first}, not {second})" in said
    assert "c0, c1, c2" in said
    assert "--overwrite" in said
    assert {p: p.read_bytes() for p in out.iterdir()} == before

    assert cli.run([*command, "--overwrite"]) == 0
    medssl.predict(second, images, tmp_path / "fresh")
    fresh = voxels(tmp_path / "fresh")
    assert voxels(out).keys() == fresh.keys()
    assert all(np.array_equal(fresh[name], found) for name, found in voxels(out).items())
    assert record(out) == record(tmp_path / "fresh")
    assert cli.run(command) == 0
    assert "3 of them were there" in capsys.readouterr().out


def test_what_the_call_would_leave_of_another_model_is_refused(
    runs: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    medssl.predict(runs[0], images, out)
    one = images / "c0.nii.gz"
    with pytest.raises(MedSSLError, match=r"and would stay: c1, c2"):
        medssl.predict(runs[1], one, out, overwrite=True)
    # The other shard sees to the others.
    medssl.predict(runs[1], images, out, overwrite=True, shard="1/2")
    assert len(record(out)["models"]) == 2
    with pytest.raises(MedSSLError, match="made by another model"):
        medssl.predict(runs[1], images, out)
    medssl.predict(runs[1], images, out, overwrite=True, shard="2/2")
    assert len(record(out)["models"]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tta": True}, "made with tta = false, not true"),
        ({"largest_component": True}, "made with largest_component = false, not true"),
        ({"precision": "bf16"}, 'made with precision = "fp32", not "bf16"'),
    ],
)
def test_options_that_change_voxels_are_part_of_it(
    runs: tuple[Path, Path], images: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    medssl.predict(runs[0], images, tmp_path / "out")
    with pytest.raises(MedSSLError, match=said):
        medssl.predict(runs[0], images, tmp_path / "out", **options)


def test_maps_of_the_same_model_are_added(
    runs: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    medssl.predict(runs[0], images, out)
    results = medssl.predict(runs[0], images, out, probabilities=True, uncertainty=True)
    assert not any(result.skipped for result in results)
    assert record(out)["predictions"]["c0"]["temperature"] == 1.0
    assert "uncertainty/c0.nii.gz" in record(out)["predictions"]["c0"]["files"]
    assert all(result.skipped for result in medssl.predict(runs[0], images, out))
    # Another model's probabilities do not survive beside this one's labels.
    medssl.predict(runs[1], images, out, overwrite=True)
    assert not any((out / "probabilities").iterdir())
    assert record(out)["predictions"]["c0"]["files"] == ["c0.nii.gz"]


def test_another_image_of_the_same_name_is_refused(
    runs: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    medssl.predict(runs[0], images, out)
    nib.save(nib.Nifti1Image(blob_case(7)[0], AFFINE), images / "c1.nii.gz")
    with pytest.raises(MedSSLError, match=r"made of other images: c1\n") as caught:
        medssl.predict(runs[0], images, out)
    assert "--overwrite" in str(caught.value)
    medssl.predict(runs[0], images, out, overwrite=True)
    medssl.predict(runs[0], images / "c1.nii.gz", tmp_path / "fresh")
    assert np.array_equal(voxels(out)["c1.nii.gz"], voxels(tmp_path / "fresh")["c1.nii.gz"])


def test_maps_without_a_record_are_not_taken_for_this_models(
    runs: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    medssl.predict(runs[0], images, out)
    (out / "predictions.json").unlink()
    with pytest.raises(MedSSLError, match="no record tells the model of: c0, c1, c2"):
        medssl.predict(runs[0], images, out)
    (out / "predictions.json").write_text("{")
    with pytest.raises(MedSSLError, match="record of the predictions cannot be read"):
        medssl.predict(runs[0], images, out)
    medssl.predict(runs[0], images, out, overwrite=True)
    assert list(record(out)["predictions"]) == ["c0", "c1", "c2"]


def test_a_copy_of_run_images_and_folder_is_the_same(
    runs: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    medssl.predict(runs[0], images, tmp_path / "out")
    for name, source in (("run", runs[0]), ("moved", tmp_path / "out"), ("others", images)):
        shutil.copytree(source, tmp_path / "copy" / name)
    again = medssl.predict(
        tmp_path / "copy" / "run", tmp_path / "copy" / "others", tmp_path / "copy" / "moved"
    )
    assert all(result.skipped for result in again)


def test_an_interrupted_call_goes_on(
    runs: tuple[Path, Path], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, save, left = tmp_path / "out", Prediction.save, [1]

    def dying(self: Prediction, path: Path) -> Path:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return save(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Prediction, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            medssl.predict(runs[0], images, out)
    assert list(record(out)["predictions"]) == ["c0"]
    done = [result.skipped for result in medssl.predict(runs[0], images, out)]
    assert done == [True, False, False]


def test_a_killed_process_leaves_nothing_that_is_believed(
    runs: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    """Killed between file and record: the file is made again, by the same model only."""
    out = tmp_path / "out"
    medssl.predict(runs[0], images, out)
    content = record(out)
    content["predictions"]["c1"]["images"] = None
    (out / "predictions.json").write_text(json.dumps(content))
    with pytest.raises(MedSSLError, match="made by another model"):
        medssl.predict(runs[1], images, out)
    results = medssl.predict(runs[0], images, out)
    assert [result.skipped for result in results] == [True, False, True]


def test_two_shards_at_once_share_a_record(
    runs: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parts = [
        threading.Thread(target=medssl.predict, args=(runs[0], images, out), kwargs={"shard": part})
        for part in ("1/2", "2/2")
    ]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    assert list(record(out)["predictions"]) == ["c0", "c1", "c2"]
    assert all(entry["images"] for entry in record(out)["predictions"].values())
    assert sorted(p.name for p in out.iterdir()) == [
        "c0.nii.gz",
        "c1.nii.gz",
        "c2.nii.gz",
        "predictions.json",
        "volumes.csv",
    ]


def test_a_failed_case_is_not_recorded(
    runs: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    (images / "c1.nii.gz").write_bytes(b"nothing")
    results = medssl.predict(runs[0], images, tmp_path / "out")
    assert [result.error is None for result in results] == [True, False, True]
    assert list(record(tmp_path / "out")["predictions"]) == ["c0", "c2"]


def test_a_model_that_began_meanwhile_is_seen(
    runs: tuple[Path, Path], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", []
    predict_one = predicting._predict_one

    def meanwhile(*arguments: Any, **named: Any) -> Any:
        if not seen:
            seen.append(1)
            with pytest.raises(MedSSLError, match="made by another model"):
                medssl.predict(runs[1], images, out)
        return predict_one(*arguments, **named)

    monkeypatch.setattr(predicting, "_predict_one", meanwhile)
    assert not any(result.error for result in medssl.predict(runs[0], images, out))
    assert len(record(out)["models"]) == 1
