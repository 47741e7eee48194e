"""The application for MONAI Deploy calls medssl on the model beside it; no SDK is needed here."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from helpers import write_dataset
from small_model import write_small_run

import medssl
from medssl import cli
from medssl.errors import MedSSLError


class Part:
    """Takes whatever the SDK's classes take."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.argv, self.added = sys.argv, []

    @staticmethod
    def init_app_context(argv: list[str]) -> SimpleNamespace:
        return SimpleNamespace(input_path=argv[2], output_path=argv[4])

    def add_operator(self, operator: Any) -> None:
        self.added.append(operator)

    def run(self) -> None:
        self.compose()
        for operator in self.added:
            operator.compute(None, None, None)


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for what the application imports."""
    names = ("AppContext", "Application", "Fragment", "Operator", "OperatorSpec", "CountCondition")
    for name in ("monai.deploy", "monai.deploy.core", "monai.deploy.conditions"):
        module = ModuleType(name)
        vars(module).update(dict.fromkeys(names, Part))
        monkeypatch.setitem(sys.modules, name, module)


def test_the_application_predicts_what_the_bundle_does(
    sdk: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = write_dataset(tmp_path / "data", cases=1), write_small_run(tmp_path / "run")
    bundle = medssl.export(run, tmp_path / "bundle", torchscript=False).path
    app = tmp_path / "app"
    assert 'format="dicom-seg"' in (medssl.deploy(bundle, tmp_path / "d") / "app.py").read_text()
    with pytest.raises(MedSSLError, match="no output format 'dcm'"):
        medssl.deploy(bundle, app, format="dcm")
    assert cli.run(["deploy", str(bundle), str(app), "--format", "nii.gz"]) == 0
    assert yaml.safe_load((app / "app.yaml").read_text())["application"]["title"] == "small"
    assert not (app / "model" / "scripts").exists()
    images = data / "imagesTr"
    monkeypatch.setattr("sys.argv", ["app.py", "-i", str(images), "-o", str(tmp_path / "out")])
    runpy.run_path(str(app / "app.py"), run_name="__main__")
    found = nib.load(tmp_path / "out" / "case_00.nii.gz")
    (expected,) = medssl.predict(run, images, tmp_path / "maps", device="cpu")
    np.testing.assert_array_equal(found.dataobj, nib.load(expected.path).dataobj)
    (images / "case_00.nii.gz").write_bytes(b"no image")
    monkeypatch.setattr("sys.argv", ["app.py", "-i", str(images), "-o", str(tmp_path / "out2")])
    with pytest.raises(RuntimeError, match="1 of 1 series failed"):
        runpy.run_path(str(app / "app.py"), run_name="__main__")


def test_what_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["deploy", str(tmp_path), str(tmp_path / "app")]) == 2
    assert "medssl export RUN BUNDLE" in capsys.readouterr().err
    assert not (tmp_path / "app").exists()
