"""The page about the wire: its messages for the policy are sent to a real server, its client runs against one."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
import torch
from policy_builders import write_checkpoint
from wire_page import CLIENT, PAGE, Shown, run_client, send, shown

from pi0_edge.policy import Policy
from pi0_edge.serving.policy_server import PolicyServer

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolicyServer]:
    policy = Policy.load(write_checkpoint(tmp_path_factory.mktemp("policy") / "checkpoint"), "reference")
    with PolicyServer(policy, "127.0.0.1:0") as started:
        yield started


@pytest.mark.parametrize("one", shown("PolicyService"), ids=lambda one: f"{one.method}-{one.status}")
def test_a_message_of_the_page_ends_as_the_page_says(server: PolicyServer, one: Shown) -> None:
    with grpc.insecure_channel(server.address) as channel:
        status, answer = send(channel, one.method, one.message)
    assert status == one.status, answer
    if one.after:
        assert answer == one.after
    if one.method.endswith("Infer") and status == "OK":
        assert len(answer.actions) == answer.horizon * answer.action_dim > 0
        assert answer.clock == one.message.clock


def test_the_page_names_every_method_and_status(server: PolicyServer) -> None:
    from pi0_edge.protos.rpc.roles import CALLS

    page = PAGE.read_text()
    named = {call.rpartition("/")[2] for call in CALLS if call.startswith("/pi0_edge.v1.") or "pi0_edge.v1." in call}
    assert {name for name in named if name not in page} <= {"Release"}
    assert len(shown("PolicyService")) >= 4 and len(shown("RobotBridge")) >= 5


def test_the_client_of_the_page_gets_a_chunk_without_pi0_edge(server: PolicyServer, tmp_path) -> None:
    assert len(CLIENT.read_text().splitlines()) <= 60
    assert "import pi0_edge" not in CLIENT.read_text() and "from pi0_edge" not in CLIENT.read_text()
    printed = run_client(tmp_path, server.address)
    assert printed.startswith("pi0: chunks of 10 x 14, cameras top")
    assert printed.endswith("a chunk of 140 numbers for tick 0\n")


def test_the_client_is_on_the_page() -> None:
    assert '--8<-- "examples/python/wire_client.py"' in PAGE.read_text()
