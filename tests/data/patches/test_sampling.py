"""Addressed patch streams and the loader that delivers them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from patch_samplers import sampler_of

from medssl.data.datasets.case import IGNORE_INDEX, CachedCase
from medssl.data.patches.augment import Augmenter
from medssl.data.patches.loader import StreamLoader
from medssl.data.patches.sampling import PatchSampler, PatchSettings, Stream
from medssl.data.preprocessing.cache_entry import class_indices
from medssl.errors import MedSSLError
from medssl.settings.augment import AugmentSettings
from medssl.settings.spec import DataSpec

SPEC = DataSpec(flip_axes=[0, 1, 2], rot90_planes=[[0, 1]], rotate_planes=[[0, 1]])
FULL = AugmentSettings(rotate_degrees=15, scale=(0.9, 1.1), intensity_probability=0.5)


def make_case(
    name: str, shape: tuple[int, ...] = (20, 18, 12), *, labeled: bool = True, channels: int = 1
) -> CachedCase:
    """A case whose label is known from its image: structures 1 (rare) and 2 (common)."""
    rng = np.random.default_rng(abs(hash(shape)) % 2**32 + len(name))
    image = rng.normal(size=(channels, *shape)).astype(np.float16)
    label = np.zeros(shape, np.uint8)
    label[2:4, 2:4, 2:4] = 1
    label[8:16, 6:14, 5:10] = 2
    label[-1, -1, -1] = IGNORE_INDEX
    indices = class_indices(label, seed=0)
    return CachedCase(name, name, image, label if labeled else None, indices if labeled else {})


def make_sampler(cases: list[CachedCase] | None = None, **options: object) -> PatchSampler:
    settings: dict[str, object] = {
        "patch": (8, 6, 4),
        "batch_size": 2,
        "seed": 3,
        "stream": "labeled",
        "foreground_fraction": 0.5,
        "augment": Augmenter(FULL, SPEC, spatial_dims=3),
    }
    return sampler_of(cases or [make_case("a"), make_case("bb")], **{**settings, **options})


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name])


def test_batch_shapes_and_types() -> None:
    batch = make_sampler([make_case("a", channels=2)], views=("strong",)).batch(0)
    assert {k: (tuple(v.shape), v.dtype) for k, v in batch.items()} == {
        "image": ((2, 2, 8, 6, 4), torch.float32),
        "label": ((2, 8, 6, 4), torch.int64),
        "case": ((2,), torch.int64),
        "view_0": ((2, 2, 8, 6, 4), torch.float32),
    }
    batch = make_sampler([make_case("a", labeled=False)], stream="unlabeled").batch(0)
    assert set(batch) == {"image", "case"}


def test_a_batch_is_a_function_of_its_number() -> None:
    forward = make_sampler(views=("strong",))
    batches = [forward.batch(k) for k in range(6)]
    fresh = make_sampler(views=("strong",))
    for k in (5, 0, 3, 3, 1):
        assert_same(fresh.batch(k), batches[k])
    for a in range(6):
        for b in range(a):
            assert not torch.equal(batches[a]["image"], batches[b]["image"])


def test_patches_do_not_depend_on_batch_size_or_global_state() -> None:
    large = make_sampler(batch_size=4).batch(1)["image"]
    np.random.seed(1)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    small = make_sampler(batch_size=1)
    assert torch.equal(large, torch.cat([small.batch(k)["image"] for k in range(4, 8)]))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seed_and_stream_change_the_draw() -> None:
    base = make_sampler().batch(0)["image"]
    assert not torch.equal(make_sampler(seed=4).batch(0)["image"], base)
    assert not torch.equal(make_sampler(stream="other").batch(0)["image"], base)


def test_the_strong_view_does_not_change_the_weak_one() -> None:
    assert_same(
        {k: v for k, v in make_sampler(views=("strong",)).batch(2).items() if k != "view_0"},
        make_sampler().batch(2),
    )


@pytest.mark.parametrize("deliver", ["finished", "places"])
def test_a_view_keeps_its_bits_however_many_there_are(deliver: str) -> None:
    one, three = (make_sampler(views=("strong",) * n, deliver=deliver).batch(2) for n in (1, 3))
    first, *more = [k for k in three if k.endswith(("_0", "_1", "_2"))]
    assert_same({k: three[k] for k in one}, one)
    assert more == [first.replace("0", "1"), first.replace("0", "2")]
    assert not torch.equal(three[first], three[more[0]])
    assert not torch.equal(three[more[0]], three[more[1]])
    two = make_sampler(views=("strong",) * 2, deliver=deliver).batch(2)
    assert torch.equal(two[more[0]], three[more[0]])


def test_each_patch_says_which_case_it_is_of() -> None:
    cases = [make_case(name) for name in "abc"]
    sampler = make_sampler(cases, batch_size=6)
    batch, addresses = sampler.batch(1), sampler.addresses(1)
    assert [cases[i].id for i in batch["case"]] == [place["case"] for place in addresses]
    assert sorted(batch["case"].tolist()) == [0, 0, 1, 1, 2, 2]
    rows = make_sampler(cases, batch_size=6).batch(1, range(2, 4))
    assert torch.equal(rows["case"], batch["case"][2:4])


def test_every_epoch_visits_each_case_once_in_a_new_order() -> None:
    sampler = make_sampler([make_case("x" * n) for n in range(1, 8)])
    orders = [[sampler.item(e * 7 + i)[0] for i in range(7)] for e in range(5)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_epoch_visits_each_slice_once(axis: int) -> None:
    cases = [make_case("a"), make_case("bb", (10, 11, 9))]
    sampler = make_sampler(cases, patch=(8, 6), slice_axis=axis, augment=None)
    total = cases[0].shape[axis] + cases[1].shape[axis]
    assert len(sampler.items) == total
    seen = Counter(sampler.item(number) for number in range(total, 2 * total))
    assert set(seen.values()) == {1}
    assert set(seen) == {(c, z) for c, case in enumerate(cases) for z in range(case.shape[axis])}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_patch_is_cut_from_its_slice(axis: int) -> None:
    """2D and 3D are one path: a slice that is drawn whole equals the volume's slice."""
    case = make_case("a")
    rest = [n for a, n in enumerate(case.shape) if a != axis]
    sampler = make_sampler([case], patch=rest, slice_axis=axis, augment=None, batch_size=1)
    for number in range(4):
        _, z = sampler.item(number)
        batch = sampler.batch(number)
        np.testing.assert_array_equal(
            batch["image"][0, 0], np.take(case.image[0], z, axis=axis).astype(np.float32)
        )
        assert case.label is not None
        np.testing.assert_array_equal(batch["label"][0], np.take(case.label, z, axis=axis))


