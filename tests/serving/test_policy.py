"""The policy server over a real loopback connection: chunks, refusals, health, queueing."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from policy_builders import CONFIG, DIMS, PROMPT, observation, write_checkpoint

from pi0_edge.engine import Engine
from pi0_edge.errors import BusyError, DeadlineError, EndpointError, EngineError, ObservationError, ServingError
from pi0_edge.model import Continuation, ModelInputs
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation, RunningPlan, Schedule
from pi0_edge.protos import policy_pb2, policy_pb2_grpc
from pi0_edge.serving import policy_client
from pi0_edge.serving.inference_queue import WAITING_OF_ONE, Batching
from pi0_edge.serving.policy_client import SERVICE, PolicyClient, write_observation
from pi0_edge.serving.policy_server import MESSAGE_LIMIT, PolicyServer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    return Policy.load(write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint"), "reference")


@pytest.fixture(scope="module")
def server(policy) -> Iterator[PolicyServer]:
    running = PolicyServer(policy, "127.0.0.1:0")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def client(server) -> Iterator[PolicyClient]:
    with PolicyClient(server.address) as connected:
        connected.wait_ready(10)
        yield connected


@pytest.fixture
def stub(server) -> Iterator[policy_pb2_grpc.PolicyServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield policy_pb2_grpc.PolicyServiceStub(channel)


def request(**changes: object) -> policy_pb2.Observation:
    message = write_observation(observation(), 7, 8, 9)
    for name, value in changes.items():
        message.ClearField(name)  # pyright: ignore[reportArgumentType]
        if isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message


def image(camera: str = "top", height: int = 4, width: int = 4, size: int = 48) -> policy_pb2.Image:
    return policy_pb2.Image(camera=camera, height=height, width=width, rgb=bytes(size))


def test_a_chunk_is_what_the_policy_answers_and_carries_the_clock_of_its_observation(client, policy):
    chunk = client.infer(observation(), tick=123, capture_time_ns=456, noise_seed=9)
    expected = policy.infer(observation(), noise_seed=9).actions
    assert (chunk.horizon, chunk.action_dim) == (CONFIG.horizon, DIMS)
    # The state crosses as float32.
    np.testing.assert_allclose(np.reshape(chunk.actions, expected.shape), expected, atol=1e-5)
    assert (chunk.clock.tick, chunk.clock.capture_time_ns) == (123, 456)
    assert chunk.timing.infer_ms > 0


def test_a_noise_seed_fixes_the_chunk_and_without_one_it_is_drawn_afresh(client):
    seeded = [list(client.infer(observation(), 1, 1, noise_seed=5).actions) for _ in range(2)]
    free = [list(client.infer(observation(), 1, 1).actions) for _ in range(2)]
    assert seeded[0] == seeded[1]
    assert free[0] != free[1]
    assert list(client.infer(observation(), 1, 1, noise_seed=0).actions) != seeded[0]  # 0 is a seed like any other


def test_a_chunk_continues_the_plan_in_the_request(client, policy):
    plan = RunningPlan(policy.infer(observation(1), noise_seed=2).actions[3:], delay=3, overlap=6, max_weight=8.0)
    message = policy_pb2.Continuation(
        actions=plan.actions.ravel().tolist(), delay=3, schedule=policy_pb2.Continuation.EXP, overlap=6, max_weight=8.0
    )
    chunk = client.infer(observation(), 1, 1, noise_seed=9, continuation=message)
    expected = policy.infer(observation(), noise_seed=9, plan=replace(plan, schedule=Schedule.EXP)).actions
    np.testing.assert_allclose(np.reshape(chunk.actions, expected.shape), expected, atol=1e-4)
    assert np.abs(expected - policy.infer(observation(), noise_seed=9).actions).max() > 1e-2


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"actions": [0.0] * 15}, grpc.StatusCode.INVALID_ARGUMENT, "rows of 14 actions"),
        ({"actions": []}, grpc.StatusCode.INVALID_ARGUMENT, "at least one row"),
        ({"actions": [np.inf] * 14}, grpc.StatusCode.INVALID_ARGUMENT, "finite"),
        ({"delay": CONFIG.horizon}, grpc.StatusCode.INVALID_ARGUMENT, "delay is 10"),
        ({"method": 1}, grpc.StatusCode.FAILED_PRECONDITION, "trained with none"),
        ({"method": 7}, grpc.StatusCode.INVALID_ARGUMENT, "method is 7"),
        ({"max_weight": -1.0}, grpc.StatusCode.INVALID_ARGUMENT, "max_weight is -1"),
    ],
)
def test_a_plan_that_cannot_be_continued_is_refused(stub, changes, code, message):
    asked = {"actions": [0.0] * 28, "delay": 1, "overlap": 2, "max_weight": 10.0, **changes}
    refused = request()
    refused.continuation.CopyFrom(policy_pb2.Continuation(**asked))
    with pytest.raises(grpc.RpcError) as error:
        stub.Infer(refused, timeout=10)
    assert error.value.code() == code  # pyright: ignore[reportAttributeAccessIssue]
    assert message in error.value.details()  # pyright: ignore[reportAttributeAccessIssue]


def test_an_empty_prompt_means_the_default_one(client):
    without = client.infer(observation(prompt=None), 1, 1, noise_seed=5)
    assert list(without.actions) == list(client.infer(observation(prompt=PROMPT), 1, 1, noise_seed=5).actions)


def test_metadata_says_what_the_policy_is_and_expects(client, policy):
    metadata = client.metadata()
    assert (metadata.model, metadata.engine, metadata.scheme) == ("pi0", "reference", "fp32")
    assert (metadata.horizon, metadata.action_dim, metadata.state_dim) == (CONFIG.horizon, DIMS, DIMS)
    assert (metadata.control_hz, metadata.default_prompt) == (50, PROMPT)
    assert list(metadata.cameras) == list(policy.processor.robot.cameras)
    assert len(metadata.checkpoint_sha256) == 64


def test_health_is_the_standard_service(server):
    with grpc.insecure_channel(server.address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check  # pyright: ignore[reportAttributeAccessIssue]
        for service in ("", SERVICE):
            reply = check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


BAD = {
    "too few bytes": ({"images": [image(size=47)]}, "images\\['top'\\] holds 47 bytes"),
    "too many bytes": ({"images": [image(size=49)]}, "images\\['top'\\] holds 49 bytes"),
    "no pixels": ({"images": [image(height=0, size=0)]}, "holds 0 bytes"),
    "size that overflows": ({"images": [image(height=2**31, width=2**31)]}, "holds 48 bytes"),
    "image of one row": ({"images": [image(height=1, width=2000, size=6000)]}, "aspect ratio"),
    "no image": ({"images": []}, "images is empty"),
    "unknown camera": ({"images": [image("selfie")]}, "'selfie'.*known: top"),
    "camera twice": ({"images": [image(), image()]}, "'top' twice"),
    "NaN in the state": ({"state": [0.0] * 13 + [float("nan")]}, "state has nan at index 13"),
    "infinity in the state": ({"state": [float("inf")] + [0.0] * 13}, "state has inf at index 0"),
    "narrow state": ({"state": [0.0] * 13}, "state has shape \\[13\\].*expected 14"),
    "wide state": ({"state": [0.0] * 15}, "state has shape \\[15\\].*expected 14"),
    "no state": ({"state": []}, "state has shape \\[0\\].*expected 14"),
    "prompt of too many tokens": ({"prompt": "lift the cube " * 9}, "prompt has .* tokens, expected at most 12"),
    "prompt of too many characters": ({"prompt": "x" * 5000}, "prompt has 5000 characters"),
    "blank prompt": ({"prompt": "  \n"}, "prompt is"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_observation_is_refused_by_name_and_the_server_goes_on(name, stub):
    changes, message = BAD[name]
    with pytest.raises(grpc.RpcError, match=message) as refused:
        stub.Infer(request(**changes), timeout=10)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # pyright: ignore[reportAttributeAccessIssue]
    assert "Traceback" not in str(refused.value.details())  # pyright: ignore[reportAttributeAccessIssue]
    assert len(stub.Infer(request(), timeout=10).actions) == CONFIG.horizon * DIMS


DEGREES = [0.0, 90.0, -45.0, 0.0, 120.0, 0.0, 90.0] * 2
IN_DEGREES = r"joint left_shoulder is 90, expected -1.731 to 0.8846 .* are these degrees\?"


def unfit_states(server: PolicyServer, joint: str) -> float:
    return server.registry.get_sample_value("pi0_edge_unfit_states_total", {"joint": joint}) or 0.0


def test_a_state_that_the_policy_was_not_trained_on_is_warned_of_once_and_counted(policy, caplog):
    watched = Policy(policy.engine, policy.processor)
    running = PolicyServer(watched, "127.0.0.1:0")
    running.start()
    try:
        assert caplog.text == "", "not of the state that warms it up"
        with PolicyClient(running.address) as client:
            for _ in range(3):
                client.infer(Observation(observation().images, np.array(DEGREES), PROMPT), 1, 1)
            client.infer(observation(), 1, 1)
    finally:
        running.stop()
    assert unfit_states(running, "left_wrist_angle") == 3
    assert unfit_states(running, "left_waist") == 0
    warnings = [record.getMessage() for record in caplog.records if "the state of joint" in record.getMessage()]
    assert len(warnings) == 1
    assert re.search(IN_DEGREES, warnings[0])


def test_a_state_that_the_policy_was_not_trained_on_may_be_refused(policy):
    strict = Policy(policy.engine, policy.processor)
    strict.refuse_unfit_state = True
    running = PolicyServer(strict, "127.0.0.1:0")
    running.start()
    try:
        with PolicyClient(running.address) as client:
            with pytest.raises(ObservationError, match=IN_DEGREES):
                client.infer(Observation(observation().images, np.array(DEGREES), PROMPT), 1, 1)
            assert client.infer(observation(), 1, 1).horizon == CONFIG.horizon
    finally:
        running.stop()
    assert unfit_states(running, "left_wrist_angle") == 1


def test_another_joint_is_warned_of_although_one_was_already(policy, caplog):
    watched = Policy(policy.engine, policy.processor)
    state = policy.processor.trained_state()
    for joint in (3, 3, 5):
        state[joint] = 1e3
        chunk = watched.infer(Observation(observation().images, state, PROMPT), 1)
        assert chunk.unfit_state is not None
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" is ")[0].split()[-1] for line in lines] == ["left_forearm_roll", "left_wrist_rotate"]


def test_the_client_raises_the_error_that_the_server_meant(client):
    with pytest.raises(ObservationError, match="expected 14"):
        client.infer(Observation(observation().images, np.zeros(3), PROMPT), 1, 1)


def test_a_message_over_the_cap_is_refused(stub):
    side = 3400
    with pytest.raises(grpc.RpcError) as refused:
        stub.Infer(request(images=[image("top", side, side, 3 * side * side)]), timeout=30)
    assert 3 * side * side > MESSAGE_LIMIT
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # pyright: ignore[reportAttributeAccessIssue]


def test_an_observation_over_the_cap_is_not_reported_as_a_busy_server(client):
    images = {camera: np.zeros((2160, 3840, 3), np.uint8) for camera in ("top", "left_wrist", "right_wrist")}
    with pytest.raises(ObservationError, match=r"has 71\.2 MiB, expected at most 32 MiB, .* scale its images down"):
        client.infer(Observation(images, np.zeros(DIMS), PROMPT), 0, 0)


def test_an_answer_over_the_client_s_cap_is_no_busy_server_either(server, monkeypatch):
    options = [("grpc.max_receive_message_length", 64), ("grpc.use_local_subchannel_pool", 1)]
    monkeypatch.setattr(policy_client, "_CHANNEL_OPTIONS", options)
    refused = pytest.raises(ServingError, match=r"the answer of the server at .* MiB, expected at most")
    with PolicyClient(server.address) as connected, refused as found:
        connected.infer(observation(), 1, 1)
    assert type(found.value) is ServingError


def test_a_server_without_the_call_is_told_from_one_that_failed():
    other = grpc.server(futures.ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        with PolicyClient(f"127.0.0.1:{port}") as connected:
            for call in (connected.metadata, lambda: connected.infer(observation(), 1, 1)):
                with pytest.raises(ServingError, match=r"does not know this call .* older policy server, or no policy"):
                    call()
    finally:
        other.stop(0)


def test_garbage_instead_of_a_message_is_refused(server):
    with grpc.insecure_channel(server.address) as channel:
        send = channel.unary_unary(f"/{SERVICE}/Infer")
        with pytest.raises(grpc.RpcError) as refused:
            send(b"\xff\xff\xff garbage", timeout=10)
    assert "Traceback" not in str(refused.value.details())  # pyright: ignore[reportAttributeAccessIssue]


class GatedEngine(Engine):
    """An engine that waits for its gate, and fails or spoils its actions on request; otherwise the real one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.scheme, self.config, self.times = engine.name, engine.scheme, engine.config, engine.times
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.factor = 1.0
        self.calls = self.running = self.most_at_once = 0

    def infer(self, inputs: ModelInputs, noise: torch.Tensor, continuation: Continuation | None = None) -> torch.Tensor:
        self.calls += 1
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        assert self.gate.wait(30)
        self.running -= 1
        if self.failure is not None:
            raise self.failure
        return self._engine.infer(inputs, noise, continuation) * self.factor


