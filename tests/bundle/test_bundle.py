"""Bundles: MONAI's own command gives medssl's labels, nothing private leaves, nothing is run."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import small_recipe, write_dataset, write_recipe
from monai.data import load_net_with_metadata
from monai_bundle import predicted_by_monai

import medssl
from medssl import cli
from medssl.bundle.export import NO_LICENCE
from medssl.bundle.load import load_bundle
from medssl.bundle.metadata import problems_of
from medssl.bundle.model_tree import describe, needed_modules, rebuild, to_config
from medssl.bundle.verify import check_structure, verify_bundle
from medssl.errors import MedSSLError
from medssl.inference.settings import PredictSettings
from medssl.methods.umct_predictor import FusedNetworks, OrientedNetwork
from medssl.models.loaded_run import load_ensemble, load_run
from medssl.networks.build import build_network
from medssl.networks.ensemble import Ensemble
from medssl.networks.registry import list_networks
from medssl.runs.checkpoint import load_checkpoint, save_checkpoint

# Patches longer than the volumes' 12 planes, so that padding is part of the comparison.
VARIANTS: dict[str, dict[str, Any]] = {
    "unet": {
        "method": {"name": "supervised"},
        "training": {"patch": [16, 16, 16]},
        "spec": {"largest_component": True},
    },
    "resampled": {
        "method": {"name": "supervised"},
        "spec": {
            "spacing": [1.5, 1.5, 2.0],
            "intensity": {"rule": "percentile"},
            "largest_component": False,
        },
    },
    "mirrored": {
        "method": {"name": "supervised"},
        "training": {"patch": [16, 16, 8]},
        "spec": {"spacing": [1.4, None, 2.0], "flip_axes": [0, 1], "largest_component": True},
        "inference": {"tta": True, "skip_empty": True},
    },
    "ensemble": {
        "method": {"name": "cps", "predict_with": "mean"},
        "spec": {"largest_component": True, "pieces": {11: 2}},
    },
    "vnet": {
        "method": {"name": "supervised"},
        "network": {"name": "vnet", "filters": 2},
        "training": {"patch": [32, 16, 16]},
    },
    "slices": {
        "method": {"name": "supervised"},
        "network": {"name": "unet2d", "channels": [4, 4, 8, 8, 8]},
        "training": {
            "patch": [32, 16],
            "iterations": 60,  # it calls everything background before
            "optimizer": {"name": "adam", "lr": 0.01},
        },
    },
}

# Trained until it is sure of most voxels; windows that overlap, and such that never do.
TRAINED = {
    name: {
        "method": {"name": "supervised"},
        "training": {
            "patch": [12, 12, 12],
            "iterations": 60,
            "optimizer": {"name": "adam", "lr": 0.01},
        },
        "inference": {"overlap": overlap},
    }
    for name, overlap in (("overlapping", 0.5), ("side by side", 0.0))
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blobs with label values that are not class indices."""
    root = write_dataset(tmp_path_factory.mktemp("secret_hospital") / "blobs", cases=8)
    for path in (root / "labelsTr").glob("*.nii.gz"):
        image = nib.load(path)
        values = np.array([0, 11, 48], np.uint8)[np.asarray(image.dataobj)]
        nib.save(nib.Nifti1Image(values, image.affine), path)
    info = json.loads((root / "dataset.json").read_text())
    info["labels"] = {"0": "background", "11": "bright", "48": "dim", "255": "ignore"}
    info["description"] = "private remarks of Dr. Nobody"
    (root / "dataset.json").write_text(json.dumps(info))
    return root


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train every variant when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    class Runs(dict):
        def __missing__(self, name: str) -> Path:
            variant = (VARIANTS | TRAINED)[name]
            recipe = small_recipe(data, folder / "cache", **variant)
            recipe["name"] = f"trial {name}"
            if "network" in variant:
                recipe["network"] = variant["network"]
            file = write_recipe(folder / f"{name}.yaml", recipe)
            self[name] = medssl.train(file, output=folder / name).path
            return self[name]

    return Runs()


