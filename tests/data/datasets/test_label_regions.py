"""Regions as dataset.json states them: two forms, one meaning, and what contradicts itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decathlon_files import make_dataset

from medssl.data.datasets.case import LabelMap
from medssl.data.datasets.decathlon import read_dataset
from medssl.data.datasets.decathlon_header import parse_labels
from medssl.data.datasets.label_regions import LabelRegion
from medssl.errors import MedSSLError

WHERE = Path("data/dataset.json")
BRATS = (
    LabelRegion("whole_tumor", (1, 2, 3), 1),
    LabelRegion("tumor_core", (2, 3), 2),
    LabelRegion("enhancing", (3,), 3),
)
NNUNET = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [2, 3], "enhancing": 3}
PLAIN = {"0": "background", "1": "edema", "2": "necrosis", "3": "enhancing"}


def parsed(**info: Any) -> LabelMap:
    return parse_labels(info, WHERE)[0]


def test_nnunets_form_and_regions_beside_labels_mean_the_same() -> None:
    one = parsed(labels=NNUNET, regions_class_order=[1, 2, 3])
    regions = {"whole_tumor": [1, 2, 3], "tumor_core": [3, 2], "enhancing": [3]}
    other = parsed(labels=PLAIN, regions=regions)
    assert one.regions == other.regions == BRATS
    assert one.structures == BRATS, "what is measured"
    assert one.values == other.values == (0, 1, 2, 3)
    assert one.names == ("background", "label_1", "label_2", "enhancing")
    assert other.names == ("background", "edema", "necrosis", "enhancing")
    taken = parsed(labels={"a": [1, 2], "label_1": [2]})
    assert taken.names == ("background", "label_1_", "label_1"), "of the value 1, of the value 2"
    assert other.region_classes == (((1, 2, 3), 1), ((2, 3), 2), ((3,), 3))


def test_without_regions_each_label_is_a_structure() -> None:
    labels = parsed(labels={"background": [0], "tooth": [48], "canal": 11, "ignore": 99})
    assert (labels.regions, labels.region_classes) == ((), ())
    assert [(s.name, s.label, labels.classes_of(s)) for s in labels.structures] == [
        ("canal", 11, (1,)),
        ("tooth", 48, (2,)),
    ]
    assert "regions" not in labels.as_dict()


def test_class_indices_are_not_label_values() -> None:
    labels = parsed(labels={"background": 0, "both": [20, 300], "right": 300, "ignore": 301})
    assert labels.ignore_value == 301
    assert labels.region_classes == (((1, 2), 1), ((2,), 2))
    assert [s.label for s in labels.structures] == ["20+300", 300]
    mask = labels.structures[0].mask(np.array([0, 20, 300, 301, 1], np.uint16))
    assert mask.tolist() == [False, True, True, False, False]


@pytest.mark.parametrize(
    ("labels", "order", "writes"),
    [
        ({"kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}, [1, 3, 2], [1, 3, 2]),
        ({"kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}, None, [1, 3, 2]),
        ({"core": 3, "whole": [1, 3]}, None, [1, 3]),  # larger ones first
        ({"a": [1, 2], "b": [2, 3], "both": [2]}, None, [1, 3, 2]),
        ({"whole": [1, 2], "left": 1, "right": 2}, None, [1, 1, 2]),  # its parts cover it
        ({"whole": [1, 2, 3], "core": 3}, None, [1, 3]),  # nothing tells 1 from 2
    ],
)
def test_what_regions_write(labels: dict[str, Any], order: Any, writes: list[int]) -> None:
    """A label map that is written from masks of the regions holds the same regions again."""
    info = {} if order is None else {"regions_class_order": order}
    found = parsed(labels={"background": 0, **labels}, **info)
    assert [r.writes for r in found.regions] == writes
    truth = np.arange(4)
    again = np.zeros(4, int)
    for region in found.regions:
        again[region.mask(truth)] = region.writes
    for region in found.regions:
        assert region.mask(again).tolist() == region.mask(truth).tolist()


@pytest.mark.parametrize(
    ("info", "part"),
    [
        ({"labels": PLAIN, "regions": {"all": [1, 2, 3, 7]}}, "'all' names the label 7"),
        ({"labels": PLAIN, "regions": {"all": [1, 2]}}, "label 3 'enhancing' is in no region"),
        ({"labels": PLAIN, "regions": {"all": [0, 1, 2, 3]}}, "'all' holds the background"),
        ({"labels": PLAIN, "regions": {"all": [1, 2, 3, 3]}}, "'all' names a label twice"),
        ({"labels": PLAIN, "regions": {"a": [1, 2, 3], "A ": [3]}}, "'A' has no name of its own"),
        ({"labels": PLAIN, "regions": {"a": [1, 2, 3], "a ": [3]}}, "differ in spaces"),
        ({"labels": PLAIN, "regions": {"edema": [1, 2, 3]}}, "'edema' has no name of its own"),
        ({"labels": PLAIN, "regions": {"a": [1, 2, 3], "b": [3, 2, 1]}}, "are the same labels"),
        ({"labels": PLAIN, "regions": {"a": []}}, "'a' is [], not a list"),
        ({"labels": PLAIN, "regions": ["a"]}, "'regions' is not a mapping"),
        ({"labels": NNUNET, "regions": {"a": [1, 2, 3]}}, "stated in 'labels' and in 'regions'"),
        ({"labels": NNUNET, "regions_class_order": [1, 2]}, "has 2 values for 3 regions"),
        ({"labels": NNUNET, "regions_class_order": "123"}, "not a list of label values"),
        ({"labels": NNUNET, "regions_class_order": [2, 1, 3]}, "writes 2 for 'whole_tumor'"),
        ({"labels": NNUNET, "regions_class_order": [1, 2, 9]}, "writes 9 for 'enhancing'"),
        ({"labels": {"a": [1, 2], "b": [2, 3]}}, "could not tell label 3 (in 'b') from label 2"),
        ({"labels": {"a": [1, 2], "ignore": 2}}, "'a' holds voxels that nobody annotated"),
        ({"labels": {"a": [1, 2], "ignore": [3, 4]}}, "'ignore' holds voxels that nobody"),
        ({"labels": {"a": [0, 1]}}, "'a' holds the background"),
    ],
)
def test_contradictions_are_refused_with_file_and_fix(info: dict[str, Any], part: str) -> None:
    with pytest.raises(MedSSLError) as error:
        parsed(**info)
    assert part in error.value.what
    assert any(key in error.value.what for key in info), "the key"
    assert error.value.where == str(WHERE)
    assert error.value.fix


@pytest.mark.parametrize(
    "info",
    [
        {"labels": PLAIN, "regions": {"all": [1, 2, 3, 7]}},
        {"labels": PLAIN, "regions": ["a"]},
        {"labels": PLAIN, "regions": {"a": [1, 2]}, "regions_class_order": "12"},
        {"labels": NNUNET, "regions": {"a": [1, 2, 3]}, "regions_class_order": [2, 1, 3]},
        {"labels": {"a": [1, 2], "b": [2, 3]}},
        {"labels": {**NNUNET, "nothing": [], "odd": ["x"]}},
        {"labels": {"a": [1, 2, 3, 9], "ignore": 9}},
    ],
)
def test_what_a_recipe_says_of_regions_wins(info: dict[str, Any]) -> None:
    with pytest.raises(MedSSLError):
        parsed(**info)
    labels, _ = parse_labels(info, WHERE, {"whole": [1, 2, 3], "core": [3]})
    assert labels.values == (0, 1, 2, 3)
    assert [(r.name, r.values, r.writes) for r in labels.regions] == [
        ("whole", (1, 2, 3), 1),
        ("core", (3,), 3),
    ]
    with pytest.raises(MedSSLError, match=r"data.regions: region 'whole' names the label 8"):
        parse_labels(info, WHERE, {"whole": [1, 8]})


def test_a_region_that_stands_twice_is_not_lost(tmp_path: Path) -> None:
    make_dataset(tmp_path, ["c"], labels=PLAIN, regions={"a": [1, 2, 3], "b": [3]})
    where = tmp_path / "dataset.json"
    where.write_text(where.read_text().replace('"b"', '"a"'))
    with pytest.raises(MedSSLError, match="'regions' has the entry 'a' twice"):
        read_dataset(tmp_path)


def test_records_bring_regions_back() -> None:
    labels = parsed(labels={**NNUNET, "ignore": 4})
    assert LabelMap.from_dict(json.loads(json.dumps(labels.as_dict()))) == labels
    assert parse_labels(labels.dataset_json(), WHERE) == (labels, [])
    damaged = labels.as_dict() | {"regions": [{"name": "a", "values": [9], "writes": 9}]}
    with pytest.raises(ValueError, match="a region of labels that there are not"):
        LabelMap.from_dict(damaged)


def test_a_mask_for_each_structure_is_no_label_map(tmp_path: Path) -> None:
    training = [{"image": "./imagesTr/c.nii.gz", "label": ["./a.nii.gz", "./b.nii.gz"]}]
    make_dataset(tmp_path, ["c"], training=training)
    with pytest.raises(MedSSLError, match="is 2 files") as error:
        read_dataset(tmp_path)
    assert "regions" in str(error.value.fix)
