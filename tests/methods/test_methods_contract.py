"""What every registered method must do, in every preset; a new method needs no new test here."""

from __future__ import annotations

import copy
import io
from dataclasses import fields

import pytest
import torch
from method_steps import (
    ALL,
    BUDGET,
    DIMS,
    SHAPES,
    STREAMS,
    make,
    make_batch,
    optimizers,
    pointwise_network,
    recipe_of,
    step,
    sure_network,
)
from torch import Tensor

from medssl.errors import MedSSLError
from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.registry import get_method, get_settings, list_methods

# ------------------------------------------------------------------------------------ identity


def test_unknown_methods_get_the_nearest_name():
    with pytest.raises(MedSSLError, match="did you mean 'mean_teacher'"):
        get_method("mean-teacher")


@pytest.mark.parametrize("name", list_methods())
def test_methods_describe_themselves(name):
    cls = get_method(name)
    assert cls.Settings.paper
    assert cls.__doc__
    assert cls.Settings is get_settings(name)


def test_an_unlabeled_batch_has_no_place_for_a_label():
    assert {f.name for f in fields(UnlabeledBatch)} == {"image", "views", "case"}


# ------------------------------------------------------------------------------------ stages


@ALL
def test_stages_spend_the_budget_exactly(name, settings):
    method = make(name, settings)
    for budget in (2, 3, 7, 100, 6001):
        stages = method.stages(budget)
        assert sum(s.iterations for s in stages) == budget
        assert all(s.iterations >= 1 for s in stages)
        assert len({s.name for s in stages}) == len(stages)
        assert all(set(s.streams) <= STREAMS and s.streams for s in stages)
        assert stages == method.settings.stages(budget)
    used = any("unlabeled" in s.streams for s in method.stages(BUDGET))
    assert used == get_settings(name).uses_unlabeled


# ------------------------------------------------------------------------------------ gradients


@ALL
@DIMS
@pytest.mark.parametrize("classes", [2, 5])
def test_training_moves_what_is_trainable_and_nothing_else(name, settings, dims, classes):
    method = make(name, settings, dims=dims, classes=classes)
    for stage in method.stages(BUDGET):
        method.start_stage(stage.name)
        trained = {id(p) for group in method.trainable(stage.name).values() for p in group}
        assert trained
        for iteration in range(2):
            optims = optimizers(method, stage)
            batch = make_batch(method, stage, seed=iteration)
            before = {id(p): p.detach().clone() for p in method.parameters() if id(p) in trained}
            total, output = step(method, stage, iteration, optims, batch)
            assert torch.isfinite(total)
            for parameter in method.parameters():
                if id(parameter) not in trained:
                    assert parameter.grad is None
            # A method may train its parts in turn: what has no gradient is not its turn.
            moved = [
                not torch.equal(before[id(p)], p)
                for p in method.parameters()
                if id(p) in before and p.grad is not None
            ]
            assert sum(moved) > len(moved) / 2 > 0
            assert any(k.startswith("loss/") for k in output.terms)
            for key, value in output.terms.items():
                assert isinstance(value, Tensor), key
                assert value.ndim == 0, key
                assert not value.requires_grad, key
                assert torch.isfinite(value), key
    image = torch.randn(1, 1, *SHAPES[dims])
    logits = method.predictor().eval()(image)
    assert logits.shape == (1, classes, *SHAPES[dims])


@ALL
@DIMS
def test_unlabeled_images_alone_move_the_student(name, settings, dims):
    method = make(name, settings, dims=dims, network=sure_network)
    for stage in method.stages(BUDGET):
        method.start_stage(stage.name)
        if "unlabeled" not in stage.streams:
            continue
        optims = optimizers(method, stage)
        step(method, stage, 0, optims, make_batch(method, stage))
        batch = make_batch(method, stage, seed=1)
        if batch.labeled is not None:
            blank = torch.full_like(batch.labeled.label, 255)
            batch = Batch(LabeledBatch(batch.labeled.image, blank), batch.unlabeled)
        for optimizer in optims.values():
            optimizer.zero_grad(set_to_none=True)
        progress = Progress(stage.name, stage.iterations - 1, stage.iterations, seed=7)
        for loss in method.training_step(batch, progress).losses():
            loss.backward()
        trained = [p for group in method.trainable(stage.name).values() for p in group]
        norm = sum(p.grad.abs().sum().item() for p in trained if p.grad is not None)
        assert norm > 0
        assert norm < float("inf")


