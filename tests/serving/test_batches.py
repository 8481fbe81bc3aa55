"""Several observations in one pass: each gets the chunk that it gets alone, and one that is wrong spoils no other."""

from __future__ import annotations

import dataclasses
import functools
import platform
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from policy_builders import CONFIG, DIMS, PROMPT, observation, write_checkpoint

from pi0_edge.engine import ENGINES, find_engine
from pi0_edge.errors import ConfigError, EngineError, ObservationError, QuantizationError
from pi0_edge.model import FrozenPrefix, Guidance, join, join_continuations
from pi0_edge.policy import Asked, Policy, PolicyChunk
from pi0_edge.processing import Method, Observation, RunningPlan
from pi0_edge.protos import policy_pb2_grpc
from pi0_edge.quant import SCHEMES
from pi0_edge.quant.formats import Format
from pi0_edge.serving.inference_queue import Batching
from pi0_edge.serving.policy_client import PolicyClient, write_observation
from pi0_edge.serving.policy_server import PolicyServer, warm_up
from pi0_edge.serving.shared_policy import Request, SharedPolicy, check_batch

torch.set_num_threads(1)

BOUND = {"reference": 1e-5, "cpu": 0.05}
"""Largest difference of a normalized action between a pass of one and a pass of several, whatever the prompts.

The masked attention of a shorter prompt sums in another order; on the way through INT8 that may turn a rounding.
"""
PROMPTS = [PROMPT, "Transfer", "Transfer cube cube cube"]


@functools.cache
def policy(engine: str) -> Policy:
    """With random weights; a frozen prefix is taken as if it had been trained."""
    config = dataclasses.replace(CONFIG, trained_delay=6)
    with tempfile.TemporaryDirectory() as folder:
        return Policy.load(write_checkpoint(Path(folder) / "checkpoint", config=config), engine)


def seen(seed: int, prompt: str = PROMPT, cameras: int = 1) -> Observation:
    images = {
        camera: observation(seed + place).images["top"]
        for place, camera in enumerate(("top", "left_wrist", "right_wrist")[:cameras])
    }
    return Observation(images, observation(seed).state, prompt)


def plan(seed: int, method: Method = Method.GUIDED, delay: int = 3) -> RunningPlan:
    actions = np.random.default_rng(seed).normal(0, 0.2, (8, DIMS))
    return RunningPlan(actions, delay, method, overlap=6, max_weight=float(3 + seed % 5))


def chunk(answer: PolicyChunk | Exception) -> NDArray[np.float32]:
    assert isinstance(answer, PolicyChunk), answer
    return answer.normalized


PLANS = st.one_of(
    st.none(),
    st.builds(plan, st.integers(0, 99)),
    st.builds(plan, st.integers(0, 99), st.just(Method.FROZEN_PREFIX), st.sampled_from([2, 5])),
)
ASKED = st.builds(
    lambda seed, noise, prompt, cameras, plan: Asked(seen(seed, prompt, cameras), noise, plan),
    st.integers(0, 99),
    st.integers(0, 2**31),
    st.sampled_from(PROMPTS),
    st.integers(1, 3),
    PLANS,
)


@pytest.mark.parametrize("engine", list(BOUND))
@settings(max_examples=8, deadline=None)
@given(asked=st.lists(ASKED, min_size=1, max_size=6))
def test_the_chunk_of_a_pass_is_the_chunk_alone(engine: str, asked: list[Asked]):
    one = policy(engine)
    together = one.infer_together(asked)
    for each, answer in zip(asked, together, strict=True):
        alone = one.infer(each.observation, each.noise_seed, each.plan)
        assert np.abs(chunk(answer) - alone.normalized).max() <= BOUND[engine]
        assert isinstance(answer, PolicyChunk)
        np.testing.assert_allclose(answer.actions, alone.actions, atol=BOUND[engine])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="how torch sums few rows depends on the processor")
@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), PLANS), min_size=2, max_size=5))
def test_integer_arithmetic_gives_prompts_of_one_length_the_same_bits(rows: list[tuple[int, int, RunningPlan | None]]):
    one = policy("cpu")
    together = one.infer_together([Asked(seen(seed), noise, plan) for seed, noise, plan in rows])
    for (seed, noise, plan), answer in zip(rows, together, strict=True):
        np.testing.assert_array_equal(chunk(answer), one.infer(seen(seed), noise, plan).normalized)


