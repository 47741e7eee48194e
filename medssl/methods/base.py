"""What a method is: networks and one training step. The engine owns everything else.

What is said about it without computing (settings, presets, stages) is in
:mod:`medssl.methods.settings`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from medssl.methods.settings import MethodSettings, Stage
from medssl.methods.starting import Loader
from medssl.networks.build import blueprint_of
from medssl.ops.label_unions import Unions
from medssl.ops.ramps import share_ramp

NetworkBuilder = Callable[..., nn.Module]
"""Build a fresh network: ``build(network=None, in_channels=None, num_classes=None, **settings)``.

Without arguments, the network of the recipe. ``settings`` override the recipe's network settings;
with another ``network`` (a registered name) they are all the settings it gets.
"""


def _cases_of_their_own(image: Tensor) -> Tensor:
    return torch.arange(len(image), device=image.device)


@dataclass(frozen=True)
class LabeledBatch:
    """Labeled patches.

    Attributes:
        image: ``(B, C, *spatial)`` float32.
        label: ``(B, *spatial)`` int64 (255 = not annotated).
        case: ``(B,)`` int64, the index of each patch's case among those of the stream; if it is
            left out, no two patches are of one case.
    """

    image: Tensor
    label: Tensor
    case: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Number the patches where nobody says which cases they are of."""
        if self.case is None:
            object.__setattr__(self, "case", _cases_of_their_own(self.image))


@dataclass(frozen=True)
class UnlabeledBatch:
    """Unlabeled patches.

    Attributes:
        image: ``(B, C, *spatial)`` float32, weakly augmented.
        views: the same patches as often as the settings' ``unlabeled_views`` asks, in that order.
        case: as in :class:`LabeledBatch`.
    """

    image: Tensor
    views: tuple[Tensor, ...] = ()
    case: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Number the patches where nobody says which cases they are of."""
        if self.case is None:
            object.__setattr__(self, "case", _cases_of_their_own(self.image))


@dataclass(frozen=True)
class Batch:
    """The streams of one iteration. A stream that the stage does not ask for is None.

    ``masks (B, *spatial)`` int64 are labels of labeled cases alone: no image is read for them.
    """

    labeled: LabeledBatch | None
    unlabeled: UnlabeledBatch | None
    masks: Tensor | None = None

    def both(self) -> tuple[LabeledBatch, UnlabeledBatch]:
        """Return labeled and unlabeled patches, for a stage that asks for both."""
        assert self.labeled is not None
        assert self.unlabeled is not None
        return self.labeled, self.unlabeled


@dataclass(frozen=True)
class Progress:
    """Where training stands: 0-based ``iteration`` of ``total`` in the stage called ``stage``."""

    stage: str
    iteration: int
    total: int
    seed: int = 0
    micro: int = 0
    """Which batch of the iteration, where several are accumulated into one optimizer step."""
    lr: float = 0.0
    """Learning rate of the iteration's optimizer step."""

    def rng(self, name: str = "") -> np.random.RandomState:
        """Return a generator that depends only on seed, stage, iteration and ``name``.

        A method that draws its randomness from here resumes exactly with no state to save.
        """
        key = f"{self.seed}/{self.stage}/{self.iteration}/{self.micro}/{name}".encode()
        return np.random.RandomState(int.from_bytes(hashlib.sha256(key).digest()[:4], "little"))

    def ramp(self, share: float, steps: int = 0) -> float:
        """Return how much of a weight counts yet; see :func:`medssl.ops.ramps.share_ramp`."""
        return share_ramp(self.iteration, self.total, share, steps=steps)


@dataclass(frozen=True)
class StepOutput:
    """Result of a training step.

    Attributes:
        loss: the loss, or an iterable of losses that the engine back-propagates one after another
            (a generator may build each graph only when asked, to hold one network's activations
            at a time). Their gradients add up before the optimizers step.
        terms: what to log: detached scalar tensors, never ``.item()``.
    """

    loss: Tensor | Iterable[Tensor]
    terms: dict[str, Tensor] = field(default_factory=dict)

    def losses(self) -> Iterable[Tensor]:
        """Iterate over the losses."""
        return (self.loss,) if isinstance(self.loss, Tensor) else self.loss


