"""What the library warns of is shown by the commands, once."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from decathlon_files import write

from medssl import cli


def test_a_prediction_that_nobody_asked_for_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = np.zeros((6, 6, 4), np.uint8)
    label[1:4, 1:4, 1:3] = 1
    for name in ("pred/a.nii", "ref/a.nii", "pred/slip.nii"):
        write(tmp_path / name, label, np.eye(4))
    handlers = list(logging.getLogger("medssl").handlers)
    pred, ref, out = (str(tmp_path / name) for name in ("pred", "ref", "out"))
    command = ["evaluate", pred, ref, "--output", out]
    for options, times in (([], 1), (["--quiet"], 0), ([], 1)):
        assert cli.run([*options, *command]) == 0
        said = capsys.readouterr().err
        assert said.count("warning: 1 predictions without reference left out: ['slip']") == times
    assert logging.getLogger("medssl").handlers == handlers
