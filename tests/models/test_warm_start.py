"""Trained weights to start from: what fits is loaded, what must differ stays new, all is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import same_bits, small_recipe, write_dataset, write_recipe
from torch import nn

import medssl
from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError
from medssl.methods.registry import get_method, get_settings, list_methods
from medssl.models.given_tensors import Given, read_given
from medssl.models.warm_start import described, fit_weights, warm_start
from medssl.networks.build import blueprint_of, build_network
from medssl.progress import Display
from medssl.runs.given_weights import WeightSource, find_weights
from medssl.settings.recipe import NetworkSettings
from medssl.workflows import training_run

SOURCE = WeightSource("file", Path("x.pt"), Path("x.pt"))
LABELS = LabelMap((0, 1, 2), ("background", "bright", "dim"))
HEAD = {f"model.2.{n}.{p}" for n in ("0.conv", "1.conv.unit0.conv") for p in ("weight", "bias")}


def network(
    classes: int = 3, in_channels: int = 1, name: str = "unet", **settings: Any
) -> nn.Module:
    own = {"channels": [4, 8], "strides": [2]} if name == "unet" else {}
    return build_network(
        name,
        spatial_dims=3,
        in_channels=in_channels,
        num_classes=classes,
        settings={**own, **settings},
    )


def given(tensors: dict[str, torch.Tensor], labels: LabelMap | None = None) -> Given:
    return Given(SOURCE, "0" * 64, tensors, labels)


def test_weights_of_the_same_network_fit_whole() -> None:
    state = network().state_dict()
    fit = fit_weights(given(state), network())
    assert set(fit.tensors) == set(state)
    assert not fit.new
    assert not fit.left


def test_with_other_classes_the_head_stays_new_and_with_other_channels_the_first_layer() -> None:
    fit = fit_weights(given(network(classes=5).state_dict()), network())
    assert set(fit.new) == HEAD
    assert fit.new["model.2.0.conv.bias"] == "5 in the file, 3 here"
    fit = fit_weights(given(network(in_channels=2).state_dict()), network())
    assert set(fit.new) == {"model.0.conv.unit0.conv.weight", "model.0.residual.weight"}


def test_as_many_classes_of_other_names_leave_the_head_new() -> None:
    state, others = network().state_dict(), LabelMap((0, 1, 2), ("background", "left", "right"))
    assert set(fit_weights(given(state, others), network(), LABELS).new) == HEAD
    same = LabelMap((0, 7, 9), ("background", "Bright", "dim"))
    assert not fit_weights(given(state, same), network(), LABELS).new
    assert not fit_weights(given(state, None), network(), LABELS).new


def test_a_body_of_other_sizes_is_refused_with_the_sizes() -> None:
    with pytest.raises(MedSSLError) as caught:
        fit_weights(given(network(channels=[6, 8]).state_dict()), network())
    text = str(caught.value)
    assert "network of other sizes" in text
    assert "model.0.conv.unit0.conv.bias: 6 in the file, 4 here" in text


def test_what_fits_nowhere_is_refused_by_what_it_holds() -> None:
    wrong = {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    with pytest.raises(MedSSLError, match=r"1 tensors, conv1.weight 64x3x7x7 first, .* 4x1x3x3x3"):
        fit_weights(given(wrong), network())
    with pytest.raises(MedSSLError, match="holds none"):
        fit_weights(given({}), network())


@pytest.mark.parametrize("prefix", ["module.", "net.module.", "_orig_mod.", "members.0."])
def test_names_may_stand_behind_a_prefix(prefix: str) -> None:
    state = network().state_dict()
    behind = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    fit = fit_weights(given({**behind, "other.weight": torch.zeros(2)}), network())
    same_bits(dict(fit.tensors), dict(state))
    assert fit.left == ("other.weight",)


def test_of_student_and_teacher_the_teacher_is_taken() -> None:
    student, teacher = network().state_dict(), network().state_dict()
    both = {f"student.{k}": v for k, v in student.items()}
    both |= {f"teacher.{k}": v for k, v in teacher.items()}
    same_bits(dict(fit_weights(given(both), network()).tensors), dict(teacher))


@pytest.mark.parametrize("wrapped", ["state_dict", "network_weights", "model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_are_read_wrapped_or_not(tmp_path: Path, wrapped: str, zipped: bool) -> None:
    state, file = network().state_dict(), tmp_path / "weights.pth"
    content = {"epoch": 3, wrapped: dict(state)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    same_bits(dict(read_given(find_weights(file)).tensors), dict(state))


def test_a_bundle_gives_its_model(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text("{}")
    source = find_weights(tmp_path)
    with pytest.raises(MedSSLError, match="model of the bundle is not there"):
        read_given(source)
    source.file.parent.mkdir()
    torch.save(network().state_dict(), source.file)
    assert (source.kind, len(read_given(source).tensors)) == ("bundle", 21)


def test_nothing_in_a_file_is_executed_and_what_is_no_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save(nn.Linear(1, 1), file)  # a whole module is code
    with pytest.raises(MedSSLError, match=r"cannot be read|damaged"):
        read_given(find_weights(file))
    for content in ({"epoch": 3}, [1, 2], {"state_dict": {"lr": 0.1}}):
        torch.save(content, file)
        with pytest.raises(MedSSLError, match="holds no weights by name"):
            read_given(find_weights(file))
    file.write_text("no weights")
    with pytest.raises(MedSSLError, match=r"weights\.pt"):
        read_given(find_weights(file))


def test_what_is_named_must_be_one_model(tmp_path: Path) -> None:
    (tmp_path / "crossval.json").write_text("{}")
    with pytest.raises(MedSSLError, match=r"cross-validation.*models of their own(.|\n)*fold_0"):
        find_weights(tmp_path)
    with pytest.raises(MedSSLError, match="nothing that is there"):
        find_weights(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MedSSLError, match="no run, no MONAI bundle and no file of weights"):
        find_weights(tmp_path / "notes.txt")


def test_a_networks_own_init_is_no_file() -> None:
    own = NetworkSettings.model_validate({"name": "vnet", "init": "kaiming"})
    assert (own.given, own.settings) == (None, {"init": "kaiming"})
    source = NetworkSettings.model_validate({"name": "vnet", "init": "runs/a", "filters": 8})
    assert (source.given, source.settings) == ("runs/a", {"filters": 8})
    assert NetworkSettings().settings == {}


# ---------------------------------------------------------------------- methods


@pytest.mark.parametrize("name", [n for n in list_methods() if get_settings(n).segments])
def test_every_method_starts_from_given_weights(name: str, tmp_path: Path) -> None:
    """The predicting network is loaded; a teacher is a copy; networks side by side differ."""
    settings = get_settings(name)()

    def build(*, network: str | None = None, **own: Any) -> nn.Module:
        base = {"channels": [4, 8], "strides": [2], "dropout": 0.2}
        sizes = {"spatial_dims": 3, "in_channels": 1, "num_classes": 3} | {
            k: own.pop(k) for k in ("in_channels", "num_classes") if k in own
        }
        same = network in (None, "unet")
        return build_network(network or "unet", **sizes, settings={**base, **own} if same else own)

    torch.manual_seed(0)
    method = get_method(name)(settings, build, num_classes=3, spatial_dims=3)
    weights = network(dropout=0.2).state_dict()
    torch.save(weights, tmp_path / "w.pt")
    said: list[str] = []
    record = warm_start(method, str(tmp_path / "w.pt"), LABELS, said.append)
    assert len(record["loaded"]) == len(weights)
    assert any("21 of 21 tensors" in line for line in said)
    assert any("is not known" in line for line in said)
    first = next(m for m in method.predictor().modules() if blueprint_of(m) is not None)
    same_bits(dict(first.state_dict()), dict(weights))
    if hasattr(method, "teacher"):
        same_bits(dict(method.teacher.state_dict()), dict(method.student.state_dict()))
    if name == "cps":
        second = method.second.state_dict()
        other = {k for k in weights if not torch.equal(second[k], weights[k])}
        assert other == HEAD


# ---------------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a recipe, and a run ``first`` of mean teacher on two labels."""
    folder = tmp_path_factory.mktemp("warm")
    write_dataset(folder / "data", cases=6)
    content = small_recipe(
        folder / "data",
        folder / "cache",
        data={"labeled": ["case_00", "case_01"], "test": ["case_05"]},
        method={"name": "mean_teacher"},
        training={"iterations": 2, "checkpoint_every": 1},
    )
    write_recipe(folder / "small.yaml", content)
    train(folder, "first")
    return folder


