"""One inference at a time, in one thread, with a short queue before it.

A network that is asked twice at once takes twice as long for both, so requests wait their turn. One thread also means
one team of OpenMP threads, however many clients there are. A request whose deadline has passed, or whose client has
gone, is dropped before it starts; a running one cannot be stopped.

The thread says after each request that it is alive, and between them when it is knocked at: one that hangs in a
request says nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from pi0_edge.errors import BusyError, DeadlineError

WAITING = 3
"""Requests that may wait behind the running one."""

Result = TypeVar("Result")


class InferenceQueue:
    """Runs functions in their turn."""

    def __init__(self, waiting: int = WAITING, on_alive: Callable[[], object] | None = None) -> None:
        """Prepares a queue.

        Args:
            waiting: Requests that may wait behind the running one.
            on_alive: Called in the thread of the inferences, after each of them and when it is knocked at.
        """
        self._limit = waiting + 1
        self._places = threading.BoundedSemaphore(self._limit)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._on_alive = on_alive or (lambda: None)
        self._knocked: Future[object] | None = None

    def run(
        self,
        work: Callable[[], Result],
        timeout_s: float | None = None,
        on_queued: Callable[[Callable[[], None]], object] = lambda drop: None,
    ) -> Result:
        """Waits for its turn and returns what `work` returns.

        Args:
            work: The inference.
            timeout_s: Seconds that the caller still waits; None for any time.
            on_queued: Given a function that drops the request as long as it has not started.

        Raises:
            BusyError: If the queue is full.
            DeadlineError: If `timeout_s` passed, or the request was dropped.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError(f"{self._limit} observations are with the policy already; send the next one after a chunk")
        future: Future[Result] = self._executor.submit(self._run, work)
        future.add_done_callback(lambda _: self._places.release())

        def drop() -> None:
            future.cancel()

        on_queued(drop)
        wait([future], timeout_s)
        if not future.done():
            future.cancel()
            raise DeadlineError(f"no chunk within the deadline of {timeout_s:.3f} s; allow more time")
        if future.cancelled():
            raise DeadlineError("the client went away before its turn")
        return future.result()

    def knock(self) -> None:
        """Lets the thread say that it is alive, once it comes to it; takes no place of a request.

        Call it from one thread.
        """
        if self._knocked is None or self._knocked.done():
            self._knocked = self._executor.submit(self._on_alive)

    def close(self) -> None:
        """Drops what waits; the running inference ends on its own."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _run(self, work: Callable[[], Result]) -> Result:
        try:
            return work()
        finally:
            self._on_alive()