@ALL
@DIMS
def test_ignored_voxels_do_not_enter_the_labeled_loss(name, settings, dims):
    method = make(name, settings, dims=dims, network=pointwise_network)
    for stage in method.stages(BUDGET):
        method.start_stage(stage.name)
        if "labeled" not in stage.streams:
            continue
        batch = make_batch(method, stage)
        label = batch.labeled.label.clone()
        label[:, : SHAPES[dims][0] // 2] = 255
        image = batch.labeled.image.clone()
        image[(label == 255).unsqueeze(1)] += 5
        terms = []
        for each in (batch.labeled.image, image):
            twin = copy.deepcopy(method)
            torch.manual_seed(0)
            progress = Progress(stage.name, 1, stage.iterations, seed=7)
            output = twin.training_step(Batch(LabeledBatch(each, label), batch.unlabeled), progress)
            for _ in output.losses():
                pass
            terms.append(output.terms["loss/labeled"])
        assert terms[0] > 0
        torch.testing.assert_close(terms[0], terms[1])


@ALL
@DIMS
def test_patches_without_any_annotation_teach_nothing_by_their_labels(name, settings, dims):
    method = make(name, settings, dims=dims)
    for stage in method.stages(BUDGET):
        method.start_stage(stage.name)
        batch = make_batch(method, stage)
        labeled, masks = batch.labeled, batch.masks
        if labeled is not None:
            labeled = LabeledBatch(labeled.image, torch.full_like(labeled.label, 255))
        if masks is not None:
            masks = torch.full_like(masks, 255)
        blank = Batch(labeled, batch.unlabeled, masks=masks)
        total, output = step(method, stage, 1, optimizers(method, stage), blank)
        assert torch.isfinite(total)
        for term in ("loss/labeled", "loss/reconstruction"):
            assert output.terms.get(term, torch.zeros(())) == 0, term
        assert all(torch.isfinite(value) for value in output.terms.values())
        assert all(torch.isfinite(p).all() for p in method.parameters())


@ALL
@DIMS
def test_which_voxels_are_annotated_decides_and_not_how_many(name, settings, dims):
    """The labeled loss of a half that is annotated is that of the half alone."""
    method = make(name, settings, dims=dims, network=pointwise_network)
    half = SHAPES[dims][0] // 2
    for stage in method.stages(BUDGET):
        method.start_stage(stage.name)
        if tuple(stage.streams) != ("labeled",):
            continue
        if get_method(name) is get_method("bcp"):
            continue  # what is mixed depends on the patch's size
        batch = make_batch(method, stage)
        label = batch.labeled.label.clone()
        label[:, half:] = 255
        alone = LabeledBatch(batch.labeled.image[:, :, :half], batch.labeled.label[:, :half])
        terms = []
        for each in (LabeledBatch(batch.labeled.image, label), alone):
            twin = copy.deepcopy(method)
            torch.manual_seed(0)
            progress = Progress(stage.name, 1, stage.iterations, seed=7)
            output = twin.training_step(Batch(each, None), progress)
            for _ in output.losses():
                pass
            terms.append(output.terms["loss/labeled"])
        torch.testing.assert_close(terms[0], terms[1])


# ------------------------------------------------------------------------------------ precision


@ALL
@DIMS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_finite_float32_under_autocast(name, settings, dims, dtype):
    if name == "anatomical" and dims == 3:
        # On a CPU, PyTorch 2.13 computes the bfloat16 weight gradient of a 3D convolution from
        # memory it never wrote, where features have sides of two voxels. Two levels end at four.
        settings = {**settings, "levels": 2}
    method = make(name, settings, dims=dims)
    for stage in method.stages(BUDGET):
        method.start_stage(stage.name)
        progress = Progress(stage.name, 1, stage.iterations)
        with torch.autocast("cpu", dtype=dtype):
            losses = list(method.training_step(make_batch(method, stage), progress).losses())
        for loss in losses:
            assert loss.dtype == torch.float32
            assert torch.isfinite(loss)
            loss.backward()
        grads = [p.grad for p in method.parameters() if p.grad is not None]
        assert grads
        assert all(torch.isfinite(g).all() for g in grads)


# ------------------------------------------------------------------------------------ batches


@ALL
@DIMS
@pytest.mark.parametrize(("labeled", "unlabeled"), [(3, 5), (5, 2), (2, 1)])
def test_batches_of_different_size(name, settings, dims, labeled, unlabeled):
    given = get_settings(name)(**settings)
    refused = list(given.check_recipe(recipe_of(dims, labeled, unlabeled)))
    if settings.get("preset") == "official" and refused:
        pytest.skip(f"refused with a reason: {refused[0]}")
    assert refused == []
    method = make(name, settings, dims=dims)
    for stage in method.stages(BUDGET):
        method.start_stage(stage.name)
        batch = make_batch(method, stage, labeled=labeled, unlabeled=unlabeled)
        total, _ = step(method, stage, 0, optimizers(method, stage), batch)
        assert torch.isfinite(total)


@ALL
def test_equal_even_batches_are_never_refused(name, settings):
    given = get_settings(name)(**settings)
    # A published code may know one labeled patch only.
    sizes = (4, 1) if settings.get("preset") == "official" else (4,)
    for dims in (2, 3):
        recipes = [recipe_of(dims, n, n) for n in sizes]
        assert [] in [list(given.check_recipe(recipe)) for recipe in recipes]


@ALL
@pytest.mark.parametrize("foreground", [1, 2, 7, 14])
def test_any_number_of_structures(name, settings, foreground):
    method = make(name, settings, classes=foreground + 1)
    for stage in method.stages(BUDGET):
        method.start_stage(stage.name)
        total, _ = step(method, stage, 0, optimizers(method, stage), make_batch(method, stage))
        assert torch.isfinite(total)


# ------------------------------------------------------------------------------------ resume


def train(method, stage, optims, start, stop):
    for iteration in range(start, stop):
        step(method, stage, iteration, optims, make_batch(method, stage, seed=iteration))


@ALL
@DIMS
def test_a_resumed_stage_is_bit_equal(name, settings, dims):
    method = make(name, settings, dims=dims)
    for stage in method.stages(BUDGET):
        method.start_stage(stage.name)
        optims = optimizers(method, stage)
        train(method, stage, optims, 0, 2)
        file = io.BytesIO()
        torch.save([method.state_dict(), {k: o.state_dict() for k, o in optims.items()}], file)
        train(method, stage, optims, 2, 4)

        file.seek(0)
        weights, states = torch.load(file, weights_only=True)
        resumed = make(name, settings, dims=dims, seed=99)
        resumed.start_stage(stage.name)
        resumed.load_state_dict(weights)
        again = optimizers(resumed, stage)
        for key, optimizer in again.items():
            optimizer.load_state_dict(states[key])
        train(resumed, stage, again, 2, 4)
        for key, value in method.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key]), f"{stage.name}: {key}"


