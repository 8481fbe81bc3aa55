"""The server over a real loopback connection, asked as the stock client asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from lerobot_stand_in import MODULES
from policy_builders import CONFIG, write_checkpoint

from pi0_edge.errors import ConfigError, EngineError, ServingError
from pi0_edge.policy import Policy, PolicyChunk
from pi0_edge.serving.lerobot_async import LerobotAsyncServer, service, wire
from pi0_edge.serving.lerobot_async.messages import TimedObservation, read_config, read_observation
from pi0_edge.serving.lerobot_async.pickle_writer import write_actions
from pi0_edge.serving.lerobot_async.robot_match import RobotMatch
from pi0_edge.serving.lerobot_async.robot_session import RobotSession
from pi0_edge.serving.lerobot_async.service import ROBOTS
from pi0_edge.serving.shared_policy import Request, SharedPolicy

torch.set_num_threads(1)

PIECE = 2 << 20


class GatedPolicy(SharedPolicy):
    """The real one, whose inferences wait until the gate is open, and which remembers what it was asked."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False
        self.requests: list[Request] = []
        self.clients: list[str] = []

    def infer(
        self,
        read: Callable[[], Request],
        client: str,
        timeout_s: float | None = None,
        on_queued: Callable[[Callable[[], None]], object] = lambda drop: None,
    ) -> PolicyChunk:
        def gated() -> Request:
            request = read()
            self.requests.append(request)
            self.clients.append(client)
            assert self.gate.wait(20)
            if self.fails:
                raise EngineError("the network gave none")
            return request

        return super().infer(gated, client, timeout_s, on_queued)


class Client:
    """The calls of a stock client on one connection."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        reply = wire.Empty.FromString
        self.ready = self._unary("Ready", wire.Empty, reply)
        self.instruct = self._unary("SendPolicyInstructions", wire.PolicySetup, reply)
        self.actions = self._unary("GetActions", wire.Empty, wire.Actions.FromString)
        self.stream = self.channel.stream_unary(
            f"/{wire.SERVICE}/SendObservations", wire.Observation.SerializeToString, reply
        )

    def start(self, config: bytes) -> None:
        self.ready(wire.Empty(), timeout=10)
        self.instruct(wire.PolicySetup(data=config), timeout=10)

    def send(self, payload: bytes, piece: int = PIECE) -> None:
        """As LeRobot's `send_bytes_in_chunks`."""
        starts = range(0, len(payload), piece)
        states = [wire.BEGIN] + [wire.MIDDLE] * len(starts)
        pieces = [
            wire.Observation(
                transfer_state=wire.END if start + piece >= len(payload) else states[place],
                data=payload[start : start + piece],
            )
            for place, start in enumerate(starts)
        ]
        self.stream(iter(pieces), timeout=10)

    def chunk(self) -> bytes:
        return self.actions(wire.Empty(), timeout=10).data

    def _unary(self, name: str, request: Any, reply: Callable[[bytes], Any]) -> Callable[..., Any]:
        return self.channel.unary_unary(f"/{wire.SERVICE}/{name}", request.SerializeToString, reply)


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    return Policy.load(write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint"), "reference")


@pytest.fixture
def shared(policy) -> Iterator[GatedPolicy]:
    made = GatedPolicy(policy)
    yield made
    made.gate.set()
    made.close()


@pytest.fixture
def server(shared) -> Iterator[LerobotAsyncServer]:
    with running(shared) as started:
        yield started


@contextmanager
def running(shared: SharedPolicy) -> Iterator[LerobotAsyncServer]:
    started = LerobotAsyncServer(shared, "0", fps=50.0)
    started.start()
    yield started
    started.stop()


@pytest.fixture
def connect(server) -> Iterator[Callable[[], Client]]:
    clients: list[Client] = []

    def make() -> Client:
        clients.append(Client(server.address))
        return clients[-1]

    yield make
    for client in clients:
        client.channel.close()


@contextmanager
def refused(code: grpc.StatusCode, words: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError, match=words) as error:
        yield
    assert error.value.code() == code  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("place", range(len(MODULES)))
@pytest.mark.parametrize("protocol", (2, 4, 5))
def test_a_client_gets_timed_actions_of_its_own_classes(stand_in, connect, protocol, place):
    client = connect()
    client.start(stand_in.vector("config", protocol, place))
    client.send(stand_in.vector("observation", protocol, place), piece=1000)
    rows = stand_in.read_reply(client.chunk())
    assert [row["class"] for row in rows] == [f"{MODULES[place]}.TimedAction"] * CONFIG.horizon
    assert [row["timestep"] for row in rows] == list(range(CONFIG.horizon))
    np.testing.assert_allclose([row["timestamp"] for row in rows], 12.5 + np.arange(CONFIG.horizon) / 50)
    assert {(row["dtype"], row["device"], len(row["values"])) for row in rows} == {("torch.float32", "cpu", 14)}
    assert all(row["fields"] == ["action", "timestamp", "timestep"] for row in rows)


def test_the_policy_gets_what_the_client_saw_and_the_client_what_the_policy_answers(stand_in, connect, shared):
    client = connect()
    client.start(stand_in.vector("config"))
    client.send(stand_in.vector("observation"))
    rows = stand_in.read_reply(client.chunk())
    [request] = shared.requests
    np.testing.assert_array_equal(request.observation.state, np.arange(14) / 10)
    np.testing.assert_array_equal(
        request.observation.images["top"], np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    )
    assert request.observation.prompt == "Transfer cube"
    assert np.isfinite([row["values"] for row in rows]).all()


@pytest.mark.parametrize("module", MODULES)
def test_a_reply_holds_exactly_the_numbers_that_were_written(stand_in, module):
    actions = np.random.default_rng(3).normal(size=(4, 3)) * 1e3
    rows = stand_in.read_reply(write_actions(module, 1e9 + 0.25, 2**40, actions, 30.0))
    np.testing.assert_array_equal([row["values"] for row in rows], actions.astype(np.float32))
    np.testing.assert_allclose([row["merged"] for row in rows], actions, rtol=1e-6)
    assert [row["timestep"] for row in rows] == [2**40 + k for k in range(4)]
    assert [row["timestamp"] for row in rows] == [1e9 + 0.25 + k / 30.0 for k in range(4)]
    assert stand_in.read_reply(write_actions(module, 0.0, 0, actions[:0], 30.0)) == []


def test_a_reply_never_names_another_module():
    with pytest.raises(ValueError, match="module"):
        write_actions("os", 0.0, 0, np.zeros((1, 1)), 30.0)


def test_two_robots_do_not_see_each_other(stand_in, connect, shared):
    first, second = connect(), connect()
    for client in (first, second):
        client.start(stand_in.vector("config"))
    second.send(stand_in.vector("observation"))
    answers: list[bytes] = []
    waiting = threading.Thread(target=lambda: answers.append(first.chunk()))
    waiting.start()
    assert second.chunk()
    waiting.join(10)
    assert answers == [b""]
    first.send(stand_in.vector("observation"))
    assert first.chunk()
    assert len(set(shared.clients)) == 2


def test_a_robot_has_to_say_first_what_it_is(stand_in, connect):
    client = connect()
    for call in (client.chunk, lambda: client.send(stand_in.vector("observation"))):
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "SendPolicyInstructions"):
            call()
    client.start(stand_in.vector("config"))
    client.ready(wire.Empty(), timeout=10)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SendPolicyInstructions"):
        client.chunk()


