"""A request that is no message is refused by name, without a stack trace in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from pi0_edge.protos import bridge_pb2, policy_pb2
from pi0_edge.protos.rpc.unreadable import ReadableRequests

BROKEN = b"\x0a\xff\xff\xff\xff\xff"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    seen = policy_pb2.Observation.FromString
    reply = bridge_pb2.CommandReply()
    write = bridge_pb2.CommandReply.SerializeToString

    def all_of(requests: Iterator[Any], _context: grpc.ServicerContext) -> Any:
        assert all(isinstance(request, policy_pb2.Observation) for request in requests)
        return reply

    handlers = {
        "unary_unary": grpc.unary_unary_rpc_method_handler(lambda request, _: reply, seen, write),
        "unary_stream": grpc.unary_stream_rpc_method_handler(lambda request, _: iter([reply]), seen, write),
        "stream_unary": grpc.stream_unary_rpc_method_handler(all_of, seen, write),
        "stream_stream": grpc.stream_stream_rpc_method_handler(
            lambda requests, context: iter([all_of(requests, context)]), seen, write
        ),
    }
    server = grpc.server(
        futures.ThreadPoolExecutor(2),
        handlers=[grpc.method_handlers_generic_handler("trial", handlers)],
        interceptors=[ReadableRequests()],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as made:
        yield made
    server.stop(0)


def ask(channel: grpc.Channel, kind: str, *requests: bytes) -> Any:
    call = getattr(channel, kind)(f"/trial/{kind}")
    answer = call(iter(requests) if kind.startswith("stream") else requests[0], timeout=10)
    return next(answer) if kind.endswith("stream") else answer


@pytest.mark.parametrize("kind", KINDS)
def test_broken_bytes_are_an_invalid_argument(
    channel: grpc.Channel, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    right = policy_pb2.Observation(prompt="Transfer cube").SerializeToString()
    assert ask(channel, kind, right) == bridge_pb2.CommandReply().SerializeToString()
    with caplog.at_level(logging.DEBUG), pytest.raises(grpc.RpcError, match="no message that this method takes") as got:
        ask(channel, kind, BROKEN)
    assert got.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # pyright: ignore[reportAttributeAccessIssue]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
def test_a_stream_ends_at_its_first_broken_message(channel: grpc.Channel, kind: str) -> None:
    with pytest.raises(grpc.RpcError, match="no message that this method takes"):
        ask(channel, kind, b"", b"", BROKEN, b"")


def test_a_method_that_nobody_has_stays_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError, match="Method not found"):
        channel.unary_unary("/trial/nothing")(BROKEN, timeout=10)
