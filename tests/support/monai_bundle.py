"""A bundle used by MONAI in this process, step by step as MONAI Label does it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import LoadImaged, SaveImaged


def predicted_by_monai(bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Return the label map of an image by a bundle's configuration and scripts alone.

    Args:
        bundle: its folder; its ``scripts`` are imported in place of those of any other.
        image: a file.
        monkeypatch: takes the imports back.
    """
    monkeypatch.syspath_prepend(bundle)
    for module in [m for m in sys.modules if m.partition(".")[0] == "scripts"]:
        monkeypatch.delitem(sys.modules, module)
    config = ConfigParser()
    config.read_config(bundle / "configs" / "inference.json")
    config.config.update({"bundle_root": str(bundle), "device": "cpu"})
    network = config.get_parsed_content("network_def", instantiate=True)
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    network.eval()
    inferer = config.get_parsed_content("inferer", instantiate=True)
    steps = {
        part: list(config.get_parsed_content(part, instantiate=True).transforms)
        for part in ("preprocessing", "postprocessing")
    }
    item: Any = {"image": str(image), "image_path": str(image)}
    for transform in steps["preprocessing"]:
        if isinstance(transform, LoadImaged):
            transform._loader.image_only = False
        item = transform(item)
    with torch.no_grad():
        item["pred"] = inferer(item["image"][None], network)[0]
    kept = [step for step in steps["postprocessing"] if not isinstance(step, SaveImaged)]
    assert len(kept) == len(steps["postprocessing"]) - 1
    for transform in kept:
        item = transform(item)
    return np.asarray(item["pred"])[0]
