"""The websocket server on a real connection: who may connect, what ends a connection, what goes on meanwhile."""

from __future__ import annotations

import http.client
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
from cli_runner import run
from openpi_messages import aloha, hostile, write
from openpi_server import HORIZON, fix_noise, held, received, small_policy

from pi0_edge.errors import EndpointError, ServingError
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.serving.shared_policy import SharedPolicy

pytest.importorskip("websockets", reason="needs the extra openpi")
pytest.importorskip("msgpack", reason="needs the extra openpi")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from pi0_edge.serving.openpi.access import listen_address, read_api_key
from pi0_edge.serving.openpi.server import OpenpiLimits, OpenpiServer

pytestmark = pytest.mark.real_time

RIGHT = write(aloha(("cam_high",)))
KEY = "k" * 32


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    return small_policy(tmp_path_factory.mktemp("openpi"), "aloha_sim")


@pytest.fixture(scope="module")
def server(policy) -> Iterator[OpenpiServer]:
    with OpenpiServer(SharedPolicy(policy), "127.0.0.1:0") as running:
        yield running


def opened(server: OpenpiServer, **options) -> ClientConnection:
    return connect(f"ws://{server.address}", compression=None, max_size=None, **options)


def health(server: OpenpiServer) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(server.address, timeout=10)
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    return response.status, response.read()


def end_of(connection: ClientConnection) -> tuple[object, int]:
    """What the server says last, and its close code."""
    said = connection.recv(10)
    with pytest.raises(ConnectionClosed):
        connection.recv(10)
    assert connection.close_code is not None
    return said, connection.close_code


def answers(server: OpenpiServer) -> bool:
    with opened(server) as connection:
        connection.recv(10)
        connection.send(RIGHT)
        return received(connection)["actions"].shape == (HORIZON, 14)


def test_the_metadata_come_first_and_then_a_reply_for_each_observation(server, policy):
    with opened(server) as connection:
        metadata = received(connection)
        assert metadata["reset_pose"] == [0, -1.5, 1.5, 0, 0, 0]
        assert (metadata["robot"], metadata["horizon"], metadata["action_dim"]) == ("aloha_sim", HORIZON, 14)
        assert metadata["continuation"]["fields"][:2] == ["actions", "delay"]
        replies = []
        for _ in range(2):
            fix_noise(policy)
            connection.send(RIGHT)
            replies.append(received(connection))
    fix_noise(policy)
    image = aloha()["images"]["cam_high"].transpose(1, 2, 0)
    expected = policy.infer(Observation({"top": np.ascontiguousarray(image)}, aloha()["state"], None)).actions
    for reply in replies:
        assert reply.keys() == {"actions", "policy_timing", "server_timing"}
        assert reply["actions"].dtype == np.float64
        np.testing.assert_array_equal(reply["actions"], expected)
        assert all(
            type(value) is float for name in ("policy_timing", "server_timing") for value in reply[name].values()
        )
    assert [sorted(reply["server_timing"]) for reply in replies] == [["infer_ms"], ["infer_ms", "prev_total_ms"]]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (write({"state": np.zeros(13), "images": aloha()["images"]}), "state has 13 numbers, expected 14 (aloha_sim)"),
        ("text", "the message is a text frame, expected a binary frame of msgpack"),
        (b"", "the message needs 1 bytes more, but the message has 0 left; expected all of it in one frame"),
        (write({**aloha(), "prompt": "  "}), "prompt is '  ', expected a sentence"),
        (
            write({**aloha(), "continuation": {"actions": np.zeros((2, 14)), "delay": 99}}),
            "delay is 99; expected 0 to 14",
        ),
    ],
)
def test_what_is_wrong_is_a_text_and_then_the_end(server, message: str | bytes, said: str):
    with opened(server) as connection:
        connection.recv(10)
        connection.send(message)
        text, code = end_of(connection)
        assert isinstance(text, str) and text.startswith(said)
        assert "Traceback" not in text and code == 1011
        assert 0 < len((connection.close_reason or "").encode()) <= 123
    assert answers(server)


