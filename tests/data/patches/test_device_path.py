"""Work that may be done on the training device gives the same patches as on the host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import small_recipe, write_dataset, write_recipe
from patch_samplers import FULL, make_case, make_sampler
from torch import Tensor

from medssl.data.patches.augment import UNCHANGED
from medssl.data.patches.augment_batch import finish
from medssl.data.patches.device_cases import DeviceCases, held_bytes
from medssl.data.patches.loader import StreamLoader
from medssl.data.patches.sampling import PatchSampler
from medssl.errors import MedSSLError
from medssl.recipe.load import load_recipe
from medssl.settings.augment import AugmentSettings
from medssl.settings.training import TrainingSettings
from medssl.training.batches import to_batch
from medssl.training.placement import augments_on, holds_cases
from medssl.workflows.train import train

HOST = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
        ],
    ),
]


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Rounding may turn a nearest voxel on a card into its neighbor; images may not differ."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        other = second[name].cpu()
        if name == "label":
            assert (tensor.long() == other.long()).float().mean() > 0.999
        else:
            torch.testing.assert_close(tensor, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"views": ("strong",), "labeled": False},
        {"labels_only": True},
        {"patch": (30, 8, 20)},  # padded
        {"patch": (16, 12), "views": ("strong",)},
        {"patch": (16, 12), "slice_axis": 1},
        {"settings": None},
        {"settings": AugmentSettings()},
    ],
    ids=["3d", "strong", "labels", "padded", "2d", "axis1", "plain", "flips"],
)
def test_finishing_on_a_device_gives_the_loaders_patches(
    options: dict[str, Any], device: str
) -> None:
    whole, plain = make_sampler(**options), make_sampler(**options, deliver="plain")
    for number in range(5):
        assert_close(whole.batch(number), finish(plain.batch(number), torch.device(device)))


def test_a_patch_does_not_depend_on_the_rest_of_its_batch() -> None:
    large = make_sampler(views=("strong",), batch_size=6, deliver="plain")
    small = make_sampler(views=("strong",), batch_size=1, deliver="plain")
    together = finish(large.batch(1), HOST)
    for position in range(6):
        alone = finish(small.batch(6 + position), HOST)
        assert_close({k: v[position : position + 1] for k, v in together.items()}, alone)


def test_untouched_patches_of_a_batch_stay_exactly_as_they_were() -> None:
    rare = FULL.model_copy(update={"intensity_probability": 0.15})
    plain = make_sampler(rare, views=("strong",), batch_size=32, deliver="plain").batch(0)
    rows = (plain["weak"] == torch.from_numpy(UNCHANGED)).all(1)
    still = (plain["matrix"] == torch.eye(3)).all((1, 2)) & rows
    assert 0 < int(still.sum()) < 32
    out = finish(plain, HOST)
    assert torch.equal(out["image"][still], plain["image"][still].float())
    assert torch.equal(out["label"][still], plain["label"][still])


def test_plain_crops_are_small_and_pass_through_workers() -> None:
    sampler = make_sampler(views=("strong",), deliver="plain")
    batch = sampler.batch(0)
    assert batch["image"].dtype == torch.float16
    assert batch["label"].dtype == torch.uint8
    with StreamLoader({"labeled": sampler}, start=0, stop=2, workers=1) as loader:
        for number, streams in loader:
            expected = sampler.batch(number)
            assert all(torch.equal(streams["labeled"][k], v) for k, v in expected.items())


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_for_a_method_is_the_same_from_both_places(device: str) -> None:
    streams = {
        "labeled": {},
        "unlabeled": {"labeled": False, "stream": "unlabeled", "views": ("strong",)},
        "masks": {"labels_only": True, "stream": "masks"},
    }
    made = []
    for deliver in ("finished", "plain"):
        samplers = {k: make_sampler(**v, deliver=deliver) for k, v in streams.items()}
        arrays = {name: sampler.batch(3) for name, sampler in samplers.items()}
        made.append(to_batch(arrays, torch.device(device)))
    for batch in made:
        assert batch.labeled is not None
        assert batch.unlabeled is not None
        assert batch.masks is not None
        assert batch.labeled.label.dtype == batch.masks.dtype == torch.int64
        assert batch.labeled.image.dtype == torch.float32
        assert batch.labeled.image.device.type == device
    whole, plain = made
    torch.testing.assert_close(
        whole.unlabeled.views[0], plain.unlabeled.views[0], rtol=0, atol=1e-4
    )
    torch.testing.assert_close(whole.labeled.image, plain.labeled.image, rtol=0, atol=1e-4)
    assert torch.equal(whole.masks, plain.masks)
    assert torch.equal(whole.labeled.case, plain.labeled.case)
    assert torch.equal(whole.unlabeled.case, plain.unlabeled.case)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_augmenting_on_a_card_never_makes_the_host_wait() -> None:
    plain = make_sampler(views=("strong",), deliver="plain").batch(0)
    pinned = {k: v.pin_memory() for k, v in plain.items()}
    torch.cuda.set_sync_debug_mode("error")
    try:
        finish(pinned, torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_where_augmentation_is_done() -> None:
    def training(place: str) -> TrainingSettings:
        return TrainingSettings.model_validate({"augment": {"place": place}})

    card = torch.device("cuda")
    assert augments_on(card, training("auto"))
    assert not augments_on(HOST, training("auto"))
    assert augments_on(HOST, training("device"))
    assert not augments_on(card, training("loader"))


def hold(sampler: PatchSampler, device: str) -> DeviceCases:
    swapped = np.arange(256, dtype=np.uint8) if sampler.augment is None else sampler.augment.swapped
    return DeviceCases(
        {"labeled": sampler.cases},
        torch.device(device),
        slice_axis=sampler.slice_axis,
        swapped=swapped,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [
        {"settings": None},
        {},
        {"views": ("strong",), "labeled": False},
        {"labels_only": True},
        {"patch": (30, 8, 20)},
        {"patch": (16, 30), "views": ("strong",)},
        {"patch": (16, 12), "slice_axis": 0},
        {"patch": (16, 12), "slice_axis": 1},
    ],
    ids=["plain", "3d", "strong", "labels", "padded", "2d", "axis0", "axis1"],
)
def test_cutting_on_a_device_is_cutting_on_the_host_bit_for_bit(
    options: dict[str, Any], device: str
) -> None:
    plain = make_sampler(**options, deliver="plain")
    places = make_sampler(**options, deliver="places")
    resident = hold(places, device)
    for number in range(8):
        expected = plain.batch(number)
        cut = resident.cut("labeled", places.batch(number))
        assert cut.keys() == expected.keys()
        for name, tensor in expected.items():
            assert cut[name].dtype == tensor.dtype
            assert torch.equal(cut[name].cpu(), tensor)


def test_left_and_right_are_exchanged_on_the_device_too() -> None:
    places = make_sampler(deliver="places", batch_size=16).batch(0)["place"]
    assert 0 < int(places[:, 13].sum()) < 16


def test_cut_patches_share_no_memory_with_the_cases() -> None:
    places = make_sampler(None, deliver="places", patch=(22, 18, 12), batch_size=1)
    resident = hold(places, "cpu")
    first = to_batch({"labeled": places.batch(0)}, HOST, resident)
    assert first.labeled is not None
    first.labeled.image.zero_()
    again = to_batch({"labeled": places.batch(0)}, HOST, resident)
    assert again.labeled is not None
    assert again.labeled.image.any()


def test_streams_that_share_cases_hold_them_once() -> None:
    cases = [make_case("a"), make_case("bb")]
    unlabeled = replace(cases[0], label=None, class_indices={})
    one = sum(c.image.nbytes + c.label.nbytes for c in cases)
    streams = {"labeled": cases, "masks": cases, "unlabeled": [unlabeled]}
    assert held_bytes(streams.values()) == one
    held = DeviceCases(streams, HOST, slice_axis=None, swapped=np.arange(256)).streams
    assert held["unlabeled"][0][0] is held["labeled"][0][0]
    assert held["unlabeled"][0][1] is None


def test_cases_go_to_a_card_that_has_room() -> None:
    card, gib = torch.device("cuda"), 2**30

    def holds(setting: Any, device: torch.device, needed: int, free: int | None, step: int) -> bool:
        def step_bytes() -> float:
            assert step >= 0, "asked in vain"
            return step

        return holds_cases(setting, device, needed=needed, free=free, step_bytes=step_bytes)

    assert holds("auto", card, gib, 8 * gib, 6 * gib)
    assert not holds("auto", card, gib, 8 * gib, 7 * gib)  # the step would not fit any more
    assert not holds("auto", card, 3 * gib, 8 * gib, -1)
    assert not holds("auto", HOST, 1, None, -1)
    assert holds(True, HOST, gib, None, -1)
    assert holds(True, card, 7 * gib, 8 * gib, -1)
    assert not holds(False, card, 1, gib, -1)
    with pytest.raises(MedSSLError, match=r"9.0 GiB and 8.0 GiB are free"):
        holds(True, card, 9 * gib, 8 * gib, -1)


def test_a_run_is_the_same_wherever_its_cases_lie(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data")
    weights = []
    for name, changes in (
        ("host", {}),
        ("device", {"augment": {"place": "device"}}),
        ("resident", {"cache_on_device": True}),
    ):
        recipe = small_recipe(tmp_path / "data", tmp_path / "cache")
        recipe["training"] |= {"iterations": 3, **changes}
        recipe["evaluation"] = {"splits": []}
        path = write_recipe(tmp_path / f"{name}.yaml", recipe)
        train(path, output=tmp_path / name)
        saved = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)
        weights.append(saved["method_state"])
    for other in weights[1:]:
        assert all(torch.equal(other[k], v) for k, v in weights[0].items())


def test_contradicting_places_are_refused(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, tmp_path)
    recipe["training"] |= {"cache_on_device": True, "augment": {"place": "loader"}}
    with pytest.raises(MedSSLError, match="no loader can augment"):
        load_recipe(write_recipe(tmp_path / "r.yaml", recipe))
