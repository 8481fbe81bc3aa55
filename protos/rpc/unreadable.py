"""Requests whose bytes are no message: refused by name, where gRPC would log a stack trace and blame itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError


class _Unreadable:
    """Stands for a request that could not be read, until its call can be ended."""


class ReadableRequests(grpc.ServerInterceptor):
    """Ends a call with INVALID_ARGUMENT where a request is no message of the type that the method takes."""

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of a call, which sees readable requests alone; None where no service has such a call."""
        handler = continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        read, write = _reader(handler.request_deserializer), handler.response_serializer
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(_one(handler.unary_unary), read, write)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(_one(handler.unary_stream), read, write)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(_many(handler.stream_unary), read, write)
        return grpc.stream_stream_rpc_method_handler(_many(handler.stream_stream), read, write)


def _reader(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Unreadable()

    return read


def _one(behavior: Callable[..., Any]) -> Callable[..., Any]:
    def checked(request: Any, context: grpc.ServicerContext) -> Any:
        return behavior(_checked(request, context), context)

    return checked


def _many(behavior: Callable[..., Any]) -> Callable[..., Any]:
    def checked(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        return behavior((_checked(request, context) for request in requests), context)

    return checked


def _checked(request: Any, context: grpc.ServicerContext) -> Any:
    if isinstance(request, _Unreadable):
        context.abort(
            grpc.StatusCode.INVALID_ARGUMENT,
            "the request is no message that this method takes; encode it by the .proto file of the same package",
        )
    return request
