"""No graph is captured while a robot moves, and what is captured is bounded: captures counted, on the CPU."""

import copy
import logging
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from emulated_streams import DirectStream
from engine_cases import CPU, KERNEL_SIZES, NONE_FROZEN, attended, quantized, random_case
from torch import Tensor

from pi0_edge.engine.cuda import engine as cuda
from pi0_edge.engine.cuda import graphs
from pi0_edge.engine.cuda.engine import GRAPHS, CudaEngine
from pi0_edge.engine.cuda.graphs import CudaGraph, CudaStream, LoopStage, exact_sums
from pi0_edge.engine.cuda.network import CudaNetwork, step_tables
from pi0_edge.engine.cuda.recent import Recent
from pi0_edge.errors import EngineError
from pi0_edge.model import ModelInputs, Pi0, Pi0Config
from pi0_edge.model.flow import euler_times
from pi0_edge.model.rtc import Continuation, FrozenPrefix, Guidance
from pi0_edge.processing.images import resize_with_pad, to_unit_range
from pi0_edge.processing.prompts import prompt_with_state
from pi0_edge.quant import compare_actions, find_scheme

JOINTS = 14
TASKS = ("pick up the cup", "fold the towel on the left", "stop")
CAMERA_SIZES = ((48, 64), (30, 40), (28, 28), (64, 48))
BF16 = find_scheme("bf16")