class Heard(Display):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def train(world: Path, name: str, *overrides: str, **options: Any) -> list[str]:
    display, pictures = Heard(), training_run.write_previews
    training_run.write_previews = lambda *_: []
    try:
        medssl.train(
            world / "small.yaml",
            overrides=overrides,
            output=world / name,
            device="cpu",
            display=display,
            **options,
        )
    finally:
        training_run.write_previews = pictures
    return display.lines


def state_of(world: Path, name: str) -> dict[str, torch.Tensor]:
    path = world / name / "checkpoints" / "last.pt"
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["method_state"]
    return found


def test_a_run_starts_from_what_predicts_in_another_and_says_so(world: Path) -> None:
    still = ["training.optimizer.lr=1e-30", "training.optimizer.weight_decay=0"]
    labeled = "data.labeled=[case_00, case_01, case_02]"
    heard = train(world, "second", labeled, f"network.init={world / 'first'}", *still)
    assert any("21 of 21 tensors are loaded from" in line for line in heard)
    teacher = {k: v for k, v in state_of(world, "first").items() if k.startswith("teacher.")}
    own = state_of(world, "second")
    for name, tensor in teacher.items():  # nothing was learned in between
        torch.testing.assert_close(own[name], tensor)
        torch.testing.assert_close(own[name.replace("teacher", "student")], tensor)
    record = json.loads((world / "second" / "manifest.json").read_text())["init"]
    assert record["source"] == str(world / "first")
    assert len(record["sha256"]) == 64
    assert (len(record["loaded"]), record["new"], record["known"]) == (21, {}, True)
    lineage = json.loads((world / "second" / "lineage.json").read_text())
    assert [(a["how"], a["labels"]) for a in lineage["ancestors"]] == [
        ("network.init", ["case_00", "case_01"])
    ]
    compared = medssl.compare([world / "first", world / "second"])
    assert any("starts from trained weights" in w for w in compared["warnings"])


