"""The bridge over gRPC with the real firmware: one owner, clear refusals, and exactly the commanded motion."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from motion_audit import ALOHA, TICK_S, assert_within_limits, executed_ticks, fast_swing, wait_until

from firmware_bridge.bridge.server import SERVICE, BridgeServer
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.errors import BridgeError, ChunkError, LinkError, PortError, StateError
from pi0_edge.errors import EndpointError
from pi0_edge.protos import bridge_pb2, policy_pb2
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Fault, State, TickFlag

pytestmark = [pytest.mark.real_time, pytest.mark.system]

LEASE_IDLE_S = 1.5


@pytest.fixture(scope="module")
def board(firmware_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedBoard]:
    with EmulatedBoard(firmware_image, record=tmp_path_factory.mktemp("board") / "record") as board:
        yield board


@pytest.fixture(scope="module")
def server(board: EmulatedBoard) -> Iterator[BridgeServer]:
    server = BridgeServer(board.port, "127.0.0.1:0", "aloha", lease_idle_s=LEASE_IDLE_S)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(server: BridgeServer) -> Iterator[BridgeClient]:
    with BridgeClient(server.address, "pytest") as client:
        client.wait_ready()
        client.estop("a test begins")  # whatever the last test left behind
        client.clear()
        go_home(client)
        yield client


def go_home(client: BridgeClient) -> None:
    """Moves the arm home, unless it is there: a first chunk has to begin where the arm is."""
    with client.telemetry() as ticks:
        first = next(ticks)
        if np.abs(first.executed - ALOHA.home).max() < 1e-3:
            return
        client.arm(ALOHA.names)
        with client.play() as stream:
            share = 0.5 * (1.0 - np.cos(np.pi * np.arange(1, 51) / 50))[:, None]
            stream.send(first.executed + share * (ALOHA.home - first.executed), first.tick)
            assert (report := stream.next_report(2.0)) and report.outcome == ChunkReport.ACCEPTED, report
            while next(ticks).state != State.SAFE:  # it has played the chunk to its end
                pass
    client.clear()


def at_home(horizon: int = 50) -> np.ndarray:
    return np.tile(ALOHA.home, (horizon, 1))


def test_status_and_telemetry_report_the_uncertainty_of_the_clock(client: BridgeClient):
    clock = client.status().clock
    assert clock.round_trips > 0 and 0.0 < clock.uncertainty_ms < 50.0
    with client.telemetry() as ticks:
        seen = [next(ticks) for _ in range(10)]
    spacing = np.diff([tick.host_time_s for tick in seen]) / np.diff([tick.tick for tick in seen])
    np.testing.assert_allclose(spacing, TICK_S, atol=5e-3)
    assert abs(seen[-1].host_time_s - time.monotonic()) < 1.0  # the bridge runs on this machine


def test_commanded_motion_is_executed_exactly(client: BridgeClient):
    assert client.arm(ALOHA.names) == State.ARMED
    start = due = client.status().tick
    executed: dict[int, np.ndarray] = {}
    with client.telemetry() as ticks, client.play() as stream:
        for tick in ticks:
            if tick.flags & TickFlag.EXECUTED:
                executed[tick.tick] = tick.executed
                assert 0 < tick.tick - tick.observed_tick <= 50
            if tick.tick >= due:  # the first at once: the farther the swing is, the longer the arm has to catch up
                stream.send(fast_swing(tick.tick - start + np.arange(1, 51)), tick.tick)
                due = tick.tick + 10
            if tick.tick > start + 90:
                break
        reports = [report for _ in range(8) if (report := stream.next_report(1.0))]
    assert all(report.outcome == ChunkReport.ACCEPTED for report in reports), reports
    assert all(report.skipped < 25 for report in reports)
    age = client.status().age
    assert age.ticks >= len(executed) and 0.0 < age.p50_ms <= age.p99_ms <= age.max_ms <= 1000.0
    settled = sorted(executed)[20:]
    assert len(settled) > 40
    commanded = fast_swing(np.array(settled) - start)
    # half a count of quantisation, and the float32 of the wire
    np.testing.assert_allclose([executed[tick] for tick in settled], commanded, atol=0.51e-4)


def test_a_client_with_other_joints_is_refused_before_the_arm_is_armed(client: BridgeClient):
    assert client.status().joint_names == list(ALOHA.names)
    swapped = (*ALOHA.names[7:], *ALOHA.names[:7])
    with pytest.raises(StateError, match="action 0 of your chunks commands right_waist, but joint 0 of aloha is left"):
        client.arm(swapped)
    with pytest.raises(StateError, match="joint_names is empty"):
        client.arm(())
    assert (client.status().state, client.status().owner) == (State.DISARMED, "")


def test_starvation_ends_in_safe_and_ends_the_lease(client: BridgeClient):
    client.arm(ALOHA.names)
    start = client.status().tick
    with client.telemetry() as ticks, client.play() as stream:
        stream.send(fast_swing(np.arange(1, 31)), start)
        assert (report := stream.next_report(2.0)) and report.outcome == ChunkReport.ACCEPTED
        seen = []
        while not seen or seen[-1].state != State.SAFE:
            seen.append(next(ticks))
        assert {State.RUNNING, State.STARVED} < {tick.state for tick in seen}
        assert seen[-1].faults == Fault.STARVATION
        assert wait_until(lambda: client.status().owner == "")
        stream.send(at_home(), start)
        with pytest.raises(StateError, match=r"became SAFE \(STARVATION\); clear where needed and arm again"):
            stream.next_report(2.0)
    with pytest.raises(StateError, match="clear it first"):
        client.arm(ALOHA.names)
    client.clear()
    assert client.arm(ALOHA.names) == State.ARMED


def test_second_client_is_refused_by_the_name_of_the_first(client: BridgeClient, server: BridgeServer):
    client.arm(ALOHA.names)
    with BridgeClient(server.address, "intruder") as intruder:
        with pytest.raises(StateError, match="'pytest' holds the arm"):
            intruder.arm(ALOHA.names)
        with pytest.raises(StateError, match="'pytest' holds the arm"):
            intruder.disarm()
        with intruder.play() as stream:
            stream.send(at_home(), 0)
            with pytest.raises(StateError, match="'pytest' holds the arm"):
                stream.next_report(2.0)
        assert client.status().owner == "pytest"
        assert client.disarm() == State.DISARMED
        assert intruder.arm(ALOHA.names) == State.ARMED
        assert intruder.disarm() == State.DISARMED


def test_any_client_may_command_an_estop_and_it_latches(client: BridgeClient, server: BridgeServer):
    client.arm(ALOHA.names)
    start = client.status().tick
    with client.play() as stream, BridgeClient(server.address, "bystander") as bystander:
        stream.send(fast_swing(np.arange(1, 51)), start)
        stream.next_report(2.0)
        assert bystander.estop("smoke") == State.ESTOP
        assert wait_until(lambda: client.status().owner == "")
    with pytest.raises(StateError, match=r"ESTOP \(ESTOP_COMMAND\); clear it first"):
        client.arm(ALOHA.names)
    assert client.clear() == State.DISARMED
    assert client.arm(ALOHA.names) == State.ARMED


def test_a_confirmed_estop_is_not_sent_again_after_clear(client: BridgeClient):
    for _ in range(5):
        for _ in range(2):  # the second stops an arm that is stopped already, so that it is confirmed at once
            client.estop()
        assert client.clear() == State.DISARMED
        assert not wait_until(lambda: client.status().state != State.DISARMED, 0.12)  # two heartbeats


def test_owner_that_sends_no_chunk_is_disarmed(client: BridgeClient):
    client.arm(ALOHA.names)
    assert wait_until(lambda: client.status().state == State.DISARMED, LEASE_IDLE_S + 2.0)
    assert client.status().owner == ""


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (policy_pb2.Chunk(horizon=50, action_dim=13, actions=[0.0] * 650, clock={}), r"takes \[horizon, 14\]"),
        (policy_pb2.Chunk(horizon=50, action_dim=14, actions=[0.0] * 699, clock={}), "holds 699 values"),
        (policy_pb2.Chunk(horizon=65, action_dim=14, actions=[0.0] * 910, clock={}), "horizon is 65"),
        (policy_pb2.Chunk(horizon=1, action_dim=14, actions=[0.0] * 14), "chunk.clock is missing"),
        (policy_pb2.Chunk(), "chunk.actions holds 0 values"),
    ],
)
def test_malformed_chunk_ends_the_stream_and_names_the_field(
    client: BridgeClient, chunk: policy_pb2.Chunk, message: str
):
    client.arm(ALOHA.names)
    with client.play() as stream:
        stream.send_message(chunk)
        with pytest.raises(ChunkError, match=message):
            stream.next_report(2.0)
    assert client.status().state == State.ARMED


def test_a_chunk_with_invalid_values_is_rejected_and_the_stream_continues(client: BridgeClient):
    client.arm(ALOHA.names)
    poisoned, wild = at_home(), at_home()
    poisoned[3, 5] = np.nan
    wild[0, 0] = 40.0
    with client.play() as stream:
        tick = client.status().tick
        for actions, observed in ((poisoned, tick), (wild, tick), (at_home(10), tick - 60), (at_home(), tick + 900)):
            stream.send(actions, observed)
        stream.send(at_home(), tick)
        reports = [stream.next_report(2.0) for _ in range(5)]
    outcomes = [report.outcome for report in reports if report]
    assert outcomes == [
        ChunkReport.REJECTED,
        ChunkReport.REJECTED,
        ChunkReport.LATE,
        ChunkReport.REJECTED,
        ChunkReport.ACCEPTED,
    ]
    assert reports[0] and "actions[3, 5] (left_wrist_rotate) is nan" in reports[0].reason
    assert reports[1] and "beyond the position limits" in reports[1].reason


def play_for(client: BridgeClient, ticks: int, chunk: Callable[[int], np.ndarray]) -> list[str]:
    """Sends a chunk every ten ticks for some time; returns why chunks were refused."""
    start = due = client.status().tick
    with client.telemetry() as telemetry, client.play() as stream:
        sent = 0
        for tick in telemetry:
            if tick.tick >= due:
                stream.send(chunk(sent), tick.tick)
                due, sent = tick.tick + 10, sent + 1
            if tick.tick > start + ticks or tick.state == State.SAFE:
                break
        reports = [stream.next_report(1.0) for _ in range(sent)]
    return [report.reason for report in reports if report and report.outcome == ChunkReport.REJECTED]


def test_a_policy_whose_output_is_frozen_ends_in_safe(client: BridgeClient):
    """The policy answers every observation with the same motion; the arm must not repeat it for ever."""
    client.arm(ALOHA.names)
    refused = play_for(client, 200, lambda _: fast_swing(np.arange(50) * 0.5))
    assert refused and all("the same moving chunk since" in reason for reason in refused)
    assert wait_until(lambda: client.status().state == State.SAFE)


def test_repeated_chunks_that_hold_still_are_not_refused(client: BridgeClient):
    client.arm(ALOHA.names)
    assert play_for(client, 100, lambda _: at_home()) == []
    assert client.status().state == State.RUNNING


def test_client_without_a_name_is_refused(server: BridgeServer):
    with BridgeClient(server.address, "") as nameless, pytest.raises(ChunkError, match="client is ''"):
        nameless.arm(ALOHA.names)


def test_every_watcher_sees_every_tick_that_the_board_reports(
    client: BridgeClient, server: BridgeServer, board: EmulatedBoard
):
    with BridgeClient(server.address) as other, client.telemetry() as first, other.telemetry() as second:
        both = [[next(ticks).tick for _ in range(20)] for ticks in (first, second)]
    assert board.record is not None
    reported = [tick.tick for tick in executed_ticks(board.record)]
    for seen in both:
        assert seen == [tick for tick in reported if seen[0] <= tick <= seen[-1]]


def test_random_bytes_on_the_bridge_port_do_not_disturb_other_clients(client: BridgeClient, server: BridgeServer):
    host, port = server.address.split(":")
    garbage = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    for prefix in (b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with socket.create_connection((host, int(port))) as peer, contextlib.suppress(ConnectionError):
            peer.sendall(prefix + garbage)
    call = grpc.insecure_channel(server.address).unary_unary(f"/{SERVICE}/Arm")
    with pytest.raises(grpc.RpcError):
        call(b"\xff\xff\xff not a message", timeout=2.0)
    assert client.status().state == State.DISARMED
    assert client.arm(ALOHA.names) == State.ARMED


def test_health_service_answers(client: BridgeClient, server: BridgeServer):
    stub = health_pb2_grpc.HealthStub(grpc.insecure_channel(server.address))
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    reply = stub.Check(request, timeout=2.0)  # pyright: ignore[reportAttributeAccessIssue]
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_status_reports_clock_and_counters(client: BridgeClient):
    assert wait_until(lambda: client.status().counters.frames_received > 0)
    status = client.status()
    assert status.link_up
    assert status.joint_count == 14
    assert status.tick_period_s == 0.02
    assert 0.0 < status.round_trip_ms < 500.0


def test_second_bridge_is_refused_port_and_address(server: BridgeServer, board: EmulatedBoard):
    with pytest.raises(PortError, match="in use by another program"):
        BridgeServer(board.port, "127.0.0.1:0", "aloha").start()
    with pytest.raises(PortError, match="is another bridge running there"):
        BridgeServer(board.port, server.address, "aloha").start()


@pytest.mark.parametrize("listen", ["0.0.0.0:50061", "192.168.1.5:1", "example.org:80", "[::]:1", "50061", "host:"])
def test_only_loopback_is_served(listen: str):
    with pytest.raises(EndpointError, match="listen address"):
        BridgeServer("/dev/null", listen, "aloha")


def test_absent_bridge_is_named():
    with BridgeClient("127.0.0.1:1") as client, pytest.raises(LinkError, match="no bridge answers"):
        client.status()


def test_every_tick_of_the_tests_above_was_within_the_limits(server: BridgeServer, board: EmulatedBoard):
    assert board.record is not None
    ticks = executed_ticks(board.record)
    assert len(ticks) > 100
    assert_within_limits(ticks)


def start_bridge(port: str, listen: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "firmware_bridge", "--port", port, "--listen", listen]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_missing_port_is_reported_in_one_line_without_a_traceback():
    with start_bridge("/dev/ttyNONE", "127.0.0.1:0") as bridge:
        _, errors = bridge.communicate(timeout=20)
    assert bridge.returncode == 1
    assert "error: serial port /dev/ttyNONE does not exist" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_disarms_and_ends_without_a_traceback(firmware_image: Path, tmp_path: Path, number: signal.Signals):
    record = tmp_path / "record"
    with EmulatedBoard(firmware_image, record=record) as board:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        with start_bridge(board.port, address) as bridge, BridgeClient(address) as client:
            client.wait_ready(20.0)
            client.arm(ALOHA.names)
            os.kill(bridge.pid, number)
            _, errors = bridge.communicate(timeout=10)
            assert bridge.returncode == 0, errors
            assert "bridge ready" in errors
            assert "Traceback" not in errors
            with pytest.raises(BridgeError):
                client.status()
    assert executed_ticks(record)[-1].state == State.DISARMED


def test_chunk_reports_use_the_bridge_messages():
    assert bridge_pb2.STATE_ESTOP == State.ESTOP
    assert [state.value for state in State] == list(bridge_pb2.State.values())