def test_a_bug_is_no_text_for_a_peer(server, policy, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    with opened(server) as connection:
        connection.recv(10)
        monkeypatch.setattr(policy.engine, "infer", broken)
        connection.send(RIGHT)
        assert end_of(connection) == ("the policy failed; the log of the policy server says why", 1011)
    assert "secret" in caplog.text
    monkeypatch.undo()
    assert answers(server)


@pytest.mark.parametrize("origin", ["http://localhost:8000", "null", "https://example.org", ""])
def test_a_browser_is_refused(server, origin: str):
    with pytest.raises(InvalidStatus) as refused:
        opened(server, additional_headers={"Origin": origin})
    assert refused.value.response.status_code == 403


def test_health_is_a_plain_answer(server):
    assert health(server) == (200, b"OK\n")
    connection = http.client.HTTPConnection(server.address, timeout=10)
    connection.request("GET", "/")
    assert connection.getresponse().status == 426


def test_an_inference_of_any_length_blocks_nobody(policy):
    with OpenpiServer(SharedPolicy(policy), "0") as server, opened(server) as first:
        first.recv(10)
        with held(policy) as engine:
            first.send(RIGHT)
            assert engine.started.wait(10)
            with opened(server) as second:
                assert received(second)["robot"] == "aloha_sim"
                assert second.ping().wait(10)
            assert first.ping().wait(10)
            assert health(server)[0] == 200
            engine.go.set()
            assert received(first)["actions"].shape == (HORIZON, 14)


def test_who_waits_is_answered_in_turn_and_who_goes_is_dropped(policy):
    shared = SharedPolicy(policy)
    with OpenpiServer(shared, "0") as server, ExitStack() as stack:
        clients = [
            stack.enter_context(opened(server)) for _ in range(7)
        ]  # more than the queue of the policy has places
        with held(policy) as engine:
            for client in clients:
                client.recv(10)
                client.send(RIGHT)
            assert engine.started.wait(10)
            for gone in clients[5:]:
                gone.close()
            engine.go.set()
            assert [received(client)["actions"].shape[1] for client in clients[:5]] == [14] * 5
        for client in clients[:5]:
            client.close()
        assert 5 <= shared.chunks <= 6  # one of those that went may have been the running one


def test_stopping_lets_the_running_one_finish_and_closes_the_others(policy):
    server = OpenpiServer(SharedPolicy(policy), "0")
    server.start()
    with opened(server) as busy, opened(server) as idle, held(policy) as engine:
        for client in (busy, idle):
            client.recv(10)
        busy.send(RIGHT)
        assert engine.started.wait(10)
        stopping = in_a_thread(server.stop)
        with pytest.raises(ConnectionClosed):
            idle.recv(10)
        assert idle.close_code == 1001
        engine.go.set()
        assert received(busy)["actions"].shape == (HORIZON, 14)
        with pytest.raises(ConnectionClosed):
            busy.recv(10)
        assert busy.close_code == 1001
        stopping.join(10)
        assert not stopping.is_alive()
    with pytest.raises(OSError):
        opened(server).__enter__()


def in_a_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_stopping_does_not_wait_for_an_inference_that_hangs(policy):
    server = OpenpiServer(SharedPolicy(policy), "0")
    server.start()
    with opened(server) as client, held(policy) as engine:
        client.recv(10)
        client.send(RIGHT)
        assert engine.started.wait(10)
        stopping = in_a_thread(server.stop)
        with pytest.raises(ConnectionClosed):
            client.recv(20)
        assert client.close_code == 1001
        stopping.join(20)
        assert not stopping.is_alive()


def test_more_clients_than_allowed_are_refused_until_one_goes(policy):
    with OpenpiServer(SharedPolicy(policy), "0", limits=OpenpiLimits(clients=2)) as server:
        with opened(server), opened(server):
            with pytest.raises(InvalidStatus) as refused:
                opened(server).__enter__()
            assert refused.value.response.status_code == 503
            assert health(server)[0] == 200
        deadline = time.monotonic() + 10
        while True:
            try:
                assert answers(server)
                break
            except InvalidStatus:
                assert time.monotonic() < deadline


def test_silent_sockets_are_bounded_and_end(policy):
    limits = OpenpiLimits(clients=1, handshake_s=0.5)
    with OpenpiServer(SharedPolicy(policy), "0", limits=limits) as server:
        host, port = server.address.split(":")
        silent = [socket.create_connection((host, int(port)), 10) for _ in range(40)]
        for quiet in silent:
            quiet.settimeout(10)
            with suppress(ConnectionResetError):
                quiet.recv(1000)  # ends: beyond the limit at once, below it after the time of a handshake
        assert answers(server)
        for quiet in silent:
            quiet.close()


def test_an_idle_client_is_let_go(policy):
    with OpenpiServer(SharedPolicy(policy), "0", limits=OpenpiLimits(idle_s=0.2)) as server, opened(server) as client:
        client.recv(10)
        with pytest.raises(ConnectionClosed):
            client.recv(10)
        assert (client.close_code, client.close_reason) == (1001, "no observation within 0.2 s")


def test_a_message_beyond_the_limit_ends_the_connection_alone(policy):
    with OpenpiServer(SharedPolicy(policy), "0", limits=OpenpiLimits(message_bytes=10_000)) as server:
        with opened(server) as client:
            client.recv(10)
            client.send(bytes(10_001))
            with pytest.raises(ConnectionClosed):
                client.recv(10)
            assert client.close_code == 1009
        assert answers(server)


def attack(server: OpenpiServer, count: int) -> int:
    """Sends hostile messages, each on a connection of its own; returns how many were refused."""
    refused = 0
    for message, has_to_be_refused in hostile(count, seed=1):
        with opened(server) as connection:
            connection.recv(10)
            connection.send(message)
            reply = connection.recv(30)
            if isinstance(reply, str):
                refused += 1
                assert "Traceback" not in reply
                with pytest.raises(ConnectionClosed):
                    connection.recv(10)
                assert connection.close_code == 1011
            else:
                assert not has_to_be_refused
    return refused


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_hostile_messages_end_in_refusals_and_the_server_lives(policy, count: int):
    with OpenpiServer(SharedPolicy(policy), "0") as server:
        attack(server, 50)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert attack(server, count) > 0.9 * count
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
        assert answers(server)


def test_a_client_must_know_the_key(policy):
    with OpenpiServer(SharedPolicy(policy), "0", api_key=KEY) as server:
        wrong = [
            {},
            {"Authorization": "Api-Key " + "x" * 32},
            {"Authorization": KEY},
            {"Authorization": f"Bearer {KEY}"},
        ]
        for headers in wrong:
            with pytest.raises(InvalidStatus) as refused:
                opened(server, additional_headers=headers)
            assert refused.value.response.status_code == 401
        with opened(server, additional_headers={"Authorization": f"Api-Key {KEY}"}) as connection:
            assert received(connection)["robot"] == "aloha_sim"
        assert health(server)[0] == 200


def test_over_tls_with_a_certificate_of_our_authority(policy, tmp_path):
    pytest.importorskip("cryptography", reason="needs the extra signing")
    home, robot = tmp_path / "home", tmp_path / "robot"
    assert run("certificates", "authority", home).code == 0
    assert run("certificates", "server", home, robot, "--host", "127.0.0.1").code == 0
    with OpenpiServer(SharedPolicy(policy), "0", api_key=KEY, tls=robot) as server:
        trusting = ssl.create_default_context(cafile=str(robot / "authority.pem"))
        headers = {"Authorization": f"Api-Key {KEY}"}
        with connect(f"wss://{server.address}", ssl=trusting, additional_headers=headers) as connection:
            assert received(connection)["robot"] == "aloha_sim"
            session = connection.socket.session  # pyright: ignore[reportAttributeAccessIssue]
            assert session is None or not session.has_ticket  # one would come while the client writes
        with pytest.raises(ssl.SSLError):
            connect(f"wss://{server.address}", additional_headers=headers)


@pytest.mark.parametrize(
    ("tls", "api_key", "allow_remote", "allowed"),
    [
        (False, False, False, False),
        (True, False, False, False),
        (False, True, False, False),
        (True, True, False, True),
        (False, False, True, True),
    ],
)
def test_beyond_loopback_only_with_tls_and_key(tls: bool, api_key: bool, allow_remote: bool, allowed: bool):
    given = {"tls": tls, "api_key": api_key, "allow_remote": allow_remote}
    assert listen_address("8000", **given) == ("127.0.0.1", 8000)
    if allowed:
        assert listen_address("0.0.0.0:8000", **given) == ("0.0.0.0", 8000)
    else:
        with pytest.raises(EndpointError, match="needs both TLS and an API key"):
            listen_address("0.0.0.0:8000", **given)


@pytest.mark.parametrize("listen", ["", "robot", "127.0.0.1:70000", "70000", ":8000"])
def test_what_is_no_address_is_said(listen: str):
    with pytest.raises(EndpointError, match="is not host:port"):
        listen_address(listen, tls=False, api_key=False, allow_remote=False)


def test_a_port_that_is_taken_is_said(server, policy):
    with pytest.raises(ServingError, match="taken"):
        OpenpiServer(SharedPolicy(policy), server.address).start()


@pytest.mark.parametrize("host", ["host.invalid", "192.0.2.1", "a..b"])
def test_a_host_that_is_not_this_machine_is_said(policy, host: str):
    with pytest.raises(ServingError, match="not a host of this machine"):
        OpenpiServer(SharedPolicy(policy), f"{host}:0", allow_remote=True).start()


def test_ipv6_is_an_address_like_any_other(policy):
    server = OpenpiServer(SharedPolicy(policy), "[::1]:0")
    try:
        server.start()
    except ServingError:
        pytest.skip("this machine has no IPv6")
    assert server.address.startswith("[::1]:") and answers(server)
    server.stop()
    server.stop()  # it is no mistake to stop twice


def test_a_key_lies_in_a_file_that_only_its_owner_reads(tmp_path: Path):
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o644)
    with pytest.raises(EndpointError, match="chmod 600"):
        read_api_key(path)
    path.chmod(0o600)
    assert read_api_key(path) == KEY
    for wrong in ("short", "with a space in it and long", "x" * 20 + "\ny", "é" * 20):
        path.write_text(wrong)
        with pytest.raises(EndpointError, match="API key"):
            read_api_key(path)
    with pytest.raises(EndpointError, match="cannot be read"):
        read_api_key(tmp_path / "absent")
