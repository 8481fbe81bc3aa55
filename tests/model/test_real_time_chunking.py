"""Real-time chunking in the network: guidance, frozen prefixes, and what a network learns from them."""

from __future__ import annotations

from dataclasses import replace
from math import e, expm1

import numpy as np
import pytest
import torch
from golden_vectors import largest, load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_builders import CONFIG, DIMS, observation, write_checkpoint
from torch import Tensor

from pi0_edge.engine import ENGINES
from pi0_edge.errors import ConfigError, ObservationError
from pi0_edge.model import FrozenPrefix, GemmaConfig, Guidance, ModelInputs, Pi0, Pi0Config, VisionConfig
from pi0_edge.model.flow import euler_times, sample_training_times
from pi0_edge.model.rtc import frozen_actions, guidance_weight
from pi0_edge.policy import Policy
from pi0_edge.processing import Method, RunningPlan, Schedule, continuation, load_robot
from pi0_edge.processing.rtc import guidance_weights

VARIANTS = ["pi0", "pi05"]
torch.set_num_threads(1)


# The figures that LeRobot's implementation gives.


@pytest.mark.parametrize(("time", "weight"), [(1.0, 10.0), (0.9, 9.11), (0.5, 2.0), (0.1, 9.11)])
def test_guidance_weight_over_time_is_lerobots(time, weight):
    assert guidance_weight(torch.tensor(time), 10.0).item() == pytest.approx(weight, abs=5e-3)


@pytest.mark.parametrize(
    ("schedule", "fading"),
    [
        (Schedule.LINEAR, [0.857, 0.714, 0.571, 0.429, 0.286, 0.143]),
        (Schedule.EXP, [0.677, 0.433, 0.256, 0.133, 0.055, 0.013]),
        (Schedule.ONES, [1.0] * 6),
        (Schedule.ZEROS, [0.0] * 6),
    ],
)
def test_weights_over_actions_are_lerobots(schedule, fading):
    weights = guidance_weights(4, 10, 12, schedule)
    assert weights.tolist() == pytest.approx([1.0] * 4 + fading + [0.0] * 2, abs=6e-4)


@settings(deadline=None)
@given(st.integers(0, 49), st.integers(0, 60), st.sampled_from(list(Schedule)))
def test_weights_are_full_within_the_delay_and_never_rise(delay, overlap, schedule):
    weights = guidance_weights(delay, overlap, 50, schedule)
    assert (weights[:delay] == 1).all()
    assert (np.diff(weights) <= 0).all() and (weights >= 0).all()
    assert (weights[max(delay, overlap) :] == 0).all()


def test_the_exponential_schedule_is_that_of_the_paper():
    delay, overlap = 3, 20
    for k in range(delay, overlap):
        c = (overlap - k) / (overlap - delay + 1)
        assert guidance_weights(delay, overlap, 50, Schedule.EXP)[k] == pytest.approx(c * expm1(c) / (e - 1), abs=1e-6)


# The Euler loop.


def chunks(golden, rows: int = 1) -> tuple[ModelInputs, Tensor, Tensor]:
    """Inputs, noise, and another chunk to continue."""
    inputs, noise = golden.recording.inputs, golden.recording.noise
    generator = torch.Generator().manual_seed(5)
    return inputs, noise, torch.randn(rows, *noise.shape[1:], generator=generator)


@torch.inference_mode()
def sample(model: Pi0, inputs: ModelInputs, noise: Tensor, how: Guidance | FrozenPrefix | None = None) -> Tensor:
    return model.sample_actions(inputs, noise, euler_times(10), how)


@torch.inference_mode()
def lerobot_loop(model: Pi0, inputs: ModelInputs, noise: Tensor, previous: Tensor, weights: Tensor) -> Tensor:
    """The loop as LeRobot writes it, in its τ = 1 − t and with its own correction of the velocity."""
    context = model.attend_state(model.attend_prefix(inputs), inputs.state)
    times = euler_times(10)
    table = model.condition(times)
    x = noise
    for step, t in enumerate(times.tolist()):
        v = model.velocity(x, table.at(step), context)
        tau = 1 - t
        error = (previous - (x - t * v)) * weights
        squared = (1 - tau) ** 2
        g = 10.0 if tau == 0 else min(10.0, (1 - tau) / tau * (squared + tau**2) / squared)
        x = x + -0.1 * (v - g * error)
    return x


