"""Prediction of files: the right voxels in the right place, no traces, no file stops another."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
from helpers import write_itk
from torch import Tensor, nn

from medssl import freed_memory
from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError
from medssl.inference.decision import normalized_entropy
from medssl.inference.folder import predict_files
from medssl.inference.inputs import Item, find_cases, find_inputs
from medssl.inference.postprocess import keep_largest_components
from medssl.inference.predictor import Predictor
from medssl.inference.settings import PredictSettings
from medssl.inference.task import Task
from medssl.inference.windows import column_size, windows_at_a_time
from medssl.networks.mirror_mean import MirrorMean
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec

SHAPE = (26, 22, 12)
LABELS = LabelMap(values=(0, 11, 12), names=("background", "body", "core"))
RAW = {"intensity": {"rule": "none"}}


def find_images(inputs: list[Path], channels: int | None = None) -> list[Item]:
    return find_cases(inputs, channels=channels)[0]


class Levels(nn.Module):
    """Classify intensities near 0, 100 and 200 as classes 0, 1 and 2."""

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.tensor([0.0, 100.0, 200.0], device=x.device)
        levels = levels.reshape(1, 3, *(1,) * (x.ndim - 2))
        return -((x[:, :1].float() - levels) ** 2) / 1000


class Noisy(nn.Module):
    """A network with dropout, batch statistics and a part that is frozen during training."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(1)
        self.frozen = nn.BatchNorm3d(1)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Conv3d(1, classes, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.frozen(self.norm(x)))


def make_predictor(model: nn.Module | None = None, **changes) -> Predictor:
    own = {k: changes.pop(k) for k in ("spec", "label_map", "patch", "in_channels") if k in changes}
    task = replace(Task(DataSpec(**RAW), LABELS, (16, 16, 16)), **own)
    options = {"inference": InferenceSettings(), "device": torch.device("cpu")}
    return Predictor(model or Levels(), task, **(options | changes))


def affine_of(spacing: tuple[float, float, float], *, oblique: bool = True) -> np.ndarray:
    """RAS affine of a grid in LPS order, off the origin, and oblique if asked for."""
    a, b = (np.deg2rad(14), np.deg2rad(-11)) if oblique else (0.0, 0.0)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_y @ np.diag(spacing) @ np.diag([-1, -1, 1])
    affine[:3, 3] = [64.5, 101.25, -730.0]
    return affine


def ball(affine: np.ndarray, center: np.ndarray, radius_mm: float) -> np.ndarray:
    """Voxels of a grid within a ball that is given in world coordinates."""
    index = np.stack([*np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), np.ones(SHAPE)], -1)
    world = index @ affine.T
    return np.linalg.norm(world[..., :3] - center, axis=-1) <= radius_mm


def scene(affine: np.ndarray, dtype: type = np.int16) -> tuple[np.ndarray, np.ndarray]:
    """An image of two nested balls off the middle, and the label values it should get."""
    center = (affine @ [15, 8, 5, 1])[:3]
    truth = np.where(ball(affine, center, 9.0), 11, 0)
    truth[ball(affine, center, 4.5)] = 12
    image = np.select([truth == 11, truth == 12], [100, 200], 0).astype(dtype)
    return image, truth


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("patch", [(16, 16, 16), (48, 48, 48), (16, 16)])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
def test_oblique_lps_anisotropic_off_origin_round_trip_is_exact(
    tmp_path: Path, patch: tuple[int, ...], dtype: type
) -> None:
    affine = affine_of((1.4, 1.1, 3.0))
    image, truth = scene(affine, dtype)
    source = write_nifti(tmp_path / "image.nii.gz", image, affine)
    predictor = make_predictor(patch=patch)
    result = nib.load(predictor.predict_file(source).save(tmp_path / "out.nii.gz"))
    assert np.array_equal(np.asanyarray(result.dataobj), truth)
    assert result.get_data_dtype() == np.uint8
    assert np.array_equal(result.affine, nib.load(source).affine)


