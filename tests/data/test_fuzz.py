"""Hostile input ends in a MedSSLError or works; it neither writes elsewhere nor eats the memory.

``MEDSSL_FUZZ_EXAMPLES=5000 pytest tests/test_fuzz.py`` digs deeper.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from decathlon_files import header, make_dataset, touch, write_json
from fuzzing import (
    bounded,
    bounded_memory,
    byte_changes,
    changes,
    files_below,
    mutate,
    mutate_bytes,
    survives,
)
from helpers import small_recipe
from hypothesis import given
from hypothesis import strategies as st

from medssl.bundle.load import load_bundle
from medssl.bundle.model_tree import describe
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.split import make_splits
from medssl.data.datasets.split_file import load_splits, save_splits
from medssl.data.images.labels import read_label
from medssl.data.images.volume import read_header, read_volume
from medssl.data.images.write import write_label
from medssl.data.preprocessing.tensors import read_images
from medssl.errors import MedSSLError
from medssl.evaluation.case_metrics import case_columns
from medssl.evaluation.summary import read_cases_csv
from medssl.inference.settings import PredictSettings
from medssl.networks.build import build_network
from medssl.recipe.load import load_recipe
from medssl.runs.checkpoint import load_checkpoint, load_weights, save_checkpoint
from medssl.runs.folder import free_run_path
from medssl.settings.recipe import DataSettings, InferenceSettings
from medssl.settings.spec import DataSpec


@dataclass(frozen=True)
class Area:
    """A folder that is watched, with the one inside that may be written to."""

    root: Path
    output: Path


@pytest.fixture
def area(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Area]:
    """Watch a folder and the memory while a test fuzzes."""
    area = Area(tmp_path / "a" / "b", tmp_path / "a" / "b" / "output")
    area.output.mkdir(parents=True)
    monkeypatch.chdir(area.output)
    with bounded_memory():
        yield area
    assert files_below(tmp_path, but=area.output) <= {area.root, area.root.parent}


@bounded
@given(drawn=changes)
def test_dataset_json(area: Area, drawn: list[Any]) -> None:
    root = area.output / "data"
    items = [{"image": f"imagesTr/{i}.nii.gz", "label": f"labelsTr/{i}.nii.gz"} for i in "abc"]
    items[2] |= {"id": "third", "patient": "p3"}
    content = header(training=items, numTraining=3, test=["imagesTs/t.nii.gz"], unlabeled=[])
    if not root.exists():
        make_dataset(root, ["a", "b", "c"])
        touch(root / "imagesTs" / "t.nii.gz")
    write_json(root, mutate(content, drawn))
    dataset = survives(lambda: read_dataset(root), MedSSLError)
    if dataset is None:
        return
    for case in (*dataset.training, *dataset.unlabeled, *dataset.test):
        assert all(root.resolve() in p.resolve().parents for p in case.images)
        target = area.output / "predictions" / f"{case.id}.nii.gz"
        assert target.resolve().parent == target.parent.resolve()
        write_label(np.zeros((2, 2, 2), np.uint8), target, affine=np.eye(4))


@bounded
@given(drawn=byte_changes)
def test_dataset_json_bytes(area: Area, drawn: list[Any]) -> None:
    root = area.output / "data"
    path = make_dataset(root, ["a", "b"]) / "dataset.json"
    path.write_bytes(mutate_bytes(path.read_bytes(), drawn))
    survives(lambda: read_dataset(root), MedSSLError)


@bounded
@given(drawn=changes)
def test_recipe(area: Area, drawn: list[Any]) -> None:
    path = area.output / "r.yaml"
    valid = small_recipe(Path("data"), Path("cache"), protocol="clean", evaluation={"splits": []})
    path.write_text(yaml.safe_dump(mutate(valid, drawn)))
    loaded = survives(lambda: load_recipe(path), MedSSLError)
    if loaded is not None:
        assert free_run_path(area.output / "runs", loaded.recipe.name).parent.name == "runs"


@bounded
@given(drawn=byte_changes)
def test_recipe_bytes(area: Area, drawn: list[Any]) -> None:
    path = area.output / "r.yaml"
    text = yaml.safe_dump(small_recipe(Path("data"), Path("cache")))
    path.write_bytes(mutate_bytes(text.encode(), drawn))
    survives(lambda: load_recipe(path), MedSSLError)


def test_recipe_of_aliases(area: Area) -> None:
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]" for i in range(1, 15))]
    path = area.output / "r.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(MedSSLError, match="aliases"):
        load_recipe(path)


def nifti_file() -> bytes:
    label = np.zeros((6, 5, 4), np.uint8)
    label[2:4, 2, 2] = 1
    return nib.Nifti1Image(label, np.diag([1.0, 1, 2, 1])).to_bytes()


@bounded
@given(drawn=byte_changes, packed=st.sampled_from(["plain", "inside", "outside"]))
def test_nifti(area: Area, drawn: list[Any], packed: str) -> None:
    path = area.output / ("a.nii" if packed == "plain" else "a.nii.gz")
    raw = nifti_file()
    if packed == "outside":
        raw = mutate_bytes(gzip.compress(raw, mtime=0), drawn)
    else:
        raw = mutate_bytes(raw, drawn, within=352)
        raw = gzip.compress(raw, 1, mtime=0) if packed == "inside" else raw
    path.write_bytes(raw)
    with np.errstate(all="ignore"):
        for read in (read_volume, read_label, read_header, lambda path: read_images([path])):
            survives(lambda read=read: read(path), MedSSLError)


@bounded
@given(drawn=byte_changes)
def test_checkpoint(area: Area, drawn: list[Any]) -> None:
    path, module = area.output / "last.pt", torch.nn.Linear(3, 2)
    save_checkpoint({"method": "bcp", "step": 3, "method_state": module.state_dict()}, path)
    path.write_bytes(mutate_bytes(path.read_bytes(), drawn))
    state = survives(lambda: load_checkpoint(path), MedSSLError)
    if state is not None:
        survives(lambda: load_weights(module, state["method_state"], path), MedSSLError, KeyError)


class Payload:
    """A pickle of it runs a command when it is loaded without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "content",
    [Payload(), [1], "text", None, {"format": 1}, {"format": 1, "method": Payload()}, b"x" * 100],
)
def test_checkpoint_of_other_content(area: Area, content: Any) -> None:
    path = area.output / "last.pt"
    torch.save(content, path)
    with pytest.raises(MedSSLError):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(MedSSLError):
        load_checkpoint(path)
    assert not (area.output / "executed").exists()