@pytest.mark.parametrize("variant", VARIANTS)
def test_guidance_is_lerobots_loop(variant):
    golden = load_golden(variant)
    inputs, noise, previous = chunks(golden)
    weights = torch.from_numpy(guidance_weights(4, 10, noise.shape[1], Schedule.LINEAR))[:, None]
    guided = sample(golden.model, inputs, noise, Guidance(previous, weights.expand(-1, noise.shape[2]), 10.0))
    assert largest(guided, lerobot_loop(golden.model, inputs, noise, previous, weights)) < 2e-4
    free = sample(golden.model, inputs, noise)
    distance = [(chunk[:, :4] - previous[:, :4]).square().mean().item() for chunk in (guided, free)]
    assert distance[0] < 0.02 * distance[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_guidance_without_weight_and_a_prefix_without_length_change_nothing(variant):
    golden = load_golden(variant)
    inputs, noise, previous = chunks(golden)
    free = sample(golden.model, inputs, noise)
    assert torch.equal(
        sample(golden.model, inputs, noise, Guidance(previous, torch.zeros(noise.shape[1:]), 10.0)), free
    )
    assert torch.equal(sample(golden.model, inputs, noise, FrozenPrefix(previous, 0)), free)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_frozen_prefix_stays_and_the_network_sees_it_without_noise_at_time_zero(variant, monkeypatch):
    golden = load_golden(variant)
    inputs, noise, previous = chunks(golden)
    seen = []
    real = Pi0.velocity

    def watched(self, x, conditioning, context):
        seen.append((x.clone(), conditioning))
        return real(self, x, conditioning, context)

    monkeypatch.setattr(Pi0, "velocity", watched)
    result = sample(golden.model, inputs, noise, FrozenPrefix(previous, 3))
    assert torch.equal(result[:, :3], previous[:, :3].expand(len(noise), -1, -1))
    times = euler_times(10)
    for step, (x, conditioning) in enumerate(seen):
        assert torch.equal(x[0, :3], previous[0, :3])
        clean, noisy = golden.model.condition(torch.zeros(1)), golden.model.condition(times[step : step + 1])
        for table, at_zero, at_step in zip(*(_tables(c) for c in (conditioning, clean, noisy)), strict=True):
            assert torch.allclose(table[0, :3], at_zero[0].expand(3, -1), atol=1e-6)
            assert torch.allclose(table[0, 3:], at_step[0].expand(len(table[0]) - 3, -1), atol=1e-6)


def _tables(conditioning) -> list[Tensor]:
    return [conditioning.time_bias] if conditioning.modulations is None else conditioning.modulations


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_of_a_frozen_prefix_is_that_of_what_inference_shows(variant):
    golden = load_golden(variant)
    inputs, noise, actions = chunks(golden, rows=2)
    times, frozen = torch.tensor([0.3, 0.8]), torch.tensor([0, 3])
    with torch.no_grad():
        both = golden.model.loss(inputs, actions, noise, times, frozen)
        free = golden.model.loss(inputs, actions, noise, times)
        moved = golden.model.loss(
            inputs, actions, noise + (frozen_actions(frozen, noise.shape[1])[..., None]), times, frozen
        )
    assert largest(both[0], free[0]) < 1e-4
    assert largest(both[1, 3:], free[1, 3:]) > 1e-3
    assert largest(both[1, 3:], moved[1, 3:]) < 1e-5  # noise under the prefix is never seen


# The way from a plan in the robot's units.


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    return Policy.load(write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint"), "reference")


@pytest.fixture(scope="module", params=[name for name in ENGINES if name not in ("cuda", "tensorrt", "openvino")])
def policy_of_every_engine(request, tmp_path_factory) -> Policy:
    return Policy.load(write_checkpoint(tmp_path_factory.mktemp("engine") / "checkpoint"), request.param)


def test_a_guided_chunk_continues_the_plan_and_leaves_its_own_end_free(policy_of_every_engine):
    policy = policy_of_every_engine
    free = policy.infer(observation(1), noise_seed=1).actions
    plan = RunningPlan(policy.infer(observation(0), noise_seed=2).actions[2:], delay=3, overlap=6)
    guided = policy.infer(observation(1), noise_seed=1, plan=plan).actions
    assert np.abs(guided[:3] - plan.actions[:3]).max() < 0.1 * np.abs(free[:3] - plan.actions[:3]).max()


def test_relative_actions_are_anchored_anew(tmp_path):
    """The same motion of the arm, seen from another state, becomes another row of the network."""
    policy = Policy.load(write_checkpoint(tmp_path / "checkpoint", robot="aloha"), "reference")
    delta = load_robot("aloha").delta_actions
    assert delta and delta[0] > 0
    plan = RunningPlan(np.tile(np.linspace(-0.2, 0.2, DIMS), (4, 1)), delay=2)
    seen = observation(0)
    moved = replace(seen, state=np.asarray(seen.state) + 0.1)
    rows = [continuation(plan, at, policy.processor) for at in (seen, moved)]
    assert all(isinstance(row, Guidance) for row in rows)
    for row, at in zip(rows, (seen, moved), strict=True):
        back = policy.processor.to_physical(row.previous[0, :4].numpy(), at)  # pyright: ignore
        np.testing.assert_allclose(back, plan.actions, atol=1e-5)
    assert largest(rows[0].previous, rows[1].previous) > 0.1  # pyright: ignore


def test_a_plan_that_ends_within_the_delay_is_held(policy):
    plan = RunningPlan(np.full((2, DIMS), 0.1), delay=5)
    made = continuation(plan, observation(), policy.processor)
    assert isinstance(made, Guidance)
    assert torch.equal(made.previous[0, 1], made.previous[0, 4])
    assert (made.weights[:5, :DIMS] == 1).all() and (made.weights[5:] == 0).all()
    assert (made.weights[:, DIMS:] == 0).all()  # the padding is nobody's


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        (RunningPlan(np.zeros((0, DIMS)), 1), ObservationError, "at least one row"),
        (RunningPlan(np.full((3, DIMS), np.nan), 1), ObservationError, "finite"),
        (RunningPlan(np.zeros((3, DIMS + 1)), 1), ObservationError, "expected \\[rows, 14\\]"),
        (RunningPlan(np.zeros((3, DIMS)), CONFIG.horizon), ObservationError, "0 to 9"),
        (RunningPlan(np.zeros((3, DIMS)), 2, Method.FROZEN_PREFIX), ConfigError, "trained with none"),
    ],
)
def test_a_plan_that_cannot_be_continued_is_refused(policy, plan, error, message):
    with pytest.raises(error, match=message):
        policy.infer(observation(), plan=plan)


