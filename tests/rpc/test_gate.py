"""The interceptor of every call: limits of a peer, e-stops that are never limited, draining, metrics and logs."""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.request
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from pi0_edge.errors import EndpointError
from pi0_edge.protos import bridge_pb2, bridge_pb2_grpc
from pi0_edge.protos.rpc.json_log import JsonFormatter
from pi0_edge.protos.rpc.limits import MOST_PEERS, Limits, PeerLimits
from pi0_edge.protos.rpc.metrics import MetricsServer
from pi0_edge.protos.rpc.server import GuardedServer

pytestmark = pytest.mark.real_time

SERVICE = "pi0_edge.v1.RobotBridge"
LIMITS = Limits(calls_per_s=10.0, messages_per_s=10.0, burst_s=1.0, streams=2)
STREAMS = 2


class Arm(bridge_pb2_grpc.RobotBridgeServicer):
    """A minimal bridge service that records the calls that pass the gate."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.asked = 0

    def EStop(self, request, context):
        return bridge_pb2.CommandReply(state=bridge_pb2.STATE_ESTOP)

    def GetStatus(self, request, context):
        self.asked += 1
        return bridge_pb2.Status()

    def Clear(self, request, context):
        self.let_go.wait(10)
        return bridge_pb2.CommandReply()

    def Disarm(self, request, context):
        raise RuntimeError("a mistake in a service")

    def PlayChunks(self, request_iterator, context):
        for _ in request_iterator:
            yield bridge_pb2.ChunkReport()


class Gated:
    """A server with its own figures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.arm = Arm()
        self.server = GuardedServer(
            SERVICE,
            tls=None,
            observing_streams=0,
            commanding=STREAMS,
            message_limit=1000,
            registry=self.registry,
            limits=LIMITS,
        )
        bridge_pb2_grpc.add_RobotBridgeServicer_to_server(self.arm, self.server.grpc_server)
        self.address = f"127.0.0.1:{self.server.bind('127.0.0.1:0')}"
        self.server.set_health(True)
        self.server.start()

    def count(self, method: str, code: str) -> float:
        labels = {"method": f"/{SERVICE}/{method}", "code": code}
        return self.registry.get_sample_value("pi0_edge_calls_total", labels) or 0.0


@pytest.fixture
def gated() -> Iterator[Gated]:
    gated = Gated()
    yield gated
    gated.arm.let_go.set()
    gated.server.stop(1.0)


@pytest.fixture
def channel(gated: Gated) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(gated.address) as channel:
        yield channel


@pytest.fixture
def bridge(channel: grpc.Channel) -> bridge_pb2_grpc.RobotBridgeStub:
    return bridge_pb2_grpc.RobotBridgeStub(channel)


def code_of(call) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()  # pyright: ignore[reportAttributeAccessIssue]
    return grpc.StatusCode.OK


STATUS = bridge_pb2.StatusRequest()
COMMAND = bridge_pb2.CommandRequest()


def test_too_many_calls_are_refused_while_a_stop_and_other_peers_pass(gated: Gated, bridge):
    codes = [code_of(lambda: bridge.GetStatus(STATUS, timeout=5)) for _ in range(40)]
    assert codes[:10] == [grpc.StatusCode.OK] * 10
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
    assert all(code_of(lambda: bridge.EStop(COMMAND, timeout=5)) == grpc.StatusCode.OK for _ in range(40))
    with grpc.insecure_channel(gated.address, [("grpc.use_local_subchannel_pool", 1)]) as other:
        assert code_of(lambda: bridge_pb2_grpc.RobotBridgeStub(other).GetStatus(STATUS, timeout=5)) == (
            grpc.StatusCode.OK
        )
    assert gated.count("GetStatus", "RESOURCE_EXHAUSTED") == codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_peer_that_slows_down_is_served_again(bridge):
    while code_of(lambda: bridge.GetStatus(STATUS, timeout=5)) == grpc.StatusCode.OK:
        pass
    time.sleep(0.3)
    assert code_of(lambda: bridge.GetStatus(STATUS, timeout=5)) == grpc.StatusCode.OK


def test_too_many_messages_end_the_stream(bridge):
    requests = iter([bridge_pb2.PlayRequest()] * 200)
    reports = []
    with pytest.raises(grpc.RpcError, match="too many messages per second") as refused:
        for report in bridge.PlayChunks(requests, timeout=10):
            reports.append(report)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # pyright: ignore
    assert 10 <= len(reports) < 200


def test_a_message_beyond_the_limit_is_refused(bridge):
    request = bridge_pb2.CommandRequest(reason="x" * 2000)
    assert code_of(lambda: bridge.EStop(request, timeout=5)) == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_peer_may_hold_so_many_streams_and_a_closed_one_makes_room(channel):
    watch = health_pb2_grpc.HealthStub(channel).Watch  # pyright: ignore[reportAttributeAccessIssue]
    open_streams = [watch(health_pb2.HealthCheckRequest(), timeout=20) for _ in range(LIMITS.streams)]
    assert all(next(stream).status == health_pb2.HealthCheckResponse.SERVING for stream in open_streams)
    assert code_of(lambda: next(watch(health_pb2.HealthCheckRequest(), timeout=5))) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    open_streams[0].cancel()
    deadline = time.monotonic() + 5
    while code_of(lambda: next(watch(health_pb2.HealthCheckRequest(), timeout=0.2))) != grpc.StatusCode.OK:
        assert time.monotonic() < deadline
        time.sleep(0.15)


