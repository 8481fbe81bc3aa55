"""What a student learns: a flow whose answer is known, the teacher's own steps, and only the parts that may learn."""

from __future__ import annotations

import itertools
import math
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from policy_builders import CONFIG
from torch import Tensor

from pi0_edge.distillation.student import FLOOR, SHARED, Student
from pi0_edge.model import GemmaConfig, ModelInputs, Pi0, Pi0Config, VisionConfig
from pi0_edge.model.flow import euler_times
from pi0_edge.model.pi0 import Context, StepConditioning
from pi0_edge.model.rtc import FrozenPrefix
from pi0_edge.ptq.distribution import DistributionReport, compare_distributions
from pi0_edge.ptq.verdict import TeacherThresholds, judge_distribution

torch.set_num_threads(1)
TEN = euler_times(10)
WIDTH = 0.1
"""Standard deviation of each of the two modes."""
TOY = Pi0Config(
    "pi0",
    VisionConfig(width=16, depth=1, mlp_dim=16, heads=1, patch_size=14, image_size=14),
    GemmaConfig(width=16, depth=1, mlp_dim=16, heads=1, kv_heads=1, head_dim=16),
    GemmaConfig(width=32, depth=1, mlp_dim=64, heads=1, kv_heads=1, head_dim=16),
    vocab_size=8,
    action_dim=1,
    horizon=1,
)


class TwoModeFlow(Pi0):
    """Instead of a network, the exact velocity E[ε − A | x_t] for actions of −1 or 1, each with a deviation of `WIDTH`.

    With x_t = t·ε + (1 − t)·A, the mode m explains x_t with a weight of exp(−(x_t − (1 − t)·m)²/2v), where
    v = t² + (1 − t)²·WIDTH², and the action is then m + (1 − t)·WIDTH²/v·(x_t − (1 − t)·m) in the mean.
    """

    def condition(self, times: Tensor) -> StepConditioning:
        return StepConditioning(times[:, None, None], None)

    def velocity(self, x: Tensor, conditioning: StepConditioning, context: Context) -> Tensor:
        assert conditioning.time_bias is not None
        t = conditioning.time_bias
        kept = 1 - t
        variance = t**2 + kept**2 * WIDTH**2
        means, weights = [], []
        for mode in (-1.0, 1.0):
            error = x - kept * mode
            means.append(mode + kept * WIDTH**2 / variance * error)
            weights.append(-(error**2) / (2 * variance))
        share = torch.softmax(torch.stack(weights), 0)
        action = (share * torch.stack(means)).sum(0)
        return (x - kept * action) / t - action


def observed(config: Pi0Config, rows: int) -> ModelInputs:
    size = config.vision.image_size
    return ModelInputs(
        images=torch.zeros(rows, 1, 3, size, size),
        image_mask=torch.ones(rows, 1, dtype=torch.bool),
        tokens=torch.full((rows, 2), 3),
        token_mask=torch.ones(rows, 2, dtype=torch.bool),
        state=torch.zeros(rows, config.action_dim),
    )


@torch.no_grad()
def drawn(model: Pi0, rows: int, times: Tensor, seed: int) -> Tensor:
    noise = torch.randn(rows, 1, 1, generator=torch.Generator().manual_seed(seed))
    return model.sample_actions(observed(TOY, rows), noise, times)


def beside_teacher(candidate: Tensor) -> DistributionReport:
    """The candidate's 512 draws as 8 observations of 64 beside twice as many of the teacher."""
    teacher = drawn(TwoModeFlow(TOY), 1024, TEN, seed=1).double().numpy().reshape(8, 128, 1, 1)
    own = candidate.double().numpy().reshape(8, 64, 1, 1)
    return compare_distributions(teacher, own, teacher, own)


def missed(report: DistributionReport) -> list[str]:
    return [finding.name for finding in judge_distribution(report, TeacherThresholds()) if not finding.passed]


