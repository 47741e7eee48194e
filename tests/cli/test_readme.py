"""The README's commands, run as they are printed, in a folder that is not the checkout."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import write_dataset

from medssl import cli


def commands_below(heading: str) -> list[list[str]]:
    """Return the words of each ``medssl`` command in the code blocks below a heading."""
    readme = Path(__file__).parents[2] / "README.md"
    section = readme.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("medssl ")]


@pytest.mark.slow
def test_your_own_data_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_dataset(tmp_path / "mydata", cases=8, unlabeled=3)
    header = json.loads((data / "dataset.json").read_text())
    header |= {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "tumor"}}
    (data / "dataset.json").write_text(json.dumps(header))
    shutil.copytree(data / "imagesUn", tmp_path / "new_scans")
    monkeypatch.chdir(tmp_path)

    commands = commands_below("Your own data in five minutes")
    names = [words[1] for words in commands]
    assert names == ["check", "plan", "train", "predict"]
    for words in commands:
        assert cli.run(words[1:]) == 0, shlex.join(words)
        if words[1] == "plan":  # as planned it would take its time: all else stays
            recipe = Path("mine.yaml")
            text, changed = re.subn(
                r"(?m)^  iterations: \d+", "  iterations: 6", recipe.read_text()
            )
            assert changed == 1
            text = re.sub(r"(?m)^  validate_every: \d+", "  validate_every: 3", text)
            recipe.write_text(text)
            assert yaml.safe_load(text)["name"] == "mine"
    scans = sorted(p.name for p in Path("new_scans").iterdir())
    assert sorted(p.name for p in Path("predictions").glob("*.nii.gz")) == scans
    record = json.loads(Path("predictions/predictions.json").read_text())
    assert [made["model"] for made in record["models"].values()] == ["runs/mine"]
