"""openpi's own client, as its robots run it, against the server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version

import numpy as np
import pytest
from cli_runner import run
from openpi_messages import aloha, droid, libero, write
from openpi_server import HORIZON, fix_noise, held, small_policy

from pi0_edge.processing import RunningPlan
from pi0_edge.serving.shared_policy import SharedPolicy

pytest.importorskip("websockets", reason="needs the extra openpi")
pytest.importorskip("msgpack", reason="needs the extra openpi")
pytest.importorskip("openpi_client.action_chunk_broker", reason="needs openpi-client (with --no-deps) and dm-tree")


from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy, websockets

from pi0_edge.serving.openpi.observations import read_request
from pi0_edge.serving.openpi.server import OpenpiServer

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.system,
    # The client opens its connection without a context manager, which websockets 17 advises against.
    pytest.mark.filterwarnings("ignore:connect:DeprecationWarning"),
]

REQUESTS = {
    "aloha": (aloha(), HORIZON, 14),
    "aloha_sim": (aloha(("cam_high",)), HORIZON, 14),
    "droid": (droid(), 10, 8),
    "libero": (libero(), HORIZON, 7),
}


@pytest.fixture(scope="module", params=REQUESTS)
def served(request, tmp_path_factory) -> Iterator[tuple[str, OpenpiServer, SharedPolicy]]:
    shared = SharedPolicy(small_policy(tmp_path_factory.mktemp("openpi"), request.param))
    with OpenpiServer(shared, "0", default_prompt="Transfer cube") as server:
        yield request.param, server, shared


@pytest.fixture
def connect(served) -> Iterator[Callable[[], WebsocketClientPolicy]]:
    """Makes clients, and closes them, which openpi's own code never does."""
    clients: list[WebsocketClientPolicy] = []

    def connected() -> WebsocketClientPolicy:
        host, port = served[1].address.split(":")
        clients.append(WebsocketClientPolicy(host, int(port)))
        return clients[-1]

    yield connected
    for client in clients:
        client._ws.close()


def test_each_robot_gets_what_its_runtime_expects(served, connect):
    robot, _, shared = served
    request, rows, width = REQUESTS[robot]
    client = connect()
    assert client.get_server_metadata().get("reset_pose") == (
        [0, -1.5, 1.5, 0, 0, 0] if robot.startswith("aloha") else None
    )
    fix_noise(shared.policy)
    reply = client.infer(request)
    assert reply["actions"].shape == (rows, width) and reply["actions"].dtype == np.float64
    asked = read_request(write(request), shared.policy.processor.robot, "Transfer cube")
    fix_noise(shared.policy)
    expected = shared.policy.infer(asked.observation).actions[:rows]
    np.testing.assert_array_equal(reply["actions"], expected)
    for timing in ("policy_timing", "server_timing"):  # simple_client averages every entry
        assert all(np.isfinite(np.mean([value])) for value in reply[timing].values())
    assert client.infer(request)["server_timing"]["prev_total_ms"] > 0
    client.reset()


def test_the_broker_slices_a_chunk_into_actions(served, connect):
    robot, _, shared = served
    request, _, width = REQUESTS[robot]
    steps = ActionChunkBroker(connect(), action_horizon=5)
    before = shared.chunks
    assert [steps.infer(request)["actions"].shape for _ in range(6)] == [(width,)] * 6
    assert shared.chunks == before + 2


def test_an_error_says_what_is_wrong_and_a_new_client_goes_on(served, connect):
    robot = served[0]
    client = connect()
    with pytest.raises(RuntimeError, match=r"Error in inference server:\nimages is empty; expected") as error:
        client.infer({"state": np.zeros(2), "prompt": "x"})
    assert "Traceback" not in str(error.value)
    with pytest.raises(Exception, match="1011"):
        client.infer(REQUESTS[robot][0])
    assert connect().infer(REQUESTS[robot][0])["actions"].shape[1] == REQUESTS[robot][2]


def test_several_clients_at_once(served, connect):
    robot = served[0]
    shapes = []

    def work() -> None:
        client = connect()
        shapes.extend(client.infer(REQUESTS[robot][0])["actions"].shape for _ in range(4))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert shapes == [REQUESTS[robot][1:]] * 24


@pytest.mark.parametrize("served", ["aloha_sim"], indirect=True)
def test_an_inference_of_any_length_leaves_handshake_and_pings_alone(served, connect, monkeypatch):
    """openpi's client pings every 20 s, and gives up after 20 s without an answer: here, 0.2 s and 2 s."""
    robot, _, shared = served
    if int(version("websockets").split(".")[0]) < 15:
        pytest.skip("clients with websockets before 15 do not ping")
    right = websockets.sync.client.connect
    monkeypatch.setattr(
        websockets.sync.client,
        "connect",
        lambda *a, **k: right(*a, **k, ping_interval=0.2, ping_timeout=2),
    )
    client, replies = connect(), []
    with held(shared.policy) as engine:
        asking = threading.Thread(target=lambda: replies.append(client.infer(REQUESTS[robot][0])))
        asking.start()
        assert engine.started.wait(10)
        asking.join(3)  # longer than both
        assert asking.is_alive()
        assert connect().get_server_metadata()["robot"] == robot
        engine.go.set()
        asking.join(20)
    assert replies[0]["actions"].shape == (HORIZON, 14)


def test_a_continuation_is_what_the_policy_makes_of_the_plan(served, connect):
    robot, _, shared = served
    request, rows, width = REQUESTS[robot]
    client = connect()
    plan = np.asarray(client.infer(request)["actions"])[3:]
    fields = client.get_server_metadata()["continuation"]["fields"]
    continuation = {
        "actions": plan,
        "delay": 2,
        "overlap": 5,
        "max_weight": 5.0,
        "schedule": "ones",
        "method": "guided",
    }
    assert set(fields) == set(continuation)
    fix_noise(shared.policy)
    continued = client.infer({**request, "continuation": continuation})["actions"]
    asked = read_request(
        write({**request, "continuation": continuation}), shared.policy.processor.robot, "Transfer cube"
    )
    assert isinstance(asked.plan, RunningPlan)
    fix_noise(shared.policy)
    expected = shared.policy.infer(asked.observation, plan=asked.plan).actions[:rows]
    np.testing.assert_array_equal(continued, expected)
    fix_noise(shared.policy)
    assert np.abs(expected - shared.policy.infer(asked.observation).actions[:rows]).max() > 1e-3
    assert expected.shape[1] == width


@pytest.mark.parametrize("served", ["aloha_sim"], indirect=True)
def test_over_tls_with_a_key_and_the_authority_that_the_documentation_names(served, tmp_path, monkeypatch):
    pytest.importorskip("cryptography", reason="needs the extra signing")
    shared, key, home, folder = served[2], "k" * 32, tmp_path / "home", tmp_path / "robot"
    assert run("certificates", "authority", home).code == 0
    assert run("certificates", "server", home, folder, "--host", "127.0.0.1").code == 0
    monkeypatch.setenv("SSL_CERT_FILE", str(home / "authority.pem"))
    with OpenpiServer(shared, "0", api_key=key, tls=folder, default_prompt="Transfer cube") as server:
        port = int(server.address.rpartition(":")[2])
        client = WebsocketClientPolicy("wss://127.0.0.1", port, api_key=key)
        assert client.infer(REQUESTS[served[0]][0])["actions"].dtype == np.float64
        client._ws.close()
        with pytest.raises(websockets.exceptions.InvalidStatus, match="401"):
            WebsocketClientPolicy("wss://127.0.0.1", port, api_key="x" * 32)
