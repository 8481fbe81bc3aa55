"""Hands the answers that the reader thread receives to the threads that wait for them."""

import queue
import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Reply = TypeVar("Reply")


class Expected(Generic[Reply]):
    """Answers to one request, in the order of arrival."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Reply] = queue.SimpleQueue()

    def put(self, reply: Reply) -> None:
        """Adds an answer."""
        self._queue.put(reply)

    def wait(self, timeout_s: float) -> Reply | None:
        """The next answer, or None after `timeout_s` seconds."""
        try:
            return self._queue.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None


class ReplyBox(Generic[Reply]):
    """Requests that wait for an answer, by the number that the answer repeats."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, Expected[Reply]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def expect(self, key: Hashable) -> Iterator[Expected[Reply]]:
        """Collects the answers to one request while the context lasts."""
        expected: Expected[Reply] = Expected()
        with self._lock:
            self._waiting[key] = expected
        try:
            yield expected
        finally:
            with self._lock:
                del self._waiting[key]

    def deliver(self, key: Hashable, reply: Reply) -> None:
        """Hands over an answer; one that nobody waits for any more is dropped."""
        with self._lock:
            expected = self._waiting.get(key)
        if expected is not None:
            expected.put(reply)
