"""The calls that each role may make: the bridge behind mutual TLS, over real connections, with the real firmware."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from motion_audit import ALOHA, executed_ticks, fast_swing, wait_until
from network_peers import REFUSED, make_peers

from firmware_bridge.bridge.server import SERVICE, BridgeServer
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.errors import AccessError, LinkError
from pi0_edge.errors import EndpointError
from pi0_edge.protos import bridge_pb2, bridge_pb2_grpc, policy_pb2
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.rpc.roles import CALLS, ESTOP_CALL, Role
from pi0_edge.protos.rpc.tls import open_channel
from pi0_edge.protos.serial_link import State

pytestmark = pytest.mark.real_time

DOCS = Path(__file__).resolve().parents[2] / "docs" / "network.md"


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_peers(tmp_path_factory.mktemp("peers"))


@pytest.fixture(scope="module")
def board(firmware_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedBoard]:
    with EmulatedBoard(firmware_image, record=tmp_path_factory.mktemp("board") / "record") as board:
        yield board


@pytest.fixture(scope="module")
def server(board: EmulatedBoard, peers: dict[str, Path]) -> Iterator[BridgeServer]:
    server = BridgeServer(board.port, "0.0.0.0:0", "aloha", tls=peers["server"])
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def address(server: BridgeServer) -> str:
    return server.address.replace("0.0.0.0", "localhost")


@pytest.fixture
def commander(address: str, peers: dict[str, Path]) -> Iterator[BridgeClient]:
    with BridgeClient(address, "commander", peers["command"]) as client:
        client.wait_ready()
        client.estop("a test begins")  # whatever the last test left behind
        client.clear()
        yield client


def test_a_commander_moves_the_arm(commander: BridgeClient):
    assert commander.arm(ALOHA.names) == State.ARMED
    with commander.play() as stream:
        stream.send(fast_swing(np.arange(1, 51)), commander.status().tick)
        report = stream.next_report(2.0)
    assert report is not None and report.outcome == ChunkReport.ACCEPTED
    assert commander.disarm() == State.DISARMED


def executed_since(board: EmulatedBoard, begun: int) -> list[tuple[float, ...]]:
    """The setpoints of every tick that the board reported from `begun` on."""
    assert board.record is not None
    return [tick.executed for tick in executed_ticks(board.record) if tick.tick >= begun]


def test_a_stolen_observer_certificate_cannot_move_the_arm(
    commander: BridgeClient, address: str, peers: dict[str, Path], board: EmulatedBoard
):
    commander.arm(ALOHA.names)
    begun = commander.status().tick
    with open_channel(address, peers["observe"]) as channel:
        bridge = bridge_pb2_grpc.RobotBridgeStub(channel)
        assert bridge.GetStatus(bridge_pb2.StatusRequest(), timeout=5).owner == "commander"
        actions = (ALOHA.home + 0.2).tolist()
        clock = policy_pb2.ObservationClock(tick=begun + 10)
        chunk = policy_pb2.Chunk(horizon=1, action_dim=14, actions=actions, clock=clock)
        lease = commander._lease  # stolen as well
        commands = [
            lambda: bridge.Arm(bridge_pb2.ArmRequest(client="commander"), timeout=5),
            lambda: bridge.Disarm(bridge_pb2.CommandRequest(lease=lease), timeout=5),
            lambda: bridge.Clear(bridge_pb2.CommandRequest(lease=lease), timeout=5),
            lambda: list(bridge.PlayChunks(iter([bridge_pb2.PlayRequest(lease=lease, chunk=chunk)]), timeout=5)),
        ]
        for command in commands:
            with pytest.raises(grpc.RpcError) as refused:
                command()
            assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED  # pyright: ignore
            assert "needs a certificate with the role command; that of 'observe'" in refused.value.details()  # pyright: ignore
        assert wait_until(lambda: len(executed_since(board, begun)) > 20)
        status = bridge.GetStatus(bridge_pb2.StatusRequest(), timeout=5)
    assert (status.state, status.owner) == (State.ARMED, "commander")
    assert commander.disarm() == State.DISARMED
    seen = executed_since(board, begun)
    assert len(seen) > 20
    np.testing.assert_array_equal(seen, np.tile(seen[0], (len(seen), 1)))


@pytest.mark.parametrize("role", ["estop", "observe", "command"])
def test_every_role_may_stop_the_arm_and_only_a_commander_may_go_on(
    commander: BridgeClient, address: str, peers: dict[str, Path], role: str
):
    commander.arm(ALOHA.names)
    with BridgeClient(address, role, peers[role]) as client:
        assert client.estop("smoke") == State.ESTOP
        if role == "command":
            assert client.clear() == State.DISARMED
            return
        with pytest.raises(AccessError, match="Clear needs a certificate with the role command"):
            client.clear()
        if role == "estop":
            with pytest.raises(AccessError, match="GetStatus needs a certificate with the role observe"):
                client.status()


@pytest.mark.parametrize("peer", REFUSED)
def test_a_bad_certificate_ends_the_handshake(address: str, peers: dict[str, Path], peer: str):
    with BridgeClient(address, peer, peers[peer]) as client:
        for call in (client.estop, client.status, lambda: client.arm(ALOHA.names)):
            with pytest.raises(LinkError, match="accepts no connection: it may ask for certificates"):
                call()


def test_without_a_certificate_one_can_only_connect_and_be_refused(address: str, peers: dict[str, Path]):
    with BridgeClient(address) as plain, pytest.raises(LinkError, match="accepts no connection"):
        plain.estop()
    authority = (peers["server"] / "authority.pem").read_bytes()  # TLS, but nothing to show
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(authority)) as channel:
        for method in CALLS:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(method)(b"", timeout=5)
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE  # pyright: ignore
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as peer:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(1000))
        assert b"HTTP" not in peer.recv(1000)


def test_a_client_refuses_a_server_of_another_name_or_authority(
    server: BridgeServer, address: str, peers: dict[str, Path], tmp_path: Path
):
    other_name = server.address.replace("0.0.0.0", "127.0.0.2")
    with BridgeClient(other_name, tls=peers["command"]) as client, pytest.raises(LinkError, match="the host of this"):
        client.status()
    others = make_peers(tmp_path)
    with BridgeClient(address, tls=others["command"]) as client, pytest.raises(LinkError, match="same authority"):
        client.status()


def test_every_call_that_the_server_offers_is_in_the_table(address: str, peers: dict[str, Path]):
    with open_channel(address, peers["observe"]) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = list(database.get_services())
    assert sorted(services) == sorted((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME))
    offered = {
        f"/{service.full_name}/{method.name}"
        for module in (bridge_pb2, policy_pb2, health_pb2, reflection_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert offered == set(CALLS)


def test_a_call_that_is_not_in_the_table_is_refused_to_everyone(
    address: str, peers: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delitem(CALLS, f"/{SERVICE}/GetStatus")
    with BridgeClient(address, tls=peers["command"]) as client, pytest.raises(AccessError, match="nobody may call"):
        client.status()


def test_roles_include_each_other_and_everyone_may_stop():
    assert min(CALLS.values()) == CALLS[ESTOP_CALL] == Role.ESTOP
    assert [role.name for role in sorted(Role)] == ["ESTOP", "OBSERVE", "COMMAND"]


def test_the_documented_table_is_the_one_that_is_enforced():
    rows = re.findall(r"^\| `([\w./]+)` \| (yes|–) \| (yes|–) \| (yes|–) \|$", DOCS.read_text(), re.MULTILINE)
    documented = {f"/{call}": tuple(mark == "yes" for mark in marks) for call, *marks in rows}
    assert documented == {call: tuple(role >= least for role in sorted(Role)) for call, least in CALLS.items()}


@pytest.mark.parametrize("name", ["authority.pem", "certificate.pem", "key.pem"])
def test_a_folder_that_is_wrong_is_named(peers: dict[str, Path], tmp_path: Path, name: str):
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in peers["server"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "key.pem").chmod(0o640)
    with pytest.raises(EndpointError, match=r"key\.pem can be read by other users; run `chmod 600"):
        BridgeServer("/dev/null", "0.0.0.0:0", "aloha", tls=folder)
    (folder / "key.pem").chmod(0o600)
    (folder / name).write_text("no PEM")
    with pytest.raises(EndpointError, match=rf"{name}.*PEM"):
        BridgeServer("/dev/null", "0.0.0.0:0", "aloha", tls=folder)
    (folder / name).unlink()
    with pytest.raises(EndpointError, match=f"{name} does not exist; `pi0-edge certificates` makes such folders"):
        BridgeClient("localhost:1", tls=folder)


def test_a_key_that_belongs_to_another_certificate_is_refused(peers: dict[str, Path], tmp_path: Path):
    for name, folder in (("authority.pem", "server"), ("certificate.pem", "server"), ("key.pem", "command")):
        (tmp_path / name).write_bytes((peers[folder] / name).read_bytes())
    (tmp_path / "key.pem").chmod(0o600)
    with pytest.raises(EndpointError, match="are no certificate in PEM and its key"):
        BridgeServer("/dev/null", "0.0.0.0:0", "aloha", tls=tmp_path)