@pytest.mark.parametrize(
    ("spec", "patch", "least"),
    [
        ({"spacing": [1.4, 1.4, 2.0]}, (16, 16, 16), 0.9),
        ({"spacing": [1.0, 1.0, 1.0]}, (24, 24, 24), 0.93),
        ({"resize": [52, 44, None], "resize_mode": "nearest"}, (52, 44), 0.999),
        ({"resize": [40, 40, None], "resize_mode": "linear"}, (32, 32), 0.93),
        ({"orientation": "PIR"}, (16, 16, 16), 1.0),
        ({"orientation": None, "slice_axis": 0}, (16, 16), 1.0),
    ],
)
def test_shapes_stay_in_their_physical_place_whatever_the_preprocessing(
    tmp_path: Path, spec: dict, patch: tuple[int, ...], least: float
) -> None:
    affine = affine_of((1.4, 1.1, 3.0))
    image, truth = scene(affine)
    source = write_nifti(tmp_path / "image.nii.gz", image, affine)
    prediction = make_predictor(spec=DataSpec(**RAW, **spec), patch=patch).predict_file(source)
    assert prediction.values.shape == SHAPE
    found, expected = prediction.values > 0, truth > 0
    assert dice(found, expected) >= least
    for values in (found, prediction.values == 12):
        center = (prediction.affine @ [*np.argwhere(values).mean(0), 1])[:3]
        np.testing.assert_allclose(center, (affine @ [15, 8, 5, 1])[:3], atol=0.7)


