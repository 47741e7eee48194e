"""An image in memory is predicted as the same image in a file, voxel for voxel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its usual name
import torch
from torch import Tensor, nn

from medssl.data.datasets.case import LabelMap
from medssl.errors import MedSSLError
from medssl.inference.predictor import Predictor
from medssl.inference.task import Task
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec

LABELS = LabelMap(values=(0, 11, 12), names=("background", "body", "core"))
OBLIQUE = np.array(
    [
        [-0.9 * np.cos(0.3), 0.8 * np.sin(0.3), 0, 12.5],
        [0.9 * np.sin(0.3), 0.8 * np.cos(0.3), 0, -40.0],
        [0, 0, 2.5, 7.25],
        [0, 0, 0, 1],
    ]
)


class Levels(nn.Module):
    """Classify the mean of the channels near 0, 100 and 200 as classes 0, 1 and 2."""

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.tensor([0.0, 100.0, 200.0]).reshape(1, 3, *(1,) * (x.ndim - 2))
        return -((x.float().mean(dim=1, keepdim=True) - levels) ** 2) / 1000


def predictor(channels: int = 1, patch: tuple[int, ...] = (8, 8, 8)) -> Predictor:
    spec = DataSpec.model_validate(
        {"orientation": "RAS", "spacing": [1.0, 1.0, 2.0], "intensity": {"rule": "none"}}
    )
    task = Task(spec, LABELS, patch, channels)
    return Predictor(Levels(), task, InferenceSettings(), device=torch.device("cpu"))


def scan(channels: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    shape = (17, 13, 9) if channels == 1 else (17, 13, 9, channels)
    levels = 100 * rng.integers(0, 3, shape[:3] + (1,) * (len(shape) - 3))
    return (rng.uniform(0, 30, shape) + levels).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_every_kind_gives_what_the_file_gives(
    tmp_path: Path, channels: int, patch: tuple[int, ...]
) -> None:
    data = scan(channels)
    image = nib.Nifti1Image(data, OBLIQUE)
    path = tmp_path / "scan.nii.gz"
    nib.save(image, path)
    one = predictor(channels, patch)
    from_file = one.predict_file(path)
    assert len(np.unique(from_file.values)) == 3
    stored = nib.load(path).affine  # as 32-bit numbers
    first = np.moveaxis(data, -1, 0) if channels > 1 else data
    kinds: list[tuple[Any, dict[str, Any]]] = [
        (image, {}),
        (sitk.ReadImage(str(path)), {}),
        (first, {"affine": stored}),
        (torch.from_numpy(np.ascontiguousarray(first)), {"affine": stored.tolist()}),
    ]
    if channels > 1:  # ITK holds the channels of one voxel together
        kinds[1] = (sitk.Compose([_channel(tmp_path, data[..., c]) for c in (0, 1)]), {})
    for given, where in kinds:
        found = one.predict(given, **where)
        np.testing.assert_array_equal(found.values, from_file.values, err_msg=str(type(given)))
        np.testing.assert_allclose(found.affine, from_file.affine, atol=1e-4)
        saved = found.save(tmp_path / "out.nii.gz")
        assert np.allclose(nib.load(saved).affine, OBLIQUE, atol=1e-4)


def _channel(folder: Path, data: np.ndarray) -> sitk.Image:
    nib.save(nib.Nifti1Image(data, OBLIQUE), folder / "channel.nii")
    return sitk.ReadImage(str(folder / "channel.nii"))


@pytest.mark.parametrize(("orientation", "signs"), [("LPS", (-1, -1, 1)), ("RAS", (1, 1, 1))])
def test_spacing_and_orientation_say_where_an_array_lies(
    orientation: str, signs: tuple[int, ...]
) -> None:
    data, one = scan(1), predictor()
    affine = np.diag([0.9 * signs[0], 0.8 * signs[1], 2.5 * signs[2], 1.0])
    told = one.predict(data, spacing_mm=(0.9, 0.8, 2.5), orientation=orientation)
    np.testing.assert_array_equal(told.values, one.predict(data, affine=affine).values)
    np.testing.assert_allclose(told.affine, affine)


@pytest.mark.parametrize(
    ("image", "where", "part"),
    [
        (scan(1), {}, "does not say where it lies"),
        (scan(1), {"spacing_mm": (1, 1, 1)}, "does not say where it lies"),
        (scan(1), {"spacing_mm": (1, 1, 1), "orientation": "LLS"}, "is no frame"),
        (scan(1), {"spacing_mm": (1, 1), "orientation": "LPS"}, "is no frame"),
        (scan(1), {"affine": np.zeros((4, 4))}, "not usable"),
        (scan(1)[0], {"affine": np.eye(4)}, "no scan"),
        (scan(1) * np.nan, {"affine": np.eye(4)}, "not finite"),
        ("scan.nii.gz", {"affine": np.eye(4)}, "is no image"),
        (nib.Nifti1Image(scan(1), OBLIQUE), {"affine": np.eye(4)}, "says itself"),
        (scan(3), {"affine": np.eye(4)}, "channel"),
    ],
)
def test_what_is_no_scan_is_refused(image: Any, where: dict[str, Any], part: str) -> None:
    with pytest.raises(MedSSLError, match=part):
        predictor().predict(image, **where)