# What a network makes of it.

TWO_WAYS = Pi0Config(
    "pi0",
    VisionConfig(width=16, depth=1, mlp_dim=16, heads=2, patch_size=8, image_size=8),
    GemmaConfig(width=32, depth=2, mlp_dim=32, heads=2, kv_heads=1, head_dim=16),
    GemmaConfig(width=32, depth=2, mlp_dim=64, heads=2, kv_heads=1, head_dim=16),
    vocab_size=8,
    action_dim=2,
    horizon=8,
    trained_delay=3,
)


def blank_inputs(rows: int) -> ModelInputs:
    return ModelInputs(
        images=torch.zeros(rows, 1, 3, 8, 8),
        image_mask=torch.ones(rows, 1, dtype=torch.bool),
        tokens=torch.full((rows, 1), 2),
        token_mask=torch.ones(rows, 1, dtype=torch.bool),
        state=torch.zeros(rows, 2),
    )


def two_ways(sign: Tensor) -> Tensor:
    """Around an obstacle on the left (−1) or on the right (1): [rows, 8, 2]."""
    ramp = torch.linspace(0.5, 1.5, 8)[:, None] * torch.tensor([1.0, 0.0])
    return sign[:, None, None] * ramp


def train_two_ways() -> Pi0:
    torch.manual_seed(0)
    model = Pi0(TWO_WAYS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        actions = two_ways(torch.randint(0, 2, (64,)) * 2.0 - 1)
        frozen = torch.randint(4, (64,))
        loss = model.loss(blank_inputs(64), actions, torch.randn(64, 8, 2), sample_training_times(64), frozen)
        loss = loss[~frozen_actions(frozen, 8)].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_a_chunk_takes_the_way_that_the_arm_is_on():
    """Two ways are as good as each other: free chunks take both, and a continued one never changes its mind."""
    model = train_two_ways()
    sign = torch.tensor([1.0, -1.0]).repeat(20)
    plan, noise = two_ways(sign), torch.randn(40, 8, 2, generator=torch.Generator().manual_seed(1))
    free = sample(model, blank_inputs(40), noise)[:, -1, 0]
    assert 8 <= (free.sign() == sign).sum() <= 32
    weights = torch.from_numpy(guidance_weights(3, 6, 8, Schedule.EXP))[:, None].expand(-1, 2)
    for how in (FrozenPrefix(plan, 3), Guidance(plan, weights, 10.0)):
        ends = sample(model, blank_inputs(40), noise, how)[:, -1, 0]
        assert (ends.sign() == sign).float().mean() >= 0.95, how
