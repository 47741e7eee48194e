"""Planning: hand-made fingerprints with known answers, and planned recipes that train."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import blob_case, write_dataset
from planned import ATRIUM, CINE, COUNTS, GIB, SMALL_STEP, found, order

from medssl.cli import run
from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.fingerprint import (
    LabeledStructure,
    ScanGrid,
    count_pieces,
    fingerprint,
)
from medssl.data.datasets.fingerprint import sampled_cases as sample
from medssl.data.datasets.label_regions import LabelRegion
from medssl.data.datasets.split import make_splits
from medssl.errors import MedSSLError
from medssl.methods.registry import list_methods
from medssl.planning.draft import LINE_WIDTH, make_draft
from medssl.planning.fit import make_plan
from medssl.planning.footprint import Footprint, LiveBytes, measure_footprint, small_patches
from medssl.planning.grid import choose_grid, choose_levels, fixed_patch
from medssl.planning.patients import choose_patients
from medssl.planning.planner import plan
from medssl.planning.spec_guess import SpecGuess, guess_spec
from medssl.planning.training import choose_intensity
from medssl.recipe.load import load_recipe, resolve
from medssl.settings.recipe import DataSettings
from medssl.settings.specs import list_specs, load_spec
from medssl.workflows.train import train

# ------------------------------------------------------------------ grid


def test_equal_spacing_is_the_target_even_where_the_spec_has_its_own():
    scans = found((64, 64, 32), (2, 2, 3), modality="CT")
    grid = choose_grid(scans, load_spec("ct_abdomen"))
    assert grid.spacing == [2, 2, 3]
    assert "others will be resampled" in grid.spacing_reason
    assert grid.voxel == (2, 2, 3)
    assert grid.slice_axis is None
    # Not rounded: what is resampled to its own size, would be blurred.
    fine = found((64, 64, 32), (0.976562, 0.976562, 1.5))
    assert choose_grid(fine, load_spec("mr")).spacing == [0.976562, 0.976562, 1.5]


def test_native_voxels_only_on_request():
    grid = choose_grid(found((64, 64, 32), (2, 2, 3)), load_spec("mr"), native=True)
    assert grid.spacing == "native"
    assert grid.spacing_reason == "as you asked: each scan keeps its own voxels"
    assert grid.voxel == (2, 2, 3)


def test_different_spacings_become_their_median_and_the_shape_follows():
    scans = [ScanGrid((100, 100, 50), (1.0, 1.0, 2.0)), ScanGrid((80, 80, 50), (1.2, 1.2, 2.0))] * 2
    scans.append(ScanGrid((50, 50, 40), (2.0, 2.0, 2.5)))
    grid = choose_grid(found(scans=scans), load_spec("mr"))
    assert grid.spacing == [1.2, 1.2, 2.0]
    # 100 x 1.0, 80 x 1.2 and 50 x 2.0 mm wide: median 100 mm; 100, 100, 100 mm high.
    assert grid.shape == (83, 83, 50)


def test_a_spec_spacing_near_the_scans_stands():
    scans = [ScanGrid((250, 250, 100), (s, s, 1.5)) for s in (1.2, 1.4, 1.6)]
    grid = choose_grid(found(scans=scans, modality="CT"), load_spec("ct_abdomen"))
    assert grid.spacing is None
    assert grid.voxel == (1.5, 1.5, 2.0)
    assert grid.shape == (233, 233, 75)


def test_thick_slices_that_differ_take_the_finer_distance_if_volumes_are_trained():
    scans = [ScanGrid((200, 200, 40), (1.0, 1.0, d)) for d in (4.0, 5.0, 5.0, 6.0, 3.0)]
    grid = choose_grid(found(scans=scans), load_spec("mr"))
    assert grid.spacing == [1.0, 1.0, pytest.approx(3.4)]  # the 10th percentile of five
    assert grid.slice_axis is None


def test_few_thick_slices_are_trained_one_by_one_and_never_resampled_across():
    grid = choose_grid(CINE, load_spec("mr_cardiac"))
    assert (grid.spacing, grid.slice_axis, grid.axes) == ([1.5, 1.5, None], 2, [0, 1])
    assert "slices stay, nothing was scanned in between" in grid.spacing_reason
    scans = [ScanGrid((216, 256, 10), (s, s, d)) for s, d in ((1.3, 8), (1.5, 10), (1.7, 10))]
    grid = choose_grid(found(scans=scans), load_spec("mr_cardiac"))
    assert grid.spacing == [1.5, 1.5, None]
    assert grid.voxel == (1.5, 1.5, 10)


def test_oct_of_several_devices_keeps_its_b_scans_in_the_order_of_the_spec():
    # Stored as A-scan, B-scan, depth; RAS puts them lateral, depth, B-scan.
    scans = [
        ScanGrid((512, 49, 496), (11.7, 120.0, 3.9), "LSP"),
        ScanGrid((512, 128, 650), (12.0, 47.0, 2.6), "LIP"),
        ScanGrid((512, 49, 496), (11.7, 120.0, 3.9), "LSP"),
    ]
    data = found(scans=scans, modality="OCT", names=("IRF",), spatial_unit="um")
    grid = choose_grid(data, load_spec("oct_fluid"))
    assert grid.spacing == [11.7, 3.9, None]
    assert grid.shape[2] == 49
    assert grid.slice_axis == 2


def test_a_method_of_several_views_gets_cubes_unless_anisotropy_is_too_strong():
    data = found((200, 200, 80), (0.8, 0.8, 2.5), modality="CT")
    grid = choose_grid(data, load_spec("ct"), cubes=True)
    assert grid.spacing == [1.2, 1.2, 1.2]
    assert choose_grid(CINE, load_spec("mr_cardiac"), cubes=True).spacing == [1.5, 1.5, None]


# ------------------------------------------------------------------ network


def test_levels_of_a_small_isotropic_volume():
    levels = choose_levels((35, 51, 35), (1, 1, 1), budget=10**6, depth=5)
    assert levels.patch == (32, 48, 32)
    assert levels.strides == ((2, 2, 2),) * 3
    assert levels.isotropic


def test_long_voxels_are_halved_last_and_not_looked_across_first():
    levels = choose_levels((256, 256, 40), (1.0, 1.0, 5.0), budget=10**7, depth=4)
    # 1 x 1 x 5, 2 x 2 x 5, 4 x 4 x 5, 8 x 8 x 10, 16 x 16 x 20 mm
    assert levels.strides == ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert levels.kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert levels.patch == (256, 256, 40)


def test_at_least_four_voxels_remain_and_the_patch_stays_within_budget_and_volume():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shape = rng.integers(8, 300, 3).tolist()
        voxel = rng.uniform(0.5, 4, 3).tolist()
        budget = int(rng.integers(5_000, 2_000_000))
        levels = choose_levels(shape, voxel, budget=budget, depth=5)
        assert math.prod(levels.patch) <= budget
        assert all(1 <= p <= n for p, n in zip(levels.patch, shape, strict=True))
        assert all(p % f == 0 for p, f in zip(levels.patch, levels.factors, strict=True))
        shrunk = [f for f in levels.factors if f > 1]
        rest = [p // f for p, f in zip(levels.patch, levels.factors, strict=True) if f > 1]
        assert len(shrunk) == len(rest)
        assert all(n >= 4 for n in rest)


def test_a_patch_of_given_factors_may_be_a_cube():
    args = {"budget": 64**3, "factors": [32] * 3}
    assert fixed_patch((200, 150, 90), (1, 1, 1), **args, cube=True) == (64, 64, 64)
    assert fixed_patch((20, 150, 90), (1, 1, 1), **args) == (32, 128, 64)


# ------------------------------------------------------------------ the guess


@pytest.mark.parametrize(
    ("modality", "names", "expected"),
    [
        ("MRI", ("Anterior", "Posterior"), "mr_hippocampus"),
        ("MRI", ("right ventricle", "myocardium", "left ventricle"), "mr_cardiac"),
        ("LGE-MRI", ("left atrium",), "mr_atrium"),
        ("FLAIR", ("edema", "non-enhancing tumor", "enhancing tumor"), "mr_brain"),
        ("T2", ("prostate",), "mr"),
        ("MRI", ("myocardium", "aorta"), "mr"),  # not in thick slices: a whole heart
        ("CT", ("pancreas", "cancer"), "ct_pancreas"),
        ("CT", ("liver", "tumour"), "ct_liver"),
        ("CT", ("liver", "spleen", "pancreas"), "ct_abdomen"),
        ("CT", ("lung nodule",), "ct"),
        ("CBCT", ("tooth",), "cbct_tooth"),
        ("CBCT", ("inferior alveolar canal",), "cbct_canal"),
        ("CBCT", ("root canal",), "cbct_tooth"),
        ("OCT", ("IRF", "SRF", "PED"), "oct_fluid"),
        ("OCT", ("RNFL", "GCL", "IPL"), "oct_layers"),
    ],
)
def test_spec_is_guessed_from_modality_and_structures(modality, names, expected):
    spacing = (1.5, 1.5, 8.0) if expected == "mr_cardiac" else (1.0, 1.0, 1.0)
    guess = guess_spec(found(spacing=spacing, modality=modality, names=names), list_specs())
    assert guess.name == expected
    assert modality in guess.sentence
    assert guess.sentence.startswith("a guess")


def test_tooth_numbers_mean_fdi_whatever_the_modality_is_called():
    teeth = [LabeledStructure(v, f"label {v}") for v in (1, 2, 11, 21, 31, 48)]
    data = found(modality="CT", names=teeth)
    assert guess_spec(data, list_specs()).name == "cbct_fdi"
    assert guess_spec(data, ["ct", "cbct_tooth"]).name == "cbct_tooth"
    assert guess_spec(found(modality="CT", names=teeth[:4]), ["ct", "cbct_fdi"]).name == "ct"


def test_guess_falls_back_on_what_there_is():
    assert guess_spec(found(modality="OCT", names=("RNFL",)), ["ct", "mr"]).name == "mr"
    unstated = found(modality="", names=("organ",), outside=(-1000.0, -900, 0, 50, 100))
    assert guess_spec(unstated, list_specs()).name == "ct"
    named = found(modality="MRI", names=("L1",), name="Hippocampus 2020")
    assert guess_spec(named, list_specs()).name == "mr_hippocampus"


# ------------------------------------------------------------------ counts, intensities


@pytest.mark.parametrize(
    ("patients", "labeled", "unlabeled", "expected"),
    [
        (200, 4, 0, (0, 40)),
        (80, 7, 0, (0, 16)),
        (200, 50, 0, (10, 40)),
        (10, 9, 0, (0, 0)),  # one must stay unlabeled, none can be spared for a test
        (10, 9, 5, (0, 0)),  # few: cross-validation judges
        (30, 29, 5, (5, 1)),
        (64, None, 5, (10, 13)),
        (4, None, 5, (0, 0)),
        (2, None, 5, (0, 1)),  # too few for folds
    ],
)
def test_patients_held_back(patients, labeled, unlabeled, expected):
    counts = choose_patients(patients, labeled, unlabeled=unlabeled)
    assert (counts.validation, counts.test) == expected
    assert counts.labeled == labeled


def test_a_window_that_clips_the_structures_is_widened():
    bone = found(modality="CT", inside=(80.0, 150, 400, 900, 1210))
    change, reason = choose_intensity(bone, load_spec("ct"))
    assert change == {"rule": "window", "lower": -160, "upper": 1210}
    assert "80 to 1210" in reason
    assert choose_intensity(replace(bone, inside=(0.0, 40, 100, 180, 300)), load_spec("ct"))[0] is (
        None
    )


# ------------------------------------------------------------------ the recipe


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("method", list_methods())
def test_every_method_gets_a_recipe_that_explains_itself(method, device, tmp_path):
    data, guess = found((120, 130, 90)), SpecGuess("mr", "the test")
    made = make_plan(data, COUNTS, order(method, device), guess, measure=lambda _: SMALL_STEP)
    path = tmp_path / "planned.yaml"
    path.write_text(made.text)
    loaded = load_recipe(path)
    assert loaded.recipe == made.loaded.recipe
    lines = made.text.splitlines()
    assert len(lines) <= 45
    choices = [n for n in lines if n.startswith("  ") and "_probability:" not in n]
    assert choices[0].startswith("  root: some/data")
    bare = [n for i, n in enumerate(choices) if "#" not in n and "#" not in choices[i - 1]]
    assert not bare
    assert max(map(len, lines)) <= LINE_WIDTH + 12
    median = made.loaded.recipe.training.patch
    assert all(p <= n for p, n in zip(median, (120, 130, 90), strict=True))


@pytest.mark.parametrize(
    ("method", "device", "spec", "deep", "residual", "mirrored"),
    [
        ("bcp", "cpu", "mr_hippocampus", True, None, True),
        ("supervised", "cuda", "cbct_canal", True, True, True),
        ("rail", "cuda", "mr", None, None, None),
    ],
)
def test_the_network_works_at_full_resolution_and_learns_at_coarser_scales(
    method, device, spec, deep, residual, mirrored
):
    guess = SpecGuess(spec, "the test")
    made = make_plan(
        found((64, 64, 64)), COUNTS, order(method, device), guess, measure=lambda _: SMALL_STEP
    )
    recipe = made.loaded.recipe
    network = recipe.network
    if deep:
        assert network.name == "dynunet"
        assert network.settings["strides"][0] == 1
    assert network.settings.get("deep_supervision") is deep
    assert network.settings.get("res_block") is residual
    assert recipe.inference.tta is bool(mirrored)
    assert recipe.training.augment.preset == ("light" if device == "cpu" else "nnunet")


def test_few_minutes_on_a_cpu_take_the_network_that_gets_somewhere():
    # 80 % of 60 minutes: 2880 s, by 2 s 1440 iterations; by 20 minutes 480, too few for that one.
    seconds = {"dynunet": 2.0, "unet": 0.1}
    planned = {}
    for minutes in (60, 20):
        made = make_plan(
            found((64, 64, 64)),
            COUNTS,
            replace(order("bcp"), minutes=minutes),
            SpecGuess("mr", "the test"),
            measure=lambda _: SMALL_STEP,
            pace=lambda loaded: seconds[loaded.recipe.network.name],
        )
        recipe = made.loaded.recipe
        planned[minutes] = recipe.network.name, recipe.training.iterations
    assert planned == {60: ("dynunet", 1400), 20: ("unet", 9600)}
    assert "half resolution: 20 minutes hold 480 iterations of the full" in made.text
    assert recipe.network.settings["strides"][0] == 2


def test_the_plan_shrinks_batch_and_patch_until_it_fits():
    def need(loaded):
        patches = loaded.recipe.training.labeled_batch + loaded.recipe.training.unlabeled_batch
        return Footprint(fixed=0.0, constant=0.0, per_voxel=3000.0 * patches)

    guess = SpecGuess("mr_atrium", "the test")
    sizes = {}
    for gib in (24.0, 12.0, 4.0):
        made = make_plan(ATRIUM, COUNTS, order("bcp", "cuda", gib), guess, measure=need)
        sizes[gib] = math.prod(made.loaded.recipe.training.patch)
        assert made.memory <= 0.9 * gib * GIB
        assert f"of {gib:.0f}" in made.text or f"of {gib:.1f}" in made.text
    assert sizes[24.0] >= sizes[12.0] > sizes[4.0]
    with pytest.raises(MedSSLError, match="can be filled"):
        make_plan(ATRIUM, COUNTS, order("bcp", "cuda", 0.75), guess, measure=need)


def test_a_method_that_does_not_suit_is_refused_and_others_are_named():
    guess = SpecGuess("mr_cardiac", "the test")
    with pytest.raises(MedSSLError, match=r"6\.7 times") as caught:
        make_plan(CINE, COUNTS, order("umct"), guess, measure=lambda _: SMALL_STEP)
    assert caught.value.fix is not None
    assert "bcp, cps" in caught.value.fix
    assert "umct" not in caught.value.fix
    data = found((64, 96, 16), (24, 4, 120), modality="OCT", spatial_unit="um")
    with pytest.raises(MedSSLError, match="nothing was scanned"):
        make_plan(
            data, COUNTS, order("umct"), SpecGuess("oct_fluid", ""), measure=lambda _: SMALL_STEP
        )


def test_cine_is_planned_in_slices_and_pieces_are_kept():
    several = [LabeledStructure(1, "kidney", pieces=2.0)]
    guess = SpecGuess("mr_cardiac", "the test")
    draft = make_draft(replace(CINE, structures=tuple(several)), COUNTS, order(), guess)
    assert len(draft.loaded.recipe.training.patch) == 2
    assert draft.loaded.settings.largest_component == "off"
    assert not draft.loaded.warnings


def test_a_steady_number_of_pieces_is_planned_with():
    guess = SpecGuess("mr_hippocampus", "the test")
    both = LabeledStructure(1, "hippocampus", pieces=2.0)
    draft = make_draft(found(names=(both, "amygdala")), COUNTS, order(), guess)
    assert draft.loaded.recipe.spec.pieces == {1: 2}
    assert draft.loaded.settings.largest_component == "per_class"
    assert draft.loaded.recipe.inference.largest_component is None
    assert not draft.loaded.warnings
    few = replace(found(names=(both,)), labeled=3)
    for data in (found(names=(replace(both, steady=False),)), few):
        draft = make_draft(data, COUNTS, order(), guess)
        assert draft.loaded.recipe.spec.pieces == {}
        assert draft.loaded.settings.largest_component == "off"
        assert draft.loaded.recipe.inference.largest_component is False


def test_pieces_that_the_spec_knows_of_are_no_reason_to_keep_all():
    canals = SpecGuess("cbct_canal", "the test")
    for pieces, kept in ((2.0, "per_class"), (3.0, "off")):
        data = replace(CINE, structures=(LabeledStructure(1, "canal", pieces=pieces),))
        assert make_draft(data, COUNTS, order(), canals).loaded.settings.largest_component == kept


def test_left_and_right_structures_are_exchanged_where_scans_are_mirrored():
    names = ("Left hippocampus", "right hippocampus", "right_amygdala", "left_amygdala", "csf")
    draft = make_draft(found(names=names), COUNTS, order(), SpecGuess("mr_brain", "the test"))
    assert draft.loaded.recipe.spec.label_pairs == [[1, 2], [4, 3]]
    for spec, sides in (("mr", names), ("mr_brain", ("left ventricle", "right ventricle"))):
        draft = make_draft(found(names=sides), COUNTS, order(), SpecGuess(spec, "the test"))
        assert draft.loaded.recipe.spec.label_pairs == []


def test_micrometers_on_a_spec_of_millimeters_change_unit_and_tolerance():
    data = found((64, 64, 40), (8.0, 4.0, 8.0), spatial_unit="um")
    draft = make_draft(data, COUNTS, order(), SpecGuess("mr", "the test"))
    assert draft.loaded.recipe.spec.spatial_unit == "um"
    assert draft.loaded.recipe.spec.nsd_tolerance == 8.0


# ------------------------------------------------------------------ memory


def test_live_bytes_are_counted_until_they_are_freed():
    given = torch.zeros(1000)
    with LiveBytes([given]) as counter:
        a = torch.ones(1000)  # 4000 bytes
        view = a.view(10, 100)
        b = a + given  # 4000 more
        del a, view
        c = torch.zeros(500)  # 2000, after 4000 were freed
        given.detach()
        del b, c
    assert counter.peak == 8000
    assert counter.live == 0


def test_small_patches_keep_to_the_factors():
    small, large = small_patches((128, 128, 16), (16, 16, 1))
    assert all(s % f == 0 and s >= 4 for s, f in zip(small, (16, 16, 1), strict=True))
    assert math.prod(large) == 2 * math.prod(small)


def tiny(method: str):
    recipe = {
        "network": {"name": "dynunet", "filters": [4, 8, 8], "dropout": 0.1},
        "spec": {"spacing": [1, 1, 1]},
        "method": {"name": method},
        "training": {
            "iterations": 100,
            "patch": [32, 32, 32],
            "labeled_batch": 2,
            "unlabeled_batch": 2,
            "precision": "fp32",
        },
    }
    return resolve(recipe, path=Path("tiny"))


@pytest.mark.parametrize("method", list_methods())
def test_every_method_can_be_measured(method):
    step = measure_footprint(tiny(method), num_classes=3, channels=1, precision="fp32")
    # Images of the batch alone are four floats a voxel, or two without unlabeled ones.
    assert step.per_voxel > 8 * 4
    assert step.fixed > 0
    assert step.bytes((64, 64, 64), "cuda") > step.bytes((32, 32, 32), "cpu")


def test_a_loss_of_regions_is_what_is_measured():
    regions = (LabelRegion("both", (1, 2), 1), LabelRegion("b", (2,), 2))
    labels = LabelMap((0, 1, 2), ("background", "a", "b"), None, regions)
    loaded = tiny("supervised")
    training = loaded.recipe.training.model_copy(update={"region_loss": True})
    loaded = replace(loaded, recipe=loaded.recipe.model_copy(update={"training": training}))
    sizes = {"num_classes": 3, "channels": 1, "precision": "fp32"}
    plain, unions = (measure_footprint(loaded, **sizes, labels=one) for one in (None, labels))
    assert unions.per_voxel > plain.per_voxel + 4, "sums and their logarithms are floats, too"
    assert unions.fixed == plain.fixed


def test_the_line_through_small_patches_meets_a_larger_one():
    from medssl.models.create import create_method
    from medssl.planning import footprint

    loaded = tiny("mean_teacher")
    step = measure_footprint(loaded, num_classes=3, channels=1, precision="fp32")
    method = create_method(loaded.recipe, loaded.settings, num_classes=3, channels=1)
    method.train()
    stage = method.stages(100)[0]
    method.start_stage(stage.name)
    counter = LiveBytes(footprint._gradients(method, stage))
    with counter:
        cpu, sides = footprint.CPU, (48, 48, 32)
        batch = footprint.noise_batch(method, stage, loaded.recipe, sides, 3, 1, cpu)
        footprint.one_step(method, stage, batch, cpu, "fp32")
    expected = step.constant + step.per_voxel * 48 * 48 * 32
    assert counter.peak == pytest.approx(expected, rel=0.05)


def test_weights_gradients_and_optimizer_are_counted_exactly():
    step = measure_footprint(tiny("supervised"), num_classes=3, channels=1, precision="fp32")
    from medssl.networks.build import build_network

    settings = {"filters": [4, 8, 8], "dropout": 0.1}
    network = build_network(
        "dynunet", spatial_dims=3, in_channels=1, num_classes=3, settings=settings
    )
    count = sum(p.numel() for p in network.parameters())
    assert step.fixed == 4 * 3 * count  # weights, gradients and the momentum of SGD


# ------------------------------------------------------------------ from files


def test_count_pieces_ignores_slips_of_the_brush():
    mask = np.zeros((30, 30, 30), bool)
    mask[2:10, 2:10, 2:10] = True
    mask[20:26, 20:26, 20:26] = True
    mask[0, 0, 0] = True
    assert count_pieces(mask) == 2
    assert count_pieces(np.zeros((3, 3, 3), bool)) == 0


def test_fingerprint_of_known_files(tmp_path):
    dataset = read_dataset(write_dataset(tmp_path / "d", cases=6, unlabeled=2))
    splits = make_splits(dataset, DataSettings(labeled=3, test=1))
    seen = fingerprint(dataset, splits)
    assert seen.modality == ("MRI",)
    assert (seen.labeled, seen.unlabeled, seen.patients) == (3, 4, 6)
    assert set(seen.scans) == {ScanGrid((24, 24, 12), (1.0, 1.0, 2.0), "RAS")}
    labels = [blob_case(int(c.id[-2:]))[1] for c in splits.labeled]
    assert seen.structures[0].volume == np.median([2.0 * (v == 1).sum() for v in labels])
    assert [(s.pieces, s.steady) for s in seen.structures] == [(1, True), (1, True)]
    assert 150 < seen.inside[2] < 260 and 90 < seen.outside[2] < 110  # noqa: PT018


def test_at_most_sixty_cases_are_read_and_some_are_unlabeled(tmp_path):
    dataset = read_dataset(write_dataset(tmp_path / "d", cases=9))
    splits = make_splits(dataset, DataSettings(labeled=5, test=1))
    chosen = sample(splits, 6)
    assert len(chosen) == 6
    assert [c.label is None for c in chosen].count(True) == 2
    assert len(sample(splits)) == 8


def test_hidden_and_test_labels_are_not_opened(tmp_path):
    root = write_dataset(tmp_path / "d", cases=8)
    every = plan(root, tmp_path / "all.yaml", method="supervised", labeled="all", device="cpu")
    assert "8 labeled scans" in every.text
    dataset = read_dataset(root)
    counts = choose_patients(8, 3)
    splits = make_splits(dataset, DataSettings(labeled=3, test=counts.test))
    for case in dataset.training:
        if case.id not in {c.id for c in splits.labeled}:
            assert case.label is not None
            case.label.write_bytes(b"not an image")
    for case in splits.test:
        case.images[0].write_bytes(b"not an image")
    made = plan(root, tmp_path / "r.yaml", method="supervised", labeled=3, device="cpu")
    assert "3 labeled scans" in made.text


@pytest.mark.parametrize("method", [None, "pseudo_supervisor"])
def test_a_planned_recipe_trains_as_it_stands(tmp_path, method):
    root = write_dataset(tmp_path / "d", cases=20, shape=(24, 24, 16))  # enough to spare some
    recipe = tmp_path / "planned.yaml"
    made = plan(root, recipe, method=method, labeled=3, device="cpu")
    assert made.path == recipe
    assert made.loaded.recipe.method.name == (method or "bcp")
    assert made.spec.name == "mr"
    result = train(
        recipe,
        overrides=["training.iterations=4", f"data.cache={tmp_path / 'cache'}"],
        output=tmp_path / "run",
        device="cpu",
    )
    assert result.summaries["test"]["n_cases"] == 4


def test_the_command_says_what_it_guessed_and_never_overwrites(tmp_path, capsys):
    root = write_dataset(tmp_path / "d", cases=6)
    recipe = tmp_path / "planned.yaml"
    args = ["--quiet", "plan", str(root), "--method", "supervised", "-o", str(recipe)]
    assert run([*args, "--labeled", "2", "--device", "cpu", "--spec", "mr_phantom"]) == 0
    shown = capsys.readouterr().out
    assert "mr_phantom, as you asked" in shown
    assert "time: roughly" in shown
    assert yaml.safe_load(recipe.read_text())["spec"]["name"] == "mr_phantom"
    before = recipe.read_text()
    assert run(args) == 2
    assert "the file exists" in capsys.readouterr().err
    assert recipe.read_text() == before


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--labeled", "few"], "no number of patients"),
        (["--labeled", "0"], "cannot be trained on"),
        (["--method", "bpc"], "bcp"),
        (["--method", "bcp"], "every scan has a label"),
        (["--labeled", "60"], "60 labeled patients"),
        (["--memory", "-1"], "no amount of memory"),
        (["--spec", "mr_hart", "--labeled", "2"], "no such data spec"),
    ],
)
def test_mistakes_of_the_command_are_answered_in_words(tmp_path, capsys, more, expected):
    root = write_dataset(tmp_path / "d", cases=4)
    recipe = tmp_path / "planned.yaml"
    method = [] if "--method" in more else ["--method", "supervised"]
    assert run(["plan", str(root), "-o", str(recipe), *method, *more]) == 2
    assert expected in capsys.readouterr().err
    assert not recipe.exists()
