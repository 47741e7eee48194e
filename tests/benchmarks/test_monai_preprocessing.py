"""MONAI's pipeline is measured on the same arrays that the package makes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from helpers import write_dataset

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from monai_preprocessing import image_transforms  # noqa: E402

from medssl.data.datasets.decathlon import read_dataset  # noqa: E402
from medssl.data.preprocessing.pipeline import preprocess_case  # noqa: E402
from medssl.settings.spec import DataSpec  # noqa: E402


def test_the_transforms_agree_with_the_package(tmp_path: Path) -> None:
    case = read_dataset(write_dataset(tmp_path, cases=1)).training[0]
    spec = DataSpec(spacing=[1.0, 1.2, 3.0], resize=[32, None, 8])
    out = image_transforms(spec)({"image": list(case.images), "label": case.label})
    prepared, values = preprocess_case(case, spec)
    np.testing.assert_array_equal(out["image"].as_tensor(), prepared.image)
    np.testing.assert_allclose(out["image"].affine, prepared.affine)
    np.testing.assert_array_equal(out["label"][0], values)
