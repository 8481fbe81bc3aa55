"""Errors across gRPC: which status each becomes at the bridge, and which error a status becomes at a client.

Malformed requests are INVALID_ARGUMENT, a missing right or a wrong state FAILED_PRECONDITION, a link that is down
UNAVAILABLE. The message crosses unchanged. The interceptor before the bridge (`pi0_edge.protos.rpc.interceptor`) adds
PERMISSION_DENIED and RESOURCE_EXHAUSTED.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from firmware_bridge.errors import AccessError, BridgeError, ChunkError, LeaseError, LinkError, StateError
from pi0_edge.errors import ConfigError
from pi0_edge.protos.rpc.message_sizes import is_answer, too_large
from pi0_edge.protos.rpc.tls import connection_advice

_ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT: ChunkError,
    grpc.StatusCode.FAILED_PRECONDITION: StateError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
    grpc.StatusCode.UNAVAILABLE: LinkError,
    grpc.StatusCode.DEADLINE_EXCEEDED: LinkError,
}


@contextmanager
def refusals(context: grpc.ServicerContext) -> Iterator[None]:
    """At the bridge: ends the call with the status of an error that is raised inside."""
    try:
        yield
    except (ChunkError, ConfigError) as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    except (LeaseError, StateError) as error:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
    except BridgeError as error:
        context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


@contextmanager
def calls(address: str) -> Iterator[None]:
    """At a client: turns a failed call into the error that the bridge meant."""
    try:
        yield
    except grpc.RpcError as error:
        raise translated(error, address) from error


def translated(error: grpc.RpcError, address: str) -> BridgeError:
    """The error that a failed call stands for."""
    code = error.code()  # pyright: ignore[reportAttributeAccessIssue]
    details = str(error.details())  # pyright: ignore[reportAttributeAccessIssue]
    if code == grpc.StatusCode.UNAVAILABLE and (advice := connection_advice(details)):
        return LinkError(f"the bridge at {address} accepts no connection: {advice}")
    if code == grpc.StatusCode.UNAVAILABLE and "failed to connect" in details.lower():
        return LinkError(f"no bridge answers at {address}; start one with `pi0-edge bridge`")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and (size := too_large(details)):
        if is_answer(details):
            return BridgeError(f"the answer of the server at {address} has {size}; is it a bridge of this version?")
        return ChunkError(
            f"the request has {size}, which is the limit of the bridge at {address}; send a shorter chunk"
        )
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return BridgeError(
            f"the server at {address} does not know this call ({details}); it may be an older bridge, or no bridge: "
            "see `pi0-edge bridge`"
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return LinkError(f"the bridge at {address} did not answer in time; is it running?")
    return _ERRORS.get(code, BridgeError)(details)