@pytest.mark.parametrize("source_suffix", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("target_suffix", [".nii.gz", ".nrrd", ".mha"])
def test_nrrd_and_metaimage_come_back_where_itk_sees_them(
    tmp_path: Path, source_suffix: str, target_suffix: str
) -> None:
    affine = affine_of((1.4, 1.1, 3.0))
    image, truth = scene(affine)
    source = write_itk(tmp_path / f"image{source_suffix}", image, affine)
    target = make_predictor().predict_file(source).save(tmp_path / f"out{target_suffix}")
    seen, result = sitk.ReadImage(str(source)), sitk.ReadImage(str(target))
    assert np.array_equal(sitk.GetArrayFromImage(result).T, truth)
    for index in [(0, 0, 0), (25, 0, 0), (0, 21, 0), (0, 0, 11)]:
        np.testing.assert_allclose(
            result.TransformIndexToPhysicalPoint(index),
            seen.TransformIndexToPhysicalPoint(index),
            atol=1e-3,
        )


def test_label_values_above_255_are_written_as_uint16(tmp_path: Path) -> None:
    image, truth = scene(np.eye(4))
    wide = LabelMap(values=(0, 500, 600), names=LABELS.names)
    source = write_nifti(tmp_path / "image.nii.gz", image, np.eye(4))
    path = make_predictor(label_map=wide).predict_file(source).save(tmp_path / "out.nii.gz")
    result = nib.load(path)
    assert result.get_data_dtype() == np.uint16
    assert np.array_equal(
        np.asanyarray(result.dataobj), np.select([truth == 11, truth == 12], [500, 600])
    )


def test_two_channel_files_are_one_image(tmp_path: Path) -> None:
    class Second(Levels):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 2
            return super().forward(x[:, 1:])

    image, truth = scene(np.eye(4))
    files = (
        write_nifti(tmp_path / "a_0000.nii.gz", np.zeros_like(image), np.eye(4)),
        write_nifti(tmp_path / "a_0001.nii.gz", image, np.eye(4)),
    )
    prediction = make_predictor(Second(), in_channels=2).predict_file(files)
    assert np.array_equal(prediction.values, truth)
    assert prediction.reference == files[0]


def test_probabilities_are_float32_sum_to_one_and_come_on_request(tmp_path: Path) -> None:
    image, _ = scene(np.eye(4))
    source = write_nifti(tmp_path / "image.nii.gz", image, np.eye(4))
    predictor = make_predictor()
    assert predictor.predict_file(source).probabilities is None
    kept = predictor.predict_file(source, keep_probabilities=True).probabilities
    assert kept.dtype == torch.float32
    assert kept.shape == (3, *SHAPE)
    torch.testing.assert_close(kept.sum(0), torch.ones(SHAPE))


@pytest.mark.parametrize("training", [True, False])
def test_training_flags_come_back_module_by_module(training: bool) -> None:
    model = Noisy().train(training)
    model.frozen.eval()
    make_predictor(model).classes(torch.randn(1, *SHAPE))
    assert (model.training, model.norm.training, model.head[0].training) == (training,) * 3
    assert not model.frozen.training


def test_training_flags_come_back_after_a_failure() -> None:
    class Broken(Noisy):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("broken")

    model = Broken().train()
    with pytest.raises(RuntimeError, match="broken"):
        make_predictor(model).classes(torch.zeros(1, *SHAPE))
    assert all(module.training for module in model.modules())


def test_prediction_is_repeatable_and_leaves_no_trace() -> None:
    torch.manual_seed(5)
    model = Noisy().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.randn(1, *SHAPE)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    predictor = make_predictor(model)
    first, second = predictor.probabilities(image), predictor.probabilities(image)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_is_used_and_gives_float32_probabilities(precision: str) -> None:
    seen: list[torch.dtype] = []
    model = Noisy()
    model.head[1].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    image = torch.randn(1, *SHAPE)
    low = make_predictor(model, precision=precision).probabilities(image)
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert low.dtype == torch.float32
    full = make_predictor(model).probabilities(image)
    torch.testing.assert_close(low, full, atol=0.02, rtol=0)
    assert not torch.equal(low, full)


@pytest.mark.parametrize(
    ("of_spec", "of_recipe", "kept"),
    [(False, None, 2), (True, None, 1), (True, False, 2), (False, True, 1)],
)
def test_largest_component_follows_the_recipe_then_the_spec(
    of_spec: bool, of_recipe: bool | None, kept: int
) -> None:
    image = torch.zeros(1, *SHAPE)
    image[0, 2:8, 2:8, 2:8] = 100.0
    image[0, 12:15, 12:15, 6:9] = 100.0
    image[0, 20:22, 4:6, 4:6] = 200.0
    predictor = make_predictor(
        spec=DataSpec(**RAW, largest_component=of_spec),
        inference=InferenceSettings(largest_component=of_recipe),
    )
    classes = predictor.classes(image)
    assert classes.dtype == np.uint8
    assert (classes == 1).sum() == (216 + 27 if kept == 2 else 216)
    assert (classes == 2).sum() == 8  # the only piece of its structure, though the smallest


def test_a_structure_keeps_as_many_pieces_as_the_spec_says() -> None:
    image = torch.zeros(1, *SHAPE)
    image[0, 2:8, 2:8, 2:8] = 100.0
    image[0, 12:15, 12:15, 6:9] = 100.0
    image[0, 17:19, 2:4, 2:4] = 100.0
    image[0, 20:22, 4:6, 4:6] = image[0, 24:25, 4:6, 4:6] = 200.0
    value = make_predictor().label_map.values[1]
    spec = DataSpec(**RAW, largest_component=True, pieces={value: 2})
    classes = make_predictor(spec=spec).classes(image)
    assert (classes == 1).sum() == 216 + 27
    assert (classes == 2).sum() == 8


def test_inference_settings_reach_the_windows() -> None:
    counts: list[tuple[int, int]] = []
    settings = InferenceSettings(stride=[5, 16, 16], window_batch=2)
    predictor = make_predictor(inference=settings)
    predictor.classes(torch.zeros(1, 26, 16, 16), progress=lambda *c: counts.append(c))
    assert counts == [(2, 3), (3, 3)]


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_small_volumes_are_surrounded_by_their_lowest_value(patch: tuple[int, ...]) -> None:
    seen: list[Tensor] = []

    class Record(Levels):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x)

    image = torch.full((1, 6, 8, 8), 100.0)
    image[0, 3, 3, 3] = -5.0
    make_predictor(Record(), patch=patch).classes(image)
    windows = torch.cat(seen)
    assert windows.shape[2] == 8
    assert (windows[:, :, [0, 7]] == -5).all()
    assert (windows[:, :, 1:3] == 100).all()


