"""A stream that is read ahead keeps its order, its end and its errors, and reports when a request waits."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from firmware_bridge.bridge.service import ReadAhead


def test_requests_come_in_order_and_end():
    assert list(ReadAhead(iter(range(200)), lambda: None)) == list(range(200))


def test_a_request_that_arrives_while_another_is_handled_is_reported_as_waiting():
    announced = threading.Event()
    send_second = threading.Event()

    def requests() -> Iterator[int]:
        yield 1
        send_second.wait(5.0)
        yield 2

    stream = iter(ReadAhead(requests(), announced.set))
    assert next(stream) == 1
    assert not announced.is_set()
    send_second.set()
    assert announced.wait(5.0)  # while 1 is still being handled
    assert next(stream) == 2
    assert list(stream) == []


def test_error_of_the_stream_is_raised_in_the_iteration():
    def requests() -> Iterator[int]:
        yield 1
        raise RuntimeError("the call was cancelled")

    stream = iter(ReadAhead(requests(), lambda: None))
    assert next(stream) == 1
    with pytest.raises(RuntimeError, match="cancelled"):
        next(stream)


def test_nothing_is_read_after_the_iteration_has_ended():
    before = threading.active_count()
    stream = iter(ReadAhead(itertools.count(), lambda: None))
    assert next(stream) == 0
    stream.close()  # type: ignore[attr-defined]
    deadline = threading.Event()
    for _ in range(100):
        if threading.active_count() <= before:
            return
        deadline.wait(0.02)
    raise AssertionError("the reading thread is still there")