@pytest.mark.parametrize("engine", list(BOUND))
def test_a_pass_of_one_is_what_it_always_was_bit_for_bit(engine: str):
    one, asked = policy(engine), Asked(seen(1), 5, plan(2))
    inputs = one.processor.to_model_inputs(asked.observation)
    from pi0_edge.processing import continuation

    assert asked.plan is not None
    continued = continuation(asked.plan, asked.observation, one.processor)
    expected = one.engine.infer(inputs, one.noise(5), continued)[0].numpy()
    np.testing.assert_array_equal(chunk(one.infer_together([asked])[0]), expected)


def test_the_network_runs_once_for_what_fits_together(monkeypatch: pytest.MonkeyPatch):
    one, sizes = policy("reference"), []
    infer = one.engine.infer
    monkeypatch.setattr(one.engine, "infer", lambda inputs, *rest: sizes.append(inputs.batch) or infer(inputs, *rest))
    one.infer_together([Asked(seen(seed, PROMPTS[seed % 3]), seed) for seed in range(5)])
    assert sizes == [5], "prompts of three lengths"
    sizes.clear()
    one.infer_together([Asked(seen(1)), Asked(seen(2, cameras=2)), Asked(seen(3)), Asked(seen(4, cameras=2))])
    assert sizes == [2, 2], "two numbers of cameras"
    sizes.clear()
    frozen = Asked(seen(1), 1, plan(1, Method.FROZEN_PREFIX))
    one.infer_together([frozen, Asked(seen(2)), Asked(seen(3), 3, plan(3)), frozen])
    assert sizes == [2, 2], "with frozen actions and without"
    sizes.clear()
    one.infer_together([Asked(seen(0), 0)] * (one.engine.max_batch + 1))
    assert sizes == [one.engine.max_batch, 1]
    assert one.infer_together([]) == []


def test_noise_that_is_drawn_differs_within_a_pass():
    first, second = policy("reference").infer_together([Asked(seen(1)), Asked(seen(1))])
    assert np.abs(chunk(first) - chunk(second)).max() > 1e-2


def test_one_bad_observation_spoils_its_own_answer_only():
    one = policy("reference")
    bad = [
        Asked(Observation(seen(1).images, np.zeros(3), PROMPT)),
        Asked(Observation({}, np.zeros(DIMS), PROMPT)),
        Asked(seen(1), plan=dataclasses.replace(plan(1), delay=99)),
    ]
    good = Asked(seen(7), 3)
    answers = one.infer_together([bad[0], good, *bad[1:], good])
    for place in (0, 2, 3):
        assert isinstance(answers[place], ObservationError)
    for place in (1, 4):
        np.testing.assert_allclose(chunk(answers[place]), one.infer(seen(7), 3).normalized, atol=1e-5)


@pytest.mark.parametrize("failure", [QuantizationError("NaN"), RuntimeError("not enough memory")])
def test_where_a_pass_fails_each_is_run_alone(monkeypatch: pytest.MonkeyPatch, failure: Exception):
    one, sizes = policy("reference"), []
    infer = one.engine.infer

    def fail(inputs: Any, noise: Any, continued: Any = None) -> Any:
        sizes.append(inputs.batch)
        if inputs.batch > 1 or inputs.state[0, 0] > 1e6:
            raise failure
        return infer(inputs, noise, continued)

    monkeypatch.setattr(one.engine, "infer", fail)
    spoilt = Asked(Observation(seen(1).images, np.full(DIMS, 1e9), PROMPT), 1)
    answers = one.infer_together([Asked(seen(1), 1), spoilt, Asked(seen(2), 2)])
    assert sizes == [3, 1, 1, 1]
    assert answers[1] is failure
    np.testing.assert_array_equal(chunk(answers[0]), one.infer(seen(1), 1).normalized)
    np.testing.assert_array_equal(chunk(answers[2]), one.infer(seen(2), 2).normalized)


def test_a_row_that_is_not_finite_is_refused_alone(monkeypatch: pytest.MonkeyPatch):
    one = policy("reference")
    infer = one.engine.infer

    def spoil(*given: Any) -> torch.Tensor:
        made = infer(*given).clone()
        made[1, 0, 0] = float("nan")
        return made

    monkeypatch.setattr(one.engine, "infer", spoil)
    answers = one.infer_together([Asked(seen(number), number) for number in range(3)])
    assert [type(answer) for answer in answers] == [PolicyChunk, EngineError, PolicyChunk]