@pytest.mark.parametrize(("axis", "plane"), [(0, (22, 12)), (1, (26, 12)), (2, (26, 22))])
def test_slices_are_taken_across_the_axis_of_the_spec(axis: int, plane: tuple[int, int]) -> None:
    shapes: set[tuple[int, ...]] = set()
    model = Levels()
    model.register_forward_hook(lambda module, args, out: shapes.add(tuple(args[0].shape[2:])))
    spec = DataSpec(**RAW, slice_axis=axis)
    make_predictor(model, spec=spec, patch=plane).classes(torch.zeros(1, *SHAPE))
    assert shapes == {plane}
    counts: list[int] = []
    predictor = make_predictor(spec=spec, patch=plane)
    predictor.classes(torch.zeros(1, *SHAPE), progress=lambda done, total: counts.append(total))
    assert set(counts) == {SHAPE[axis]}


def test_cleaning_a_label_map_leaves_the_input_alone() -> None:
    classes = np.zeros((6, 6, 6), np.uint8)
    classes[:2], classes[5, 5, 5] = 1, 1
    cleaned = keep_largest_components(classes)
    assert (cleaned.sum(), classes.sum()) == (72, 73)


@pytest.mark.parametrize("stride", [[8, 8], [8, 8, 17]])
def test_a_stride_that_does_not_fit_the_patch_is_refused(stride: list[int]) -> None:
    with pytest.raises(MedSSLError, match=r"inference\.stride .* does not fit training\.patch"):
        make_predictor(inference=InferenceSettings(stride=stride))


@pytest.mark.parametrize("in_channels", [2, None])
def test_another_number_of_channels_names_the_file(tmp_path: Path, in_channels: int | None) -> None:
    source = write_nifti(tmp_path / "image.nii.gz", np.zeros(SHAPE, np.int16), np.eye(4))
    predictor = make_predictor(nn.Conv3d(2, 3, 1), in_channels=in_channels)
    with pytest.raises(
        MedSSLError, match=r"takes 2 image channel\(s\), this image has 1"
    ) as caught:
        predictor.predict_file(source)
    assert caught.value.where == str(source)
    assert len(str(caught.value).splitlines()) <= 6


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(MedSSLError, match="gives 4 classes, the label map has 3"):
        make_predictor(Noisy(classes=4)).classes(torch.zeros(1, *SHAPE))