@pytest.fixture
def bundle(runs: dict[str, Path], tmp_path: Path) -> Path:
    return medssl.export(runs["unet"], tmp_path / "bundle", torchscript=False).path


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_monai_gives_the_labels_of_medssl(
    name: str, runs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ignite")
    pytest.importorskip("fire")
    images = sorted((data / "imagesTr").glob("*.nii.gz"))[:2]
    result = medssl.export(runs[name], tmp_path / "bundle")
    own = {"ensemble.py": "ensemble", "vnet.py": "vnet", "unet2d.py": "slices"}
    assert [own[module] == name for module in result.scripts if module in own] == [True] * (
        name in own.values()
    )
    assert result.torchscript
    found = verify_bundle(result.path, images, run=runs[name])
    assert found.problems == []
    assert min(found.foreground) > 0
    assert found.differing == [0, 0]
    assert found.agreement == [1.0, 1.0]
    predictor = load_bundle(result.path, PredictSettings(device="cpu"))
    values = predictor.predict_file(images[0]).values
    assert set(np.unique(values).tolist()) <= {0, 11, 48}
    ours = load_run(runs[name], device="cpu").predictor.predict_file(images[0]).values
    np.testing.assert_array_equal(values, ours)


@pytest.mark.slow
def test_monai_fine_tunes_and_evaluates(runs: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Measured as `medssl evaluate` measures, without voxels that nobody annotated."""
    pytest.importorskip("ignite")
    pytest.importorskip("fire")
    bundle = medssl.export(runs["mirrored"], tmp_path / "bundle", torchscript=False).path
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        for path in sorted((data / folder).glob("*.nii.gz"))[:2]:
            shutil.copy(path, tmp_path / folder)
    for path in (tmp_path / "labelsTr").iterdir():
        label = nib.load(path)
        values = np.asarray(label.dataobj).copy()
        values[:9] = 255
        nib.save(nib.Nifti1Image(values, label.affine), path)
    for name in ("train", "evaluate"):
        subprocess.run(
            [
                *(sys.executable, "-m", "monai.bundle", "run"),
                *("--config_file", str(bundle / "configs" / f"{name}.json")),
                *("--bundle_root", str(bundle), "--dataset_dir", str(tmp_path / "imagesTr")),
                *("--label_dir", str(tmp_path / "labelsTr"), "--max_epochs", "2"),
                *("--output_dir", str(tmp_path / name)),
            ],
            check=True,
            capture_output=True,
            cwd=tmp_path,
        )
    before = torch.load(bundle / "models" / "model.pt", weights_only=True)
    after = torch.load(tmp_path / "train" / "fine_tuned.pt", weights_only=True)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    table = (tmp_path / "evaluate" / "val_mean_dice_raw.csv").read_text().splitlines()[1:]
    predictor = load_run(runs["mirrored"], device="cpu").predictor
    for row in table:
        name, *found, _ = row.split(",")
        pred = predictor.predict_file(tmp_path / "imagesTr" / Path(name).name).values
        label = np.asarray(nib.load(tmp_path / "labelsTr" / Path(name).name).dataobj)
        known = label != 255
        for value, dice in zip((11, 48), found, strict=True):
            one, other = (pred == value) & known, (label == value) & known
            expected = 2 * (one & other).sum() / (one.sum() + other.sum())
            assert float(dice) == pytest.approx(expected, abs=1e-6)


def test_predictions_of_bundle_and_run_are_equal(
    runs: dict[str, Path], bundle: Path, data: Path, tmp_path: Path
) -> None:
    images = sorted((data / "imagesTr").glob("*.nii.gz"))[:2]
    for source, name in ((runs["unet"], "a"), (bundle, "b")):
        code = cli.run(
            ["predict", str(source), *map(str, images), "--output", str(tmp_path / name)]
        )
        assert code == 0
    for image in images:
        one, other = (nib.load(tmp_path / n / image.name) for n in "ab")
        np.testing.assert_array_equal(one.dataobj, other.dataobj)
        np.testing.assert_array_equal(one.affine, other.affine)


def test_nothing_private_leaves(bundle: Path, data: Path) -> None:
    splits = ["case_0", "blobs", "secret_hospital", "Nobody", str(data.parent), "imagesTr"]
    texts = [p for p in bundle.rglob("*") if p.suffix in (".json", ".md") or p.name == "LICENSE"]
    assert len([p for p in texts if p.name != "README.md"]) == 5
    for path in texts:
        content = path.read_text()
        assert [word for word in splits if word in content] == [], path
    assert b"secret_hospital" not in (bundle / "models" / "model.pt").read_bytes()
    card = (bundle / "docs" / "README.md").read_text()
    assert "2 images of 2 patients" in card
    assert "| 48 | dim |" in card
    assert "Not a medical device" in card


def test_structure_follows_monais_rules(bundle: Path) -> None:
    assert check_structure(bundle) == []
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "background",
        "1": "bright",
        "2": "dim",
    }
    del metadata["task"]
    del metadata["network_data_format"]["inputs"]["image"]["value_range"]
    metadata["supported_apps"] = []
    assert problems_of(metadata) == [
        "key 'task' is missing",
        "'supported_apps' is not a mapping",
        "inputs 'image' has no 'value_range'",
    ]
    (bundle / "LICENSE").unlink()
    assert check_structure(bundle) == ["LICENSE is missing"]
    assert cli.run(["export", str(bundle), "--verify"]) == 1


def test_the_names_that_consumers_look_for_are_there(bundle: Path) -> None:
    """MONAI Label and Deploy read these by name; they are not installed here."""
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    for name in (
        *("bundle_root", "device", "dataset_dir", "dataset", "evaluator", "network_def"),
        *("inferer", "preprocessing", "postprocessing", "handlers"),
    ):
        assert name in config
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(isinstance(v, torch.Tensor) for v in weights.values())
    assert not any(k.startswith(("module.", "_orig_mod.")) for k in weights)
    training = json.loads((bundle / "configs" / "train.json").read_text())
    assert {"dataset", "handlers", "trainer", "inferer"} <= training["train"].keys()
    assert training["train"]["trainer"]["max_epochs"] == "@max_epochs"
    assert {"evaluator", "dataset", "dataloader"} <= training["validate"].keys()
    assert training["validate"]["dataset"]["data"] == []


def test_expressions_are_references_and_calls(bundle: Path) -> None:
    """No statement, no import, no function made on the way: nothing but what a reader can check."""
    allowed = (
        *(ast.Expression, ast.Name, ast.Load, ast.Attribute, ast.Constant, ast.List, ast.Call),
        *(ast.keyword, ast.BinOp, ast.Add, ast.IfExp, ast.UnaryOp, ast.Not),
    )
    found = []

    def collect(entry: Any) -> None:
        if isinstance(entry, dict):
            entry = list(entry.values())
        if isinstance(entry, list):
            for one in entry:
                collect(one)
        elif isinstance(entry, str) and entry.startswith("$"):
            found.append(entry)

    for name in ("inference", "evaluate", "train"):
        config = json.loads((bundle / "configs" / f"{name}.json").read_text())
        assert "imports" not in config
        collect(config)
    assert len(set(found)) > 5
    for expression in found:
        code = expression[1:].replace("@", "ref_").replace("::", "_")
        for node in ast.walk(ast.parse(code, mode="eval")):
            assert isinstance(node, allowed), expression
            assert not (isinstance(node, ast.Name) and node.id in ("exec", "eval", "open"))


def test_what_monai_label_reads_of_the_metadata(runs: dict[str, Path], tmp_path: Path) -> None:
    """Label takes the first input and output, and counts the axes of the input's shape."""
    path = medssl.export(runs["unet"], tmp_path / "bundle").path
    data = json.loads((path / "configs" / "metadata.json").read_text())["network_data_format"]
    (image_key, image), (pred_key, pred) = (
        next(iter(data[side].items())) for side in ("inputs", "outputs")
    )
    assert (image_key, pred_key) == ("image", "pred")
    assert len(image["spatial_shape"]) == 3
    labels = {v: int(k) for k, v in pred["channel_def"].items() if v.lower() != "background"}
    assert labels == {"bright": 1, "dim": 2}
    assert (path / "models" / "model.pt").is_file()
    _, inside, files = load_net_with_metadata(
        str(path / "models" / "model.ts"), more_extra_files=["inference.json"]
    )
    metadata = json.loads((path / "configs" / "metadata.json").read_text())
    assert {key: inside[key] for key in metadata} == metadata
    config = json.loads((path / "configs" / "inference.json").read_text())
    assert json.loads(files["inference.json"]) == config


@pytest.mark.parametrize("name", TRAINED)
def test_the_way_monai_label_uses_a_bundle(
    name: str,
    runs: dict[str, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MONAI Label needs an environment of its own: its steps are taken here by hand."""
    path = medssl.export(runs[name], tmp_path / "bundle", torchscript=False).path
    image = next((data / "imagesTr").glob("*.nii.gz"))
    theirs = predicted_by_monai(path, image, monkeypatch)
    ours = load_run(runs[name], device="cpu").predictor.predict_file(image).values
    assert theirs.shape == ours.shape
    assert (ours > 0).any()
    np.testing.assert_array_equal(theirs, ours)


def test_opening_a_bundle_executes_nothing(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trap = tmp_path / "sprung"
    config = bundle / "configs" / "inference.json"
    changed = json.loads(config.read_text())
    changed["imports"] = [f"$open({str(trap)!r}, 'w')"]
    changed["initialize"] = [f"$open({str(trap)!r}, 'w').close()"]
    config.write_text(json.dumps(changed))
    (bundle / "scripts" / "__init__.py").write_text(f"open({str(trap)!r}, 'w')")
    (bundle / "models" / "model.ts").write_bytes(b"not a program")
    image = next((data / "imagesTr").glob("*.nii.gz"))
    assert cli.run(["predict", str(bundle), str(image), "--output", str(tmp_path / "out")]) == 0
    assert not trap.exists()

    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    del metadata["medssl"]
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    code = cli.run(["predict", str(bundle), str(image), "--output", str(tmp_path / "out2")])
    assert code == 2
    assert "was not written by medssl" in capsys.readouterr().err
    assert not trap.exists()


def test_weights_that_are_a_program_are_refused(bundle: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"weight": Trap()}, bundle / "models" / "model.pt")
    with pytest.raises(MedSSLError, match="cannot be read"):
        load_bundle(bundle, PredictSettings())
    assert not (tmp_path / "sprung").exists()


def test_a_damaged_description_is_refused(bundle: Path) -> None:
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["medssl"]["model"]["name"] = "no_such_network"
    path.write_text(json.dumps(metadata))
    with pytest.raises(MedSSLError, match="no_such_network"):
        load_bundle(bundle, PredictSettings())
    metadata["medssl"]["model"] = {"kind": "surprise"}
    path.write_text(json.dumps(metadata))
    with pytest.raises(MedSSLError, match="surprise"):
        load_bundle(bundle, PredictSettings())
    path.write_text("{")
    with pytest.raises(MedSSLError, match="metadata cannot be read"):
        load_bundle(bundle, PredictSettings())


def test_all_or_nothing(runs: dict[str, Path], bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(MedSSLError, match="not empty"):
        medssl.export(runs["unet"], bundle)
    recipe = runs["unet"] / "recipe.yaml"
    before = recipe.read_text()
    recipe.write_text(before.replace("spatial_unit: mm", "spatial_unit: um"))
    try:
        with pytest.raises(MedSSLError, match="cannot express a dataset in micrometers"):
            medssl.export(runs["unet"], tmp_path / "other")
    finally:
        recipe.write_text(before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


def test_licence_and_authors_are_the_users(runs: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "terms.txt"
    file.write_text("CC-BY-SA-4.0\nas the training data asks\n")
    path = medssl.export(
        runs["unet"], tmp_path / "b", licence=file, authors="A. Person", torchscript=False
    ).path
    assert (path / "LICENSE").read_text() == file.read_text()
    assert "CC-BY-SA-4.0" in (path / "docs" / "README.md").read_text()
    assert json.loads((path / "configs" / "metadata.json").read_text())["authors"] == "A. Person"
    assert "No licence has been chosen" in NO_LICENCE


@pytest.mark.parametrize("name", list_networks())
def test_every_network_can_be_written_down_and_rebuilt(name: str) -> None:
    dims = 2 if name == "unet2d" else 3
    network = build_network(name, spatial_dims=dims, in_channels=2, num_classes=3)
    tree = json.loads(json.dumps(describe(network)))
    again = rebuild(tree)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }
    config = to_config(tree)
    assert config["_target_"].startswith("scripts.") == bool(needed_modules(tree))
    json.dumps(config)


def test_views_and_ensembles_are_rebuilt_with_their_weights() -> None:
    small = {"channels": [2, 4], "strides": [2], "num_res_units": 0}

    def network() -> torch.nn.Module:
        return build_network("unet", spatial_dims=3, in_channels=1, num_classes=2, settings=small)

    x = torch.randn(1, 1, 8, 8, 8)
    for model in (
        FusedNetworks([network(), network()], [(0, 1, 2), (1, 2, 0)], fusion="mean"),
        OrientedNetwork(network(), (2, 0, 1)),
        Ensemble([network(), network(), network()]),
    ):
        again = rebuild(json.loads(json.dumps(describe(model))))
        again.load_state_dict(model.state_dict())
        torch.testing.assert_close(again.eval()(x), model.eval()(x))


def test_an_unknown_module_is_refused() -> None:
    with pytest.raises(MedSSLError, match="Conv3d cannot be written"):
        describe(torch.nn.Conv3d(1, 1, 1))


def test_a_run_keeps_its_blueprint_through_the_teacher(runs: dict[str, Path]) -> None:
    assert describe(load_run(runs["ensemble"], device="cpu").predictor.model)["kind"] == "ensemble"


def test_members_travel_and_predict_as_one(
    runs: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = runs["overlapping"], tmp_path / "other"
    shutil.copytree(one, other)
    for path in (other / "checkpoints").glob("*.pt"):
        state = load_checkpoint(path)
        for value in state["method_state"].values():
            if value.is_floating_point():
                value.mul_(0.9)
        save_checkpoint(state, path)
    image = next((data / "imagesTr").glob("*.nii.gz"))
    command = ["export", str(one), str(tmp_path / "both"), "--ensemble", str(other)]
    assert cli.run([*command, "--no-torchscript"]) == 0, capsys.readouterr().err
    assert "not evaluated" in (tmp_path / "both" / "docs" / "README.md").read_text()
    ours = load_ensemble(one, PredictSettings(device="cpu", ensemble=(other,))).predictor
    theirs = load_bundle(tmp_path / "both", PredictSettings(device="cpu"))
    assert theirs.members == ours.members == 2
    expected = ours.predict_file(image, keep_probabilities=True)
    found = theirs.predict_file(image, keep_probabilities=True)
    torch.testing.assert_close(found.probabilities, expected.probabilities)
    np.testing.assert_array_equal(found.values, expected.values)

    folds = tmp_path / "crossval"
    for number, run in enumerate((one, other)):
        shutil.copytree(run, folds / f"fold_{number}")
    record = {"status": "finished", "members": ["fold_0", "fold_1"]}
    (folds / "crossval.json").write_text(json.dumps(record))
    assert cli.run(["export", str(folds), str(tmp_path / "cv"), "--no-torchscript"]) == 0
    crossval = load_bundle(tmp_path / "cv", PredictSettings(device="cpu")).predict_file(image)
    np.testing.assert_array_equal(crossval.values, expected.values)
    assert "the first of 2 members" in (tmp_path / "cv" / "docs" / "README.md").read_text()

    recipe = other / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("tta: false", "tta: true"))
    with pytest.raises(MedSSLError, match="1 of 2 members are averaged over mirror images"):
        medssl.export(one, tmp_path / "mixed", ensemble=other, torchscript=False)


def test_verify_compares_with_the_run(
    runs: dict[str, Path], bundle: Path, data: Path, tmp_path: Path
) -> None:
    """A bundle of other weights agrees with itself, and not with the run."""
    image = next((data / "imagesTr").glob("*.nii.gz"))
    with pytest.raises(MedSSLError, match="--against RUN"):
        verify_bundle(bundle, image)
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save({k: v * 0 + 1 for k, v in weights.items()}, bundle / "models" / "model.pt")
    found = verify_bundle(bundle, image, run=runs["unet"])
    assert found.differing[0] > 0
    command = ["export", str(bundle), "--verify", "--against", str(runs["unet"])]
    assert cli.run([*command, "--example", str(image)]) == 1