def test_a_run_that_goes_on_does_not_read_them_again(world: Path) -> None:
    shutil.copytree(world / "first", world / "gone")
    init = f"network.init={world / 'gone'}"
    train(world, "third", init)
    shutil.rmtree(world / "gone")
    heard = train(world, "third", init, "training.iterations=3", resume=True)
    assert not any("tensors are loaded" in line for line in heard)
    assert json.loads((world / "third" / "manifest.json").read_text())["iterations_done"] == 3
    with pytest.raises(MedSSLError, match=r"was started with network\.init"):
        train(world, "third", f"network.init={world / 'first'}", resume=True)


def test_scores_of_patients_that_the_start_saw_are_refused_or_marked(world: Path) -> None:
    seen = ["data.labeled=[case_02, case_03]", "data.test=[case_01, case_05]"]
    with pytest.raises(MedSSLError, match=r"case_01 \(by network.init: .*first\)"):
        train(world, "no", *seen, f"network.init={world / 'first'}")
    assert not (world / "no").exists()
    torch.save({f"net.{k}": v for k, v in network().state_dict().items()}, world / "loose.pt")
    train(world, "loose", f"network.init={world / 'loose.pt'}")
    summary = json.loads((world / "loose/evaluation/test/summary.json").read_text())
    assert summary["unknown_ancestors"] == [f"network.init: {world / 'loose.pt'}"]
    image = ["data.labeled=[case_00, case_01]", "data.test=[case_02]"]
    train(world, "image", *image, f"network.init={world / 'first'}")
    summary = json.loads((world / "image/evaluation/test/summary.json").read_text())
    assert summary["transductive"] == ["case_02"]  # an unlabeled image of the first run


def test_what_is_new_is_listed() -> None:
    record = {
        "source": "runs/a",
        "file": "last.pt",
        "kind": "run",
        "known": True,
        "loaded": ["a"],
        "new": {f"head.{i}": "not in the file" for i in range(7)},
    }
    lines = described(record)
    assert lines[0] == "network.init: 1 of 8 tensors are loaded from runs/a (last.pt)"
    assert lines[1].split() == ["new", "head.0", "not", "in", "the", "file"]
    assert "and 2 more" in lines[-1]