def test_slices_with_augmentation_keep_image_and_label_together() -> None:
    case = make_case("a", (24, 20, 6))
    assert case.label is not None
    together = CachedCase("a", "a", case.label[None].astype(np.float16), case.label, {})
    aug = Augmenter(
        AugmentSettings(), DataSpec(flip_axes=[0, 1], rot90_planes=[[0, 1]]), spatial_dims=2
    )
    sampler = make_sampler([together], patch=(10, 16), augment=aug, batch_size=12)
    batch = sampler.batch(0)
    assert batch["image"].shape == (12, 1, 10, 16)
    assert torch.equal(batch["image"][:, 0].long(), batch["label"])


def centers(fraction: float, count: int, **options: object) -> Counter[int]:
    sampler = make_sampler(
        [make_case("a", (40, 40, 40))],
        patch=(5, 5, 5),
        batch_size=count,
        augment=None,
        foreground_fraction=fraction,
        **options,
    )
    return Counter(sampler.batch(0)["label"][:, 2, 2, 2].tolist())


def test_foreground_patches_are_centered_on_structures_equally_often() -> None:
    """Class 1 has 8 voxels and class 2 has 320, of 64000."""
    seen = centers(1.0, 600)
    assert seen[0] == 0
    assert abs(seen[1] / 600 - 0.5) < 0.06
    seen = centers(0.5, 1000)
    assert abs((seen[1] + seen[2]) / 1000 - 0.5) < 0.05
    seen = centers(0.0, 1000)
    assert (seen[1] + seen[2]) / 1000 < 0.03