@ALL
def test_a_step_is_determined_by_seed_and_iteration(name, settings):
    """The same address gives the same loss; another iteration draws other randomness."""
    losses = []
    for iteration in (3, 3, 4):
        method = make(name, settings)
        stage = method.stages(BUDGET)[-1]
        method.start_stage(stage.name)
        total, _ = step(
            method, stage, iteration, optimizers(method, stage), make_batch(method, stage)
        )
        losses.append(total.item())
    assert losses[0] == losses[1] != losses[2]


# ------------------------------------------------------------------------------------ EMA


@ALL
@DIMS
def test_the_teacher_is_the_closed_form_average(name, settings, dims):
    method = make(name, settings, dims=dims)
    if not (hasattr(method, "teacher") and hasattr(method, "decay")):
        pytest.skip("no single EMA teacher")
    stage = method.stages(BUDGET)[-1]
    method.start_stage(stage.name)
    optims = optimizers(method, stage)
    parameters = {key for key, _ in method.teacher.named_parameters()}
    for iteration in range(3):
        progress = Progress(stage.name, iteration, stage.iterations, seed=7)
        torch.manual_seed(iteration)
        for optimizer in optims.values():
            optimizer.zero_grad()
        for loss in method.training_step(make_batch(method, stage), progress).losses():
            loss.backward()
        for optimizer in optims.values():
            optimizer.step()
        before = copy.deepcopy(method.teacher.state_dict())
        student = copy.deepcopy(method.student.state_dict())
        method.after_step(progress)
        d = method.decay(iteration)
        assert 0 <= d < 1
        for key, value in method.teacher.state_dict().items():
            expected = before[key]
            if key in parameters or method.settings.ema_buffers == "average":
                mean = d * before[key].float() + (1 - d) * student[key].float()
                expected = mean.to(value.dtype)
            elif method.settings.ema_buffers == "copy":
                expected = student[key]
            torch.testing.assert_close(value, expected, msg=key)
        for key, value in method.student.state_dict().items():
            assert torch.equal(value, student[key])