def test_a_robot_with_other_joints_is_refused_at_its_instructions(stand_in, connect):
    other = stand_in.vector("config", 2).replace(b"left_waist", b"left_wrist")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "left_waist"):
        connect().start(other)


def test_hostile_pickles_are_refused_in_both_calls_and_none_is_executed(stand_in, connect):
    client = connect()
    client.start(stand_in.vector("config"))
    vectors = [
        vector for name, vector in stand_in.vectors("hostile").items() if name.endswith(("-2-0", "-4-0", "-5-0"))
    ]
    assert len(vectors) > 90
    for vector in (*vectors, b"", b".", b"\x80\x04.", stand_in.vector("config")):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "expected"):
            client.send(vector or b"\x00")
    for vector in (*vectors, b"", bytes(1 << 21), stand_in.vector("observation")):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "expected"):
            client.instruct(wire.PolicySetup(data=vector), timeout=10)
    assert not stand_in.canary.exists()
    client.start(stand_in.vector("config"))
    client.send(stand_in.vector("observation"))
    assert client.chunk()


def test_pieces_are_joined_as_lerobots_server_does(stand_in, connect):
    client = connect()
    client.start(stand_in.vector("config"))
    payload, part = stand_in.vector("observation"), wire.Observation

    def send(*pieces: tuple[int, bytes]) -> None:
        client.stream(iter([part(transfer_state=state, data=data) for state, data in pieces]), timeout=10)

    send(
        (wire.MIDDLE, b"lost"), (wire.BEGIN, payload[:100]), (wire.MIDDLE, payload[100:200]), (wire.END, payload[200:])
    )
    assert client.chunk()
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "without its last piece"):
        send((wire.BEGIN, payload))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "after its last piece"):
        send((wire.END, payload), (wire.END, payload))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "transfer_state is 9"):
        send((9, payload))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "empty"):
        send((wire.BEGIN, b""), (wire.MIDDLE, b""))


def test_an_observation_without_end_is_refused(stand_in, connect, monkeypatch):
    monkeypatch.setattr(service, "BYTES_LIMIT", 1 << 20)
    client = connect()
    client.start(stand_in.vector("config"))
    piece = wire.Observation(transfer_state=wire.MIDDLE, data=bytes(300_000))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "smaller images"):
        client.stream((piece for _ in range(1000)), timeout=10)


def test_a_client_that_stops_in_the_middle_of_an_observation_is_let_go(stand_in, shared, monkeypatch):
    monkeypatch.setattr(service, "SENDING_S", 0.2)
    go_on = threading.Event()

    def pieces() -> Iterator[Any]:
        yield wire.Observation(transfer_state=wire.BEGIN, data=b"1")
        go_on.wait(10)

    with running(shared) as started:
        client = Client(started.address)
        client.start(stand_in.vector("config"))
        with refused(grpc.StatusCode.CANCELLED, "CANCELLED"):
            client.stream(pieces(), timeout=8)
        go_on.set()
        client.send(stand_in.vector("observation"))
        assert client.chunk()
        client.channel.close()


