"""Re-planning on an old prefix: every chunk is of the observation that it names, whatever two streams do meanwhile.

The real network on the CPU, its operators interleaved at random (`emulated_streams.py`); the real streams in
`test_engine_cuda_graph.py`.
"""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from emulated_streams import EmulatedDevice, EmulatedStream
from engine_cases import CPU, KERNEL_SIZES, NONE_FROZEN, attended, quantized, random_case
from torch import Tensor

from pi0_edge.engine.cuda.engine import check_stale_prefix
from pi0_edge.engine.cuda.network import CudaNetwork, StepTables, step_tables
from pi0_edge.engine.cuda.sizes import prompt_places
from pi0_edge.engine.cuda.stale_prefix import PrefixSource, StalePrefixRunner
from pi0_edge.errors import EngineError
from pi0_edge.model import ModelInputs
from pi0_edge.model.flow import euler_times
from pi0_edge.quant import ORIN

STEPS = 3
PERIOD_S = 0.03
TOKENS = 7
CALLS = 10


@cache
def network_and_tables() -> tuple[CudaNetwork, StepTables]:
    model = random_case("pi0")[0]
    return CudaNetwork(quantized(model, ORIN), CPU), step_tables(copy.deepcopy(model), euler_times(STEPS), CPU)


@cache
def observations() -> list[ModelInputs]:
    """A robot that moves: new pictures and a new state every time, one prompt."""
    first, generator = random_case("pi0")[1], torch.Generator().manual_seed(1)
    return [
        replace(
            first,
            images=torch.rand(first.images.shape, generator=generator) * 2 - 1,
            state=torch.randn(first.state.shape, generator=generator),
        )
        for _ in range(CALLS)
    ]


@cache
@torch.inference_mode()
def expected(pictures: int, state: int) -> Tensor:
    """The chunk of an observation's pictures and another one's state and noise, without streams."""
    network, tables = network_and_tables()
    seen = replace(observations()[pictures], state=observations()[state].state)
    actions = noise(state).clone()
    network.integrate(actions, seen.state[0], attended(network, seen), tables, NONE_FROZEN)
    return actions


def noise(call: int) -> Tensor:
    return torch.randn(KERNEL_SIZES.horizon, 32, generator=torch.Generator().manual_seed(100 + call))


def replanning(device: EmulatedDevice, prefix_speed: float = 1.0, waits: bool = True) -> StalePrefixRunner:
    network = network_and_tables()[0]
    streams = EmulatedStream(device, prefix_speed, waits), EmulatedStream(device, 1.0, waits)
    with torch.inference_mode():
        places = prompt_places(KERNEL_SIZES, TOKENS)
        return StalePrefixRunner(network, network_and_tables()[1], 2, places, *streams)


@torch.inference_mode()
def call(running: StalePrefixRunner, number: int, limit_s: float, tokens: Tensor | None = None) -> tuple[Tensor, int]:
    """The chunk of a call, and the number of the observation whose pictures it names."""
    inputs = observations()[number]
    source = PrefixSource(inputs.images[0], inputs.tokens[0] if tokens is None else tokens, number * PERIOD_S)
    actions, named = running.infer(source, inputs.state[0], noise(number), limit_s)
    return actions, round(named.arrived_s / PERIOD_S)


def wrong_chunks(running: StalePrefixRunner) -> int:
    """Of some calls, as many as are not what they name."""
    wrong = 0
    for number in range(CALLS):
        actions, pictures = call(running, number, limit_s=10)
        wrong += not torch.equal(actions, expected(pictures, number))
    return wrong


@pytest.mark.parametrize(
    ("seed", "prefix_speed", "idle"),
    [
        (0, 1.0, 0),
        pytest.param(1, 1.0, 500, marks=pytest.mark.slow),
        (2, 0.2, 60),
        pytest.param(3, 0.05, 200, marks=pytest.mark.slow),
    ],
)
def test_every_chunk_is_of_the_pictures_it_names_and_of_its_own_state(seed: int, prefix_speed: float, idle: int):
    """The prefix as fast as the loop or slower, and the robot asking at once or after as many operators."""
    device, ages = EmulatedDevice(seed), []
    running = replanning(device, prefix_speed)
    for number in range(CALLS):
        device.run(idle)
        actions, pictures = call(running, number, limit_s=2.5 * PERIOD_S)
        assert torch.equal(actions, expected(pictures, number)), f"chunk {number} is not of observation {pictures}"
        ages.append(number - pictures)
    print(f"prefix at {prefix_speed} of the loop's speed, {idle} operators between calls: {ages} observations old")
    assert ages[0] == 0 and 0 < max(ages) <= 2


def test_one_buffer_instead_of_two_is_found_out(monkeypatch: pytest.MonkeyPatch):
    network = network_and_tables()[0]
    only = network.blank_cache(2, prompt_places(KERNEL_SIZES, TOKENS))
    monkeypatch.setattr(network, "blank_cache", lambda *_: only)
    assert sum(wrong_chunks(replanning(EmulatedDevice(seed), prefix_speed=0.2)) for seed in range(2)) > 0


def test_streams_that_do_not_wait_for_each_other_are_found_out():
    assert sum(wrong_chunks(replanning(EmulatedDevice(seed), waits=False)) for seed in range(2)) > 0


def test_who_asks_seldom_gets_his_own_pictures():
    running = replanning(EmulatedDevice(0))
    assert [call(running, number, limit_s=0.5 * PERIOD_S)[1] for number in range(4)] == [0, 1, 2, 3]


def test_another_prompt_is_never_answered_from_an_old_prefix():
    running = replanning(EmulatedDevice(0))
    asked = observations()[0].tokens[0]
    other = (asked + 1) % KERNEL_SIZES.vocab_size
    for number, tokens in enumerate((asked, other, asked, other)):
        assert call(running, number, 10, tokens)[1] == number


def test_after_a_failure_nothing_old_is_used():
    running = replanning(EmulatedDevice(0))
    for number in range(3):
        call(running, number, limit_s=10)
    running.reset()
    actions, pictures = call(running, 3, limit_s=10)
    assert pictures == 3 and torch.equal(actions, expected(3, 3))


@pytest.mark.parametrize(
    ("variant", "limit_s", "why"),
    [("pi05", 0.1, "use π0"), ("pi0", 0.0, "positive"), ("pi0", float("inf"), "positive")],
)
def test_what_cannot_be_allowed_is_refused(variant: str, limit_s: float, why: str):
    check_stale_prefix(KERNEL_SIZES, 0.1)
    with pytest.raises(EngineError, match=why):
        check_stale_prefix(replace(KERNEL_SIZES, variant=variant), limit_s)
