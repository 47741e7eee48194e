"""Self-training from parts: what each part does, and which presets are which published method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl.methods.base import Batch, Progress
from medssl.methods.registry import get_method
from medssl.methods.self_training import SelfTraining
from medssl.methods.self_training_losses import guess_loss, truth_loss
from medssl.methods.self_training_memory import Memory
from medssl.methods.self_training_settings import SelfTrainingSettings
from medssl.methods.self_training_teachers import Guess, guess_of, turn_of
from medssl.methods.self_training_views import Shown
from medssl.ops.losses import region_terms, supervised_loss
from medssl.ops.ramps import share_ramp
from medssl.ops.reliability import elr, shrunk_ce
from medssl.ops.selection import class_histogram
from medssl.ops.variants import FOREGROUND
from medssl.recipe.load import load_recipe, save_recipe
from medssl.settings.recipe import Recipe
from medssl.testing.subject import (
    BUDGET,
    SEED,
    Subject,
    losses_of,
    make_batch,
    optimizers,
    step,
    sure_network,
)

PRESETS = sorted(SelfTrainingSettings.words("preset"))


def made(name: str = "self_training", **settings: Any) -> Any:
    return Subject(name, get_method(name), settings, network=sure_network).make()


def trained(name: str, **settings: Any) -> tuple[Any, list[float], dict[str, float]]:
    """Return a method after five steps at the end of its ramp, its losses, and its last terms."""
    method = made(name, **settings)
    (stage,) = method.stages(BUDGET)
    optims, losses = optimizers(method, stage), []
    for iteration in range(BUDGET - 5, BUDGET):
        batch = make_batch(method, stage, seed=iteration)
        loss, output = step(method, stage, iteration, optims, batch)
        losses.append(loss.item())
    return method, losses, {key: value.item() for key, value in output.terms.items()}


def equal(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def progress(iteration: int, total: int = BUDGET) -> Progress:
    return Progress("train", iteration, total, seed=SEED)


# ------------------------------------------------------------------------------- presets


@pytest.mark.parametrize(
    ("fixmatch", "parts"),
    [
        ({"mixing": "none"}, {}),
        ({"mixing": "cutmix"}, {"mixing": "cutmix"}),
        ({"preset": "official"}, {"variant": "official"}),
        ({"normalize": "kept"}, {"mixing": "cutmix", "normalize": "kept"}),
    ],
    ids=["corrected", "mixed", "official", "kept"],
)
def test_method_fixmatch_is_the_preset_bit_for_bit(
    fixmatch: dict[str, Any], parts: dict[str, Any]
) -> None:
    one, losses, terms = trained("fixmatch", **fixmatch)
    two, again, others = trained("self_training", preset="fixmatch", **parts)
    assert losses == again
    assert terms == others
    assert 0.1 < terms["pseudo/kept"] < 1
    assert terms["loss/unlabeled"] > 0
    assert equal(one.student, two.student)
    assert equal(one.teacher, two.teacher)
    assert {key.partition(".")[0] for key in one.state_dict()} == {"student", "teacher"}


def test_two_averages_of_one_decay_are_one() -> None:
    """Fused they say what one says, and nothing is settled: the same as with one, bit for bit."""
    one, losses, _ = trained("self_training", preset="fixmatch", mixing="cutmix")
    two, again, terms = trained(
        "self_training",
        preset="fixmatch",
        mixing="cutmix",
        teacher="slow",
        slow_decay=0.99,
        arbiter="student",
    )
    assert losses == again
    assert terms["pseudo/conflict"] == 0
    assert equal(two.teachers[0], two.teachers[1])
    assert equal(one.teachers[0], two.teachers[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_learns_from_guesses(preset: str) -> None:
    method, losses, terms = trained("self_training", preset=preset)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert 0 < terms["pseudo/kept"] <= 1
    assert terms["weight/unlabeled"] == 1
    assert list(method.settings.check_recipe(Recipe())) == []


@pytest.mark.parametrize("preset", PRESETS)
def test_official_is_there_where_it_is_promised(preset: str) -> None:
    settings = SelfTrainingSettings(preset=preset, variant="official")
    problems = list(settings.check_recipe(Recipe()))
    if preset in ("fixmatch", "consistent_teacher"):
        assert problems == []
    else:
        assert problems[0].startswith(f"preset {preset} of self_training has no variant official")


# ------------------------------------------------------------------------------- who labels


def test_turns_decide_who_follows_and_what_is_shown() -> None:
    method = made(preset="dual_teacher", turn=3, turn_random=False)
    seen: list[Tensor] = []
    method.student.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    (stage,) = method.stages(BUDGET)
    batch = make_batch(method, stage)
    for iteration, active in ((2, 0), (3, 1), (6, 0)):
        assert list(method.averages(progress(iteration))) == [("teacher", "second")[active]]
        seen.clear()
        losses_of(method, stage, iteration, batch)
        guessed = seen[-1][len(batch.labeled.image) :]
        strong = torch.equal(guessed, batch.unlabeled.views[0])
        assert strong == (active == 0), "strong and unmixed, or weak and mixed"
        if active == 1:
            weak = (guessed == batch.unlabeled.image).float().mean()
            assert 0.3 < weak < 1
    assert method.averages(progress(0)) == {"teacher": 0.0}
    assert method.averages(progress(6)) == {"teacher": 0.75}, "its own updates are counted"


def test_random_turns_depend_on_seed_and_iteration_alone() -> None:
    settings = SelfTrainingSettings(preset="dual_teacher", turn=5)
    whose = [turn_of(settings, progress(i, 60)).active for i in range(60)]
    assert set(whose) == {0, 1}
    backwards = [turn_of(settings, progress(i, 60)).active for i in reversed(range(60))]
    assert whose == backwards[::-1]
    other = [turn_of(settings, Progress("train", i, 60, seed=1)).active for i in range(60)]
    assert whose != other
    assert settings.longest_turn(60) == 5
    auto = SelfTrainingSettings(preset="dual_teacher")
    assert [auto.longest_turn(n) for n in (100, 4000)] == [2, 5]


class Saying(torch.nn.Module):
    """A network that gives the same probabilities for every image."""

    def __init__(self, probs: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(probs).T[None, :, :, None].log()

    def forward(self, image: Tensor) -> Tensor:
        return self.logits.expand(len(image), -1, -1, -1)


def test_two_teachers_are_fused_and_the_student_settles_their_conflicts() -> None:
    image = torch.zeros(1, 1, 2, 1)
    teachers = [Saying([[0.9, 0.1], [0.9, 0.1]]), Saying([[0.6, 0.4], [0.2, 0.8]])]
    dual = SelfTrainingSettings(preset="dual_teacher")
    guess = guess_of(image, teachers, dual)
    assert guess.probs[0, 0, 0, 0].item() == pytest.approx(0.7868756, rel=1e-5)
    assert guess.conflict.flatten().tolist() == [False, True]
    mean = guess_of(image, teachers, SelfTrainingSettings(preset="dual_teacher", fusion="mean"))
    assert mean.probs[0, 0].flatten().tolist() == pytest.approx([0.75, 0.55])

    method = made(preset="dual_teacher")
    method.teacher, method.second = teachers
    method.student = Saying([[0.01, 0.99], [0.01, 0.99]])
    settled = method.guess(image)
    assert settled.label.flatten().tolist() == [0, 1], "only where they conflict"
    assert settled.confidence.flatten().tolist() == pytest.approx([0.7868756, 0.99], rel=1e-5)
    method.student = Saying([[0.45, 0.55], [0.49, 0.51]])
    assert method.guess(image).label.flatten().tolist() == [0, 0], "one less sure is not asked"


def test_labeling_leaves_no_gradient_and_teachers_in_eval_mode() -> None:
    method = made(preset="dual_teacher")
    before = {k: v.clone() for k, v in method.state_dict().items()}
    guess = method.guess(torch.randn(2, 1, 24, 16))
    assert not guess.probs.requires_grad
    assert not any(teacher.training for teacher in method.teachers)
    assert method.student.training
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())
    assert len(method.predictor().members) == 2
    assert made().predictor() is not None


# ------------------------------------------------------------------------------- what counts


def guess_with(confidence: list[float], label: list[int], conflict: Tensor | None = None) -> Guess:
    c, y = torch.tensor([[confidence]]), torch.tensor([[label]])
    probs = torch.stack([torch.where(y == k, c, (1 - c) / 2) for k in range(3)], dim=1)
    return Guess(probs, y, c, conflict)


def believed(guess: Guess, **settings: Any) -> list[float]:
    return Memory(SelfTrainingSettings(**settings), 3).believe(guess, None).flatten().tolist()


def test_rules_and_factors_by_hand() -> None:
    guess = guess_with([0.9, 0.6, 0.8, 0.7], [0, 0, 1, 1])
    assert believed(guess) == [1, 0, 1, 1]
    assert believed(guess, selection="none") == [1, 1, 1, 1]
    powered = believed(guess, weight="confidence", confidence_power=2.0)
    assert powered == pytest.approx([0.81, 0, 0.64, 0.49])
    edges = believed(guess, weight="boundary", boundary_extra=2.0)
    assert edges == pytest.approx([1, 0, 3, 1])
    assert believed(guess, weight="soft_background") == pytest.approx([0.9, 0, 1, 1])
    both = believed(guess, weight=["confidence", "boundary"], selection="none")
    assert both == pytest.approx([0.9, 0.6 * 1.5, 0.8 * 1.5, 0.7])
    conflict = torch.tensor([[[True, False, False, True]]])
    apart = guess_with([0.9] * 4, [0] * 4, conflict)
    assert believed(apart, selection="agreement", teacher="slow") == [0, 1, 1, 0]
    # Clusters .6 .7 and .91 of class 0, by the middles of bins; a single voxel is both of its own.
    levels = [(38.5 + 44.5) / 2 / 64, 58.5 / 64]
    assert 0.6 < levels[0] < 0.7 < levels[1] < 0.92
    middle = guess_with([0.92, 0.6, 0.7, 0.81], [0, 0, 0, 1])
    assert believed(middle, selection="two_level") == pytest.approx([1, 0, 0.7, 1])


def test_the_histogram_forgets_and_the_rule_reads_it() -> None:
    settings = SelfTrainingSettings(selection="two_level", memory_decay=0.75)
    memory = Memory(settings, 3)
    first, second = guess_with([0.9, 0.5], [0, 1]), guess_with([0.8, 0.4], [1, 1])
    memory.believe(first, None)
    memory.believe(second, None)
    old, new = (class_histogram(g.confidence, g.label, 3) for g in (first, second))
    torch.testing.assert_close(memory.confidence[0], 0.75 * 0.25 * old + 0.25 * new)
    assert not memory.confidence[1:].any()
    assert not list(Memory(SelfTrainingSettings(), 3).buffers()), "rule fixed remembers nothing"


def test_the_gate_is_judged_on_labeled_patches() -> None:
    memory = Memory(SelfTrainingSettings(selection="gate", threshold=0.7), 3)
    known = guess_with([0.95, 0.95, 0.6, 0.6, 0.8], [0, 0, 0, 0, 1])
    truth = torch.tensor([[[0, 0, 0, 2, 255]]])
    guess = guess_with([0.9, 0.94, 0.96, 0.65, 0.75], [0, 0, 0, 1, 1])
    weight = memory.believe(guess, (known, truth)).flatten().tolist()
    # Of class 0 all are right from .95 on, 3 of 4 from .6 on; class 1 was not judged: 0.7.
    assert weight == [1, 1, 1, 0, 1]
    right, wrong = memory.confidence[1:]
    assert right.sum().item() == pytest.approx(0.3)
    assert wrong.sum().item() == pytest.approx(0.1)


@pytest.mark.parametrize(
    "rule", ["adaptive", "softmatch", "gmm", "two_level", "gate", "fixed", "agreement", "none"]
)
def test_a_step_with_every_rule(rule: str) -> None:
    teacher = {"teacher": "slow"} if rule == "agreement" else {}
    _, losses, terms = trained("self_training", selection=rule, **teacher)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert 0 < terms["pseudo/kept"] <= 1


# ------------------------------------------------------------------------------- what is learned


def shown_by(settings: SelfTrainingSettings, weight: float | None = None) -> tuple[Tensor, Shown]:
    """Return random logits and what a step shows, with one weight everywhere or random ones."""
    from medssl.methods.self_training_views import perturb
    from medssl.ops.perturb import View

    method = made(preset="mixed")
    batch: Batch = make_batch(method, method.stages(BUDGET)[0])
    g = torch.Generator().manual_seed(1)
    label = torch.randint(0, 3, batch.labeled.label.shape, generator=g)
    given = torch.rand(label.shape, generator=g) * (torch.rand(label.shape, generator=g) > 0.5)
    weights = given if weight is None else torch.full_like(given, weight)
    soft = torch.randn(label.shape[0], 3, *label.shape[1:], generator=g).softmax(1)
    view = View(
        batch.unlabeled.image,
        label,
        torch.zeros_like(label, dtype=torch.bool),
        weights,
        soft if settings.needs_probabilities else None,
    )
    views = [view] * settings.views
    shown = perturb(batch.labeled, views, settings.kinds, settings, progress(3))
    logits = torch.randn(len(shown.view.image), 3, *label.shape[1:], generator=g)
    return logits.requires_grad_(), shown


LEARNED: list[dict[str, Any]] = [
    {},
    {"mixing": "none"},
    {"loss": "ce"},
    {"target": "soft"},
    {"target": "sharpened"},
    {"preset": "unimatch", "mixing": ["shuffle", "paste"]},
]


@pytest.mark.parametrize("given", LEARNED)
def test_what_the_student_says_of_voxels_without_weight_changes_nothing(
    given: dict[str, Any],
) -> None:
    settings = SelfTrainingSettings(**given)
    logits, shown = shown_by(settings)
    truth, guess = truth_loss(logits, shown, settings), guess_loss(logits, shown, settings)
    idle = ((shown.view.weight == 0) & ~shown.view.truth).unsqueeze(1)
    assert 0.1 < idle.float().mean() < 0.6
    other = torch.where(idle, logits + 3 * torch.randn(logits.shape), logits)
    assert torch.equal(truth_loss(other, shown, settings), truth)
    torch.testing.assert_close(guess_loss(other, shown, settings), guess)
    (truth + guess).backward()
    assert not logits.grad[idle.expand_as(logits)].any()


@pytest.mark.parametrize("given", LEARNED)
def test_nothing_that_counts_is_a_zero_with_a_gradient_path(given: dict[str, Any]) -> None:
    settings = SelfTrainingSettings(**given)
    logits, shown = shown_by(settings, weight=0.0)
    value = guess_loss(logits, shown, settings)
    assert value.item() == 0
    value.backward()
    assert not logits.grad.any()


def test_pasted_regions_are_learned_by_source() -> None:
    """Weight 1 everywhere: the plain loss of the mixed patches, split by where labels come from."""
    settings = SelfTrainingSettings()
    logits, shown = shown_by(settings, weight=1.0)
    view = shown.view
    terms = region_terms(logits, view.label, [view.truth, ~view.truth], dice=FOREGROUND)
    expected = [dice + ce for dice, ce in terms]
    torch.testing.assert_close(truth_loss(logits, shown, settings), expected[0])
    torch.testing.assert_close(guess_loss(logits, shown, settings), expected[1])


def test_two_views_count_half_each_and_have_boxes_of_their_own() -> None:
    settings = SelfTrainingSettings(preset="unimatch")
    logits, shown = shown_by(settings)
    assert [len(logits[rows]) for rows in (shown.labeled, *shown.guessed)] == [4, 4, 4]
    first, second = (shown.view.image[rows] for rows in shown.guessed)
    assert not torch.equal(first, second)
    alone = [
        guess_loss(logits, Shown(shown.view, shown.labeled, (rows,)), settings)
        for rows in shown.guessed
    ]
    torch.testing.assert_close(guess_loss(logits, shown, settings), (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("box", ["sides", "rectangle", "centred"])
def test_boxes_of_published_codes_move_labels_too(box: Any) -> None:
    settings = SelfTrainingSettings(mixing="cutmix", box=box)
    _, shown = shown_by(settings)
    plain = shown_by(SelfTrainingSettings(mixing="none"))[1].view
    (rows,) = shown.guessed
    own, next_one = plain.image[rows], plain.image[rows].roll(-1, 0)
    foreign = shown.view.image[rows] != own
    assert 0.01 < foreign.float().mean() < 0.6
    assert torch.equal(shown.view.image[rows], torch.where(foreign, next_one, own))
    label = torch.where(foreign[:, 0], plain.label[rows].roll(-1, 0), plain.label[rows])
    assert torch.equal(shown.view.label[rows], label)


def test_the_share_that_counts_scales_the_guessed_part() -> None:
    settings = SelfTrainingSettings(mixing="none")
    logits, shown = shown_by(settings)
    (rows,) = shown.guessed
    weight = shown.view.weight[rows]
    ((dice, ce),) = region_terms(logits[rows], shown.view.label[rows], [weight], dice=FOREGROUND)
    expected = (dice + ce) * (weight > 0).float().mean()
    torch.testing.assert_close(guess_loss(logits, shown, settings), expected)
    kept = SelfTrainingSettings(mixing="none", normalize="kept")
    torch.testing.assert_close(guess_loss(logits, shown, kept), dice + ce)
    truth = supervised_loss(logits[shown.labeled], shown.view.label[shown.labeled])
    torch.testing.assert_close(truth_loss(logits, shown, settings), truth)


def test_early_learning_is_added_over_all_guessed_voxels() -> None:
    plain, with_elr = (
        SelfTrainingSettings(target="soft"),
        SelfTrainingSettings(target="soft", elr_weight=0.5),
    )
    logits, shown = shown_by(plain)
    view = shown.view
    added = guess_loss(logits, shown, with_elr) - guess_loss(logits, shown, plain)
    torch.testing.assert_close(added, 0.5 * elr(logits, view.soft, (~view.truth).float()))


def test_unsure_voxels_teach_by_the_share_of_sure_ones() -> None:
    plain = SelfTrainingSettings(preset="shrinkmatch", shrink_weight=0, threshold=0.6)
    with_it = SelfTrainingSettings(preset="shrinkmatch", shrink_weight=3.0, threshold=0.6)
    logits, shown = shown_by(plain)
    (rows,) = shown.guessed
    shrunk, sure = shrunk_ce(logits[rows], shown.view.soft[rows], 0.6)
    added = guess_loss(logits, shown, with_it) - guess_loss(logits, shown, plain)
    assert 0.1 < sure < 0.9
    torch.testing.assert_close(added, 3 * sure * shrunk)


def test_the_ramp() -> None:
    found = [share_ramp(i, 100, SelfTrainingSettings().ramp_fraction) for i in (0, 20, 40)]
    assert found == pytest.approx([0.0067, 0.287, 1], abs=5e-4)


# ------------------------------------------------------------------------------- recipes


def test_what_follows_from_the_recipe() -> None:
    settings = SelfTrainingSettings()
    assert settings.kinds == ("cutmix", "paste")
    filled = settings.filled(Recipe.model_validate({"training": {"iterations": 8000}}))
    assert (filled.mixing, filled.turn) == (("cutmix", "paste"), 10)
    pairs = Recipe.model_validate({"spec": {"label_pairs": [[1, 2]], "flip_axes": [0]}})
    assert settings.filled(pairs).mixing == ("cutmix",)
    given = SelfTrainingSettings(mixing=["paste"], turn=7)
    assert (given.filled(pairs).mixing, given.filled(pairs).turn) == (("paste",), 7)
    assert SelfTrainingSettings(mixing="none").filled(pairs).mixing == ()


def test_views_that_are_asked_of_the_loader() -> None:
    views = {p: SelfTrainingSettings(preset=p).unlabeled_views for p in PRESETS}
    assert views["mixed"] == ()
    assert views["unimatch"] == ("strong", "strong")
    assert views["dual_teacher"] == views["fixmatch"] == ("strong",)
    assert views["saa"] == ("strong", "strong")
    assert SelfTrainingSettings(view="joined").unlabeled_views == ("strong", "strong")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"selection": "agreement"}, "compares two teachers"),
        ({"arbiter": "student"}, "decides between two teachers"),
        ({"view": "by_turn", "teacher": "slow"}, "take turns"),
        ({"views": 2}, "needs method.view strong"),
        ({"mixing": ["paste", "cutmix"]}, "paste at the end"),
        ({"mixing": ["cutmix", "cutmix"]}, "each kind once"),
        ({"box": "rectangle"}, "training.patch has three"),
        ({"adapt": "otsu"}, "two joined ones"),
        ({"adapt": "otsu", "view": "strong"}, "method.mixing to none"),
    ],
)
def test_parts_that_do_not_fit_are_refused(given: dict[str, Any], words: str) -> None:
    (problem,) = SelfTrainingSettings(**given).check_recipe(Recipe())
    assert words in problem


@pytest.mark.parametrize(
    ("given", "training", "words"),
    [
        ({"unlabeled_weight": 0}, {}, "do nothing"),
        ({"threshold": 0.4}, {}, "every voxel"),
        ({"threshold": 1.0}, {}, "next to no voxel"),
        ({"preset": "fixmatch"}, {"augment": {"strong_probability": 0}}, "strong view is the weak"),
        ({}, {"unlabeled_batch": 1}, "another patch of the batch"),
        ({"preset": "hssda"}, {"patch": [64, 64, 16]}, "blocks of sides below 16"),
        ({"preset": "dual_teacher", "turn": 500}, {"iterations": 100}, "longer than the run"),
        ({"preset": "elr", "weight": "case"}, {}, "elr_weight asks no scan's trust"),
        ({"preset": "fst"}, {}, "experimental and costs 4 times"),
    ],
)
def test_settings_that_do_nothing_are_named(
    given: dict[str, Any], training: dict[str, Any], words: str
) -> None:
    recipe = Recipe.model_validate({"training": training})
    warnings = list(SelfTrainingSettings(**given).warn_recipe(recipe, given))
    assert any(words in warning for warning in warnings), warnings


def test_lists_and_words_of_a_recipe_and_its_record(tmp_path: Path) -> None:
    loaded = load_recipe("hippocampus_self_training")
    assert loaded.warnings == ()
    assert loaded.settings.mixing == ("cutmix", "paste")
    given = ["method.mixing=none", "method.weight=[boundary, confidence]", "data.root=phantom"]
    changed = load_recipe("hippocampus_self_training", given)
    assert changed.settings.mixing == ()
    save_recipe(changed.recipe, tmp_path / "recipe.yaml")
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again.settings == changed.settings
    assert not any("method" in warning for warning in again.warnings)
    fdi = load_recipe("hippocampus_self_training", ["spec=cbct_fdi", "data.root=phantom"])
    assert fdi.settings.mixing == ("cutmix",)
    assert any("a pasted box tears teeth" in warning for warning in fdi.warnings)


def test_the_default_has_nothing_to_be_warned_of() -> None:
    assert list(SelfTrainingSettings().warn_recipe(Recipe(), ())) == []
    assert SelfTraining.Settings is SelfTrainingSettings
