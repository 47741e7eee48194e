"""The contract notices the methods that break it, and says how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medssl.errors import MedSSLError
from medssl.methods.base import Batch, Method, NetworkBuilder, Progress, StepOutput
from medssl.methods.mean_teacher import MeanTeacher
from medssl.methods.settings import MethodSettings, TeacherSettings
from medssl.methods.student_teacher import StudentTeacher
from medssl.methods.supervised import Supervised
from medssl.ops.losses import softmax_mse, supervised_loss
from medssl.ops.perturb import mixing_of
from medssl.testing import CHECKS, ContractError, NotApplicable, check_method
from medssl.testing.subject import Subject


class PlainSettings(TeacherSettings):
    """Settings of the methods here."""

    paper = "none"


class Plain(StudentTeacher):
    """A mean teacher without anything; it keeps the contract."""

    Settings = PlainSettings

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        labeled, unlabeled = batch.both()
        images = torch.cat([labeled.image, unlabeled.image])
        logits, count = self.student(images), len(labeled.image)
        truth = supervised_loss(logits[:count], labeled.label)
        target = self.target(unlabeled.image).softmax(dim=1)
        agree = (logits[count:].float().softmax(dim=1) - target).square().mean()
        terms = {"loss/labeled": truth.detach(), "loss/consistency": agree.detach()}
        return StepOutput(truth + agree, terms)

    def target(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = self.teacher(image)
        return out


class LearningTeacher(Plain):
    """Its teacher is given a gradient."""

    def make_networks(self, build: NetworkBuilder) -> None:
        super().make_networks(build)
        self.teacher.requires_grad_(True)

    def target(self, image: Tensor) -> Tensor:
        out: Tensor = self.teacher(image)
        return out


class Peeking(Plain):
    """It reads the labels of unlabeled patches, where there are any."""

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        getattr(batch.unlabeled, "label", None)
        return super().training_step(batch, progress)


class Remembering(Plain):
    """It draws from a generator that outlives the iteration."""

    def make_networks(self, build: NetworkBuilder) -> None:
        super().make_networks(build)
        self.random = np.random.RandomState(0)

    def target(self, image: Tensor) -> Tensor:
        return super().target(image + self.random.uniform(-1, 1))


class Waiting(Plain):
    """It looks at a value on the device."""

    def target(self, image: Tensor) -> Tensor:
        return super().target(image / image.abs().max().item())


class Lagging(Plain):
    """Its teacher's buffers are not what the settings say."""

    def after_step(self, progress: Progress) -> None:
        before = {key: value.clone() for key, value in self.teacher.named_buffers()}
        super().after_step(progress)
        for key, value in self.teacher.named_buffers():
            value.copy_(before[key])


class CountingIgnored(Plain):
    """It takes ignored voxels for background."""

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        labeled, _ = batch.both()
        labeled.label.masked_fill_(labeled.label == 255, 0)
        return super().training_step(batch, progress)


class Mixing(Supervised):
    """It pastes half of each patch into the next, and the labels with it."""

    labels_too = True

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        assert batch.labeled is not None
        image, label = (x.clone() for x in (batch.labeled.image, batch.labeled.label))
        half = label.shape[1] // 2
        image[:, :, :half] = batch.labeled.image.roll(1, 0)[:, :, :half]
        if self.labels_too:
            label[:, :half] = batch.labeled.label.roll(1, 0)[:, :half]
        loss = supervised_loss(self.student(image), label)
        return StepOutput(loss, {"loss/labeled": loss.detach()})


class ForgettingLabels(Mixing):
    """It leaves the labels where they were."""

    labels_too = False


class LeavingGuesses(MeanTeacher):
    """Its student sees mixed patches, but what the teacher says stays where it was."""

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        labeled, unlabeled = batch.both()
        move = mixing_of("cutmix", unlabeled.image, progress.rng("mixing"))
        truth = supervised_loss(self.student(labeled.image), labeled.label)
        with torch.no_grad():
            guess = self.teacher(unlabeled.image)
        agree = softmax_mse(self.student(move(unlabeled.image)), guess)
        terms = {"loss/labeled": truth.detach(), "loss/consistency": agree.detach()}
        return StepOutput(truth + agree, terms)


class Hiding(Plain):
    """Its student is where processes that share a batch do not find it."""

    def make_networks(self, build: NetworkBuilder) -> None:
        super().make_networks(build)
        self.box = nn.ModuleDict({"student": self._modules.pop("student")})

    def __getattr__(self, name: str) -> Any:
        hidden = name == "student" and "box" in self._modules
        return self.box["student"] if hidden else super().__getattr__(name)


