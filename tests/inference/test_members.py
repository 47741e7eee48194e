"""Members of a model one by one: temperature, entropy, mirror image, agreement; by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import AFFINE
from torch import Tensor, nn

from medssl.data.datasets.case import LabelMap
from medssl.inference.calibration import Calibrated, Calibration
from medssl.inference.expected_dice import ExpectedDice
from medssl.inference.identity import options_of
from medssl.inference.members import mean_agreement, temper, temperatures_of
from medssl.inference.predictor import Predictor
from medssl.inference.task import Task
from medssl.networks.ensemble import Ensemble
from medssl.networks.mirror_mean import MirrorMean
from medssl.networks.tempered import Tempered
from medssl.settings.recipe import InferenceSettings
from medssl.settings.spec import DataSpec

LABELS = LabelMap((0, 7), ("background", "organ"))
OF = Calibrated("last", False, False, ())


class Says(nn.Module):
    """Reads the probability of the structure, in percent, from the image; ``bias`` logits more.

    With ``half`` it says so in the first half of its window only, elsewhere background.
    """

    def __init__(self, bias: float = 0.0, *, half: bool = False) -> None:
        super().__init__()
        self.bias, self.half = bias, half

    def forward(self, x: Tensor) -> Tensor:
        p = (x[:, :1] / 100).clamp(1e-4, 1 - 1e-4)
        if self.half:
            p = p.clone()
            p[:, :, p.shape[2] // 2 :] = 1e-4
        return torch.cat((torch.zeros_like(p), torch.log(p / (1 - p)) + self.bias), dim=1)


def predictor(model: nn.Module, *, looks: int = 2, **inference) -> Predictor:
    spec = DataSpec(orientation=None, intensity={"rule": "none"}, flip_axes=[0])
    task = Task(spec, LABELS, (8, 8, 8))
    settings = InferenceSettings(**inference)
    made = Predictor(model, task, settings, device=torch.device("cpu"))
    made.calibration = Calibration(1.0, OF, looks=looks)
    return made


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Ten voxels of 90 % in the first half, ten of 80 % in the second, the rest below 5 %."""
    image = np.ones((8, 10, 8), np.int16)
    image[1, :, 3] = 90
    image[6, :, 3] = 80
    nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz"


def entropy(p: float) -> float:
    return -(p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2)


def test_a_temperature_divides_logits_before_the_mean() -> None:
    x = torch.tensor([90.0, 20.0]).reshape(1, 1, 2, 1, 1)
    both = temper(Ensemble([Says(), Says()]), [2.0, 1.0])
    found = both(x).exp()[0, 1].flatten()
    # 9 : 1 becomes 3 : 1, and 1 : 4 becomes 1 : 2.
    torch.testing.assert_close(found, torch.tensor([(0.75 + 0.9) / 2, (1 / 3 + 0.2) / 2]))
    assert temperatures_of(both) == [2.0, 1.0]
    again = temper(both, [0.5, 4.0])
    assert temperatures_of(again) == [0.5, 4.0]
    assert not any(isinstance(m, Tempered) for m in temper(again).modules())
    assert temperatures_of(temper(again)) == []
    # Below its mirror images: their mean is not tempered, each of them is.
    mirrored = temper(MirrorMean(Says(), [0]), [2.0])
    assert isinstance(mirrored, MirrorMean)
    assert isinstance(mirrored.network, Tempered)
    assert temperatures_of(mirrored) == [2.0]


def test_temperatures_are_an_option_that_changes_voxels() -> None:
    plain, warm = Ensemble([Says(), Says(1.0)]), Ensemble([Says(), Says(1.0)])
    assert "temperatures" not in options_of(predictor(plain))
    assert options_of(predictor(temper(warm, [1.5, 1.0])))["temperatures"] == [1.5, 1.0]


@pytest.mark.parametrize("memory", [2.0, 1e-5])
def test_each_member_is_described_by_itself(scan: Path, memory: float) -> None:
    model = Ensemble([Says(), Says(half=True)])
    found = predictor(model, memory_gb=memory).predict_file(scan, assess=True).assessment
    one, other = found.members
    assert one["entropy"] == pytest.approx((entropy(0.9) + entropy(0.8)) / 2, abs=1e-3)
    assert other["entropy"] == pytest.approx(entropy(0.9), abs=1e-3)
    assert one["volume"] == pytest.approx(math.log1p(40))  # 20 voxels of 2 mm3
    assert other["volume"] == pytest.approx(math.log1p(20))
    # The second sees one half of each window, in the mirror the other half.
    assert (one["mirrored"], other["mirrored"]) == (1.0, 0.0)
    # Together 45 % and 40 % are no structure, wherever the second says background.
    assert found.structures[0].volume == 20.0
    assert one["agreement"] == pytest.approx(2 * 10 / 30)
    assert other["agreement"] == 1.0
    assert found.agreement == pytest.approx((2 / 3 + 1) / 2)
    assert type(found).from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_mirror_images_beside_change_no_voxel(scan: Path) -> None:
    model = Ensemble([Says(), Says(1.0, half=True)])
    asked = {"assess": True, "keep_probabilities": True}
    alone = predictor(model, looks=0).predict_file(scan, **asked)
    assert alone.assessment.members == ()
    beside = predictor(model).predict_file(scan, **asked)
    np.testing.assert_array_equal(alone.values, beside.values)
    torch.testing.assert_close(alone.probabilities, beside.probabilities)
    assert alone.assessment.structures == beside.assessment.structures


