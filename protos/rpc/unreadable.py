"""Requests whose bytes are no message: refused by name, where gRPC would log a stack trace and blame itself.

Refused before they are read are those with very many fields: an empty submessage of two bytes becomes an object of a
hundred, so that 30 MiB of them would take a gigabyte and half a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

MOST_FIELDS = 4096
"""Fields of one request, each element of a repeated message counted; the largest right one has some fifty."""


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
        if has_too_many_fields(data):
            return _Unreadable()
        try:
            return deserialize(data)
        except DecodeError:
            return _Unreadable()

    return read


def has_too_many_fields(data: bytes) -> bool:
    """Whether a message has more than `MOST_FIELDS` fields, its submessages not looked into.

    Args:
        data: Bytes of the message; where they are no message, the parser is who says so.
    """
    place = 0
    for _ in range(MOST_FIELDS):
        tag, place = _varint(data, place)
        if tag & 7 == 0:
            _, place = _varint(data, place)
        elif tag & 7 == 2:
            length, place = _varint(data, place)
            place += length
        else:
            place += {1: 8, 5: 4}.get(tag & 7, 0)
        if place >= len(data):
            return False
    return True


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of protobuf and the place behind it; beyond the end where it is cut off."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        value |= (data[place] & 127) << shift
        place += 1
        if data[place - 1] < 128:
            break
    return value, place


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
            "the request is no message that this method takes, or has too many fields; encode it by the .proto file of "
            "the same package",
        )
    return request