@bounded
@given(drawn=changes)
def test_weights_of_other_shape(area: Area, drawn: list[Any]) -> None:
    weights = mutate({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, drawn)
    survives(lambda: load_weights(torch.nn.Linear(3, 2), weights, area.output), MedSSLError)


@bounded
@given(drawn=changes)
def test_bundle_metadata(area: Area, drawn: list[Any]) -> None:
    small = {"channels": [2, 4], "strides": [2]}
    network = build_network("unet", spatial_dims=3, in_channels=1, num_classes=2, settings=small)
    own = {
        "format": 1,
        "model": describe(network),
        "spec": DataSpec().model_dump(mode="json"),
        "inference": InferenceSettings().model_dump(mode="json"),
        "patch": [8, 8, 8],
        "channels": 1,
        "labels": {"values": [0, 1], "names": ["background", "a"]},
    }
    for name in ("configs", "models"):
        (area.output / name).mkdir(exist_ok=True)
    torch.save(network.state_dict(), area.output / "models" / "model.pt")
    path = area.output / "configs" / "metadata.json"
    path.write_text(json.dumps({"medssl": mutate(own, drawn)}))
    survives(lambda: load_bundle(area.output, PredictSettings(device="cpu")), MedSSLError)


@bounded
@given(drawn=changes)
def test_splits(area: Area, drawn: list[Any]) -> None:
    dataset = read_dataset(make_dataset(area.output / "data", ["a", "b", "c"]))
    path = area.output / "splits.json"
    splits = make_splits(dataset, DataSettings(labeled=1, test=1), uses_unlabeled=True)
    save_splits(splits, path)
    path.write_text(json.dumps(mutate(json.loads(path.read_text()), drawn)))
    survives(lambda: load_splits(path, dataset), MedSSLError)


@bounded
@given(drawn=byte_changes)
def test_cases_csv(area: Area, drawn: list[Any]) -> None:
    path = area.output / "cases.csv"
    columns = case_columns("mm", voxel_metrics=False)
    row = ",".join("1" if c == "label" else "0.5" for c in columns)
    path.write_bytes(mutate_bytes(f"{','.join(columns)}\n{row}\n{row}\n".encode(), drawn))
    survives(lambda: read_cases_csv(path), MedSSLError)


def test_recipe_with_a_stride_of_zero(area: Area) -> None:
    path = area.output / "r.yaml"
    recipe = small_recipe(Path("data"), Path("cache"), network={"strides": [0]})
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(MedSSLError, match="strides"):
        load_recipe(path)


@pytest.mark.parametrize("channels", [[4, 10**9], [4000, 4000], [4] * 300])
def test_network_that_no_memory_holds(area: Area, channels: list[int]) -> None:
    small = {"channels": channels, "strides": [2] * (len(channels) - 1), "num_res_units": 9}
    with pytest.raises(MedSSLError, match=r"too wide|weights \(at most|numbers"):
        build_network("unet", spatial_dims=3, in_channels=1, num_classes=2, settings=small)