def test_what_makes_no_batch_is_refused():
    one = policy("reference").processor
    with pytest.raises(ValueError, match="make no batch"):
        join([one.to_model_inputs(seen(1)), one.to_model_inputs(seen(1, cameras=2))])
    with pytest.raises(ValueError, match="at least one"):
        join([])
    guided, frozen = Guidance(torch.zeros(1, 10, 32), torch.zeros(10, 32), 5.0), FrozenPrefix(torch.zeros(1, 10, 32), 2)
    with pytest.raises(ValueError, match="frozen actions make no batch"):
        join_continuations([guided, frozen])
    assert join_continuations([None, None]) is None
    assert join_continuations([guided]) is guided


def test_engines_say_how_many_they_take():
    assert {name: find_engine(name).max_batch for name in ENGINES} == {
        "reference": 16,
        "cpu": 16,
        "cuda": 1,
        "tensorrt": 1,
        "openvino": 1,
    }
    for most in (0, 17):
        with pytest.raises(ConfigError, match=f'a batch of {most} was asked for, expected 1 to 16 with engine="cpu"'):
            check_batch(most, find_engine("cpu"))
    with pytest.raises(ConfigError, match='expected 1 to 16 with engine="reference"; more robots'):
        SharedPolicy(policy("reference"), batching=Batching(17))
    with pytest.raises(ConfigError, match='expected 1 with engine="cuda"; more robots'):
        check_batch(2, find_engine("cuda"))


def test_activations_that_share_a_scale_share_no_pass(tmp_path: Path):
    scheme = SCHEMES["int8-w8a8"]
    rules = tuple(dataclasses.replace(rule, activations=Format("int8", "tensor")) for rule in scheme.rules[-1:])
    made = Policy.load(write_checkpoint(tmp_path / "c"), "cpu", dataclasses.replace(scheme, rules=rules))
    assert made.engine.max_batch == 1


# Behind a port.


class Gated:
    """Passes of a policy wait until they are let go, and are counted."""

    def __init__(self, one: Policy) -> None:
        self.sizes: list[int] = []
        self.started, self.go = threading.Event(), threading.Event()
        self._infer = one.engine.infer

    def infer(self, inputs: Any, *rest: Any) -> torch.Tensor:
        self.sizes.append(inputs.batch)
        self.started.set()
        assert self.go.wait(30)
        return self._infer(inputs, *rest)


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PolicyServer, Gated]]:
    one = policy("reference")
    gate = Gated(one)
    with PolicyServer(one, "127.0.0.1:0", batching=Batching(4), grace_s=20) as server:
        monkeypatch.setattr(one.engine, "infer", gate.infer)
        yield server, gate
        gate.go.set()


def ask(server: PolicyServer, seeds: range) -> list[Any]:
    """A call for each seed, each on a connection of its own."""
    calls = []
    for seed in seeds:
        channel = grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)])
        stub = policy_pb2_grpc.PolicyServiceStub(channel)
        calls.append(stub.Infer.future(write_observation(seen(seed), 1, 1, seed), timeout=30))
    return calls


def wait_for_waiting(server: PolicyServer, count: int) -> None:
    deadline = threading.Event()
    for _ in range(4000):
        if server.shared._queue.waiting == count:
            return
        deadline.wait(0.005)
    raise AssertionError(f"{server.shared._queue.waiting} wait, expected {count}")


def test_robots_that_wait_share_a_pass_and_figures_tell(gated: tuple[PolicyServer, Gated]):
    server, gate = gated
    calls = ask(server, range(1))
    assert gate.started.wait(20)
    calls += ask(server, range(1, 6))
    wait_for_waiting(server, 5)
    gate.go.set()
    answers = [call.result() for call in calls]
    assert gate.sizes == [1, 4, 1]
    one = policy("reference")
    for seed, answer in enumerate(answers):
        expected = one.infer(seen(seed), seed).actions
        np.testing.assert_allclose(np.reshape(answer.actions, expected.shape), expected, atol=1e-5)

    def figure(name: str, **labels: str) -> float | None:
        return server.registry.get_sample_value(name, labels)

    assert (figure("pi0_edge_batch_size_count"), figure("pi0_edge_batch_size_sum")) == (3, 6)
    assert figure("pi0_edge_batch_size_bucket", le="1.0") == 2
    assert figure("pi0_edge_queue_seconds_count") == 6