def test_empty_windows_are_background_of_every_member(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 24), np.int16)
    image[2:4, 2:4, 2:4] = 90
    nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "a.nii.gz")
    model = Ensemble([Says(), Says(half=True), Says()])
    for looks in (0, 2):
        made = predictor(model, looks=looks, skip_empty=True, overlap=0.0)
        found = made.predict_file(tmp_path / "a.nii.gz", assess=True, keep_probabilities=True)
        total = found.probabilities.sum(dim=0)
        torch.testing.assert_close(total, torch.ones_like(total))
        assert (found.probabilities[0, :, :, 16:] == 1).all()
    assert found.assessment.members[1]["entropy"] == pytest.approx(entropy(0.9), abs=1e-3)


def test_without_a_mirror_image_the_number_is_left_out(scan: Path, tmp_path: Path) -> None:
    for found in (predictor(Says(), tta=True), predictor(Says(), looks=1)):
        (numbers,) = found.predict_file(scan, assess=True).assessment.members
        assert set(numbers) == {"entropy", "volume", "agreement"}
        assert found.predict_file(scan, assess=True).assessment.agreement is None
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.int16), AFFINE), tmp_path / "none.nii.gz")
    nothing = predictor(Ensemble([Says(), Says()])).predict_file(
        tmp_path / "none.nii.gz", assess=True
    )
    assert nothing.assessment.members == ({"volume": 0.0}, {"volume": 0.0})
    assert nothing.assessment.agreement is None
    assert mean_agreement([]) is None


def test_a_single_network_is_described_with_its_calibration(scan: Path) -> None:
    found = predictor(Says())
    found.calibration = Calibration(2.0, OF, looks=1)
    (numbers,) = found.predict_file(scan, assess=True).assessment.members
    assert numbers["entropy"] == pytest.approx((entropy(0.75) + entropy(2 / 3)) / 2, abs=1e-3)


RULE = ExpectedDice(
    {"entropy": -0.1, "volume": 0.05}, {"entropy": 0.3, "volume": 7.0},
    {"entropy": 0.1, "volume": 0.5}, 0.8, 0.04, 8,
)  # fmt: skip


def test_expected_dice_is_the_mean_of_what_each_member_is_expected_to_reach() -> None:
    usual = {"entropy": 0.3, "volume": 7.0, "agreement": 0.1}
    unsure = {"entropy": 0.4, "volume": 6.5}
    assert RULE.of_member(usual) == pytest.approx(0.8)
    assert RULE.of_member(unsure) == pytest.approx(0.65)
    assert RULE.of([usual, unsure]) == pytest.approx(0.725)
    # Farther out than three standard deviations no rule is followed, and Dice ends at 0 and 1.
    assert RULE.of_member({"entropy": 9.0, "volume": 7.0}) == pytest.approx(0.5)
    assert RULE.of_member({"entropy": -9.0, "volume": 99.0}) == 1.0
    assert RULE.of_member({"volume": 7.0}) is None
    assert RULE.of([{"volume": 7.0}, usual]) == pytest.approx(0.8)
    assert RULE.of([{"volume": 7.0}]) is None


def test_a_rule_is_read_back_or_refused() -> None:
    content = json.loads(json.dumps(RULE.as_dict()))
    assert ExpectedDice.from_dict(content) == RULE
    for key, wrong in (("scales", {"entropy": 0.0, "volume": 1.0}), ("slopes", {"entropy": "x"})):
        with pytest.raises(ValueError, match=r"no numbers|could not convert"):
            ExpectedDice.from_dict({**content, key: wrong})


def test_a_calibration_of_each_holds_for_some_of_them() -> None:
    each = Calibrated("last", False, False, ("a", "b", "c"), each=True)
    two = Calibrated("last", False, False, ("c", "a"))
    assert each.difference(two) is None
    assert Calibrated("last", False, False, ("a", "b", "c")).difference(two) == "3 run(s), not 2"
    assert each.difference(Calibrated("last", False, False, ("a", "d"))) == "other weights"
    assert each.difference(Calibrated("last", True, False, ("a",))) == "prediction without --tta"