def test_no_more_robots_than_there_is_memory_for(stand_in, connect, monkeypatch):
    for _ in range(ROBOTS):
        connect().start(stand_in.vector("config"))
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{ROBOTS} robots"):
        connect().start(stand_in.vector("config"))
    monkeypatch.setattr(service, "IDLE_S", 0.0)
    connect().start(stand_in.vector("config"))


def session(shared: SharedPolicy, stand_in: Any, actions: int = 50) -> RobotSession:
    changed = replace(read_config(stand_in.vector("config")), actions_per_chunk=actions)
    match = RobotMatch(shared.policy.processor.robot, changed)
    return RobotSession(shared, ThreadPoolExecutor(2), changed, match, "robot", 30.0)


def moment(stand_in: Any, timestep: int = 0, waist: float = 0.0, must_go: bool = False) -> TimedObservation:
    read = read_observation(stand_in.vector("observation"))
    return TimedObservation(100.0, timestep, {**read.observation, "left_waist.pos": waist}, must_go)


def test_only_the_newest_observation_is_answered(stand_in, shared):
    robot = session(shared, stand_in)
    for timestep in range(3):
        assert robot.offer(moment(stand_in, timestep, waist=2.0 * timestep))
    rows = stand_in.read_reply(robot.reply())
    assert [row["timestep"] for row in rows] == [2 + k for k in range(CONFIG.horizon)]
    np.testing.assert_allclose([row["timestamp"] for row in rows], 100 + np.arange(CONFIG.horizon) / 30)
    assert robot.reply(0.05) == b""
    assert len(shared.requests) == 1


def test_no_more_actions_than_the_client_wants(stand_in, shared):
    robot = session(shared, stand_in, actions=3)
    robot.offer(moment(stand_in))
    assert len(stand_in.read_reply(robot.reply())) == 3


def test_what_was_answered_or_is_similar_is_skipped_unless_it_must_go(stand_in, shared):
    robot = session(shared, stand_in)
    assert robot.offer(moment(stand_in, 0, 0.0))
    assert robot.reply()
    assert not robot.offer(moment(stand_in, 0, 5.0))  # its timestep was answered
    assert not robot.offer(moment(stand_in, 1, 0.99))  # its state is similar
    assert robot.offer(moment(stand_in, 1, 1.01))
    assert robot.offer(moment(stand_in, 0, 0.0, must_go=True))
    assert robot.reply()
    assert len(shared.requests) == 2


def test_a_chunk_that_takes_long_is_handed_out_later(stand_in, shared):
    robot = session(shared, stand_in)
    shared.gate.clear()
    robot.offer(moment(stand_in, 4))
    began = time.monotonic()
    assert robot.reply(0.1) == b""
    assert time.monotonic() - began < 10
    robot.offer(moment(stand_in, 5, 9.0))
    assert robot.reply(0.1) == b""
    shared.gate.set()
    first, second = (stand_in.read_reply(robot.reply())[0]["timestep"] for _ in range(2))
    assert (first, second) == (4, 5)


def test_after_an_observation_that_could_not_be_answered_the_next_is_taken(stand_in, shared):
    robot = session(shared, stand_in)
    shared.fails = True
    robot.offer(moment(stand_in, 0, must_go=True))
    with pytest.raises(EngineError):
        robot.reply()
    shared.fails = False
    assert robot.offer(moment(stand_in, 0))
    assert robot.reply()


def test_a_robot_that_begins_again_gets_nothing_of_before(stand_in, shared):
    robot = session(shared, stand_in)
    shared.gate.clear()
    robot.offer(moment(stand_in))
    answers: list[bytes] = []
    waiting = threading.Thread(target=lambda: answers.append(robot.reply()))
    waiting.start()
    while not shared.requests:
        time.sleep(0.01)
    robot.close()
    shared.gate.set()
    waiting.join(10)
    assert answers == [b""]


@pytest.mark.parametrize("listen", ("0.0.0.0:0", "[::]:0", "8080x", "host", ""))
def test_an_address_beyond_loopback_or_none_is_refused(shared, listen):
    with pytest.raises(ServingError, match="expected"):
        LerobotAsyncServer(shared, listen)


def test_a_port_that_is_taken_is_refused(shared, server):
    with pytest.raises(ServingError, match="taken"):
        LerobotAsyncServer(shared, server.address).start()


@pytest.mark.parametrize("fps", (0.0, -1.0, float("nan"), float("inf")))
def test_a_rate_that_is_none_is_refused(shared, fps):
    with pytest.raises(ConfigError, match="fps"):
        LerobotAsyncServer(shared, "0", fps=fps)


def test_beyond_loopback_where_it_is_insisted_upon(shared):
    insisted = LerobotAsyncServer(shared, "0.0.0.0:0", allow_remote=True)
    insisted.start()
    insisted.stop()
