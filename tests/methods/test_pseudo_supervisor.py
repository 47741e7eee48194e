"""The pseudo supervisor: published numbers, policy gradients, clean rewards, a learning policy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medssl.methods.base import Batch, LabeledBatch, Progress, UnlabeledBatch
from medssl.methods.pseudo_supervisor import PseudoSupervisor
from medssl.methods.pseudo_supervisor_policy import DROP, THRESHOLDS
from medssl.methods.pseudo_supervisor_settings import PseudoSupervisorSettings
from medssl.networks.build import build_network
from medssl.ops import policy as ops
from medssl.ops.losses import supervised_loss
from medssl.recipe.load import load_recipe
from medssl.settings.recipe import Recipe

# ------------------------------------------------------------------------------ golden numbers


def test_rewards_of_the_published_code() -> None:
    change = torch.tensor([-0.1, 0.0, 0.01, 0.1, 0.5])
    truth = torch.tensor([0.0, 0.0, 0.01005, 0.105171, 0.648721])
    torch.testing.assert_close(ops.rectified_reward(change), truth, atol=5e-7, rtol=1e-5)


def test_returns_of_the_published_code() -> None:
    rewards = torch.tensor([0.1, 0.2, 0.0, 0.3, 0.1])
    truth = torch.tensor([0.28, 0.2, 0.0, 0.39, 0.1])
    torch.testing.assert_close(ops.discounted_returns(rewards, gamma=0.9, restart=True), truth)


def test_returns_without_restart_and_without_discount() -> None:
    rewards = torch.tensor([1.0, 0.0, -2.0])
    plain = ops.discounted_returns(rewards, gamma=0.5)
    assert plain.tolist() == [0.5, -1.0, -2.0]
    assert torch.equal(ops.discounted_returns(rewards, gamma=0.0), rewards)


def test_gradient_is_paired_with_its_own_action() -> None:
    """Defect 2 of the published code gave every sample the batch's mean action."""
    p, action = torch.tensor([0.9, 0.1, 0.8, 0.2]), torch.tensor([1, 0, 1, 1])
    logit = torch.logit(p).requires_grad_()
    logits = torch.stack([torch.zeros(4), logit], dim=1).unsqueeze(1)
    log_prob = ops.joint_log_prob(logits, action.unsqueeze(1))
    assert log_prob.shape == (4,)
    ops.reinforce_loss(log_prob, torch.ones(4)).backward()
    torch.testing.assert_close(logit.grad, torch.tensor([-0.025, 0.025, -0.05, -0.2]))
    with pytest.raises(ValueError, match="one advantage per action"):
        ops.reinforce_loss(log_prob, torch.ones(4, 1))


def test_joint_log_prob_gradient_is_the_score() -> None:
    """d log pi / d logits = one-hot(action) - probabilities, for each class by itself."""
    logits = torch.randn(3, 2, 5, requires_grad=True)
    actions = torch.tensor([[0, 4], [2, 2], [1, 3]])
    weight = torch.tensor([1.0, -2.0, 0.5])
    ops.reinforce_loss(ops.joint_log_prob(logits, actions), weight).backward()
    score = nn.functional.one_hot(actions, 5) - logits.detach().softmax(-1)
    torch.testing.assert_close(logits.grad, -(weight / 3)[:, None, None] * score)


# ------------------------------------------------------------------------------ other formulas


