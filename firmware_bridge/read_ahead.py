"""Reads a stream of requests while older ones are being handled, so that a newer one need not wait unseen."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Request = TypeVar("Request")
_LOOK_S = 0.05


class ReadAhead(Generic[Request]):
    """One request is read ahead; more wait where they come from."""

    def __init__(self, requests: Iterator[Request], on_waiting: Callable[[], None]) -> None:
        """Prepares reading; iterate to begin.

        Args:
            requests: the stream. It ends, or raises, when its call does.
            on_waiting: called in the reading thread for each request that comes while another is handled.
        """
        self._requests = requests
        self._on_waiting = on_waiting
        self._waiting: queue.Queue[Request | Exception | None] = queue.Queue(1)
        self._unfinished = 0  # requests that were read and not handled to their end
        self._lock = threading.Lock()
        self._left = threading.Event()

    def __iter__(self) -> Iterator[Request]:
        threading.Thread(target=self._read, name="read-ahead", daemon=True).start()
        try:
            while (request := self._next()) is not None:
                yield request
                self._count(-1)
        finally:
            self._left.set()

    def _next(self) -> Request | None:
        request = self._waiting.get()
        if isinstance(request, Exception):
            raise request
        return request

    def _read(self) -> None:
        try:
            for request in self._requests:
                if self._count(+1) > 1:
                    self._on_waiting()
                if not self._put(request):
                    return
            self._put(None)
        except Exception as error:  # of the stream: whoever iterates has to see it
            self._put(error)

    def _count(self, change: int) -> int:
        with self._lock:
            self._unfinished += change
            return self._unfinished

    def _put(self, request: Request | Exception | None) -> bool:
        """Whether the reader still listens."""
        while not self._left.is_set():
            try:
                self._waiting.put(request, timeout=_LOOK_S)
                return True
            except queue.Full:
                continue
        return False