@pytest.fixture(autouse=True)
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines on the CPU, with streams that count captures."""
    monkeypatch.setattr(CudaEngine, "check", staticmethod(lambda _: None))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "CudaNetwork", lambda model, _: CudaNetwork(model, CPU))
    monkeypatch.setattr(cuda, "CudaStream", lambda _, urgent=False: DirectStream())
    monkeypatch.setattr(DirectStream, "captures", 0)


def small(variant: str) -> Pi0Config:
    """One layer of each kind, and the prompt lengths of the real networks."""
    return replace(
        KERNEL_SIZES,
        variant=variant,
        prefix=replace(KERNEL_SIZES.prefix, depth=1),
        expert=replace(KERNEL_SIZES.expert, depth=1),
        vision=replace(KERNEL_SIZES.vision, depth=1, image_size=28),
        horizon=10,
        max_prompt_tokens=200 if variant == "pi05" else 48,
    )


def engine_and_model(variant: str) -> tuple[CudaEngine, Pi0]:
    torch.manual_seed(0)
    model = Pi0(small(variant)).eval()
    made = CudaEngine(quantized(copy.deepcopy(model), BF16), BF16)
    made.times = euler_times(2)
    return made, model


def observed(state: np.ndarray, task: str, frames: Tensor, with_state: bool) -> ModelInputs:
    """One token per character, as Gemma has one per digit."""
    text = prompt_with_state(task, state) if with_state else task + "\n"
    tokens = torch.tensor([[2, *(3 + ord(character) % 290 for character in text)]])
    return ModelInputs(
        images=frames[None],
        image_mask=torch.ones(1, len(frames), dtype=torch.bool),
        tokens=tokens,
        token_mask=torch.ones_like(tokens, dtype=torch.bool),
        state=torch.from_numpy(np.pad(state, (0, 32 - JOINTS))).float()[None],
    )


def finished(inputs: ModelInputs) -> ModelInputs:
    """With the images as the reference takes them."""
    images = [to_unit_range(resize_with_pad(frame, 28)) for frame in inputs.images[0].numpy()]
    return replace(inputs, images=torch.from_numpy(np.stack(images))[None])


@pytest.mark.parametrize(
    ("variant", "chunks"), [("pi0", 100), pytest.param("pi0", 1000, marks=pytest.mark.slow), ("pi05", 1000)]
)
def test_chunks_of_a_moving_robot_capture_nothing(variant: str, chunks: int):
    """States that make prompts of other lengths, other tasks, other camera sizes, free, guided and frozen chunks."""
    running, model = engine_and_model(variant)
    chance, state, lengths = np.random.default_rng(0), np.zeros(JOINTS), set()
    black = torch.zeros(1, 28, 28, 3, dtype=torch.uint8)
    noise = torch.randn(1, 10, 32, generator=torch.Generator().manual_seed(0))
    running.warm_up(observed(state, "wait", black, variant == "pi05"), noise)
    at_start = DirectStream.captures
    assert at_start == (4 if variant == "pi05" else 1)
    for chunk in range(chunks):
        state = np.clip(state + chance.normal(0, 0.05, JOINTS), -1, 1)
        height, width = CAMERA_SIZES[chunk // 7 % len(CAMERA_SIZES)]
        frames = torch.from_numpy(chance.integers(0, 256, (1, height, width, 3), np.uint8))
        inputs = observed(state, TASKS[chunk // 8 % len(TASKS)], frames, variant == "pi05")
        plan = torch.from_numpy(chance.normal(0, 1, (1, 10, 32))).float()
        weights = torch.linspace(1, 0, 10)[:, None].expand(10, 32)
        continuation: Continuation | None = (
            None,
            Guidance(plan, weights, max_weight=5.0 + chunk % 3),
            FrozenPrefix(plan, chunk % 9),
        )[chunk % 3]
        lengths.add(inputs.tokens.shape[1])
        found = running.infer(inputs, noise, continuation)
        if chunk % (chunks // 10 + 1) == 0:
            with torch.inference_mode():
                truth = model.sample_actions(finished(inputs), noise, running.times, continuation)
            assert compare_actions(truth, found).cosine > 0.9999
    print(f"{variant}: {len(lengths)} lengths of prompts, {at_start} graphs")
    assert DirectStream.captures == at_start
    assert len(lengths) >= (8 if variant == "pi05" else 3)


def test_chunks_on_an_old_prefix_capture_nothing_either():
    running, _ = engine_and_model("pi0")
    running.allow_stale_prefix(60.0)
    noise, frames = torch.zeros(1, 10, 32), torch.zeros(1, 28, 28, 3, dtype=torch.uint8)
    running.warm_up(observed(np.zeros(JOINTS), "wait", frames, False), noise)
    at_start = DirectStream.captures
    plan, weights = torch.ones(1, 10, 32), torch.ones(10, 32)
    for task in TASKS:
        for continuation in (None, Guidance(plan, weights, 5.0), FrozenPrefix(plan, 3), Guidance(plan, weights, 9.0)):
            running.infer(observed(np.ones(JOINTS), task, frames, False), noise, continuation)
    assert DirectStream.captures == at_start == 2
    assert running.prefix_age_s > 0


def test_a_chunk_tells_how_long_its_graph_took_on_the_device():
    engine, _ = engine_and_model("pi0")
    frames = torch.zeros(1, 28, 28, 3, dtype=torch.uint8)
    inputs, noise = observed(np.zeros(JOINTS), "wait", frames, False), torch.zeros(1, 10, 32)
    assert engine.device_ms is None
    begin = time.perf_counter()
    engine.infer(inputs, noise)
    assert engine.device_ms is not None and 0.0 < engine.device_ms < 1e3 * (time.perf_counter() - begin)
    engine.allow_stale_prefix(1.0)
    engine.infer(inputs, noise)
    assert engine.device_ms is None  # two graphs at once: no event lies behind both


@pytest.mark.parametrize("stale", [False, True])
def test_another_number_of_cameras_is_answered_at_once_and_told_once(stale: bool, caplog: pytest.LogCaptureFixture):
    running, other = engine_and_model("pi0")[0], engine_and_model("pi0")[0]
    noise = torch.randn(1, 10, 32, generator=torch.Generator().manual_seed(0))
    frames = torch.randint(0, 256, (2, 28, 28, 3), dtype=torch.uint8)
    state = np.linspace(-1, 1, JOINTS)
    if stale:
        running.allow_stale_prefix(60.0)
    running.warm_up(observed(state, "wait", frames[:1], False), noise)
    at_start = DirectStream.captures
    with caplog.at_level(logging.WARNING):
        found = [running.infer(observed(state, "stop", frames, False), noise) for _ in range(3)]
    assert DirectStream.captures == at_start
    assert [record.message.startswith("2 cameras and a prompt") for record in caplog.records] == [True]
    expected = other.infer(observed(state, "stop", frames, False), noise)  # not warmed up: captures
    assert DirectStream.captures == at_start + 1
    assert all(torch.equal(expected, each) for each in found) and running.prefix_age_s == 0


def test_a_free_chunk_of_the_graph_that_guides_is_the_unguided_one_bit_for_bit():
    model, inputs, noise = random_case("pi0")
    network, tables = CudaNetwork(quantized(model, BF16), CPU), step_tables(model, euler_times(10), CPU)
    nan = Guidance(torch.full_like(noise, torch.nan), torch.ones(noise.shape[1:]), 5.0)
    with torch.inference_mode():
        cache = attended(network, inputs)
        alone = noise[0].clone()
        network.integrate(alone, inputs.state[0], cache, tables, NONE_FROZEN)
        loop = LoopStage(network, tables, cache)
        for continuation in (None, nan, None):  # a damaged plan is not left in the buffers
            loop.load(inputs.state[0], noise[0], continuation)
            loop.run()
    assert torch.equal(loop.actions, alone)


def test_graphs_are_bounded():
    """An engine that nobody warmed up captures what it is asked for, and forgets what was not used for longest."""
    running, _ = engine_and_model("pi05")
    noise, asked = torch.zeros(1, 10, 32), 0
    for cameras in (1, 2, 3):
        frames = torch.zeros(cameras, 28, 28, 3, dtype=torch.uint8)
        for task in ("x" * length for length in (1, 60, 110, 128)):
            running.infer(observed(np.zeros(JOINTS), task, frames, False), noise)
            asked += 1
    assert asked > GRAPHS >= len(running._chunks)
    before = DirectStream.captures
    running.infer(observed(np.zeros(JOINTS), "x", torch.zeros(3, 28, 28, 3, dtype=torch.uint8), False), noise)
    assert DirectStream.captures == before


def test_old_prefixes_are_bounded_and_forgotten_when_their_work_is_done():
    forgotten: list[int] = []
    recent: Recent[str, int] = Recent(2, forgotten.append)
    for key, value in (("a", 1), ("b", 2), ("a", 1), ("c", 3)):
        assert recent.get(key, lambda value=value: value) == value
    assert forgotten == [2] and "b" not in recent and recent.values() == (1, 3)
    running, _ = engine_and_model("pi0")
    running.allow_stale_prefix(1.0)
    for cameras in range(1, GRAPHS + 3):
        frames = torch.zeros(cameras, 28, 28, 3, dtype=torch.uint8)
        running.infer(observed(np.zeros(JOINTS), "wait", frames, False), torch.zeros(1, 10, 32))
    assert len(running._stale_prefix) == GRAPHS


def test_sums_are_in_float32_while_the_engine_computes_and_the_process_keeps_its_choice(
    monkeypatch: pytest.MonkeyPatch,
):
    matmul = torch.backends.cuda.matmul
    names = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    seen: list[list[bool]] = []
    for name in ("attend", "integrate"):
        whole = getattr(CudaNetwork, name)

        def watched(*arguments: object, whole=whole) -> object:
            seen.append([getattr(matmul, flag) for flag in names])
            return whole(*arguments)

        monkeypatch.setattr(CudaNetwork, name, watched)
    before = [getattr(matmul, flag) for flag in names]
    running, _ = engine_and_model("pi0")
    frames = torch.zeros(1, 28, 28, 3, dtype=torch.uint8)
    running.infer(observed(np.zeros(JOINTS), "wait", frames, False), torch.zeros(1, 10, 32))
    assert len(seen) == 4 and all(flags == [False, False] for flags in seen)
    with pytest.raises(ValueError, match="inside"), exact_sums():
        raise ValueError("inside")
    assert [getattr(matmul, flag) for flag in names] == before == [True, True]


class OldGraph:
    """`torch.cuda.CUDAGraph` before torch 2.8: it takes nothing and keeps nothing."""

    def __init__(self) -> None:
        self.replayed = 0

    def replay(self) -> None:
        self.replayed += 1


def test_an_older_torch_captures_all_the_same_and_says_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", OldGraph)
    monkeypatch.setattr(graphs, "KEEPS_GRAPHS", False)
    filled: list[OldGraph] = []
    graph = CudaGraph(filled.append)  # type: ignore[arg-type]
    graph.replay()
    assert filled[0].replayed == 1
    with pytest.raises(EngineError, match=r"cannot count the nodes of a CUDA graph; use torch 2\.8"):
        _ = graph.nodes


class StandInStream:
    """In the place of `torch.cuda.Stream`, which needs a GPU."""

    def __init__(self, *_: object, **__: object) -> None:
        self.device = CPU

    def synchronize(self) -> None: ...

    def wait_stream(self, _: object) -> None: ...


def test_graphs_share_a_pool_per_stream_and_other_threads_do_not_disturb_a_capture(monkeypatch: pytest.MonkeyPatch):
    from contextlib import nullcontext

    given: list[tuple[object, ...]] = []

    def capture(graph: object, pool: object, stream: object, capture_error_mode: str) -> nullcontext[None]:
        given.append((pool, stream, capture_error_mode))
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "Stream", StandInStream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", OldGraph)
    monkeypatch.setattr(graphs, "KEEPS_GRAPHS", False)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: object())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", capture)
    first, second = CudaStream(CPU), CudaStream(CPU)
    for stream in (first, first, second):
        stream.capture(lambda: None)
    assert [mode for _, _, mode in given] == ["thread_local"] * 3
    assert given[0][:2] == given[1][:2] and given[0][0] is not given[2][0] and given[0][1] is not given[2][1]