def test_equal_rewards_give_no_advantage() -> None:
    for value in (0.0, 0.3, -1e-4):
        same = torch.full((50,), value)
        assert torch.equal(ops.advantages(same), torch.zeros(50))
        assert torch.equal(ops.advantages(same, 7.0), torch.zeros(50))
    returns = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(ops.advantages(returns), torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(ops.advantages(returns, 1.0), torch.tensor([0.0, 1.0, 2.0]))


def test_scaled_reward_keeps_its_sign_and_forgets_its_unit() -> None:
    moments = torch.zeros(2)
    values = [-1e-4, 2e-4, -1e-4]
    outs = []
    for value in values:
        out, moments = ops.scaled(torch.tensor(value), moments, decay=0.5)
        outs.append(out.item())
    assert outs[0] == pytest.approx(-1)
    # Weights 1/4, 1/2 of squares 1, 4: mean 3.
    assert outs[1] == pytest.approx(2 / 3**0.5, rel=1e-5)
    assert ops.scaled(torch.tensor(0.0), torch.zeros(2), decay=0.5)[0] == 0


def test_sampling_by_inversion() -> None:
    log_probs = torch.tensor([0.2, 0.0, 0.5, 0.3]).log().expand(6, 4)
    uniform = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 0.9999999])
    assert ops.sample_actions(log_probs, uniform).tolist() == [0, 0, 2, 2, 3, 3]
    drawn = ops.sample_actions(log_probs[0].expand(40_000, 4), torch.rand(40_000))
    share = torch.bincount(drawn, minlength=4) / 40_000
    torch.testing.assert_close(share, log_probs[0].exp(), atol=0.01, rtol=0)


def test_adam_is_torchs() -> None:
    for betas in ((0.9, 0.999), (0.0, 0.1)):
        weights = torch.randn(20)
        parameter = nn.Parameter(weights.clone())
        optimizer = torch.optim.Adam([parameter], lr=0.01, betas=betas)
        moments, steps = torch.zeros(2, 20), torch.zeros(())
        for _ in range(5):
            gradient = torch.randn(20)
            parameter.grad = gradient.clone()
            optimizer.step()
            weights, moments, steps = ops.adam_step(
                weights, gradient, moments, steps, lr=0.01, betas=betas
            )
        torch.testing.assert_close(weights, parameter.detach())


def test_clipping() -> None:
    vector = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(ops.clipped(vector, 1.0), torch.tensor([0.6, 0.8]))
    assert torch.equal(ops.clipped(vector, float("inf")), vector)
    assert torch.equal(ops.clipped(torch.tensor([float("nan"), 1.0]), 1.0), torch.zeros(2))


@pytest.mark.parametrize("dims", [2, 3])
def test_thresholds_act_per_patch_and_class(dims: int) -> None:
    top = torch.tensor([0.6, 0.8, 0.93, 0.99]).reshape(4, *[1] * (dims - 1))
    probs = torch.stack([torch.stack([top, 1 - top]), torch.stack([1 - top, top])])
    chosen = torch.tensor(THRESHOLDS)[torch.tensor([[2, 0], [0, 1]])]
    labels = ops.keep_confident(probs, chosen)
    assert labels[0].flatten().tolist() == [255, 255, 0, 0]
    assert labels[1].flatten().tolist() == [255, 1, 1, 1]
    assert (ops.keep_confident(probs, torch.full((2, 2), float("inf"))) == 255).all()


def test_description_by_hand() -> None:
    """Four voxels, two classes: confident background twice, foreground sure and unsure."""
    foreground = torch.tensor([0.0, 0.2, 0.95, 0.6])
    probs = torch.stack([1 - foreground, foreground])[None]
    student = torch.tensor([[0, 1, 1, 0]])
    out = ops.describe_labels(probs, student)[0]
    mean = foreground.mean()
    entropy = -(probs * probs.clamp_min(1e-12).log()).sum(1).mean() / np.log(2)
    truth = [1 - mean, mean, 0.5**0.5, 0.5**0.5, 0.9, 0.775, 0.5, 0.5, 0.5, 0.5]
    expected = torch.tensor([*map(float, truth), float(entropy), (1 + 0.8 + 0.95 + 0.6) / 4])
    torch.testing.assert_close(out, expected)
    empty = ops.describe_labels(probs, torch.zeros(1, 4, dtype=torch.long) + 1)
    assert torch.isfinite(empty).all()


# ------------------------------------------------------------------------------ the method


def make(classes: int = 3, dims: int = 3, dropout: float = 0.0, **settings) -> PseudoSupervisor:
    torch.manual_seed(0)
    conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
    norm = (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2]

    def build(**_):
        return nn.Sequential(
            conv(1, 6, 1), norm(6), nn.Tanh(), nn.Dropout(dropout), conv(6, classes, 1)
        )

    return PseudoSupervisor(
        PseudoSupervisorSettings(**settings), build, num_classes=classes, spatial_dims=dims
    ).train()


