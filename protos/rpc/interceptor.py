"""The interceptor of every call: who calls, whether its role may, whether it asks for too much, and what came of it.

A stop of the arm passes whatever the load: it is never counted against a limit, it has threads of its own, and it is
served while the server drains.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc

from pi0_edge.protos.rpc.limits import Limits, PeerLimits
from pi0_edge.protos.rpc.metrics import CallMetrics
from pi0_edge.protos.rpc.peer import Peer, peer_of
from pi0_edge.protos.rpc.roles import CALLS, ESTOP_CALL, Role

_ESTOP_THREADS = 4

logger = logging.getLogger(__name__)

Refusal = tuple[grpc.StatusCode, str]


class AuthInterceptor(grpc.ServerInterceptor):
    """Guards all calls of one server."""

    def __init__(
        self, metrics: CallMetrics, *, authenticated: bool, observing_streams: int, limits: Limits | None = None
    ) -> None:
        """Prepares an interceptor.

        Args:
            metrics: Counts what passes and what does not.
            authenticated: Whether peers show certificates; without, every peer may command.
            observing_streams: Streams that only observe, of all peers together. They leave room for those that
                command, whose number the service itself bounds.
            limits: Of each peer.
        """
        self._metrics = metrics
        self._authenticated = authenticated
        self._limits = PeerLimits(limits or Limits(), observing_streams)
        self._estops = futures.ThreadPoolExecutor(_ESTOP_THREADS, thread_name_prefix="estop")
        self._draining = threading.Event()

    def drain(self) -> None:
        """Refuses every new call from now on, except a stop."""
        self._draining.set()

    def close(self) -> None:
        """Ends the threads of the interceptor, once the server has stopped."""
        self._estops.shutdown(wait=False)

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of a call, behind the interceptor; None where no service has such a call."""
        method = getattr(handler_call_details, "method")  # noqa: B009  # missing from gRPC's type stubs
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        codecs = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(method, handler.unary_unary), *codecs)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._answers(method, handler.unary_stream), *codecs)
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(self._dialogue(method, handler.stream_stream), *codecs)
        raise TypeError(f"{method}: no service here takes a stream and gives one answer")

    def _unary(self, method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            with self._metrics.timed(method), self._passing(method, context):
                return behavior(request, context)

        if method == ESTOP_CALL:
            setattr(guarded, "experimental_thread_pool", self._estops)  # noqa: B010
        return guarded

    def _answers(self, method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with self._passing(method, context) as peer, self._stream(method, peer, context):
                yield from behavior(request, context)

        return guarded

    def _dialogue(self, method: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            with self._passing(method, context) as peer, self._stream(method, peer, context):
                yield from behavior(self._metered(requests, peer, context), context)

        return guarded

    @contextmanager
    def _passing(self, method: str, context: grpc.ServicerContext) -> Iterator[Peer]:
        """Lets a call in, or ends it; says afterwards what came of it."""
        began = time.monotonic()
        peer = peer_of(context, authenticated=self._authenticated)
        code = grpc.StatusCode.UNKNOWN  # what a mistake in a service becomes
        try:
            if refusal := self._refusal(method, peer, context):
                _end(context, refusal)
            yield peer
            code = grpc.StatusCode.OK
        except GeneratorExit:
            code = grpc.StatusCode.CANCELLED
            raise
        finally:
            set_by_service: Any = context.code()  # pyright: ignore[reportAttributeAccessIssue]
            self._report(method, peer, set_by_service or code, time.monotonic() - began)

    def _refusal(self, method: str, peer: Peer, context: grpc.ServicerContext) -> Refusal | None:
        least = CALLS.get(method)
        if least is None:
            return grpc.StatusCode.PERMISSION_DENIED, f"nobody may call {method}"
        if peer.role < least:
            needed = least.name.lower()
            return grpc.StatusCode.PERMISSION_DENIED, (
                f"{method.rpartition('/')[2]} needs a certificate with the role {needed}; "
                f"that of {peer.name!r} has the role {peer.role.name.lower()}"
            )
        if method == ESTOP_CALL:
            return None
        if self._draining.is_set():
            return grpc.StatusCode.UNAVAILABLE, "the server is shutting down"
        if not self._limits.take_call(peer.name):
            return grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls per second; slow down"
        remaining: float | None = context.time_remaining()
        if remaining == 0:  # gRPC drops most such calls itself, once it has noticed
            return grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the call was begun; nothing was done"
        return None

    @contextmanager
    def _stream(self, method: str, peer: Peer, context: grpc.ServicerContext) -> Iterator[None]:
        observing = CALLS[method] < Role.COMMAND
        if not self._limits.open_stream(peer.name, observing=observing):
            _end(context, (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams are open; close one"))
        try:
            yield
        finally:
            self._limits.close_stream(peer.name, observing=observing)

    def _metered(self, requests: Iterator[Any], peer: Peer, context: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            if not self._limits.take_message(peer.name):
                _end(context, (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many messages per second; slow down"))
            yield request

    def _report(self, method: str, peer: Peer, code: grpc.StatusCode, seconds: float) -> None:
        self._metrics.count(method, code)
        fields = {
            "method": method,
            "peer": peer.name,
            "role": peer.role.name.lower(),
            "code": code.name,
            "duration_ms": round(seconds * 1e3, 3),
        }
        level = logging.WARNING if code == grpc.StatusCode.PERMISSION_DENIED else logging.DEBUG
        if CALLS.get(method) == Role.COMMAND or method == ESTOP_CALL:
            level = max(level, logging.INFO)
        logger.log(level, "%s by %s: %s", method, peer.name, code.name, extra={"fields": fields})


def _end(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
    context.abort(*refusal)
    raise AssertionError("abort has raised")
