"""Train and predict on a tiny phantom, and see that the prediction is there again to the voxel."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path

import numpy as np

from medssl.data.images.volume import read_volume
from medssl.data.phantoms.dataset import write_phantom
from medssl.errors import MedSSLError
from medssl.workflows.predict import predict
from medssl.workflows.train import train

ITERATIONS = 30


def train_and_predict() -> str:
    """Train for half a minute at most, predict the test scan, and compare with the run's own.

    Returns:
        What was seen, in a sentence.

    Raises:
        MedSSLError: the two differ, or whatever went wrong.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = write_phantom(
            folder / "data", labeled=4, unlabeled=2, test=0, shape=(32, 32, 16), seed=1
        )
        settings = (
            f"data.root={data}",
            f"data.cache={folder / 'cache'}",
            "data.labeled=2",
            "data.test=1",
            "network.channels=[8,16]",
            "network.strides=[2]",
            "method.name=mean_teacher",
            "training.patch=[32,32,16]",
            f"training.iterations={ITERATIONS}",
        )
        run = train("quickstart", overrides=settings, output=folder / "run")
        dice = run.summaries["test"]["overall"]["metrics"]["dice"]["mean"]
        (own,) = (run.path / "predictions" / "test").glob("*.nii.gz")
        scan = next((data / "imagesTr").glob(own.name))
        (found,) = predict(run.path, scan, folder / "out")
        if found.path is None:
            raise MedSSLError(f"the prediction failed: {found.error}")
        one, other = read_volume(own), read_volume(found.path)
        if not np.array_equal(one.values(), other.values()):
            raise MedSSLError("the same model predicts the same scan in two ways")
    shown = "no Dice" if not math.isfinite(dice) else f"Dice {dice:.2f} after so few"
    seconds = time.monotonic() - start
    return f"{ITERATIONS} iterations and a prediction in {seconds:.0f} s ({shown}); nothing is kept"