def batch(classes: int = 3, labeled: int = 4, unlabeled: int = 2, seed: int = 1) -> Batch:
    g = torch.Generator().manual_seed(seed)
    shape = (6, 5, 4)
    label = torch.randint(0, classes, (labeled, *shape), generator=g)
    image = label.unsqueeze(1) - 1 + 0.1 * torch.randn(labeled, 1, *shape, generator=g)
    other = torch.randint(0, classes, (unlabeled, 1, *shape), generator=g) - 1.0
    return Batch(LabeledBatch(image, label), UnlabeledBatch(other))


def step(method: PseudoSupervisor, data: Batch, iteration: int = 0) -> dict[str, Tensor]:
    """Compute the gradients of one step; nothing is updated."""
    method.zero_grad()
    output = method.training_step(data, Progress("train", iteration, 1000, seed=3))
    for loss in output.losses():
        loss.backward()
    return output.terms


def test_the_step_has_the_gradient_of_its_two_losses() -> None:
    method, data = make(preset="official", selection="learned"), batch()
    twin = copy.deepcopy(method)
    terms = step(method, data)
    logits = twin.student(data.labeled.image[:3])
    labels = supervised_loss(logits, data.labeled.label[:3], loss="ce")
    probs = twin.teacher.eval()(data.unlabeled.image).softmax(1)
    target = ops.keep_confident(probs, torch.tensor(THRESHOLDS)[method.actions[0, :2]])
    pseudo = supervised_loss(twin.student(data.unlabeled.image), target, loss="ce")
    assert (target != 255).any()
    (labels + pseudo).backward()
    torch.testing.assert_close(terms["loss/labeled"], labels.detach())
    torch.testing.assert_close(terms["loss/unlabeled"], pseudo.detach())
    for a, b in zip(method.student.parameters(), twin.student.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


def test_the_reward_is_what_the_virtual_step_improves() -> None:
    method, data = make(virtual_lr=0.1), batch()
    held = LabeledBatch(data.labeled.image[3:], data.labeled.label[3:])
    gradients = [torch.randn_like(p) for p in method.student.parameters()]
    twin = copy.deepcopy(method.student).eval()
    before = supervised_loss(twin(held.image), held.label, loss="dice_ce")
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert norm > 1
    with torch.no_grad():
        for p, g in zip(twin.parameters(), gradients, strict=True):
            p -= 0.1 * g / norm
    after = supervised_loss(twin(held.image), held.label, loss="dice_ce")
    torch.testing.assert_close(method.improvement(gradients, held), (before - after).detach())


def test_measuring_leaves_weights_statistics_generator_and_mode() -> None:
    method, data = make(dropout=0.5), batch()
    gradients = [torch.randn_like(p) for p in method.student.parameters()]
    state = {k: v.clone() for k, v in method.state_dict().items()}
    generator = torch.get_rng_state()
    values = [method.improvement(gradients, data.labeled) for _ in range(2)]
    assert values[0] == values[1] != 0, "no dropout in a reward"
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(state[k], v) for k, v in method.state_dict().items())
    assert method.student.training
    assert not values[0].requires_grad


def test_measuring_leaves_a_network_that_names_a_module_twice_as_it_was() -> None:
    """MONAI's DynUNet is such a network: it must go on training after the first reward."""

    def build(**_) -> nn.Module:
        return build_network(
            "dynunet",
            spatial_dims=3,
            in_channels=1,
            num_classes=3,
            settings={"filters": [2, 4, 4], "strides": [1, 1, 1]},
        )

    method = PseudoSupervisor(PseudoSupervisorSettings(), build, num_classes=3, spatial_dims=3)
    data = batch()
    before = [p.detach().clone() for p in method.student.parameters()]
    gradients = [torch.ones_like(p) for p in before]
    assert method.improvement(gradients, data.labeled) != 0
    after = list(method.student.parameters())
    assert all(p.requires_grad for p in after)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    step(method, data)


