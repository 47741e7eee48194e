"""What a bundle carries: windows, the way back and labels as medssl has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import Tensor, nn

from medssl.bundle import transforms as t
from medssl.bundle.carried.annotated import AnnotatedLoss, ToClassesd, WithoutIgnoredd
from medssl.bundle.carried.inferer import ProbabilityInferer
from medssl.bundle.carried.spatial import NativeLabelsd, ToSpacingd
from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.label_regions import LabelRegion
from medssl.data.preprocessing.pipeline import preprocess_image
from medssl.inference.mirror import mirroring
from medssl.inference.predictor import Predictor
from medssl.inference.task import Task
from medssl.inference.windows import stride_from_overlap
from medssl.ops.losses import supervised_loss
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec

LABELS = LabelMap((0, 1, 2), ("background", "left", "right"))
SPEC = DataSpec(flip_axes=[0, 2], label_pairs=[(1, 2)], orientation="RAS")


def network(dims: int) -> nn.Module:
    torch.manual_seed(4)
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return nn.Sequential(kind(1, 8, 3, padding=1), nn.ReLU(), kind(8, 3, 3, padding=1))


@pytest.mark.parametrize(
    ("patch", "options"),
    [
        ((8, 8, 8), {}),
        ((8, 8, 8), {"stride": [3, 5, 7], "blend": "constant"}),
        ((16, 8, 24), {"overlap": 0.0}),  # longer than the volume: padded with its lowest value
        ((8, 8, 8), {"tta": True}),
        ((8, 8, 8), {"skip_empty": True, "overlap": 0.25}),
        ((8, 10), {}),
        ((8, 16), {"tta": True, "stride": [4, 3]}),
    ],
)
def test_windows_are_averaged_as_predict_averages_them(
    patch: tuple[int, ...], options: dict[str, Any]
) -> None:
    settings = InferenceSettings(**options)
    spec = SPEC.model_copy(update={"slice_axis": 1})
    image = torch.randn(1, 14, 11, 17, generator=torch.Generator().manual_seed(1))
    image[:, :9, :9, :9] = image.min()  # one window at least is empty
    net = network(len(patch)).eval()
    ours = Predictor(net, Task(spec, LABELS, patch, 1), settings, device=torch.device("cpu"))
    mirror = None
    if settings.tta:
        mirror = vars(mirroring(spec, LABELS, spatial_dims=len(patch)))
    inferer = ProbabilityInferer(
        patch,
        settings.stride or stride_from_overlap(patch, settings.overlap),
        slice_axis=1,
        mirror=mirror,
        skip_empty=settings.skip_empty,
        sw_batch_size=3,
        mode=settings.blend,
    )
    with torch.no_grad():
        theirs = inferer(image[None], net)[0]
    expected = ours.probabilities(image)
    torch.testing.assert_close(theirs, expected, atol=1e-5, rtol=0)
    assert bool((expected[0] == 1).any()) == settings.skip_empty


def in_place(steps: list[dict[str, Any]]) -> Any:
    """Build steps of a configuration from the modules that a bundle copies."""
    text = json.dumps({"_target_": "Compose", "transforms": steps})
    config = json.loads(text.replace('"scripts.', '"medssl.bundle.carried.'))
    return ConfigParser({"steps": config}).get_parsed_content("steps")


AXES = {
    "plain": np.diag([1.0, 1.0, 2.0, 1.0]),
    "turned": np.array([[0, -1.1, 0, 7], [0, 0, 2.5, -3], [-0.9, 0, 0, 11], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": "native"},
        {"spacing": "native", "orientation": None},
        {"spacing": [1.3, 1.3, 2.5]},
        {"spacing": [1.5, None, 1.0]},
        {"spacing": [1.3, 1.3, 2.5], "resize": [12, 16, None]},
        {"spacing": "native", "resize": [None, None, 9]},
    ],
)
@pytest.mark.parametrize("pieces", [None, [1, 2]])
def test_labels_come_back_as_predict_brings_them(
    tmp_path: Path, axes: str, changes: dict[str, Any], pieces: list[int] | None
) -> None:
    spec = SPEC.model_copy(update=changes)
    inference = InferenceSettings(largest_component=pieces is not None)
    task = Task(spec, LabelMap((0, 7, 9), LABELS.names), (8, 8, 8), 1)
    predictor = Predictor(network(3), task, inference, device=torch.device("cpu"))
    if pieces:
        predictor.spec = spec.model_copy(update={"pieces": {9: 2}})
    expect_the_same_labels(predictor, spec, AXES[axes], tmp_path, pieces=pieces)


def test_regions_decide_as_in_predict(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"spacing": [1.3, 1.3, 2.5]})
    regions = (LabelRegion("both", (7, 9), 7), LabelRegion("right", (9,), 9))
    labels = LabelMap((0, 7, 9), LABELS.names, regions=regions)
    task, device = Task(spec, labels, (8, 8, 8), 1), torch.device("cpu")
    loud = network(3)
    loud[2].weight.data.mul_(20)
    found = [
        expect_the_same_labels(
            Predictor(loud, task, InferenceSettings(decide=decide), device=device),
            spec,
            np.diag([1, 1, 2.0, 1]),
            tmp_path,
            regions=labels.region_classes if decide == "regions" else (),
        )
        for decide in ("classes", "regions")
    ]
    assert (found[0] != found[1]).mean() > 0.01


def expect_the_same_labels(
    predictor: Predictor, spec: DataSpec, affine: np.ndarray, tmp_path: Path, **options: Any
) -> np.ndarray:
    """Predict an image with medssl and as a bundle does; return its labels."""
    values = np.random.default_rng(3).normal(size=(15, 12, 10)).astype(np.float32)
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(values, affine), path)
    ours = predictor.predict_file(path)
    prepared = preprocess_image(path, spec)

    steps = [
        *t.read_transforms(["image"]),
        *t.intensity_transforms(spec.intensity),
        *t.spatial_transforms(spec, ["image"]),
    ]
    item: Any = in_place(steps)({"image": str(path)})
    torch.testing.assert_close(item["image"].as_tensor(), prepared.image)
    item["pred"] = predictor.probabilities(prepared.image)
    decide = NativeLabelsd("pred", orientation=spec.orientation, values=(0, 7, 9), **options)
    theirs = decide(item)["pred"]
    np.testing.assert_array_equal(np.asarray(theirs)[0], ours.values)
    np.testing.assert_allclose(theirs.affine, ours.affine)
    assert len(np.unique(ours.values)) > 1
    return ours.values


def test_other_entries_do_not_stop_the_resampling() -> None:
    """MONAI Label keeps the path of the image as ``image_path``."""
    image = MetaTensor(torch.zeros(1, 4, 4, 4), affine=torch.eye(4))
    image.meta["filename_or_obj"] = "a.nii.gz"
    item = {"image": image, "image_path": "a.nii.gz"}
    found = ToSpacingd(["image"], pixdim=[2.0, 2.0, 2.0], mode=["bilinear"])(item)
    assert found["image"].pixdim.tolist() == [2.0, 2.0, 2.0]
    assert found["image"].shape[1] < 4
    assert found["image_path"] == "a.nii.gz"


@pytest.mark.parametrize(
    ("edges", "target"),
    [
        ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0)),  # in range, free, and in range but for 4 %
        ((0.5, 9.0, 3.0), (0.9, 9.0, 3.0)),
        ((3.0, 2.0, 4.0), (1.1, 2.0, 2.9)),
    ],
)
def test_voxels_are_brought_into_the_range_of_training(
    edges: tuple[float, ...], target: tuple[float, ...]
) -> None:
    affine = torch.diag(torch.tensor([*edges, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.randn(1, 20, 18, 16), affine=affine)
    step = ToSpacingd(
        ["image"],
        pixdim=[-1.0, -1.0, -1.0],
        mode=["bilinear"],
        ranges=[(0.9, 1.1), None, (2.0, 2.9)],
        tolerance=1.05,
    )
    found = step({"image": image})["image"]
    np.testing.assert_allclose(found.pixdim, target, atol=1e-6)
    assert (found is image) == (edges == target)


def test_label_values_become_classes() -> None:
    to_classes = ToClassesd("label", values=(0, 11, 48), ignore_value=255, ignore_class=3)
    label = torch.tensor([[0.0, 11.00001, 47.9999, 255.0]])
    assert to_classes({"label": label})["label"].tolist() == [[0, 1, 2, 3]]
    with pytest.raises(ValueError, match="1 voxels are 12, no label"):
        to_classes({"label": torch.tensor([[0.0, 12.0]])})
    with pytest.raises(ValueError, match="1 voxels are 255, no label"):
        ToClassesd("label", values=(0, 11))({"label": torch.tensor([[255.0]])})


def test_what_nobody_annotated_counts_in_no_dice() -> None:
    item = {"pred": torch.tensor([[1, 2, 1, 0]]), "label": torch.tensor([[1, 3, 3, 2]])}
    found = WithoutIgnoredd(["pred", "label"], ignore_class=3)(item)
    assert found["pred"].tolist() == [[1, 0, 0, 0]]
    assert found["label"].tolist() == [[1, 0, 0, 2]]


def test_what_nobody_annotated_has_no_gradient() -> None:
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    label = torch.randint(0, 3, (2, 1, 4, 4, 4)).float()
    label[:, :, 2:] = 3
    loss = AnnotatedLoss(ignore_class=3)(logits, label)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[:, :, 2:].abs().max() == 0
    assert gradient[:, :, :2].abs().min() > 0
    known: Tensor = label[:, 0].long()
    torch.testing.assert_close(loss, supervised_loss(logits[:, :, :2], known[:, :2]))