@pytest.fixture
def gated(policy) -> Iterator[tuple[GatedEngine, str]]:
    engine = GatedEngine(policy.engine)
    running = PolicyServer(Policy(engine, policy.processor), "127.0.0.1:0")
    running.start()
    engine.calls = 0
    yield engine, running.address
    running.stop()


class Crowd:
    """Many clients that ask at the same time."""

    def __init__(self, address: str, count: int, timeout_s: float = 20) -> None:
        self.outcomes: list[Exception | None] = []
        self._threads = [threading.Thread(target=self._ask, args=(address, timeout_s)) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def join(self) -> list[Exception | None]:
        for thread in self._threads:
            thread.join()
        return self.outcomes

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + 20
        while len(self.outcomes) < count and time.monotonic() < deadline:
            time.sleep(0.01)

    def _ask(self, address: str, timeout_s: float) -> None:
        with PolicyClient(address, timeout_s) as client:
            try:
                client.infer(observation(), 1, 1)
                self.outcomes.append(None)
            except Exception as error:
                self.outcomes.append(error)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_a_chunk_carries_the_age_of_its_images(gated):
    engine, address = gated
    with PolicyClient(address) as client:
        assert client.infer(observation(), 1, 1).prefix_age_ms == 0
        engine.prefix_age_s = 0.033
        assert client.infer(observation(), 2, 2).prefix_age_ms == pytest.approx(33)


def test_server_resets_the_stale_prefix_when_the_peer_changes(gated, monkeypatch):
    _, address = gated
    order = []
    infer = Policy.infer_together
    monkeypatch.setattr(Policy, "reset_prefix", lambda _: order.append("reset"))
    monkeypatch.setattr(Policy, "infer_together", lambda self, *given: order.append("infer") or infer(self, *given))
    with PolicyClient(address) as one, PolicyClient(address) as other:
        for client in (one, one, other, other, one):
            client.infer(observation(), 1, 1)
    assert " ".join(order) == "reset infer infer reset infer infer reset infer"


def test_an_engine_without_two_streams_has_no_stale_prefix(policy):
    with pytest.raises(EngineError, match=r'engine="reference" has no stale prefix of 0\.1 s; use engine="cuda"'):
        policy.allow_stale_prefix(0.1)
    assert policy.overrides == ()


def test_requests_wait_their_turn(gated):
    engine, address = gated
    assert Crowd(address, 4).join() == [None] * 4
    assert engine.most_at_once == 1


def test_a_client_with_its_share_of_the_queue_is_refused_at_once_and_others_are_not(gated):
    engine, address = gated
    engine.gate.clear()
    with grpc.insecure_channel(address) as channel:
        stub = policy_pb2_grpc.PolicyServiceStub(channel)
        running = stub.Infer.future(request(), timeout=20)
        wait_for(lambda: engine.running == 1)
        flood = [stub.Infer.future(request(), timeout=20) for _ in range(WAITING_OF_ONE + 2)]
        wait_for(lambda: sum(each.done() for each in flood) == 2)
        crowd = Crowd(address, 6)
        engine.gate.set()
        assert crowd.join() == [None] * 6
        codes = [each.code() for each in (running, *flood)]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 2
    assert codes.count(grpc.StatusCode.OK) == WAITING_OF_ONE + 1


def test_more_robots_than_places_are_told_to_come_back(gated):
    engine, address = gated
    engine.gate.clear()
    crowd = Crowd(address, 1)
    wait_for(lambda: engine.running == 1)
    others = Crowd(address, Batching().waiting + 2)
    others.wait_for(2)
    assert [type(outcome) for outcome in others.outcomes] == [BusyError] * 2
    engine.gate.set()
    assert crowd.join() == [None]
    assert others.join()[2:] == [None] * Batching().waiting


def test_a_deadline_is_kept_and_what_waits_behind_it_is_never_computed(gated):
    engine, address = gated
    engine.gate.clear()
    outcomes = Crowd(address, 3, timeout_s=0.5).join()
    assert [type(outcome) for outcome in outcomes] == [DeadlineError] * 3
    engine.gate.set()
    assert Crowd(address, 1).join() == [None]
    assert engine.calls == 2  # the one that had started, and the last one


def test_a_failure_of_the_engine_reaches_the_peer_without_its_inside(gated, caplog):
    engine, address = gated
    engine.failure = RuntimeError("secret detail of /home/robot")
    with PolicyClient(address) as client, pytest.raises(ServingError, match="log of the policy server") as refused:
        client.infer(observation(), 1, 1)
    assert "secret" not in str(refused.value)
    assert "secret detail" in caplog.text
    engine.failure = None
    assert Crowd(address, 1).join() == [None]


def test_a_chunk_that_is_not_finite_is_never_sent(gated):
    engine, address = gated
    engine.factor = float("nan")
    with PolicyClient(address) as client, pytest.raises(ServingError, match="not finite"):
        client.infer(observation(), 1, 1)


def test_every_chunk_is_logged_in_one_structured_line(client, caplog):
    caplog.set_level(logging.DEBUG, "pi0_edge.serving")
    client.infer(observation(), tick=77, capture_time_ns=88)
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("chunk ")]
    fields = dict(field.split("=") for field in line.split()[1:])
    assert (fields["tick"], fields["capture_time_ns"]) == ("77", "88")
    assert float(fields["infer_ms"]) > 0