def test_slices_are_centered_on_structures_where_there_are_any() -> None:
    sampler = make_sampler(
        [make_case("a", (40, 40, 12))],
        patch=(5, 5),
        augment=None,
        foreground_fraction=1.0,
        batch_size=12,
    )
    batch = sampler.batch(0)
    slices = [sampler.item(k)[1] for k in range(12)]
    middle = dict(zip(slices, batch["label"][:, 2, 2].tolist(), strict=True))
    expected = {**dict.fromkeys(range(12), 0), 2: 1, 3: 1, **dict.fromkeys(range(5, 10), 2)}
    drawn_at_random = {z for z in range(12) if expected[z] == 0}
    assert {z: c for z, c in middle.items() if z not in drawn_at_random} == {
        z: c for z, c in expected.items() if z not in drawn_at_random
    }


def test_first_and_last_offset_are_drawn() -> None:
    index = np.arange(7, dtype=np.float16)
    case = CachedCase("a", "a", np.broadcast_to(index, (1, 5, 5, 7)).copy(), None, {})
    sampler = make_sampler([case], patch=(5, 5, 4), augment=None, batch_size=200)
    starts = Counter(sampler.batch(0)["image"][:, 0, 0, 0, 0].tolist())
    assert set(starts) == {0.0, 1.0, 2.0, 3.0}
    assert min(starts.values()) > 30


def test_small_volume_is_padded_evenly_with_its_background() -> None:
    image = np.full((1, 4, 6, 9), 2, np.float16)
    image[0, 0, 0, 0] = -3
    label = np.ones((4, 6, 9), np.uint8)
    case = CachedCase("a", "a", image, label, class_indices(label, seed=0))
    batch = make_sampler([case], patch=(7, 6, 4), augment=None, foreground_fraction=1).batch(0)
    assert batch["image"].shape == (2, 1, 7, 6, 4)
    assert (batch["image"][:, :, [0, 5, 6]] == -3).all()
    assert (batch["label"][:, [0, 5, 6]] == 0).all()
    assert (batch["label"][:, 1:5] == 1).all()
    batch = make_sampler([case], patch=(12, 12, 12), views=("strong",)).batch(0)
    assert batch["image"].shape == (2, 1, 12, 12, 12)


def test_padded_share_does_not_move_the_foreground_center_out() -> None:
    seen = make_sampler(
        [make_case("a", (20, 18, 3))], patch=(8, 6, 5), augment=None, foreground_fraction=1.0
    ).batch(0)
    assert (seen["label"] > 0).flatten(1).any(1).all()


def test_a_batch_shares_no_memory_with_the_cache() -> None:
    case = make_case("a", (8, 6, 4))
    kept = case.image.copy()
    for augment in (None, Augmenter(AugmentSettings(flip=False), SPEC, spatial_dims=3)):
        batch = make_sampler([case], augment=augment, views=("strong",) if augment else ()).batch(0)
        for tensor in batch.values():
            tensor.fill_(9)
    np.testing.assert_array_equal(case.image, kept)


def test_misuse_is_refused() -> None:
    with pytest.raises(MedSSLError, match="no cases to draw unlabeled patches"):
        PatchSampler([], Stream("unlabeled", 0, 1), PatchSettings((4, 4, 4)))
    with pytest.raises(ValueError, match="with and without labels"):
        make_sampler([make_case("a"), make_case("b", labeled=False)])
    with pytest.raises(ValueError, match="augmenter"):
        make_sampler(augment=None, views=("strong",))


def mapped(case: CachedCase, folder: Path) -> CachedCase:
    np.save(folder / "image.npy", case.image)
    np.save(folder / "label.npy", case.label)
    arrays = [np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("image", "label")]
    return CachedCase(case.id, case.patient, arrays[0], arrays[1], case.class_indices)


def test_memory_maps_are_pickled_by_name(tmp_path: Path) -> None:
    sampler = make_sampler([mapped(make_case("a", (64, 64, 32)), tmp_path)], views=("strong",))
    data = pickle.dumps(sampler)
    assert len(data) < sampler.cases[0].image.nbytes / 2
    again = pickle.loads(data)
    assert isinstance(again.cases[0].image, np.memmap)
    assert_same(again.batch(3), sampler.batch(3))
    assert_same(sampler.batch(3), again.batch(3))