def test_output_that_is_not_finite_is_refused() -> None:
    class Overflow(Levels):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            logits[0, 0, 3, 3, 3] = float("inf")
            return logits

    with pytest.raises(MedSSLError, match="not finite in fp32"):
        make_predictor(Overflow()).classes(torch.zeros(1, *SHAPE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images: two good ones, one cut short, one with two channels."""
    images = tmp_path / "images"
    images.mkdir()
    array, _ = scene(np.eye(4))
    for name in ("a", "b", "c"):
        write_nifti(images / f"{name}.nii.gz", array, np.eye(4))
    data = (images / "b.nii.gz").read_bytes()
    (images / "b.nii.gz").write_bytes(data[: len(data) // 2])
    write_nifti(images / "d.nii.gz", np.stack([array, array], -1), np.eye(4))
    return images


def test_bad_files_do_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    items = find_images([folder])
    results = predict_files(
        make_predictor(in_channels=1), items, tmp_path / "out", PredictSettings()
    )
    assert [r.case_id for r in results] == ["a", "b", "c", "d"]
    assert [r.path is not None for r in results] == [True, False, True, False]
    assert [r.error is None for r in results] == [True, False, True, False]
    assert "b.nii.gz" in results[1].error
    assert "this image has 2" in results[3].error
    assert str(folder / "d.nii.gz") in results[3].error
    assert sorted(os.listdir(tmp_path / "out")) == ["a.nii.gz", "c.nii.gz", "predictions.json"]
    _, truth = scene(np.eye(4))
    assert np.array_equal(nib.load(results[2].path).get_fdata(), truth)


def test_an_unforeseen_failure_is_reported_with_its_file(folder: Path, tmp_path: Path) -> None:
    class Sometimes(Levels):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Sometimes.calls += 1
            if Sometimes.calls == 1:
                raise KeyError("odd")
            return super().forward(x)

    items = find_images([folder / "a.nii.gz", folder / "c.nii.gz"])
    results = predict_files(make_predictor(Sometimes()), items, tmp_path / "out", PredictSettings())
    assert results[0].error.startswith("KeyError: 'odd'")
    assert str(folder / "a.nii.gz") in results[0].error
    assert results[1].path is not None


def test_a_second_call_finishes_only_what_is_missing(folder: Path, tmp_path: Path) -> None:
    items, predictor = find_images([folder]), make_predictor(in_channels=1)
    predict_files(predictor, items[:1], tmp_path / "out", PredictSettings())
    stamp = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    results = predict_files(predictor, items, tmp_path / "out", PredictSettings())
    assert [r.skipped for r in results] == [True, False, False, False]
    assert results[0].path == tmp_path / "out" / "a.nii.gz"
    assert results[0].path.stat().st_mtime_ns == stamp
    assert results[2].path.is_file()
    again = predict_files(predictor, items[:1], tmp_path / "out", PredictSettings(overwrite=True))
    assert not again[0].skipped
    assert again[0].path.stat().st_mtime_ns > stamp


def test_progress_names_every_case_and_counts_its_windows(folder: Path, tmp_path: Path) -> None:
    cases: list[str] = []
    windows: list[tuple[str, int, int]] = []
    predict_files(
        make_predictor(in_channels=1, inference=InferenceSettings(window_batch=2)),
        find_images([folder]),
        tmp_path / "out",
        PredictSettings(),
        on_progress=cases.append,
        on_window=lambda *progress: windows.append(progress),
    )
    assert cases == ["a", "b", "c", "d"]
    # 26 x 22 x 12 voxels in windows of 16 with a stride of 8: 3 x 2 x 1 of them
    expected = [(case, done, 6) for case in ("a", "c") for done in (2, 4, 6)]
    assert windows == expected


def test_probability_maps_are_written_beside_the_labels(folder: Path, tmp_path: Path) -> None:
    named = LabelMap(values=LABELS.values, names=("background", "outer body", "core"))
    predictor = make_predictor(label_map=named, spec=DataSpec(**RAW, orientation="PIR"))
    items, out = find_images([folder / "a.nii.gz"]), tmp_path / "out"
    predict_files(predictor, items, out, PredictSettings(probabilities=True))
    maps = sorted(os.listdir(out / "probabilities"))
    assert maps == ["a_core.nii.gz", "a_outer-body.nii.gz"]
    image, _ = scene(np.eye(4))
    core = nib.load(out / "probabilities" / "a_core.nii.gz")
    assert core.get_data_dtype() == np.float32
    logits = -((image[..., None] - np.array([0.0, 100.0, 200.0])) ** 2) / 1000
    expected = np.exp(logits[..., 2]) / np.exp(logits).sum(-1)
    np.testing.assert_allclose(core.get_fdata(), expected, atol=1e-5)
    assert np.array_equal(core.affine, nib.load(out / "a.nii.gz").affine)
    (out / "probabilities" / "a_core.nii.gz").unlink()
    [again] = predict_files(predictor, items, out, PredictSettings(probabilities=True))
    assert not again.skipped
    assert (out / "probabilities" / "a_core.nii.gz").is_file()


def test_the_entropy_is_zero_where_sure_and_one_for_a_guess(folder: Path, tmp_path: Path) -> None:
    predict_files(
        make_predictor(), find_images([folder]), tmp_path / "out", PredictSettings(uncertainty=True)
    )
    written = nib.load(tmp_path / "out" / "uncertainty" / "a.nii.gz")
    labels = nib.load(tmp_path / "out" / "a.nii.gz")
    assert written.shape == labels.shape
    np.testing.assert_array_equal(written.affine, labels.affine)
    values = np.asarray(written.dataobj)
    assert values.min() >= 0
    assert values.max() <= 1
    flat = torch.full((4, 2, 2), 0.25)
    torch.testing.assert_close(normalized_entropy(flat), torch.ones(2, 2))
    sure = torch.zeros(4, 2, 2)
    sure[1] = 1
    torch.testing.assert_close(normalized_entropy(sure), torch.zeros(2, 2))


class Placed(nn.Module):
    """Logits that depend on the position inside the window, so that misplaced windows show."""

    def forward(self, x: Tensor) -> Tensor:
        ramp = sum(
            (-1) ** axis * grid.float()
            for axis, grid in enumerate(
                torch.meshgrid(*map(torch.arange, x.shape[2:]), indexing="ij")
            )
        )
        return torch.cat([torch.zeros_like(x), x + 0.05 * ramp, 0.5 * x**2], dim=1)


def test_a_small_memory_does_not_change_the_result() -> None:
    image = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 40, 50, 36))).float()
    whole = make_predictor(Placed()).decide(image, probabilities=True, entropy=True)
    settings = InferenceSettings(memory_gb=1e-6)
    tight = make_predictor(Placed(), inference=settings)
    assert column_size(image.shape[1:], tight.patch, 3, 1e-6 * 2**30) == (16, 16)
    cut = tight.decide(image, probabilities=True, entropy=True)
    torch.testing.assert_close(cut.probabilities, whole.probabilities, rtol=0, atol=0)
    np.testing.assert_array_equal(cut.classes, whole.classes)
    np.testing.assert_array_equal(cut.entropy, whole.entropy)


def test_more_classes_make_columns_narrower_not_the_memory_larger() -> None:
    shape, patch, budget = (512, 512, 600), (96, 96, 96), 2 * 2**30
    assert column_size(shape, patch, 2, budget) is None
    for classes in (14, 40, 78, 118):
        size = column_size(shape, patch, classes, budget) or shape[1:]
        assert 2 * 4 * (classes + 1) * 96 * size[0] * size[1] <= budget
        assert min(size) >= 96


class Sided(nn.Module):
    """Class 1 on the low half of axis 0 of a window, class 2 on the high half."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(x.shape[0], 3, *x.shape[2:])
        half = x.shape[2] // 2
        out[:, 1, :half] = 4.0
        out[:, 2, half:] = 4.0
        return out


def test_mirroring_swaps_left_and_right_classes() -> None:
    x = torch.randn(1, 1, 6, 4, 4)
    swapped = MirrorMean(Sided(), (0,), swap_axis=0, pairs=[(1, 2)])(x)
    # A network that names the sides right gives the same classes for the mirror image.
    torch.testing.assert_close(swapped.exp(), Sided()(x).softmax(1))
    confused = MirrorMean(Sided(), (0,))(x).exp()
    torch.testing.assert_close(confused[:, 1], confused[:, 2])


def test_mirroring_averages_all_combinations() -> None:
    torch.manual_seed(0)
    network = nn.Conv3d(1, 3, 3, padding=1)
    x = torch.randn(2, 1, 5, 6, 7)
    got = MirrorMean(network, (0, 2))(x).exp()
    expected = torch.zeros_like(got)
    for dims in ([], [2], [4], [2, 4]):
        expected += network(x.flip(dims)).softmax(1).flip(dims) / 4
    torch.testing.assert_close(got, expected)


def test_mirroring_follows_the_spec_and_is_refused_where_none_is_allowed() -> None:
    spec = DataSpec(flip_axes=[0, 2], slice_axis=2)
    volume = make_predictor(spec=spec, inference=InferenceSettings(tta=True))
    assert volume.model.axes == (0, 2)
    flat = make_predictor(spec=spec, patch=(8, 8), inference=InferenceSettings(tta=True))
    assert flat.model.axes == (0,)
    with pytest.raises(MedSSLError, match="no axis to be mirrored"):
        make_predictor(spec=DataSpec(flip_axes=[]), inference=InferenceSettings(tta=True))


def test_images_are_never_overwritten(folder: Path) -> None:
    before = (folder / "a.nii.gz").read_bytes()
    with pytest.raises(MedSSLError, match="would overwrite an image") as caught:
        predict_files(make_predictor(), find_images([folder]), folder, PredictSettings())
    assert caught.value.where.endswith("a.nii.gz")
    assert (folder / "a.nii.gz").read_bytes() == before


def test_nothing_is_written_beside_an_image_of_its_name(folder: Path, tmp_path: Path) -> None:
    """ITK opens scan.nii.gz and takes the voxels of scan.nii beside it."""
    image = tmp_path / "scan.nii"
    image.write_bytes(gzip.decompress((folder / "a.nii.gz").read_bytes()))
    for output in (tmp_path, tmp_path / "sub" / ".."):
        with pytest.raises(MedSSLError, match=r"the voxels of the \.nii for both"):
            predict_files(make_predictor(), find_images([image]), output, PredictSettings())
    assert not (tmp_path / "scan.nii.gz").exists()
    # A link of another name does no harm.
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "scan.nii").symlink_to(folder / "a.nii.gz")
    found = find_images([tmp_path / "links" / "scan.nii"])
    [result] = predict_files(make_predictor(), found, tmp_path / "out", PredictSettings())
    assert result.error is None


def test_an_output_that_is_a_file_is_refused_before_anything_runs(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MedSSLError, match="cannot make the output folder"):
        predict_files(make_predictor(), find_images([folder]), tmp_path / "file", PredictSettings())


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def test_channel_files_are_grouped_and_stray_files_ignored(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("p1_0001.nii.gz", "p1_0000.nii.gz", "p2_0000.nii.gz"),
        *("scan_2017.nii.gz", "scan_2018.nii.gz", "x.mha", "y.NRRD"),
        *("._p1_0000.nii.gz", ".hidden.nii.gz", "notes.txt", "x.raw"),
    )
    (tmp_path / "sub.nii.gz").mkdir()
    found = {case: [p.name for p in files] for case, files in find_images([tmp_path])}
    assert found == {
        "p1": ["p1_0000.nii.gz", "p1_0001.nii.gz"],
        "p2": ["p2_0000.nii.gz"],
        "scan_2017": ["scan_2017.nii.gz"],
        "scan_2018": ["scan_2018.nii.gz"],
        "x": ["x.mha"],
        "y": ["y.NRRD"],
    }


SCANS = [f"scan_{n:04d}.nii.gz" for n in range(6)]
PAIRS = ["a_0000.nii", "a_0001.nii", "b_0000.nii", "b_0001.nii"]


@pytest.mark.parametrize(
    ("names", "channels", "expected"),
    [
        (SCANS, 1, [s[:9] for s in SCANS]),  # scans that are numbered
        (SCANS, 6, ["scan"]),
        (SCANS, None, ["scan"]),
        (SCANS[:1], 1, ["scan"]),  # nnU-Net's spelling of one channel
        (["a_0000.nii", "b_0000.nii"], 1, ["a", "b"]),
        (["a_0000.nii", "b_0000.nii", "c_0001.nii"], 1, ["a_0000", "b_0000", "c_0001"]),
        (["a_0000.nii", "b.nii"], 1, ["a_0000", "b"]),
        (PAIRS, 2, ["a", "b"]),
        (PAIRS, 1, [s[:6] for s in PAIRS]),
        (PAIRS[:3], 2, ["a", "b_0000"]),  # an incomplete scan does not take the others with it
        (["scan_2017.nii", "scan_2018.nii"], 2, ["scan_2017", "scan_2018"]),
    ],
)
def test_channels_are_those_of_the_model(
    tmp_path: Path, names: list[str], channels: int | None, expected: list[str]
) -> None:
    touch(tmp_path, *names)
    assert [case for case, _ in find_images([tmp_path], channels)] == expected


def test_an_input_without_anything_does_not_stop_the_others(tmp_path: Path) -> None:
    touch(tmp_path / "full", "a.nii.gz")
    touch(tmp_path / "empty", "notes.txt")
    inputs = [tmp_path / "gone.nii", tmp_path / "full", tmp_path / "empty"]
    found = find_inputs(inputs)
    assert [case for case, _ in found.cases(1)] == ["a"]
    assert [(name, error.what) for name, error in found.failed] == [
        (str(tmp_path / "gone.nii"), "there is no such file or folder"),
        (str(tmp_path / "empty"), "no image found"),
    ]


def test_files_and_folders_may_be_mixed_and_repeated(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii", "a.nii.gz")
    found = find_images([tmp_path / "b.nii", tmp_path, tmp_path / "b.nii"])
    assert [case for case, _ in found] == ["a", "b"]


def test_nothing_found_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "._a.nii.gz")
    with pytest.raises(MedSSLError, match="no image found") as caught:
        find_images([tmp_path])
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"), [("gone.nii", "no such file"), ("a.png", "not an image")]
)
def test_inputs_that_are_no_images_are_refused(tmp_path: Path, name: str, message: str) -> None:
    touch(tmp_path, "a.png")
    with pytest.raises(MedSSLError, match=message) as caught:
        find_images([tmp_path / name])
    assert caught.value.where == str(tmp_path / name)