def test_observers_together_leave_room_for_a_commander(gated: Gated, bridge):
    others = [grpc.insecure_channel(gated.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(3)]
    watches = []
    for other in others:
        watch = health_pb2_grpc.HealthStub(other).Watch  # pyright: ignore[reportAttributeAccessIssue]
        watches += [watch(health_pb2.HealthCheckRequest(), timeout=20) for _ in range(LIMITS.streams)]
    codes = [code_of(lambda one=one: next(one)) for one in watches]
    assert codes.count(grpc.StatusCode.OK) == 4  # what the server keeps for health and reflection
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 2
    report = next(bridge.PlayChunks(iter([bridge_pb2.PlayRequest()]), timeout=5))
    assert report == bridge_pb2.ChunkReport()
    for other in others:
        other.close()


def test_an_estop_does_not_wait_for_threads_of_other_calls(gated: Gated):
    channels = [grpc.insecure_channel(gated.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)]
    stubs = [bridge_pb2_grpc.RobotBridgeStub(channel) for channel in channels]
    waiting = [stubs[number % 4].Clear.future(COMMAND, timeout=20) for number in range(36)]  # more than threads
    time.sleep(0.3)
    assert not any(call.done() for call in waiting)
    assert stubs[0].EStop(COMMAND, timeout=2).state == bridge_pb2.STATE_ESTOP
    gated.arm.let_go.set()
    assert {call.code() for call in waiting} == {grpc.StatusCode.OK}
    for channel in channels:
        channel.close()


def test_a_call_whose_deadline_passed_while_it_waited_is_not_carried_out(gated: Gated, bridge):
    others = [grpc.insecure_channel(gated.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)]
    waiting = [bridge_pb2_grpc.RobotBridgeStub(one).Clear.future(COMMAND, timeout=20) for one in others * 4]
    time.sleep(0.2)
    assert code_of(lambda: bridge.GetStatus(STATUS, timeout=0.2)) == grpc.StatusCode.DEADLINE_EXCEEDED
    gated.arm.let_go.set()
    assert all(call.code() == grpc.StatusCode.OK for call in waiting)
    assert bridge.GetStatus(STATUS, timeout=5) == bridge_pb2.Status()
    assert gated.arm.asked == 1
    for channel in others:
        channel.close()


def test_while_it_drains_running_calls_end_and_only_stops_begin(gated: Gated, bridge):
    running = bridge.Clear.future(COMMAND, timeout=10)
    time.sleep(0.2)
    gated.server.drain()
    assert code_of(lambda: bridge.GetStatus(STATUS, timeout=5)) == grpc.StatusCode.UNAVAILABLE
    assert bridge.EStop(COMMAND, timeout=5).state == bridge_pb2.STATE_ESTOP
    gated.arm.let_go.set()
    assert running.code() == grpc.StatusCode.OK


def test_an_exception_in_a_service_is_counted_as_an_error(gated: Gated, bridge):
    assert code_of(lambda: bridge.Disarm(COMMAND, timeout=5)) == grpc.StatusCode.UNKNOWN
    assert gated.count("Disarm", "UNKNOWN") == 1


def test_metrics_are_offered_on_loopback_in_the_format_of_prometheus(gated: Gated, bridge):
    bridge.GetStatus(STATUS, timeout=5)
    with MetricsServer(0, gated.registry) as metrics:
        assert metrics.address.startswith("127.0.0.1:")
        text = urllib.request.urlopen(f"http://{metrics.address}/metrics", timeout=5).read().decode()
        with pytest.raises(EndpointError, match="cannot offer metrics on 127"):
            MetricsServer(int(metrics.address.partition(":")[2]), gated.registry)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    calls = {(s.labels["method"], s.labels["code"]): s.value for s in families["pi0_edge_calls"].samples
             if s.name.endswith("_total")}  # fmt: skip
    assert calls[f"/{SERVICE}/GetStatus", "OK"] == 1
    assert any(sample.name.endswith("_bucket") for sample in families["pi0_edge_call_seconds"].samples)


def test_a_log_line_is_one_object_with_the_fields_of_the_call(bridge, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "pi0_edge.protos.rpc.interceptor"):
        bridge.EStop(COMMAND, timeout=5)
        deadline = time.monotonic() + 5
        while not caplog.records:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    line = JsonFormatter().format(caplog.records[0])
    assert "\n" not in line
    read = json.loads(line)
    assert read["time"].endswith("+00:00")
    assert {name: read[name] for name in ("level", "logger", "method", "role", "code")} == {
        "level": "INFO",
        "logger": "pi0_edge.protos.rpc.interceptor",
        "method": f"/{SERVICE}/EStop",
        "role": "command",
        "code": "OK",
    }


def test_an_exception_is_logged_in_one_line():
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        record = logging.LogRecord("a", logging.ERROR, "", 1, "went %s", ("wrong",), (type(error), error, None))
    read = json.loads(JsonFormatter().format(record))
    assert read["message"] == "went wrong"
    assert "first\nsecond" in read["exception"]


def test_peers_are_forgotten_before_they_fill_the_memory():
    limits = PeerLimits(LIMITS, 4)
    for number in range(3 * MOST_PEERS):
        assert limits.take_call(f"peer {number}")
    assert len(limits._buckets) <= 2 * MOST_PEERS