def streams() -> dict[str, PatchSampler]:
    return {
        "labeled": make_sampler(),
        "unlabeled": make_sampler(
            [make_case("c", labeled=False)], stream="unlabeled", views=("strong",), batch_size=3
        ),
    }


def test_workers_deliver_the_same_in_the_same_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    with StreamLoader(streams(), start=2, stop=9, workers=0) as loader:
        inline = list(loader)
    with StreamLoader(streams(), start=2, stop=9, workers=2) as loader:
        assert len(loader) == 7
        parallel = list(loader)
    assert [i for i, _ in inline] == [i for i, _ in parallel] == list(range(2, 9))
    for (k, first), (_, second) in zip(inline, parallel, strict=True):
        assert first.keys() == second.keys() == {"labeled", "unlabeled"}
        for stream in first:
            assert_same(first[stream], second[stream])
            assert_same(first[stream], streams()[stream].batch(k))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_address_translates_iterations(workers: int) -> None:
    sampler = make_sampler()
    rank = StreamLoader(
        {"labeled": sampler}, start=0, stop=3, workers=workers, address=lambda k: 2 * k + 1
    )
    for iteration, batch in rank:
        assert_same(batch["labeled"], sampler.batch(2 * iteration + 1))


def running_workers() -> list[int]:
    return [p.pid for p in multiprocessing.active_children() if p.pid is not None]


def test_workers_end_with_the_loop() -> None:
    with StreamLoader(streams(), start=0, stop=100, workers=2) as loader:
        for iteration, _ in loader:
            if iteration == 2:
                assert len(running_workers()) == 2
                break
    assert running_workers() == []


def kill_workers_on_the_way() -> int:
    """Interrupt the workers at iteration 2, kill them at 50; return the last iteration seen."""
    with StreamLoader(streams(), start=0, stop=5000, workers=2) as loader:
        for iteration, _ in loader:
            if iteration == 2:
                for pid in running_workers():
                    os.kill(pid, signal.SIGINT)
                    os.kill(pid, signal.SIGTERM)
            if iteration == 50:
                for pid in running_workers():
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.5)
    return iteration


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_interrupts_do_not_reach_workers_and_a_dead_one_is_explained() -> None:
    with pytest.raises(MedSSLError, match=r"ended unexpectedly") as caught:
        kill_workers_on_the_way()
    assert "signal: Killed" in str(caught.value)  # neither of the signals before
    assert "--set training.workers=0" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 6


@pytest.mark.slow
def test_a_crash_with_an_open_loader_does_not_hang(tmp_path: Path) -> None:
    script = tmp_path / "crash.py"
    script.write_text(
        textwrap.dedent("""
            import numpy as np
            from medssl.data.datasets.case import CachedCase
            from medssl.data.patches.loader import StreamLoader
            from medssl.data.patches.sampling import PatchSampler, PatchSettings, Stream
            case = CachedCase("a", "a", np.zeros((1, 8, 8, 8), np.float16), None, {})
            sampler = PatchSampler([case], Stream("s", 0, 2), PatchSettings((4, 4, 4)))
            loader = StreamLoader({"s": sampler}, start=0, stop=1000, workers=2)
            for k, batch in loader:
                if k == 3:
                    raise KeyError("the loop fails")
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 1
    assert "the loop fails" in done.stderr


def test_labels_only_never_reads_an_image() -> None:
    class Unreadable:
        shape = (1, 12, 10, 8)

        def __getitem__(self, _: object) -> np.ndarray:
            raise AssertionError("an image was read")

    label = np.zeros((12, 10, 8), np.uint8)
    label[3:6, 2:5, 1:4] = 1
    indices = {1: np.flatnonzero(label).astype(np.int32)}
    case = CachedCase("a", "a", Unreadable(), label, indices)  # type: ignore[arg-type]
    stream = Stream("masks", 0, 2, foreground_fraction=1.0, labels_only=True)
    sampler = PatchSampler([case], stream, PatchSettings((6, 6, 4)))
    batch = sampler.batch(0)
    assert set(batch) == {"label", "case"}
    assert batch["label"].shape == (2, 6, 6, 4)
    assert (batch["label"] == 1).any()
