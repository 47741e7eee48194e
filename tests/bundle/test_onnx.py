"""The ONNX file of a bundle says what its network says, run by another library."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from helpers import AFFINE, blob_case
from small_model import write_small_run

import medssl
from medssl import cli
from medssl.bundle.load import load_bundle
from medssl.bundle.onnx_file import ONNX, OnnxNetwork
from medssl.errors import MedSSLError
from medssl.inference.settings import PredictSettings

MOST = 1e-4
"""Share of voxels that may get another label."""


def test_a_missing_package_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    run = write_small_run(tmp_path / "run")
    assert cli.run(["export", str(run), str(tmp_path / "bundle"), "--onnx"]) == 2
    assert 'pip install "medssl[onnx]"' in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mirrored", "members"])
def test_onnxruntime_gives_the_labels_of_medssl(kind: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    changes = {"inference": {"tta": kind == "mirrored", "overlap": 0.25}}
    run = write_small_run(tmp_path / "run", **changes)
    more = [] if kind == "mirrored" else [write_small_run(tmp_path / "r2", seed=9, **changes)]
    bundle = medssl.export(run, tmp_path / "b", ensemble=more, torchscript=False, onnx=True).path
    assert [p.name for p in sorted((bundle / "models").iterdir())] == ["model.onnx", "model.pt"]
    model = onnx.load(str(bundle / ONNX))
    assert json.loads({p.key: p.value for p in model.metadata_props}["labels"])["48"] == "dim"
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(blob_case(6)[0], AFFINE), scan)
    settings = PredictSettings(device="cpu", precision="fp32")
    ours = load_bundle(bundle, settings).predict_file(scan, keep_probabilities=True)
    network = OnnxNetwork(bundle / ONNX)
    theirs = load_bundle(bundle, settings, network=network).predict_file(
        scan, keep_probabilities=True
    )
    assert len(np.unique(ours.values)) > 1
    assert (ours.values != theirs.values).mean() <= MOST
    assert np.abs(ours.probabilities - theirs.probabilities).max() < 1e-4
    (bundle / ONNX).write_bytes(b"no model")
    with pytest.raises(MedSSLError, match="onnxruntime cannot read the file"):
        OnnxNetwork(bundle / ONNX)