def learned(steps: int, updates: int) -> Student:
    torch.manual_seed(0)
    student = Student(TwoModeFlow(TOY), euler_times(steps), TEN)
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    inputs = observed(TOY, 1)
    for _ in range(updates):
        loss = student.loss(inputs, torch.zeros(1, 1, 1), torch.randn(256, 1, 1), torch.ones(256)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return student


def test_the_exact_flow_of_ten_steps_has_both_modes_and_one_step_of_it_has_none():
    ten = drawn(TwoModeFlow(TOY), 512, TEN, seed=0)
    assert (ten > 0).float().mean().item() == pytest.approx(0.5, abs=0.07)
    assert (ten.abs() - 1).abs().mean() < 2 * WIDTH
    one = drawn(TwoModeFlow(TOY), 512, euler_times(1), seed=0)
    assert one.abs().max() < 1e-5  # the mean of both, whatever the noise


@pytest.mark.parametrize("steps", [1, 2])
def test_a_student_of_few_steps_has_the_distribution_of_the_teacher_and_the_teacher_in_few_steps_has_not(steps):
    student = learned(steps, updates=150)
    report = beside_teacher(drawn(student, 512, euler_times(steps), seed=2))
    assert report.two_modes == 8
    assert missed(report) == []
    undistilled = beside_teacher(drawn(TwoModeFlow(TOY), 512, euler_times(steps), seed=2))
    assert "stray from the teacher's chunks, in spreads" in missed(undistilled)
    # The map of noise to actions is the teacher's too, up to where the modes part.
    ours, theirs = drawn(student, 512, euler_times(steps), seed=3), drawn(TwoModeFlow(TOY), 512, TEN, seed=3)
    assert (ours - theirs).abs().median() < 0.1


def random_teacher(seed: int = 0) -> Pi0:
    torch.manual_seed(seed)
    return Pi0(CONFIG).eval()


def random_batch(rows: int = 3, draws: int = 2) -> tuple[ModelInputs, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    inputs = observed(CONFIG, rows)
    inputs.images.normal_(generator=generator)
    shape = (CONFIG.horizon, CONFIG.action_dim)
    return (
        inputs,
        torch.randn(rows, *shape, generator=generator),
        torch.randn(rows * draws, *shape, generator=generator),
    )


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize("frozen", [0, 4])
def test_a_student_that_takes_the_teachers_steps_has_nothing_to_learn(steps, frozen):
    inputs, actions, noise = random_batch()
    times = euler_times(steps)
    counts = torch.full((len(noise),), frozen)
    errors = Student(random_teacher(), times, times).squared_errors(inputs, actions, noise, counts)
    assert errors.shape == noise.shape
    assert errors[:, frozen:].max() < 1e-8


@pytest.mark.parametrize("frozen", [0, 4])
def test_one_step_learns_where_the_teachers_ten_arrive_with_the_same_frozen_prefix(frozen):
    inputs, actions, noise = random_batch(draws=1)
    teacher = random_teacher()
    how = FrozenPrefix(actions, frozen) if frozen else None
    with torch.no_grad():
        arrived = teacher.sample_actions(inputs, noise, TEN, how)
        one = teacher.sample_actions(inputs, noise, euler_times(1), how)
        counts = torch.full((len(noise),), frozen)
        errors = Student(teacher, euler_times(1), TEN).squared_errors(inputs, actions, noise, counts)
    torch.testing.assert_close(errors[:, frozen:], (one - arrived).square()[:, frozen:], rtol=1e-3, atol=1e-7)
    assert errors[:, frozen:].max() > 1e-6


def test_the_second_step_begins_where_the_first_one_of_the_student_ends():
    """After a change of the student, the error of its second step is against the teacher's way from its own place."""
    inputs, actions, noise = random_batch(draws=1)
    teacher = random_teacher()
    student = Student(teacher, euler_times(2), TEN)
    with torch.no_grad():
        student.action_out_proj.bias.add_(0.3)
        context = teacher.attend_state(teacher.attend_prefix(inputs), inputs.state)
        table, own = teacher.condition(TEN), student.condition(euler_times(2))
        learning = student.attend_state(student.attend_prefix(inputs), inputs.state)
        x, errors = noise, []
        for half in range(2):
            arrived = x
            for step in range(5 * half, 5 * half + 5):
                arrived = arrived - teacher.velocity(arrived, table.at(step), context) / 10
            velocity = student.velocity(x, own.at(half), learning)
            errors.append(((x - arrived) * 2 - velocity).square())
            x = x - velocity / 2
        found = student.squared_errors(inputs, actions, noise)
    torch.testing.assert_close(found, (errors[0] + errors[1]) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("floor", [FLOOR, 10.0])
@pytest.mark.parametrize("frozen", [0, 4])
def test_every_chunk_counts_by_the_root_of_its_error_in_the_actions_that_mean_something(frozen, floor):
    """The gradient is that of √(e² + c²) per chunk: above c, ten times the error does not count a hundred times."""
    inputs, actions, noise = random_batch()
    counts = torch.full((len(noise),), frozen)
    real = CONFIG.action_dim // 2
    student = Student(random_teacher(), euler_times(1), TEN, real, floor)
    loss = student.loss(inputs, actions, noise, torch.ones(len(noise)), counts)[:, frozen:, :real].mean((1, 2))
    errors = student.squared_errors(inputs, actions, noise, counts)[:, frozen:, :real].mean((1, 2))
    huber = (errors + floor**2).sqrt()
    torch.testing.assert_close(loss, errors / huber)
    parameters = [p for p in student.parameters() if p.requires_grad]
    ours = torch.autograd.grad(loss.mean(), parameters, allow_unused=True)
    theirs = torch.autograd.grad(2 * huber.mean(), parameters, allow_unused=True)
    for mine, expected in zip(ours, theirs, strict=True):
        if expected is not None:
            torch.testing.assert_close(mine, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("frozen", [0, CONFIG.horizon])
def test_an_exact_student_has_a_loss_of_zero_and_gradients_that_are_numbers(frozen):
    inputs, actions, noise = random_batch()
    student = Student(random_teacher(), TEN, TEN)
    loss = student.loss(inputs, actions, noise, torch.ones(len(noise)), torch.full((len(noise),), frozen))
    assert loss[:, frozen:].numel() == 0 or loss[:, frozen:].max() < 1e-6
    loss.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())


def test_the_expert_learns_and_what_sees_the_observation_stays_the_teachers():
    teacher = random_teacher()
    before = {name: p.clone() for name, p in teacher.named_parameters()}
    student = Student(teacher, euler_times(1), TEN)
    learning = {name.split(".")[0] for name, p in student.named_parameters() if p.requires_grad}
    fixed = {name.split(".")[0] for name, p in student.named_parameters() if not p.requires_grad}
    assert learning == {"expert", "action_in_proj", "action_out_proj", "state_proj", "action_time_mlp_in"} | {
        "action_time_mlp_out"
    }
    assert fixed == set(SHARED)
    inputs, actions, noise = random_batch()
    student.loss(inputs, actions, noise, torch.ones(len(noise))).mean().backward()
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=1.0)
    optimizer.step()
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in teacher.named_parameters())
    names = dict(teacher.named_parameters()).keys()
    assert dict(student.named_parameters()).keys() == names  # a checkpoint of the student is one of the teacher's kind


def test_a_teacher_whose_steps_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="a teacher of 10 steps cannot teach 3"):
        Student(random_teacher(), euler_times(3), TEN)