class Method(nn.Module):
    """Base of all methods.

    Args:
        settings: an instance of the class's ``Settings``.
        build_network: makes a freshly initialized network as the recipe describes it.
        num_classes: classes including background.
        spatial_dims: 2 or 3.

    Attributes:
        pieces: how many connected pieces a class has, by class index; one if it is not there. Of
            the data, not of the method: whoever trains sets it.
        unions: class indices of the structures that losses of labels are made from, where these are
            regions of several classes; set like ``pieces``. Empty: every class is a structure.
        stay: names of modules that never leave a site of a federation.

    Class attributes:
        Settings: class of the method's settings, which say its presets, stages and checks too.
        undivided: modules that never see image patches one by one (a policy): where processes
            share a batch, each runs them on all of it.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    undivided: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        settings: Any,
        build_network: NetworkBuilder,
        *,
        num_classes: int,
        spatial_dims: int,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.num_classes = num_classes
        self.spatial_dims = spatial_dims
        self.pieces: dict[int, int] = {}
        self.unions: Unions = ()
        self.stay: tuple[str, ...] = ()
        self.make_networks(build_network)

    def make_networks(self, build: NetworkBuilder) -> None:
        """Make the networks and buffers; all that training changes is in them."""
        raise NotImplementedError

    def start_from(self, load: Loader) -> None:
        """Give the networks the weights that training is to start from, in place of random ones.

        A method with a teacher makes it a copy of its student; one whose networks teach each other
        leaves all but one a head of their own, since twins would learn nothing from each other.
        The default loads every network that was built as the first one was.

        Args:
            load: ``load(network, keep_head=False)`` fills a network; with ``keep_head`` its last
                layer stays as it is.
        """
        built = [m for m in self.modules() if blueprint_of(m) is not None]
        for network in built:
            if blueprint_of(network) == blueprint_of(built[0]):
                load(network)

    def learn_from(self, teacher: nn.Module) -> None:
        """Take the trained model that the setting ``teacher`` names, where settings are ``taught``.

        It is no part of the method's state: whoever trains gives the same one again.

        Args:
            teacher: ``(B, C, *spatial)`` in, logits or logarithms of probabilities out.
        """
        raise NotImplementedError

    def know_cases(self, counts: Mapping[str, int]) -> None:
        """Learn how many cases each stream has, before training; ``case`` of a batch counts them.

        Whoever trains says so. What is remembered of each is a buffer of that length.
        """

    def unlabeled_table(self) -> dict[str, Tensor]:
        """Return what training made of each unlabeled case, figures ``(U,)`` by name, or nothing.

        ``trust`` in [0, 1] is how much it counts; the lowest ``score`` is the worst.
        """
        return {}

    def check_networks(self) -> list[str]:
        """Return why the method cannot work with the networks it made, in plain words.

        Each is raised as an error when the networks are made, before any image is read.
        """
        return []

    def warn_networks(self) -> list[str]:
        """Return warnings about the networks it made."""
        return []

    def stages(self, iterations: int) -> list[Stage]:
        """Divide a budget of ``iterations`` into stages, as the settings say."""
        stages: list[Stage] = self.settings.stages(iterations)
        return stages

    def start_stage(self, stage: str) -> None:
        """Prepare the networks for a stage (copy a student into its teacher, freeze, ...)."""

    def trainable(self, stage: str) -> dict[str, list[nn.Parameter]]:
        """Parameters to optimize in a stage, one optimizer per entry."""
        raise NotImplementedError

    def batch_address(self, stage: str, number: int) -> int:
        """Return which batch of the streams to use as the ``number``-th batch of a stage.

        Streams are addressed, so a method may come back to a batch, for instance to show the same
        patches to two networks in turn. The default is one new batch each time.
        """
        return number

    def learning_rate_position(self, stage: Stage, iteration: int) -> tuple[int, int]:
        """Return ``(iteration, total)`` at which the learning-rate schedule is read.

        A method whose paper counts something else than optimizer steps (batches loaded, turns)
        says here where the schedule stands. The default counts the stage's iterations.
        """
        return iteration, stage.iterations

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Compute the losses of one iteration."""
        raise NotImplementedError

    def unlabeled_ramp(self, progress: Progress) -> float:
        """Return how much of its full weight the loss of unlabeled patches has yet, in [0, 1].

        Asked where a site of a federation has no labels; ``progress`` is of the whole training.
        """
        return 1.0

    def after_step(self, progress: Progress) -> None:
        """Act after the optimizer step, for instance update a teacher."""

    def received(self, shared: Collection[str]) -> None:
        """Act after tensors have come from the other sites of a federation, and at its start.

        Args:
            shared: names of the tensors that did, in the method's state.
        """

    def sum_tensors(self, tensors: list[Tensor]) -> list[Tensor]:
        """Complete gradients that a step needs itself, before the engine adds them up.

        Where processes share a batch, ``torch.autograd.grad`` gives the gradient of this process's
        rows; this returns the sum over the processes. The engine replaces it.
        """
        return tensors

    def diagnose(self, image: Tensor, label: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Measure, where the truth is known, what the method's claim rests on; log terms by name.

        The engine calls it at every validation with the same patches of validation cases, without
        gradients, every module in eval mode, and torch's generator seeded and put back afterwards:
        nothing here can change training. NaN stands for what the patches cannot tell.

        Args:
            image: ``(B, C, *spatial)``.
            label: ``(B, *spatial)``; 255 is not annotated.
            progress: where training stands.
        """
        return {}

    def predictor(self) -> nn.Module:
        """Return the module that validates, predicts and is exported: image in, logits out."""
        raise NotImplementedError
