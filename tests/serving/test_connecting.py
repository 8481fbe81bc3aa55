"""How the policy client connects: over a slow link, and to a server that begins to listen later."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from pi0_edge.protos import policy_pb2, policy_pb2_grpc
from pi0_edge.serving.policy_client import SERVICE, PolicyClient

pytestmark = pytest.mark.real_time


class Named(policy_pb2_grpc.PolicyServiceServicer):
    """Says what it is."""

    def GetMetadata(self, request: policy_pb2.MetadataRequest, context: object) -> policy_pb2.PolicyMetadata:
        return policy_pb2.PolicyMetadata(model="far away")


@contextmanager
def named_server(port: int = 0) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    policy_pb2_grpc.add_PolicyServiceServicer_to_server(Named(), server)
    known = health.HealthServicer()
    known.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(known, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    yield bound
    server.stop(0)


@contextmanager
def late_link(port: int, delay_s: float) -> Iterator[int]:
    """A port whose connections to another one carry every block so much later, in both directions."""

    def carry(source: socket.socket, sink: socket.socket) -> None:
        try:
            while block := source.recv(65536):
                time.sleep(delay_s)
                sink.sendall(block)
        except OSError:
            pass  # one side has closed

    def connect() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=carry, args=ends, daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=connect, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_a_link_that_takes_longer_than_a_pause_between_attempts_is_connected():
    with named_server() as port, late_link(port, 0.3) as far, PolicyClient(f"127.0.0.1:{far}") as client:
        assert client.metadata().model == "far away"


def test_a_server_that_begins_to_listen_is_found_at_the_next_attempt():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with PolicyClient(f"127.0.0.1:{port}") as client, futures.ThreadPoolExecutor(1) as pool:
        begin = time.monotonic()
        ready = pool.submit(client.wait_ready, 30)
        time.sleep(1.0)
        with named_server(port):
            ready.result()
        assert time.monotonic() - begin < 10  # not gRPC's own pause of twenty seconds