def test_rewards_are_measured_in_float32_under_autocast_and_tf32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A virtual step changes a weight by less than bfloat16 and TF32 can tell apart."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    method, data = make(), batch()
    gradients = [torch.randn_like(p) for p in method.student.parameters()]
    expected = method.improvement(gradients, data.labeled)
    seen = []
    method.student[0].register_forward_hook(
        lambda module, args, out: seen.append((out.dtype, torch.backends.cudnn.allow_tf32))
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(method.improvement(gradients, data.labeled), expected)
    assert seen == [(torch.float32, False)] * 2
    assert torch.backends.cudnn.allow_tf32


def test_held_patches_do_not_train() -> None:
    """The supervised gradient does not see them; the reward sees nothing else."""
    method, data = make(), batch()
    other = data.labeled.image.clone()
    other[3] += 5
    changed = Batch(LabeledBatch(other, data.labeled.label), data.unlabeled)
    a, b = copy.deepcopy(method), copy.deepcopy(method)
    one, two = step(a, data), step(b, changed)
    assert one["loss/labeled"] == two["loss/labeled"]
    assert one["policy/improvement"] != two["policy/improvement"]
    for p, q in zip(a.student.parameters(), b.student.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_no_patch_held_measures_on_the_whole_batch() -> None:
    method, data = make(reward_patches=0), batch()
    seen = []
    improvement = method.improvement
    method.improvement = lambda g, held: (seen.append(held), improvement(g, held))[1]
    step(method, data)
    assert torch.equal(seen[0].image, data.labeled.image)


def test_reward_on_unannotated_patches_is_zero() -> None:
    method, data = make(), batch()
    label = data.labeled.label.clone()
    label[3] = 255
    terms = step(method, Batch(LabeledBatch(data.labeled.image, label), data.unlabeled))
    assert terms["policy/reward"] == 0


@pytest.mark.parametrize(("selection", "action"), [("always_0.5", 0), ("always_0.95", 3)])
def test_fixed_ablations(selection: str, action: int) -> None:
    method, data = make(selection=selection), batch()
    assert (method.choose(torch.zeros(2, 17), Progress("train", 0, 10)) == action).all()
    terms = step(method, data)
    assert not any(key.startswith("policy/") for key in terms)
    assert torch.equal(method.rewards, torch.zeros(50))


def test_random_ablation_ignores_the_policy() -> None:
    method = make(selection="random")
    with torch.no_grad():
        method.policy.layers[-1].bias.copy_(torch.randn(15) * 9)
    actions = torch.stack(
        [method.choose(torch.zeros(1, 17), Progress("train", i, 9999)) for i in range(2000)]
    )
    share = torch.bincount(actions.flatten(), minlength=5) / actions.numel()
    torch.testing.assert_close(share, torch.full((5,), 0.2), atol=0.03, rtol=0)
    assert method.slot(Progress("train", 0, 10)) is None


def test_slots_follow_from_the_iteration() -> None:
    method = make(buffer=3, measure_every=2)
    slots = [method.slot(Progress("train", i, 100)) for i in range(8)]
    assert slots == [0, None, 1, None, 2, None, 0, None]
    assert method.slot(Progress("train", 0, 100, micro=1)) is None


def test_large_batches_are_recalled_in_part() -> None:
    method = make(buffer_patches=2, buffer=3)
    step(method, batch(unlabeled=5), 1)
    assert method.shares[1].tolist() == [0.5, 0.5]
    step(method, batch(unlabeled=1), 1)
    assert method.shares[1].tolist() == [1.0, 0.0]
    assert method.descriptions[1, 1].abs().sum() == 0


@pytest.mark.parametrize("preset", ["official", "corrected"])
@pytest.mark.parametrize("reward", [0.0, 0.25])
def test_equal_rewards_change_nothing(preset: str, reward: float) -> None:
    method = make(preset=preset, buffer=4)
    method.rewards.fill_(reward)
    method.descriptions.normal_()
    method.shares.fill_(1 / 16)
    before = copy.deepcopy(method.policy.state_dict())
    method.update_policy()
    assert method.steps == 0
    assert all(torch.equal(before[k], v) for k, v in method.policy.state_dict().items())


def test_update_is_the_policy_gradient_by_hand() -> None:
    method = make(
        buffer=4,
        buffer_patches=2,
        entropy=0.0,
        floor=0.0,
        policy_betas=(0.0, 0.0),
        policy_lr=1e-4,
    )
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        method.policy.layers[-1].weight.normal_(generator=g)
    method.rewards.copy_(torch.tensor([0.1, -0.3, 0.2, 0.5]))
    method.descriptions.copy_(torch.rand(4, 2, 17, generator=g))
    method.actions.copy_(torch.randint(0, 5, (4, 2, 3), generator=g))
    method.shares.copy_(torch.tensor([[0.5, 0.5]] * 3 + [[1.0, 0.0]]))
    twin = copy.deepcopy(method.policy)
    loss = 0.0
    mean, std = method.rewards.mean(), method.rewards.std()
    for t in range(4):
        patches = 1 if t == 3 else 2
        logs = [
            twin(method.descriptions[t, i]).log_softmax(-1)[range(3), method.actions[t, i]].sum()
            for i in range(patches)
        ]
        loss = loss - sum(logs) / patches * (method.rewards[t] - mean) / (std + 1e-8) / 4
    gradients = torch.autograd.grad(loss, list(twin.parameters()))
    norm = torch.cat([v.flatten() for v in gradients]).norm()
    method.update_policy()
    flat = torch.cat([v.flatten() for v in gradients]) / norm.clamp(min=1)
    torch.testing.assert_close(method.moments[0], flat, atol=1e-6, rtol=1e-4)
    # With betas of zero, Adam's step is lr * g / (|g| + eps).
    for p, old, v in zip(method.policy.parameters(), twin.parameters(), gradients, strict=True):
        v = v / norm.clamp(min=1)
        torch.testing.assert_close(p, old - 1e-4 * v / (v.abs() + 1e-8), atol=1e-6, rtol=1e-4)


def test_the_buffer_resumes_exactly_across_an_update() -> None:
    def run(method: PseudoSupervisor, start: int, stop: int) -> None:
        for i in range(start, stop):
            step(method, batch(seed=i), i)
            with torch.no_grad():
                for p in method.student.parameters():
                    p -= 0.1 * p.grad
            method.after_step(Progress("train", i, 1000, seed=3))

    whole = make(buffer=4, policy_lr=0.05)
    run(whole, 0, 6)
    saved = {k: v.clone() for k, v in whole.state_dict().items()}
    assert whole.steps == 1
    run(whole, 6, 9)
    again = make(buffer=4, policy_lr=0.05)
    again.load_state_dict(saved)
    run(again, 6, 9)
    assert whole.steps == 2
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in whole.state_dict().items())


class Flipped(nn.Module):
    """A sure teacher that knows the class from the intensity, but calls class 2 class 1."""

    def forward(self, image: Tensor) -> Tensor:
        value = image[:, 0].round().long() + 1
        wrong = torch.where(value == 2, 1, torch.where(value == 1, 2, 0))
        return 8.0 * nn.functional.one_hot(wrong, 3).movedim(-1, 1).float()


def test_the_policy_drops_classes_whose_labels_are_wrong() -> None:
    """Classes 1 and 2 are swapped by the teacher, background is right.

    With ``drop: class`` it is enough to drop one of them: the other's wrong labels go with it.
    Without a floor, drawing what is known to be wrong can come to an end.
    """
    method = make(buffer=16, policy_lr=0.02, virtual_lr=0.05, drop="labels", floor=0.0)
    method.teacher = Flipped()
    for i in range(640):
        terms = method.training_step(batch(seed=i), Progress("train", i, 1000, seed=3))
        for _ in terms.losses():
            pass
        if method.slot(Progress("train", i, 1000)) == 15:
            method.update_policy()
    with torch.no_grad():
        probs = method.policy(method.descriptions[:, 0]).softmax(-1).mean(0)
    assert method.steps == 40
    assert probs[1, DROP] > 0.5, probs
    assert probs[2, DROP] > 0.5, probs
    assert probs[0, DROP] < 0.2, probs


def bandit(seed: int, **settings) -> tuple[Tensor, Tensor]:
    """Train a policy whose reward is noise and, for class 1 alone, whether it takes threshold 0.9.

    Returns the relative entropies of the three classes' choices and the probabilities behind them.
    """
    torch.manual_seed(seed)
    method, g = make(buffer=20, buffer_patches=4, **settings), torch.Generator().manual_seed(seed)
    usual = 0.4 + 0.5 * torch.rand(17, generator=g)
    method.shares.fill_(1 / 4)
    for update in range(50):
        seen = usual + 0.05 * torch.randn(20, 4, 17, generator=g)
        actions = method.choose(seen.flatten(0, 1), Progress("train", update, 50, seed=seed))
        actions = actions.view(20, 4, 3)
        signal = (actions[..., 1] == 2).float().mean(1)
        method.rewards.copy_(torch.randn(20, generator=g) + 1.5 * signal)
        method.descriptions.copy_(seen)
        method.actions.copy_(actions)
        method.update_policy()
    with torch.no_grad():
        log_probs = method.action_logits(usual[None])[0].log_softmax(-1)
    probs = log_probs.exp()
    return -(probs * log_probs).sum(-1) / np.log(5), probs


def test_the_policy_learns_without_collapsing() -> None:
    """What is rewarded is learned; choices without consequence are not settled by luck."""
    for seed in range(3):
        entropy, probs = bandit(seed)
        assert probs[1].argmax() == 2
        assert probs[1, 2] > 0.5
        assert probs.min() >= 0.2 / 5 - 1e-6
        assert entropy[[0, 2]].min() > 0.9, entropy
    weak = torch.stack([bandit(seed, entropy=0.01, floor=0.0)[0] for seed in range(3)])
    assert weak[:, [0, 2]].min() < 0.4, "without the remedy there is nothing to see here"


def test_no_action_falls_below_the_floor() -> None:
    logits = torch.tensor([[0.0, 50.0, -50.0, 1.0, 2.0]], requires_grad=True)
    log_probs = ops.with_floor(logits, 0.2)
    probs = log_probs.exp()
    torch.testing.assert_close(probs.sum(-1), torch.ones(1))
    torch.testing.assert_close(log_probs.log_softmax(-1), log_probs)
    torch.testing.assert_close(probs[0], torch.tensor([0.04, 0.84, 0.04, 0.04, 0.04]))
    log_probs.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert ops.with_floor(logits, 0.0) is logits


def test_a_dropped_class_is_left_out_on_both_sides() -> None:
    target = torch.tensor([[0, 0, 1, 255], [0, 0, 1, 2]])
    student = torch.tensor([[0, 2, 2, 2], [1, 2, 1, 0]])
    dropped = torch.tensor([[False, False, True], [False, True, False]])
    found = ops.leave_out(target, student, dropped)
    assert found.tolist() == [[0, 255, 255, 255], [255, 0, 255, 2]]
    for preset, alive in (("official", True), ("corrected", False)):
        method = make(preset=preset)
        assert (method.settings.drop == "labels") is alive


def test_recipes() -> None:
    def recipe(**training) -> Recipe:
        return Recipe.model_validate({"training": training})

    def check(given: dict[str, Any], recipe: Recipe) -> list[str]:
        return list(PseudoSupervisorSettings(**given).check_recipe(recipe))

    def warn(given: dict[str, Any], recipe: Recipe) -> list[str]:
        return list(PseudoSupervisorSettings(**given).warn_recipe(recipe, given))

    assert check({}, recipe(labeled_batch=2)) == []
    assert "reward_patches: 0" in check({}, recipe(labeled_batch=1))[0]
    assert check({"reward_patches": 0}, recipe(labeled_batch=1)) == []
    assert warn({}, recipe()) == []
    assert "updated 0 times" in warn({}, recipe(iterations=49))[0]
    assert "at a learning rate of 0.0001" in warn({"policy_lr": 1e-4}, recipe())[0]
    assert warn({"selection": "random"}, recipe(iterations=49)) == []
    assert "do nothing" in warn({"unlabeled_weight": 0}, recipe())[0]
    assert "alpha" in warn({"alpha": 2}, recipe())[0]
    assert "restart" in warn({"restart": True}, recipe())[0]
    assert warn({"preset": "official", "gamma": 0, "policy_lr": 0.01}, recipe()) == []
    assert load_recipe("hippocampus_pseudo_supervisor").warnings == ()