class OnlyInThreeSpatialDims(Plain):
    """It does not know 2D."""

    def target(self, image: Tensor) -> Tensor:
        return super().target(image.flip(4))


@pytest.mark.parametrize(
    ("method", "check", "says"),
    [
        (LearningTeacher, "gradients", r"'teacher\..*' has no gradient.*seen: a gradient"),
        (Peeking, "hidden_labels", "asked for `label` of an unlabeled batch"),
        (Remembering, "resume", "is bit-equal .*never from a generator that outlives"),
        (Waiting, "host_waits", r"looks at a value on the device.*\.item\(\)"),
        (Lagging, "ema", r"teacher's '.*running_mean' is d teacher"),
        (CountingIgnored, "ignored_voxels", "does not change loss/labeled; seen"),
        (CountingIgnored, "blank_patches", "without any annotation loss/labeled is 0"),
        (ForgettingLabels, "labels_travel", "loss/labeled is 0 for a network that reads labels"),
        (LeavingGuesses, "labels_travel", "loss/consistency is 0 for a network that reads"),
        (Hiding, "processes", "same in two processes as in one .*in its nn.ModuleList"),
        (OnlyInThreeSpatialDims, "gradients", "2D.*the method raised IndexError"),
    ],
)
def test_the_method_fails_and_hears_why(method: type[Method], check: str, says: str) -> None:
    preset = {} if issubclass(method, Supervised) else {"preset": "corrected"}
    with pytest.raises(ContractError, match=says) as caught:
        check_method(method, settings=preset, dims=[2], only=[check])
    message = str(caught.value)
    assert message.startswith(f"{method.__name__}, ")
    assert "2D, " in message
    assert f"check {check!r}" in message


def test_a_loss_of_half_precision_is_refused() -> None:
    class Half(Plain):
        """The loss of logits that are not float32."""

        def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
            loss = self.student(batch.both()[0].image).square().mean(dim=1)[0, 0, 0]
            return StepOutput(loss, {"loss/labeled": loss.detach()})

    with pytest.raises(ContractError, match=r"float32 under autocast .*seen: torch.bfloat16"):
        check_method(Half, settings={}, dims=[2], only=["precision"])


def test_a_method_of_ones_own_passes() -> None:
    assert check_method(Plain, settings={}, dims=[2]) == [
        check for check in CHECKS if check not in ("annotated_voxels", "scales", "regions")
    ]


def test_a_method_that_says_it_takes_scales_and_does_not_is_refused() -> None:
    class ClaimingSettings(PlainSettings):
        """They say more than the method does."""

        scales = True

    class Claiming(Plain):
        """It looks at logits as if there were one scale."""

        Settings = ClaimingSettings

    with pytest.raises(ContractError, match=r"check 'scales' failed: .*'Outputs'"):
        check_method(Claiming, settings={}, only=["scales"])


def test_a_method_that_says_it_takes_regions_and_does_not_is_refused() -> None:
    class ClaimingSettings(PlainSettings):
        """They say more than the method does."""

        regions = True

    class Claiming(Plain):
        """It makes its loss of labels, whatever regions there are."""

        Settings = ClaimingSettings

    with pytest.raises(ContractError, match="whichever label of a region is where"):
        check_method(Claiming, settings={}, only=["regions"])


def test_a_method_that_mixes_labels_with_images_passes() -> None:
    assert check_method(Mixing, settings={}, only=["labels_travel"]) == ["labels_travel"]


def test_what_has_nothing_to_look_at_is_not_among_what_ran() -> None:
    only = ["ema", "hidden_labels", "description"]
    assert check_method("supervised", dims=[2], only=only) == ["description"]
    with pytest.raises(NotApplicable, match="no single EMA teacher"):
        CHECKS["ema"].run(Subject("supervised", Supervised))


def test_settings_dims_and_classes_are_those_asked_for() -> None:
    seen = []

    class Noting(Supervised):
        """Notes what it is made for."""

        def make_networks(self, build: NetworkBuilder) -> None:
            seen.append((self.spatial_dims, self.num_classes))
            super().make_networks(build)

    check_method(Noting, dims=[3], classes=[4, 6], only=["batch_sizes"])
    assert set(seen) == {(3, 4), (3, 6)}


def test_a_check_that_is_not_there_gets_the_nearest_name() -> None:
    with pytest.raises(MedSSLError, match="did you mean 'resume'"):
        check_method("supervised", only=["resumes"])


def test_a_method_without_presets_is_checked_once() -> None:
    class OwnSettings(MethodSettings):
        """Of a method without presets."""

        paper = "none"

    class Own(Supervised):
        """A method without presets."""

        Settings = OwnSettings

    assert check_method(Own, only=["description"]) == ["description"]
