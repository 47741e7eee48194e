"""Where structures are regions of several labels, labels within one region are one to the loss."""

from __future__ import annotations

import math
from copy import deepcopy

import torch

from medssl.methods.base import Batch, LabeledBatch, Method
from medssl.methods.settings import Stage
from medssl.testing.contract import NotApplicable, expect
from medssl.testing.subject import Subject, losses_of, make_batch

TERM = "loss/labeled"


def check_losses_of_labels_are_of_regions(subject: Subject) -> None:
    """With one region of classes 1 and 2 it makes no difference to the loss which of them is where.

    The same patches with the two exchanged have another loss without the region, which shows that
    the check would see it.
    """
    if not subject.resolved().takes_regions:
        raise NotApplicable("its losses are of labels alone")
    if subject.classes < 3:
        raise NotApplicable("a region is of at least two classes")
    looked = False
    for method, stage in subject.in_stages():
        if "labeled" not in stage.streams:
            continue
        batch = make_batch(method, stage)
        plain = _losses(method, stage, batch)
        if not plain:
            continue  # a stage that learns something else
        method.unions = ((1, 2), *((index,) for index in range(3, subject.classes)))
        joined = _losses(method, stage, batch)
        method.unions = ()
        expect(plain[0] != plain[1], "labels that are exchanged change the loss of labels")
        expect(
            len(joined) == 2 and all(map(math.isfinite, joined)),
            f"a finite {TERM} with regions in stage {stage.name}",
            joined,
        )
        expect(
            math.isclose(joined[0], joined[1], rel_tol=1e-4, abs_tol=1e-6),
            f"the same {TERM} whichever label of a region is where, in stage {stage.name}",
            joined,
        )
        looked = True
    if not looked:
        raise NotApplicable(f"logs no {TERM}")


def _losses(method: Method, stage: Stage, batch: Batch) -> list[float]:
    """Return the loss of labels of a batch, and with labels exchanged; nothing if there is none."""
    outputs = [losses_of(deepcopy(method), stage, 0, one)[1] for one in (batch, _exchanged(batch))]
    return [float(output.terms[TERM]) for output in outputs if TERM in output.terms]


def _exchanged(batch: Batch) -> Batch:
    """Return the batch with classes 1 and 2 exchanged in its labels."""
    labeled = batch.labeled
    assert labeled is not None
    label = labeled.label
    other = torch.where(label == 1, 2, torch.where(label == 2, 1, label))
    return Batch(LabeledBatch(labeled.image, other, labeled.case), batch.unlabeled, batch.masks)