@pytest.mark.parametrize("names", [("one/a.nii.gz", "two/a.nii.gz"), ("one/a.nii", "one/a.mha")])
def test_two_images_of_one_id_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        touch(tmp_path / Path(name).parent, Path(name).name)
    with pytest.raises(MedSSLError, match="two images have the id 'a'"):
        find_images([tmp_path / name for name in names])


@pytest.mark.parametrize(
    ("patch", "device", "expected"),
    [
        ((112, 112, 80), "cpu", 1),
        ((64, 64, 64), "cpu", 2),
        ((40, 56, 40), "cpu", 4),
        ((256, 256), "cpu", 4),
        ((112, 112, 80), "cuda", 4),
    ],
)
def test_large_windows_go_one_by_one_on_a_cpu(
    patch: tuple[int, ...], device: str, expected: int
) -> None:
    assert windows_at_a_time(4, patch, torch.device(device)) == expected
    assert windows_at_a_time(1, patch, torch.device(device)) == 1


def test_freed_memory_is_kept_from_the_second_window_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted: list[int] = []

    class Looking(Noisy):
        def forward(self, x: Tensor) -> Tensor:
            wanted.append(freed_memory._wanted)
            return super().forward(x)

    monkeypatch.setattr(freed_memory, "_wanted", 0)
    make_predictor(Looking(classes=3)).classes(torch.zeros(1, *SHAPE))
    assert wanted[0] == 0
    assert set(wanted[1:]) == {1}
    assert freed_memory._wanted == 0
