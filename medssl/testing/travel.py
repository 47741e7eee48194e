"""Where images are mixed, cut or turned, labels go where their voxels go."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, LabeledBatch, Method
from medssl.methods.settings import Stage
from medssl.testing.contract import NotApplicable, expect
from medssl.testing.subject import NetworkMaker, Subject, UnlabeledOnly, losses_of

SURE = 60.0
"""Scale of the reader's logits: certain, yet finite in float32."""

_BOUNDS = {
    "loss/labeled": 0.02,
    "loss/unlabeled": 0.02,
    "loss/cross": 0.02,
    "loss/consistency": 0.001,
}
"""Terms that are 0 for a reader of labels, and what they must be below: a mean square over voxels
and classes is small where few voxels are wrong."""


class LabelReader(nn.Module):
    """A network that reads the label of a voxel off its intensity: class k has intensity k.

    Its weight is the scale of its logits ``-w (x - k)^2``, so that it can be trained.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(SURE))
        self.register_buffer("intensities", torch.arange(classes).float())
        self.dropout = nn.Dropout(1e-9)  # for methods that ask for a network with dropout

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, classes, *spatial)`` of ``(B, 1, *spatial)``."""
        assert isinstance(self.intensities, Tensor)
        k = self.intensities.view(1, -1, *[1] * (image.ndim - 2))
        out: Tensor = self.dropout(-self.weight * (image - k).square())
        return out


def check_labels_travel_with_voxels(subject: Subject) -> None:
    """A network that reads labels off intensities has no loss, however images are mixed.

    Each structure is a band of its own height in each patch; the same patches with the labels of
    others have a loss, which shows that the check would see it.
    """
    expect_labels_travel(subject, lambda _, classes, **__: LabelReader(classes))


def expect_labels_travel(subject: Subject, reader: NetworkMaker) -> None:
    """Look at the losses of networks that read labels off intensities."""
    looked = False
    for method, stage in subject.in_stages(network=reader):
        if "labeled" not in stage.streams:
            continue
        right = _label_losses(method, stage, _bands(subject, method, stage, shift=0))
        wrong = _label_losses(method, stage, _bands(subject, method, stage, shift=1))
        expect(
            max(wrong.values()) > 0.1,
            "labels of other patches give a loss to a network that reads labels off intensities",
            wrong,
        )
        for key, value in right.items():
            expect(
                value < _BOUNDS[key],
                f"in stage {stage.name!r} {key} is 0 for a network that reads labels off "
                "intensities: where images are mixed, cut or turned, their labels (and "
                "pseudo-labels) go the same way",
                f"{value:.3f}",
            )
        looked = True
    if not looked:
        raise NotApplicable("has no stage with labeled patches")


def _label_losses(method: Method, stage: Stage, batch: Batch) -> dict[str, float]:
    _, output = losses_of(method, stage, stage.iterations - 1, batch)
    return {key: float(output.terms[key]) for key in _BOUNDS if key in output.terms}


def _bands(subject: Subject, method: Method, stage: Stage, *, shift: int) -> Batch:
    """Make patches whose intensities are their labels, and give them those ``shift`` further on."""
    label = torch.stack([_band(subject, i) for i in range(4)])
    other = torch.stack([_band(subject, i) for i in range(4, 8)]).unsqueeze(1).float()
    unlabeled = UnlabeledOnly(other, tuple(other for _ in method.settings.unlabeled_views))
    return Batch(
        LabeledBatch(label.unsqueeze(1).float(), label.roll(shift, 0)),
        unlabeled if "unlabeled" in stage.streams else None,
    )


def _band(subject: Subject, number: int) -> Tensor:
    """Return class indices ``spatial``: all classes one upon the other, with borders that vary."""
    height, classes = subject.shape[0], subject.classes
    borders = [(k + 1) * height // classes + (number * 5 + k) % 3 - 1 for k in range(classes - 1)]
    rows = torch.zeros(height, dtype=torch.long)
    for border in borders:
        rows[border:] += 1
    return rows.view(-1, *[1] * (subject.dims - 1)).expand(subject.shape).clone()
