"""What a user can get wrong: a short message that names the file and the fix, exit code 2.

Each case starts from a dataset and a recipe that train, breaks one thing, and runs the command.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from helpers import AFFINE, blob_case, small_recipe, write_dataset, write_recipe

from medssl import cli
from medssl.runs import checkpoint

Recipe = dict[str, Any]


@pytest.fixture(scope="module")
def clean_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("clean"))


class World:
    """A dataset, a recipe and an output folder of one test."""

    def __init__(self, folder: Path, clean: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data = folder / "data"
        shutil.copytree(clean, self.data)
        self.recipe = small_recipe(self.data, folder / "cache")
        self.file = folder / "recipe.yaml"
        self.out = folder / "run"
        self.capsys = capsys

    def image(self, number: int = 0) -> Path:
        return self.data / "imagesTr" / f"case_{number:02d}.nii.gz"

    def label(self, number: int = 0) -> Path:
        return self.data / "labelsTr" / f"case_{number:02d}.nii.gz"

    def edit_json(self, change: Callable[[dict[str, Any]], None]) -> None:
        path = self.data / "dataset.json"
        header = json.loads(path.read_text())
        change(header)
        path.write_text(json.dumps(header))

    def train(self, *arguments: str) -> tuple[int, str]:
        if not self.file.exists():
            write_recipe(self.file, self.recipe)
        return self.run("train", str(self.file), "--output", str(self.out), *arguments)

    def run(self, *arguments: str) -> tuple[int, str]:
        self.capsys.readouterr()
        code = cli.run(["--quiet", *arguments])
        return code, self.capsys.readouterr().err


@pytest.fixture
def world(tmp_path: Path, clean_dataset: Path, capsys: pytest.CaptureFixture[str]) -> World:
    return World(tmp_path, clean_dataset, capsys)


def save(array: np.ndarray, path: Path, affine: np.ndarray = AFFINE) -> None:
    nib.save(nib.Nifti1Image(array, affine), path)


def every_case_labeled(world: World) -> None:
    world.recipe["data"] |= {"labeled": 6, "test": 2}
    world.recipe["method"] = {"name": "supervised"}


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


# Each entry breaks one thing; the message must contain every one of the words.
BREAKS: dict[str, tuple[Callable[[World], object], tuple[str, ...]]] = {}


def breaks(*words: str) -> Callable[[Callable[[World], object]], Callable[[World], object]]:
    def add(function: Callable[[World], object]) -> Callable[[World], object]:
        BREAKS[function.__name__] = (function, words)
        return function

    return add


@breaks("recipe.yaml:", "not valid YAML")
def broken_yaml(w: World) -> None:
    w.file.write_text("name: x\ndata: {root: [\ntraining: 3\n")


@breaks("unknown key `training.iteration`", "did you mean 'iterations'", "recipe.yaml:")
def unknown_key(w: World) -> None:
    w.recipe["training"]["iteration"] = 5


@breaks("unknown key `method.ema_dekay`", "ema_decay")
def unknown_method_setting(w: World) -> None:
    w.recipe["method"]["ema_dekay"] = 0.9


@breaks("training.iterations", "a lot")
def wrong_type(w: World) -> None:
    w.recipe["training"]["iterations"] = "a lot"


@breaks("bcpp", "did you mean 'bcp'")
def unknown_method(w: World) -> None:
    w.recipe["method"]["name"] = "bcpp"


@breaks("recipe.yaml", "did you mean 'unet'")
def unknown_network(w: World) -> None:
    w.recipe["network"] = {"name": "unett"}


@breaks("chanels", "channels")
def unknown_network_option(w: World) -> None:
    w.recipe["network"]["chanels"] = [4, 8]


@breaks("mr_cardac", "mr_cardiac")
def unknown_spec(w: World) -> None:
    w.recipe["spec"] = "mr_cardac"


@breaks("training.stages", "pretrian", "pretrain")
def unknown_stage(w: World) -> None:
    w.recipe["training"]["stages"] = {"pretrian": {"schedule": {"name": "constant"}}}


@breaks("recipe.yaml", "16x16x7", "[16, 16, 8]")
def patch_the_network_cannot_take(w: World) -> None:
    w.recipe["training"]["patch"] = [16, 16, 7]


@breaks("recipe.yaml", "inference.stride [8, 8, 9]", "from 1 to the patch size")
def stride_that_leaves_voxels_out(w: World) -> None:
    w.recipe["inference"] = {"stride": [8, 8, 9]}


@breaks("recipe.yaml", "allows no axis to be mirrored")
def mirroring_that_the_spec_forbids(w: World) -> None:
    w.recipe["inference"] = {"tta": True}
    w.recipe["spec"] = {"flip_axes": []}


@breaks("warm-up", "100")
def warmup_longer_than_training(w: World) -> None:
    w.recipe["training"]["schedule"] = {"warmup": 100}


@breaks("method.ramp_fraction", "less than or equal to 1")
def ramp_longer_than_training(w: World) -> None:
    w.recipe["method"] = {"name": "mean_teacher", "ramp_fraction": 2.5}


@breaks("unlabeled_batch is 0")
def method_without_its_stream(w: World) -> None:
    w.recipe["training"]["unlabeled_batch"] = 0


@breaks("labeled_batch", "3")
def batch_that_cannot_be_paired(w: World) -> None:
    w.recipe["method"] = {"name": "bcp", "preset": "official", "variant": "la"}
    w.recipe["training"] |= {"labeled_batch": 3, "unlabeled_batch": 3}


@breaks("no such", "--set data.root=")
def missing_dataset(w: World) -> None:
    w.recipe["data"]["root"] = str(w.data / "nowhere")


@breaks("dataset.json:1", "JSON")
def broken_json(w: World) -> None:
    (w.data / "dataset.json").write_text('{"training": [')


@breaks("case_03.nii.gz")
def missing_image(w: World) -> None:
    w.image(3).unlink()


@breaks("case_04.nii.gz")
def missing_label_file(w: World) -> None:
    w.label(4).unlink()


@breaks("case_02.nii.gz")
def truncated_gzip(w: World) -> None:
    every_case_labeled(w)
    truncate(w.image(2))


@breaks("case_01.nii.gz")
def not_an_image(w: World) -> None:
    every_case_labeled(w)
    w.image(1).write_bytes(gzip.compress(b"this is no image" * 50))


@breaks("case_00.nii.gz", "24 x 24 x 12", "24 x 24 x 10")
def label_of_another_shape(w: World) -> None:
    every_case_labeled(w)
    save(blob_case(0)[1][:, :, :10], w.label(0))


@breaks("case_05.nii.gz", "affine")
def label_of_another_place(w: World) -> None:
    every_case_labeled(w)
    moved = AFFINE.copy()
    moved[:3, 3] = 40
    save(blob_case(5)[1], w.label(5), moved)


@breaks("case_01.nii.gz", "NaN")
def nan_voxels(w: World) -> None:
    every_case_labeled(w)
    image = blob_case(1)[0].astype(np.float32)
    image[3, 4, 5] = np.nan
    save(image, w.image(1))


@breaks("case_02.nii.gz", "7")
def undeclared_label_value(w: World) -> None:
    every_case_labeled(w)
    label = blob_case(2)[1]
    label[0, 0, 0] = 7
    save(label, w.label(2))


@breaks("case_03.nii.gz", "empty")
def empty_label(w: World) -> None:
    every_case_labeled(w)
    save(np.zeros((24, 24, 12), np.uint8), w.label(3))


@breaks("case_03.nii.gz", "constant")
def constant_image(w: World) -> None:
    every_case_labeled(w)
    save(np.full((24, 24, 12), 7, np.int16), w.image(3))


@breaks("case_00.nii.gz", "dimension")
def image_of_five_dimensions(w: World) -> None:
    every_case_labeled(w)
    image, _ = blob_case(0)
    save(np.stack([np.stack([image] * 2, -1)] * 3, -1), w.image(0))


@breaks("recipe.yaml", "unlabeled images but there are none")
def no_unlabeled_cases(w: World) -> None:
    w.recipe["data"] |= {"labeled": 6, "test": 2}


@breaks("20", "8")
def more_labeled_than_exist(w: World) -> None:
    w.recipe["data"]["labeled"] = 20


@breaks("case_99", "labeled")
def unknown_case_id(w: World) -> None:
    w.recipe["data"]["labeled"] = ["case_00", "case_99"]


@breaks("case_00")
def case_in_two_roles(w: World) -> None:
    w.recipe["data"] |= {"labeled": ["case_00", "case_01"], "test": ["case_00"]}


@breaks("nokey", "splits.json")
def missing_key_of_a_split_file(w: World) -> None:
    (w.data / "splits.json").write_text('{"train": []}')
    w.recipe["data"]["labeled"] = {"file": "splits.json", "key": "nokey"}


@breaks("patch", "[24, 24, 12]")
def patch_larger_than_the_volumes(w: World) -> None:
    w.recipe["training"]["patch"] = [64, 64, 64]


@breaks("um", "mm")
def wrong_unit(w: World) -> None:
    w.recipe["spec"]["spatial_unit"] = "um"


@breaks("nothing_here")
def no_such_unlabeled_folder(w: World) -> None:
    w.recipe["data"]["unlabeled"] = ["nothing_here/*.nii.gz"]


@breaks("dataset.json", "outside")
def path_out_of_the_dataset(w: World) -> None:
    w.edit_json(lambda h: h["training"][0].update(image="../../etc/passwd"))


@breaks("dataset.json", "region")
def regions_in_an_order_that_exchanges_them(w: World) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2]}
    w.edit_json(lambda h: h.update(labels=labels, regions_class_order=[2, 1]))


@breaks("case_00")
def duplicate_case(w: World) -> None:
    w.edit_json(lambda h: h["training"].append(h["training"][0]))


@breaks("data.patients")
def pattern_that_matches_nothing(w: World) -> None:
    w.recipe["data"]["patients"] = "subject(\\d+)"


@pytest.mark.parametrize("name", list(BREAKS))
def test_bad_input(name: str, world: World) -> None:
    function, words = BREAKS[name]
    function(world)
    code, message = world.train()
    assert code == 2, message
    assert len(message.strip().splitlines()) <= 6, message
    assert "fix:" in message
    assert "where:" in message
    assert "Traceback" not in message
    for word in words:
        assert word in message, f"{word!r} not in:\n{message}"
    assert not world.out.exists(), "something half-written was left behind"


def test_there_are_at_least_thirty() -> None:
    assert len(BREAKS) >= 30


def test_the_unbroken_world_trains(world: World) -> None:
    code, message = world.train()
    assert code == 0, message


def test_existing_run_folder(world: World) -> None:
    world.out.mkdir()
    (world.out / "precious.txt").write_text("x")
    code, message = world.train()
    assert code == 2
    assert "--resume" in message
    assert [p.name for p in world.out.iterdir()] == ["precious.txt"]


def test_nothing_to_resume(world: World) -> None:
    code, message = world.train("--resume")
    assert code == 2
    assert "no run to resume" in message


def test_the_output_is_a_file(world: World) -> None:
    world.out.write_text("precious")
    code, message = world.train()
    assert code == 2, message
    assert "--output" in message
    assert world.out.read_text() == "precious"


@pytest.mark.parametrize("command", ["plan", "evaluate"])
def test_output_that_cannot_be_written_is_refused_before_any_work(
    command: str, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("precious")
    output = str(tmp_path / "file" / "out.yaml")
    monkeypatch.setattr("medssl.planning.planner.open_planned", pytest.fail)
    monkeypatch.setattr("medssl.workflows.evaluate_folders.evaluate_folders", pytest.fail)
    labels = [str(world.data / "labelsTr")]
    given = [str(world.data)] if command == "plan" else labels * 2
    code, message = world.run(command, *given, "--output", output)
    assert code == 2, message
    assert "cannot write" in message


def test_a_name_too_long_for_the_disk(world: World, tmp_path: Path) -> None:
    world.out = tmp_path / ("x" * 300)
    code, message = world.train()
    assert code == 2, message
    assert "too long" in message


def test_what_the_disk_refuses_elsewhere_is_no_traceback(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", "some/where")

    monkeypatch.setattr("medssl.check", broken, raising=False)
    code, message = world.run("check", str(world.data))
    assert code == 2
    assert "Not a directory" in message
    assert "some/where" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_output(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    world.out = folder / "run"
    code, message = world.train()
    assert code == 2
    assert "--output" in message


def test_output_below_a_file(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    world.out = tmp_path / "file" / "run"
    code, message = world.train()
    assert code == 2, message
    assert "--output" in message


def test_full_disk_keeps_the_last_checkpoint(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.recipe["training"]["iterations"] = 8
    save_really = torch.save
    calls = []

    def save_once(state: object, file: Any) -> None:
        calls.append(1)
        if len(calls) > 2:
            file.write(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        save_really(state, file)

    monkeypatch.setattr(checkpoint.torch, "save", save_once)
    code, message = world.train()
    assert code == 2, message
    assert "No space left" in message
    assert "previous one is kept" in message
    folder = world.out / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["last.pt", "pretrain.pt"]
    monkeypatch.undo()
    assert world.train("--resume")[0] == 0


def test_checkpoint_of_another_method(world: World, tmp_path: Path) -> None:
    assert world.train()[0] == 0
    world.recipe["method"] = {"name": "supervised"}
    world.file.unlink()
    code, message = world.train("--resume")
    assert code == 2
    assert "bcp" in message
    assert "supervised" in message
    stored = yaml.safe_load((world.out / "recipe.yaml").read_text())
    assert stored["method"]["name"] == "bcp", "the run was changed by a refused resume"
    state = checkpoint.load_checkpoint(world.out / "checkpoints" / "last.pt")
    changed = {**state, "method": "mean_teacher"}
    checkpoint.save_checkpoint(changed, world.out / "checkpoints" / "last.pt")
    code, message = world.run(
        "predict", str(world.out), str(world.image(0)), "--output", str(tmp_path / "p")
    )
    assert code == 2
    assert "mean_teacher" in message


def test_damaged_checkpoint(world: World, tmp_path: Path) -> None:
    assert world.train()[0] == 0
    truncate(world.out / "checkpoints" / "last.pt")
    arguments = ("predict", str(world.out), str(world.image(0)), "-o", str(tmp_path / "p"))
    code, message = world.run(*arguments)
    assert code == 2
    assert "last.pt" in message


def test_predict_and_evaluate_refuse(world: World, tmp_path: Path) -> None:
    assert world.train()[0] == 0
    target = str(tmp_path / "p")
    for arguments, word in (
        (("predict", str(world.data), str(world.image(0)), "-o", target), "recipe.yaml"),
        (("predict", str(world.out), str(tmp_path / "none.nii.gz"), "-o", target), "none.nii.gz"),
        (("evaluate", str(world.out), "--split", "validation"), "validation"),
        (("evaluate", str(world.data / "labelsTr"), str(world.data / "labelsTr")), "--output"),
    ):
        code, message = world.run(*arguments)
        assert code == 2, message
        assert word in message
        assert len(message.strip().splitlines()) <= 6


def test_evaluate_refuses_mismatched_grids(world: World, tmp_path: Path) -> None:
    predictions = tmp_path / "predictions"
    shutil.copytree(world.data / "labelsTr", predictions)
    save(blob_case(2)[1][:, :-1], predictions / "case_02.nii.gz")
    output = tmp_path / "evaluation"
    code, message = world.run(
        "evaluate", str(predictions), str(world.data / "labelsTr"), "-o", str(output)
    )
    assert code == 2
    assert "case_02" in message
    assert not output.exists()


def test_unknown_command_and_option(world: World) -> None:
    assert world.run("trian")[0] == 2
    assert world.run("train", "quickstart", "--speed", "9")[0] == 2
