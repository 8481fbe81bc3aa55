"""The CUDA engine as it is called: accuracy, stale inputs, continuations, old prefixes; its graph's nodes, allocations.

On a real GPU, and, but for what only a graph has, on the CPU with emulated streams (`emulated_streams.py`).
"""

import copy
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from emulated_streams import EmulatedDevice, EmulatedStream
from engine_cases import CPU, SCHEMES, quantized, random_case

from pi0_edge.engine import build_engine
from pi0_edge.engine.cuda import engine as cuda
from pi0_edge.engine.cuda.engine import CudaEngine
from pi0_edge.engine.cuda.network import CudaNetwork
from pi0_edge.errors import EngineError
from pi0_edge.model import ModelInputs
from pi0_edge.model.flow import euler_times
from pi0_edge.model.rtc import FrozenPrefix, Guidance
from pi0_edge.processing.images import resize_with_pad, to_unit_range
from pi0_edge.quant import ORIN, compare_actions, find_scheme


def engine(variant: str = "pi0", scheme: str = "orin") -> CudaEngine:
    model = copy.deepcopy(random_case(variant)[0])
    return CudaEngine(quantized(model, find_scheme(scheme)), find_scheme(scheme))


@pytest.fixture(autouse=True, params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where engines run."""
    if request.param == "emulated":
        device = EmulatedDevice(seed=0)
        monkeypatch.setattr(CudaEngine, "check", staticmethod(lambda _: None))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(cuda, "CudaNetwork", lambda model, _: CudaNetwork(model, CPU))
        monkeypatch.setattr(cuda, "CudaStream", lambda _, urgent=False: EmulatedStream(device))
    return request.param


def only_on_a_gpu(place: str) -> None:
    if place != "gpu":
        pytest.skip("only a graph has nodes and memory of its own")


@pytest.mark.parametrize("variant", ["pi0", pytest.param("pi05", marks=pytest.mark.slow)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_graph_stays_near_the_reference(variant: str, scheme: str):
    model, inputs, noise = random_case(variant)
    truth = build_engine("reference", copy.deepcopy(model)).infer(inputs, noise)
    found = compare_actions(truth, engine(variant, scheme).infer(inputs, noise))
    assert found.cosine > (0.9999 if scheme == "bf16" else 0.999)


def changed(inputs: ModelInputs, name: str) -> ModelInputs:
    """Another observation of the same shape."""
    value = getattr(inputs, name)
    return replace(inputs, **{name: (value + 1) % 300 if name == "tokens" else value * -0.5 + 0.1})


@pytest.mark.parametrize("name", ["images", "tokens", "state"])
def test_every_replay_reads_the_new_observation(name: str):
    _, inputs, noise = random_case("pi0")
    running = engine()
    before = running.infer(inputs, noise)
    after = running.infer(changed(inputs, name), noise)
    fresh = engine().infer(changed(inputs, name), noise)
    assert not torch.equal(before, after)
    assert torch.equal(after, fresh)
    assert torch.equal(running.infer(inputs, noise), before)


def test_every_replay_reads_the_new_frames():
    _, inputs, noise = random_case("pi0")
    running = engine()
    first, second = (replace(inputs, images=torch.randint(0, 256, (1, 2, 48, 64, 3), dtype=torch.uint8)) for _ in "12")
    before, after = running.infer(first, noise), running.infer(second, noise)
    assert not torch.equal(before, after)
    assert torch.equal(running.infer(first, noise), before)
    pictures = np.stack([to_unit_range(resize_with_pad(frame, 56)) for frame in second.images[0].numpy()])
    finished = running.infer(replace(inputs, images=torch.from_numpy(pictures)[None]), noise)
    assert torch.equal(finished, after)


def test_every_replay_reads_the_new_noise():
    _, inputs, noise = random_case("pi0")
    running = engine()
    assert not torch.equal(running.infer(inputs, noise), running.infer(inputs, -noise))


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_one_graph_serves_every_frozen_prefix(variant: str):
    model, inputs, noise = random_case(variant)
    reference, running = build_engine("reference", copy.deepcopy(model)), engine(variant, "bf16")
    plan = torch.randn(noise.shape, generator=torch.Generator().manual_seed(3))
    free = running.infer(inputs, noise)
    for frozen in (20, 3):
        continuation = FrozenPrefix(plan, frozen)
        found = running.infer(inputs, noise, continuation)
        assert torch.equal(found[:, :frozen], plan[:, :frozen])
        assert compare_actions(reference.infer(inputs, noise, continuation), found).cosine > 0.9999
    assert torch.equal(running.infer(inputs, noise), free)
    assert len(running._chunks) == 1


@pytest.mark.parametrize("steps", [1, 2])
def test_a_distilled_policy_of_few_steps_stays_near_the_reference_with_and_without_a_plan(steps: int):
    model, inputs, noise = random_case("pi0")
    reference, running = build_engine("reference", copy.deepcopy(model)), engine("pi0", "bf16")
    reference.times = running.times = euler_times(steps)
    plan = torch.randn(noise.shape, generator=torch.Generator().manual_seed(3))
    for continuation in (None, FrozenPrefix(plan, 7)):
        found = running.infer(inputs, noise, continuation)
        assert compare_actions(reference.infer(inputs, noise, continuation), found).cosine > 0.9999
    ten = engine("pi0", "bf16").infer(inputs, noise, FrozenPrefix(plan, 7))
    assert not torch.equal(found, ten)


@pytest.mark.gpu
def test_a_step_adds_seven_nodes_per_layer_and_six(place: str):
    only_on_a_gpu(place)
    running, images = engine(), random_case("pi0")[1].images[0]
    counts = []
    for steps in (5, 10):
        running.times = euler_times(steps)
        graph = running.captured(len(images), 7).graph
        assert graph is not None
        counts.append(graph.nodes)
    assert counts[1] - counts[0] == 5 * (7 * running.config.expert.depth + 6)


@pytest.mark.gpu
def test_a_replay_allocates_nothing_on_the_device(place: str):
    only_on_a_gpu(place)
    _, inputs, noise = random_case("pi0")
    running = engine()
    running.infer(inputs, noise)
    images, tokens, state, x = (given[0].cuda() for given in (inputs.images, inputs.tokens, inputs.state, noise))
    captured = running.captured(len(images), 7)
    captured.infer(images, tokens, state, x)
    before = torch.cuda.memory_stats()["num_device_alloc"]
    captured.infer(images, tokens, state, x)
    assert torch.cuda.memory_stats()["num_device_alloc"] == before


def test_a_chunk_on_an_old_prefix_is_of_the_pictures_it_names_and_of_its_own_state():
    _, inputs, noise = random_case("pi0")
    running, whole = engine(), engine()
    running.allow_stale_prefix(60.0)
    seen, arrived, ages = [], [], []
    for call in range(12):
        seen.append(replace(inputs, images=inputs.images * (1 - call / 12), state=inputs.state + call))
        arrived.append(time.monotonic())
        found = running.infer(seen[-1], noise)
        source = min(range(call + 1), key=lambda i: abs(arrived[call] - running.prefix_age_s - arrived[i]))
        assert torch.equal(found, whole.infer(replace(seen[-1], images=seen[source].images), noise))
        ages.append(call - source)
    assert ages[0] == 0 and max(ages) > 0


def test_a_failed_chunk_is_refused_and_its_pictures_are_never_used_again():
    _, inputs, noise = random_case("pi0")
    running, whole = engine(), engine()
    running.allow_stale_prefix(60.0)
    running.infer(inputs, noise)
    with pytest.raises(EngineError, match="NaN or infinity"):
        running.infer(replace(inputs, state=inputs.state * torch.nan), noise)
    moved = replace(inputs, images=-inputs.images)
    assert torch.equal(running.infer(moved, noise), whole.infer(moved, noise))
    assert running.prefix_age_s == 0


def test_whole_chunks_have_their_own_pictures_again():
    _, inputs, noise = random_case("pi0")
    running, moved = engine(), replace(inputs, images=-inputs.images)
    running.allow_stale_prefix(60.0)
    running.infer(inputs, noise)
    running.infer(moved, noise)
    assert running.prefix_age_s > 0
    running.stale_prefix_s = 0.0
    assert torch.equal(running.infer(moved, noise), engine().infer(moved, noise))
    assert running.prefix_age_s == 0


def test_old_prefixes_are_for_one_robot_with_its_state_outside_the_prompt():
    _, inputs, noise = random_case("pi0")
    running = engine()
    running.allow_stale_prefix(0.1)
    twice = ModelInputs(**{name: value.repeat_interleave(2, 0) for name, value in vars(inputs).items()})
    with pytest.raises(EngineError, match="one robot, and 2 observations"):
        running.infer(twice, noise.repeat_interleave(2, 0))
    with pytest.raises(EngineError, match="use π0"):
        engine("pi05").allow_stale_prefix(0.1)


@pytest.mark.parametrize("stale", [False, True])
def test_free_guided_and_frozen_chunks_take_turns(stale: bool):
    model, inputs, noise = random_case("pi0")
    reference, running = build_engine("reference", copy.deepcopy(model)), engine(scheme="bf16")
    if stale:
        running.allow_stale_prefix(60.0)
    plan = torch.randn(noise.shape, generator=torch.Generator().manual_seed(3))
    weights = torch.linspace(1, 0, noise.shape[1])[:, None].expand(noise.shape[1:])
    for continuation in (
        None,
        Guidance(plan, weights, 10.0),
        FrozenPrefix(plan, 5),
        Guidance(-plan, weights, 10.0),
        None,
    ):
        found = compare_actions(
            reference.infer(inputs, noise, continuation), running.infer(inputs, noise, continuation)
        )
        assert found.cosine > 0.9999


def test_shapes_take_turns():
    """Graphs of several shapes share workspaces; none disturbs another."""
    _, inputs, noise = random_case("pi0")
    running = engine()
    shorter = replace(inputs, tokens=inputs.tokens[:, :3], token_mask=inputs.token_mask[:, :3])
    first, second = running.infer(inputs, noise), running.infer(shorter, noise)
    for _ in range(3):
        assert torch.equal(running.infer(inputs, noise), first)
        assert torch.equal(running.infer(shorter, noise), second)


def test_an_engine_of_a_bundles_tensors_is_the_same():
    from pi0_edge.engine import restore_engine

    model, inputs, noise = random_case("pi0")
    state = quantized(model, ORIN).state_dict()
    restored = restore_engine("cuda", model.config, state.items(), ORIN)
    assert torch.equal(restored.infer(inputs, noise), engine().infer(inputs, noise))