REACHABLE = ["0.0.0.0:0", "[::]:0", "192.168.1.7:0", "robot.local:0"]
MALFORMED = ["nonsense", ":0", "127.0.0.1:x", "127.0.0.1:99999"]


@pytest.mark.parametrize("listen", REACHABLE + MALFORMED)
def test_only_loopback_is_listened_on(policy, listen):
    with pytest.raises(EndpointError, match="listen address"):
        PolicyServer(policy, listen)


def test_another_address_needs_the_flag(policy):
    running = PolicyServer(policy, "0.0.0.0:0", allow_remote=True)
    running.start()
    try:
        with PolicyClient(running.address.replace("0.0.0.0", "127.0.0.1")) as client:
            client.wait_ready(10)
    finally:
        running.stop()


def test_a_port_that_is_taken_is_named(server, policy):
    with pytest.raises(ServingError, match=server.address):
        PolicyServer(policy, server.address).start()


def test_client_names_an_address_without_a_server():
    with PolicyClient("127.0.0.1:9", timeout_s=2) as client:
        with pytest.raises(ServingError, match=r"127\.0\.0\.1:9"):
            client.infer(observation(), 1, 1)
        with pytest.raises(ServingError, match=r"127\.0\.0\.1:9"):
            client.wait_ready(0.3)


def test_a_stopped_server_closes_its_port(policy):
    running = PolicyServer(policy, "127.0.0.1:0")
    running.start()
    with PolicyClient(running.address, timeout_s=2) as client:
        client.wait_ready(10)
        running.stop()
        with pytest.raises(ServingError):
            client.infer(observation(), 1, 1)