def test_a_server_that_is_asked_to_stop_answers_what_waits_and_refuses_what_comes(gated: tuple[PolicyServer, Gated]):
    server, gate = gated
    calls = ask(server, range(1))
    assert gate.started.wait(20)
    calls += ask(server, range(1, 6))
    wait_for_waiting(server, 5)
    with PolicyClient(server.address) as late:
        late.wait_ready(10)
        server.drain()
        with pytest.raises(grpc.RpcError) as refused:
            ask(server, range(9, 10))[0].result()
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE  # pyright: ignore[reportAttributeAccessIssue]
        assert "shutting down" in str(refused.value.details())  # pyright: ignore[reportAttributeAccessIssue]
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    gate.go.set()
    assert all(len(call.result().actions) for call in calls)
    stopping.join(20)
    assert not stopping.is_alive()


def test_what_still_waits_when_the_grace_is_over_is_told_so(gated: tuple[PolicyServer, Gated]):
    server, gate = gated
    server._grace_s = 0.05
    calls = ask(server, range(1))
    assert gate.started.wait(20)
    calls += ask(server, range(1, 4))
    wait_for_waiting(server, 3)
    server.stop()
    for call in calls:
        assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    gate.go.set()
    assert gate.sizes == [1], "nothing is computed for those who are gone"


def test_a_load_balancers_connection_carries_many_clients(gated: tuple[PolicyServer, Gated]):
    server, gate = gated
    with grpc.insecure_channel(server.address) as channel:
        stub = policy_pb2_grpc.PolicyServiceStub(channel)
        calls = [stub.Infer.future(write_observation(seen(0), 1, 1, 0), timeout=30)]
        assert gate.started.wait(20)
        for robot in range(5):
            metadata = [("x-pi0-edge-client", f"10.0.0.{robot}:4711")]
            calls.append(stub.Infer.future(write_observation(seen(0), 1, 1, 0), timeout=30, metadata=metadata))
        wait_for_waiting(server, 5)
        gate.go.set()
        assert all(len(call.result().actions) for call in calls)


def test_a_prefix_is_shared_by_one_client_only(monkeypatch: pytest.MonkeyPatch):
    one, resets = policy("reference"), []
    monkeypatch.setattr(one, "reset_prefix", lambda: resets.append(1))
    shared = SharedPolicy(one, batching=Batching(4))

    def answer(*clients: str) -> int:
        resets.clear()
        from pi0_edge.serving.shared_policy import _Question

        shared._answer([_Question(lambda: Request(seen(1), 1), client) for client in clients])
        return len(resets)

    assert [answer("a"), answer("a"), answer("a", "a")] == [1, 0, 0]
    assert [answer("a", "b"), answer("b", "a"), answer("a"), answer("a")] == [1, 1, 1, 0]
    shared.close()


def test_a_request_that_cannot_be_read_spoils_its_own_answer_only():
    shared = SharedPolicy(policy("reference"), batching=Batching(2))

    def broken() -> Request:
        raise ZeroDivisionError("of the message")

    with pytest.raises(ZeroDivisionError):
        shared.infer(broken, "a")
    assert isinstance(shared.infer(lambda: Request(seen(1), 1), "a"), PolicyChunk)
    assert shared.chunks == 1
    shared.close()


def test_the_port_opens_only_when_a_full_pass_was_run(monkeypatch: pytest.MonkeyPatch):
    one, sizes = policy("reference"), []
    infer = one.engine.infer
    monkeypatch.setattr(one.engine, "infer", lambda inputs, *rest: sizes.append(inputs.batch) or infer(inputs, *rest))
    warm_up(one, 3)
    assert sizes[-1] == 3

    def fail(inputs: Any, *rest: Any) -> Any:
        if inputs.batch > 1:
            raise EngineError("no memory")
        return infer(inputs, *rest)

    monkeypatch.setattr(one.engine, "infer", fail)
    with pytest.raises(EngineError, match="no memory"):
        warm_up(one, 3)
