"""One anatomy scanned with several voxel sizes: a run trained at 1 mm segments them all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from phantom_grids import draw, write_dataset

import medssl
from medssl.inference.predictor import Predictor

GRIDS = {
    "1 mm": (1.0, 1.0, 1.0),
    "0.6 mm": (0.6, 0.6, 0.6),
    "1.4 mm": (1.4, 1.4, 1.4),
    "anisotropic": (0.8, 0.8, 2.4),
}
RECIPE = """
name: voxel_sizes
seed: 0
data: {{root: {root}, test: 0, cache: {cache}}}
spec: {{name: mr_phantom, spacing: {spacing}}}
network: {{name: unet, channels: [16, 32, 64], strides: [2, 2], num_res_units: 0}}
method: {{name: supervised}}
training:
  iterations: 1500
  patch: [40, 40, 40]
  labeled_batch: 2
  precision: fp32
  workers: 0
  optimizer: {{name: adam, lr: 0.002, weight_decay: 0.0}}
  schedule: {{name: poly}}
  augment:
    {{scale: [0.85, 1.15], scale_probability: 0.3, rotate_degrees: 15, rotate_probability: 0.3}}
inference: {{overlap: 0.25}}
"""


def dice_of(predictor: Predictor, spacing_mm: tuple[float, float, float]) -> float:
    """Mean Dice of three structures over twelve anatomies drawn with voxels of a size."""
    found = []
    for seed in range(100, 112):
        scan = draw(seed, spacing_mm)
        labels = predictor.predict(scan.image, affine=scan.affine).values
        for value in (1, 2, 3):
            own, true = labels == value, scan.label == value
            found.append(2 * (own & true).sum() / (own.sum() + true.sum()))
    return float(np.mean(found))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return runs whose network sees the voxels of a file, and voxels of 1 mm.

    The scans they are trained on have these, so that training is the same: it is done once.
    """
    folder = tmp_path_factory.mktemp("sizes")
    root = write_dataset(folder / "data", range(20), GRIDS["1 mm"])
    found = {}
    for spacing, more in (("native", []), ("[1, 1, 1]", ["training.iterations=1"])):
        text = RECIPE.format(root=root, cache=folder / "cache", spacing=spacing)
        (folder / "recipe.yaml").write_text(text)
        run = medssl.train(
            folder / "recipe.yaml", overrides=more, output=folder / spacing, device="cpu"
        )
        found[spacing] = run.path
    for file in (found["native"] / "checkpoints").iterdir():
        shutil.copy(file, found["[1, 1, 1]"] / "checkpoints" / file.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("spacing", ["native", "[1, 1, 1]"])
def test_scans_of_other_voxel_sizes_are_segmented_as_well(
    runs: dict[str, Path], spacing: str
) -> None:
    run = runs[spacing]
    predictor = medssl.load_run(run, device="cpu").predictor
    dice = {name: dice_of(predictor, size) for name, size in GRIDS.items()}
    assert dice["1 mm"] > 0.8, dice
    # Seen: 0.861, 0.854, 0.822 and 0.860. A network trained at 1.4 mm reaches no more there.
    assert min(dice.values()) > dice["1 mm"] - 0.05, dice


def test_the_anatomy_does_not_depend_on_the_voxels() -> None:
    for seed in range(2):
        volumes = {}
        for name, size in GRIDS.items():
            counts = np.bincount(draw(seed, size).label.ravel(), minlength=4)[1:]
            volumes[name] = counts * np.prod(size)
        for name in ("0.6 mm", "1.4 mm", "anisotropic"):
            np.testing.assert_allclose(volumes[name], volumes["1 mm"], rtol=0.12)
