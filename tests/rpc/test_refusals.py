"""The client's errors when a server refuses every retry: message too large, another service, no TLS."""

from __future__ import annotations

import re
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from network_peers import make_peers

from firmware_bridge.client import BridgeClient
from firmware_bridge.errors import BridgeError, ChunkError, LinkError
from firmware_bridge.rpc_errors import translated


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_peers(tmp_path_factory.mktemp("peers"))


def test_a_certificate_for_a_bridge_that_asks_for_none_is_named(peers: dict[str, Path]):
    plain = grpc.server(futures.ThreadPoolExecutor(1))
    port = plain.add_insecure_port("127.0.0.1:0")
    plain.start()
    try:
        refused = pytest.raises(LinkError, match="does not speak TLS; leave --tls out")
        with BridgeClient(f"localhost:{port}", tls=peers["command"]) as client, refused:
            client.status()
        refused = pytest.raises(BridgeError, match=r"does not know this call .* older bridge, or no bridge")
        with BridgeClient(f"localhost:{port}") as client, refused:
            client.status()
    finally:
        plain.stop(0)


@pytest.mark.parametrize(
    ("details", "kind", "message"),
    [
        ("SERVER: Received message larger than max (131072 vs. 65536)", ChunkError, "has 0.125 MiB, .* 0.0625 MiB"),
        ("Received message larger than max (131072 vs. 65536)", ChunkError, "send a shorter chunk"),
        ("CLIENT: Received message larger than max (8388608 vs. 4194304)", BridgeError, "the answer .* has 8 MiB"),
        ("4 streams of chunks are open already", BridgeError, "4 streams of chunks"),
    ],
)
def test_a_message_that_is_too_large_and_too_many_calls_give_different_errors(details: str, kind: type, message: str):
    class Failed(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.RESOURCE_EXHAUSTED

        def details(self) -> str:
            return details

    error = translated(Failed(), "robot:50052")
    assert type(error) is kind and re.search(message, str(error))