@pytest.mark.parametrize("parts", [(7, 3), (1, 9)])
def test_the_steps_cover_the_parts_that_are_given(parts, monkeypatch):
    """Where every part is covered exactly, nothing is left to learn; the same velocities miss other parts."""
    inputs, actions, noise = random_batch()
    path, teacher = [noise], random_teacher()
    table, context = teacher.condition(TEN), teacher.attend_state(teacher.attend_prefix(inputs), inputs.state)
    with torch.no_grad():
        for step in range(10):
            path.append(path[-1] - teacher.velocity(path[-1], table.at(step), context.repeated(2)) / 10)
    reached = (path[0], path[parts[0]], path[10])
    velocities = [2 * (before - after) for before, after in itertools.pairwise(reached)]
    for given, exact in ((parts, True), (None, False)):
        student = Student(teacher, euler_times(2), TEN, parts=given)
        monkeypatch.setattr(student, "velocity", Mock(side_effect=velocities))
        errors = student.squared_errors(inputs, actions, noise)
        assert (errors.max() < 1e-8) == exact


@pytest.mark.parametrize("parts", [(10,), (5, 4), (10, 0), (3, 3, 4), ()])
def test_parts_of_other_counts_are_refused(parts):
    with pytest.raises(ValueError, match="expected 2 of at least 1 that sum to 10"):
        Student(random_teacher(), euler_times(2), TEN, parts=parts)


def test_the_exact_velocity_is_that_of_many_samples():
    """The formula of the toy against the mean over actions that explain a noisy one."""
    rng = np.random.default_rng(0)
    action = np.where(rng.random(400_000) < 0.5, -1, 1) + WIDTH * rng.standard_normal(400_000)
    noise = rng.standard_normal(400_000)
    t, place = 0.6, 0.35
    near = np.abs(t * noise + (1 - t) * action - place) < 0.02
    expected = (noise - action)[near].mean()
    flow = TwoModeFlow(TOY)
    found = flow.velocity(torch.tensor([[[place]]]), flow.condition(torch.tensor([t])), None)  # pyright: ignore
    assert found.item() == pytest.approx(expected, abs=5 / math.sqrt(near.sum()))
