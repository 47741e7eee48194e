"""What is no run is told from one, and which folder was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl.errors import MedSSLError
from medssl.runs.folder import open_run


@pytest.mark.parametrize(
    ("file", "why", "fix"),
    [
        (None, "there is no such folder", "medssl train"),
        ("notes.txt", "it has no recipe.yaml", "medssl train"),
        ("configs/metadata.json", "it is a bundle, made from one", "exported from"),
    ],
)
def test_another_folder_is_called_what_it_is(
    tmp_path: Path, file: str | None, why: str, fix: str
) -> None:
    if file is not None:
        (tmp_path / "folder" / file).parent.mkdir(parents=True)
        (tmp_path / "folder" / file).write_text("{}")
    with pytest.raises(MedSSLError, match=f"not a run folder: {why}") as error:
        open_run(tmp_path / "folder")
    assert fix in str(error.value.fix)
