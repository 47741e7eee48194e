"""Regions travel with a bundle and a packed model, and come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from medssl.bundle.card import model_card
from medssl.bundle.config_parts import decide
from medssl.bundle.contents import Contents
from medssl.bundle.described import describe_contents, read_description
from medssl.bundle.metadata import make_metadata, read_own
from medssl.bundle.model_tree import describe
from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.label_regions import LabelRegion
from medssl.errors import MedSSLError
from medssl.networks.build import build_network
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec

REGIONS = (LabelRegion("whole", (1, 40), 1), LabelRegion("core", (40,), 40))
LABELS = LabelMap((0, 1, 40), ("background", "label_1", "core"), None, REGIONS)


def contents(**inference: Any) -> Contents:
    network = build_network(
        "unet",
        spatial_dims=3,
        in_channels=1,
        num_classes=3,
        settings={"channels": [2, 4], "strides": [2]},
    )
    return Contents(
        name="regions",
        model=describe(network),
        spec=DataSpec(),
        labels=LABELS,
        patch=(8, 8, 8),
        inference=InferenceSettings(**inference),
        channels=1,
        method="supervised",
        paper="none",
        protocol="clean",
        cases={"labeled": 2},
        iterations=1,
        summary=None,
    )


def test_both_ways_bring_regions_back() -> None:
    packed = json.loads(json.dumps(describe_contents(contents(), authors="a", name="regions")))
    assert read_description(packed)[1].labels == LABELS
    metadata = make_metadata(contents(), authors="a", copyright_notice="c")
    assert read_own(json.loads(json.dumps(metadata["medssl"])))[2] == LABELS
    assert metadata["task"].startswith("Segmentation of whole, core in")
    assert "| whole | 1+40 |" in model_card(contents(), licence="none")
    packed["labels"]["regions"][0]["values"] = [1, 41]
    with pytest.raises(MedSSLError, match="a region of labels that there are not"):
        read_description(packed)


def test_monai_decides_by_regions_where_the_run_does() -> None:
    by_regions = decide(contents(decide="regions"), values=[0, 1, 40])
    assert by_regions["regions"] == [[[1, 2], 1], [[2], 2]]
    assert "regions" not in decide(contents(), values=[0, 1, 40])
