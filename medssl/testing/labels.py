"""Labels that are hidden, ignored or not there have no effect."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from medssl.methods.base import Batch, LabeledBatch, Method, UnlabeledBatch
from medssl.methods.settings import Stage
from medssl.testing.contract import NotApplicable, expect
from medssl.testing.subject import (
    Subject,
    losses_of,
    make_batch,
    optimizers,
    pointwise_network,
    step,
)


def check_hidden_labels_are_not_read(subject: Subject) -> None:
    """No step asks for labels of unlabeled patches; nothing but ``image``, ``views``, ``case``."""
    used = False
    for method, stage in subject.in_stages():
        batch = make_batch(method, stage)
        used = used or batch.unlabeled is not None
        # The batch raises if it is asked for more than it holds.
        step(method, stage, 1, optimizers(method, stage), batch)
    if not used:
        raise NotApplicable("draws no unlabeled patches")


def check_ignored_voxels_do_not_count(subject: Subject) -> None:
    """Neither label nor image of voxels with label 255 enters the labeled loss."""
    for method, stage in subject.in_stages(network=pointwise_network):
        if "labeled" not in stage.streams:
            continue
        batch = make_batch(method, stage)
        assert batch.labeled is not None
        label = batch.labeled.label.clone()
        label[:, : subject.shape[0] // 2] = 255
        image = batch.labeled.image.clone()
        image[(label == 255).unsqueeze(1)] += 5
        terms = [
            _labeled_loss(method, stage, LabeledBatch(each, label), batch.unlabeled)
            for each in (batch.labeled.image, image)
        ]
        expect(terms[0] > 0, "loss/labeled is above 0 where half of the voxels are labeled", terms)
        expect(
            torch.allclose(terms[0], terms[1], rtol=1.3e-6, atol=1e-5),
            f"in stage {stage.name!r} the image at ignored voxels (label 255) does not change "
            "loss/labeled",
            [t.item() for t in terms],
        )


def check_patches_without_annotation_teach_nothing(subject: Subject) -> None:
    """Where every voxel is ignored, the losses of labels are 0 and nothing becomes NaN."""
    for method, stage in subject.in_stages():
        batch = make_batch(method, stage)
        labeled, masks = batch.labeled, batch.masks
        if labeled is not None:
            labeled = LabeledBatch(labeled.image, torch.full_like(labeled.label, 255))
        if masks is not None:
            masks = torch.full_like(masks, 255)
        blank = Batch(labeled, batch.unlabeled, masks=masks)
        total, output = step(method, stage, 1, optimizers(method, stage), blank)
        expect(torch.isfinite(total), "without any annotation the loss is finite", total)
        for term in ("loss/labeled", "loss/reconstruction"):
            value = output.terms.get(term, torch.zeros(()))
            expect(value == 0, f"without any annotation {term} is 0", value)
        bad = [key for key, value in output.terms.items() if not torch.isfinite(value)]
        bad += [key for key, value in method.named_parameters() if not torch.isfinite(value).all()]
        expect(not bad, "without any annotation terms and weights stay finite", bad)


def check_which_voxels_are_annotated_decides(subject: Subject) -> None:
    """The labeled loss of a half that is annotated is that of the half alone, whatever its size."""
    half, looked = subject.shape[0] // 2, False
    for method, stage in subject.in_stages(network=pointwise_network):
        if tuple(stage.streams) != ("labeled",):
            continue
        batch = make_batch(method, stage).labeled
        assert batch is not None
        if _mixes(method, stage, batch):
            raise NotApplicable("what is mixed depends on the patch's size")
        label = batch.label.clone()
        label[:, half:] = 255
        alone = LabeledBatch(batch.image[:, :, :half], batch.label[:, :half])
        terms = [
            _labeled_loss(method, stage, each, None)
            for each in (LabeledBatch(batch.image, label), alone)
        ]
        expect(
            torch.allclose(terms[0], terms[1], rtol=1.3e-6, atol=1e-5),
            f"in stage {stage.name!r} loss/labeled of patches with one annotated half is that of "
            "the half alone",
            [t.item() for t in terms],
        )
        looked = True
    if not looked:
        raise NotApplicable("has no stage of labeled patches alone")


def _labeled_loss(
    method: Method, stage: Stage, labeled: LabeledBatch, unlabeled: UnlabeledBatch | None
) -> Tensor:
    """Return ``loss/labeled`` of a copy's step, so that the next starts from the same."""
    twin = copy.deepcopy(method)
    _, output = losses_of(twin, stage, 1, Batch(labeled, unlabeled), seed=0)
    expect("loss/labeled" in output.terms, "a stage with labels logs loss/labeled", output.terms)
    return output.terms["loss/labeled"]


def _mixes(method: Method, stage: Stage, labeled: LabeledBatch) -> bool:
    """Say whether a network sees a patch whose voxels are not those of one patch (turned or not).

    ``labeled.image`` is ``(B, C, *spatial)``.
    """
    known = labeled.image.flatten(1).sort().values
    seen: list[Tensor] = []
    twin = copy.deepcopy(method)
    for network in twin.modules():
        if isinstance(network, (torch.nn.Conv2d, torch.nn.Conv3d)):
            network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    losses_of(twin, stage, 1, Batch(labeled, None), seed=0)
    rows = torch.cat([x.flatten(1).sort().values for x in seen if x[0].numel() == known.shape[1]])
    return any(not (row == known).all(dim=1).any() for row in rows)
