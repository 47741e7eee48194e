"""The toy task: 2-D images on which labels alone do not suffice, and a training loop for them.

Two ellipses, one brighter and one darker than a textured, slowly drifting background. Images differ
in noise and drift. The 4 labeled ones are all of the clean kind; the unlabeled and the held-out
ones are of all kinds. All methods see the same labeled batches, network, iterations and learning
rates, and no augmentation beyond the strong view that some ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.registry import get_method
from medssl.networks.build import build_network
from medssl.settings.training import ScheduleSettings
from medssl.training.batches import torch_seed
from medssl.training.optimization import learning_rate

SIDE, CLASSES = 32, 3
LABELED, UNLABELED, HELD_OUT = 4, 60, 60
BATCH, ITERATIONS, RATE = 4, 300, 0.003
NOISE, DRIFT, HALF_AXES, CONTRAST = (0.1, 2.0), 0.5, (4, 8), 2.0
LABELED_HARDNESS = 0.05
"""The labeled images are the cleanest; hardness goes from 0 to 1."""


# ------------------------------------------------------------------------------------ images


def ellipse(rng: np.random.RandomState) -> np.ndarray:
    """Return a boolean image of a random ellipse, half-axes 4 to 8 pixels."""
    cy, cx = rng.uniform(6, SIDE - 6, 2)
    half, turn = rng.uniform(*HALF_AXES, 2), rng.uniform(0, np.pi)
    y, x = np.mgrid[:SIDE, :SIDE] - np.array([cy, cx])[:, None, None]
    u = y * np.cos(turn) + x * np.sin(turn)
    v = x * np.cos(turn) - y * np.sin(turn)
    return (u / half[0]) ** 2 + (v / half[1]) ** 2 < 1


def draw_image(rng: np.random.RandomState, hardness: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a standardized image and its label; ``hardness`` in [0, 1] is noise and drift."""
    label = np.zeros((SIDE, SIDE), dtype=np.int64)
    for value in (1, 2):
        shape = ellipse(rng)
        while label[shape].any():
            shape = ellipse(rng)
        label[shape] = value
    texture = gaussian_filter(rng.normal(size=label.shape), 2)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    image = gaussian_filter(CONTRAST * (label == 1) - CONTRAST * (label == 2), 0.7)
    image += 0.2 * texture / texture.std()
    image += DRIFT * hardness * (y * np.cos(angle) + x * np.sin(angle))
    image += (NOISE[0] + (NOISE[1] - NOISE[0]) * hardness) * rng.normal(size=label.shape)
    return (image - image.mean()) / image.std(), label


def draw_images(seed: int, number: int, hardest: float) -> tuple[Tensor, Tensor]:
    """Return images ``(N, 1, 32, 32)`` and labels ``(N, 32, 32)``, evenly from 0 to hardest."""
    rng = np.random.RandomState(seed)
    pairs = [draw_image(rng, hardest * (k + 0.5) / number) for k in range(number)]
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).float()
    return images.unsqueeze(1), torch.from_numpy(np.stack([label for _, label in pairs]))


def strong_view(image: Tensor, rng: np.random.RandomState) -> Tensor:
    """Change gamma, contrast, brightness and sharpness, and add noise."""
    out = []
    for each in image.numpy():
        low, high = each.min(), each.max()
        each = ((each - low) / (high - low)) ** rng.uniform(0.7, 1.4) * (high - low) + low
        each = gaussian_filter(each, (0, *[rng.uniform(0, 1)] * 2))
        each = rng.uniform(0.7, 1.3) * each + rng.uniform(-0.3, 0.3)
        out.append(each + rng.uniform(0, 0.3) * rng.normal(size=each.shape))
    return torch.from_numpy(np.stack(out)).float()


# ------------------------------------------------------------------------------------ training


def network(name=None, *, in_channels=None, num_classes=None, **overrides: Any) -> nn.Module:
    settings = {"channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 0, "dropout": 0.1}
    assert name is None
    return build_network(
        "unet",
        spatial_dims=2,
        in_channels=in_channels or 1,
        num_classes=num_classes or CLASSES,
        settings={**settings, **overrides},
    )


def make_batch(
    settings, streams, labeled: tuple[Tensor, Tensor], unlabeled: Tensor, seed: int, number: int
) -> Batch:
    """Return batch ``number`` of a run; the labeled part is the same for all methods."""
    order = np.random.RandomState([seed, number, 0]).permutation(LABELED)[:BATCH]
    rng = np.random.RandomState([seed, number, 1])
    case = rng.choice(len(unlabeled), BATCH, replace=False)
    image = unlabeled[case]
    views = tuple(strong_view(image, rng) for _ in settings.unlabeled_views)
    images, labels = labeled[0][order], labeled[1][order]
    return Batch(
        LabeledBatch(images, labels) if "labeled" in streams else None,
        UnlabeledBatch(image, views, torch.from_numpy(case)) if "unlabeled" in streams else None,
        masks=labels if "masks" in streams else None,
    )


def train(
    name: str,
    seed: int,
    labeled: tuple[Tensor, Tensor],
    unlabeled: Tensor,
    iterations: int = ITERATIONS,
    given: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Train as the engine does; return what predicts.

    Args:
        name: of the method.
        seed: of weights, batches and draws.
        labeled: images and labels.
        unlabeled: images.
        iterations: of all stages together.
        given: settings of the method.
    """
    cls = get_method(name)
    torch.manual_seed(seed)
    settings = cls.Settings(**(given or {}))
    method = cls(settings, network, num_classes=CLASSES, spatial_dims=2)
    method.know_cases({"labeled": len(labeled[0]), "unlabeled": len(unlabeled)})
    done = 0
    for stage in method.stages(iterations):
        torch.manual_seed(torch_seed(Progress(stage.name, -1, stage.iterations, seed)))
        method.start_stage(stage.name)
        groups = method.trainable(stage.name).values()
        optimizers = [torch.optim.Adam(group, lr=RATE) for group in groups]
        method.train()
        for iteration in range(stage.iterations):
            number = done + method.batch_address(stage.name, iteration)
            batch = make_batch(settings, stage.streams, labeled, unlabeled, seed, number)
            position = method.learning_rate_position(stage, iteration)
            rate = learning_rate(*position, RATE, ScheduleSettings(name="poly"))
            progress = Progress(stage.name, iteration, stage.iterations, seed, lr=rate)
            torch.manual_seed(torch_seed(progress))
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
                optimizer.param_groups[0]["lr"] = rate
            for loss in method.training_step(batch, progress).losses():
                loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            method.after_step(progress)
        done += stage.iterations
    return method.predictor().eval()


@torch.no_grad()
def foreground_dice(predictor: nn.Module, images: Tensor, labels: Tensor) -> np.ndarray:
    """Return the mean Dice of the two structures, which every image has, per image."""
    predicted = predictor(images).max(1).indices
    scores = []
    for value in range(1, CLASSES):
        a, b = (predicted == value).flatten(1), (labels == value).flatten(1)
        scores.append(2 * (a & b).sum(1) / (a.sum(1) + b.sum(1)))
    return torch.stack(scores).mean(0).numpy()
