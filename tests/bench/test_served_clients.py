"""A bench asks a server over openpi's websocket as over gRPC, and says what is wrong with one that is another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpi_messages import picture, write
from openpi_server import HORIZON, small_policy

from pi0_edge.bench.served_clients import GrpcClient, OpenpiClient
from pi0_edge.errors import ObservationError, Pi0EdgeError, ServingError
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.serving.policy_server import PolicyServer

pytest.importorskip("websockets", reason="needs the extra openpi")
pytest.importorskip("msgpack", reason="needs the extra openpi")

from websockets.sync.server import ServerConnection, serve

from pi0_edge.serving.openpi.server import OpenpiServer

pytestmark = pytest.mark.real_time

KEY = "0123456789abcdef0123456789abcdef"
FACTS = {"bundle_sha256": "b", "engine": "cpu", "scheme": "s", "overrides": [], "trained_delay": 0}
TIMES = {"preprocess_ms": 1.0, "infer_ms": 2.0, "postprocess_ms": 3.0}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return small_policy(tmp_path_factory.mktemp("served"), "aloha_sim")


@pytest.fixture
def observation() -> Observation:
    return Observation({"top": picture(seed=1)}, np.linspace(-0.1, 0.1, 14), "Transfer cube")


@contextmanager
def answering(*messages: bytes | str) -> Iterator[str]:
    """A server that sends the first message, then another one for each request, then closes; yields its address."""

    def talk(connection: ServerConnection) -> None:
        connection.send(messages[0])
        for message in messages[1:]:
            connection.recv()
            connection.send(message)

    with serve(talk, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()


@pytest.fixture
def opened() -> Iterator[Callable[[OpenpiClient], OpenpiClient]]:
    clients: list[OpenpiClient] = []

    def keep(client: OpenpiClient) -> OpenpiClient:
        clients.append(client)
        return client

    yield keep
    for client in clients:
        client.close()


def test_both_protocols_give_the_chunk_of_the_policy_with_its_times(policy: Policy, observation: Observation, opened):
    with PolicyServer(policy, "127.0.0.1:0") as server, OpenpiServer(server.shared, "0") as way:
        over_grpc = GrpcClient(server.address, 30.0)
        over_openpi = opened(OpenpiClient(way.address, 30.0))
        assert over_grpc.connect(10.0) == over_openpi.connect(10.0)
        expected = policy.infer(observation, noise_seed=5).actions
        for client, exact in ((over_openpi, 0.0), (over_grpc, 1e-6)):  # gRPC sends float32
            chunk = client.infer(observation, 5)
            assert chunk.actions.shape == (HORIZON, 14)
            np.testing.assert_allclose(chunk.actions, expected, rtol=0, atol=exact)
            assert min(chunk.preprocess_ms, chunk.infer_ms, chunk.postprocess_ms) > 0
        over_grpc.close()


def test_without_a_prompt_the_server_takes_its_own(policy: Policy, observation: Observation, opened):
    silent = Observation(observation.images, observation.state, None)
    with OpenpiServer(PolicyServer(policy, "127.0.0.1:0").shared, "0", default_prompt="Transfer cube") as way:
        client = opened(OpenpiClient(way.address, 30.0))
        client.connect(10.0)
        np.testing.assert_array_equal(client.infer(silent, 5).actions, policy.infer(observation, 5).actions)


def test_a_proxy_of_the_environment_is_not_asked(
    policy: Policy, observation: Observation, opened, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with OpenpiServer(PolicyServer(policy, "127.0.0.1:0").shared, "0") as way:
        client = opened(OpenpiClient(way.address, 30.0))
        client.connect(10.0)
        assert client.infer(observation, 5).actions.shape == (HORIZON, 14)


def test_the_key_is_sent_and_a_wrong_one_is_told(policy: Policy, tmp_path: Path, opened):
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(KEY)
    wrong.write_text(KEY[::-1])
    for path in (right, wrong):
        path.chmod(0o600)
    with OpenpiServer(PolicyServer(policy, "127.0.0.1:0").shared, "0", api_key=KEY) as way:
        assert opened(OpenpiClient(way.address, 5.0, api_key=right)).connect(10.0).engine == "reference"
        for other in (wrong, None):
            with pytest.raises(ServingError, match=r"401.*--openpi-api-key"):
                opened(OpenpiClient(way.address, 5.0, api_key=other)).connect(10.0)


def test_what_the_server_refuses_is_told_in_its_words(policy: Policy, opened):
    with OpenpiServer(PolicyServer(policy, "127.0.0.1:0").shared, "0") as way:
        client = opened(OpenpiClient(way.address, 5.0))
        client.connect(10.0)
        with pytest.raises(ObservationError, match="state has 3 numbers, expected 14"):
            client.infer(Observation({"top": picture()}, np.zeros(3), "Transfer cube"), 0)
        with pytest.raises(ServingError, match="has closed the connection"):
            client.infer(Observation({"top": picture()}, np.zeros(14), "Transfer cube"), 0)


def test_openpis_own_server_says_no_bundle(opened):
    with answering(write({"reset_pose": [0, -1.5]})) as address, pytest.raises(ServingError, match="which bundle"):
        opened(OpenpiClient(address, 5.0)).connect(5.0)


def test_nobody_listens(opened):
    with answering(b"") as address:
        pass
    with pytest.raises(ServingError, match=r"no openpi server answers at .*pi0-edge serve --openpi"):
        opened(OpenpiClient(address, 5.0)).connect(0.3)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (write({"actions": np.zeros((2, 3))}), "without actions and times"),
        (write({"actions": np.zeros((2, 3)), "policy_timing": {}}), "without actions and times"),
        (write({"actions": "none", "policy_timing": TIMES}), "without actions and times"),
        (write([1, 2]), "a list; expected openpi's maps"),
        ("the policy failed", "refuses the observation: the policy failed"),
    ],
)
def test_a_reply_that_is_no_chunk_is_told(reply: bytes | str, reason: str, observation: Observation, opened):
    with answering(write(FACTS), reply) as address:
        client = opened(OpenpiClient(address, 5.0))
        client.connect(5.0)
        with pytest.raises(Pi0EdgeError, match=reason):
            client.infer(observation, 0)


@given(st.binary(max_size=40) | st.text(max_size=20))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_first_message_ends_in_an_error_for_people(message: bytes | str):
    with answering(message) as address:
        client = OpenpiClient(address, 5.0)
        try:
            with pytest.raises(Pi0EdgeError):
                client.connect(5.0)
        finally:
            client.close()
