"""One pass of the network at a time, in one thread, with a short queue before it.

A network that is asked twice at once takes twice as long for both, so requests wait their turn. One thread also means
one team of OpenMP threads, however many clients there are. Where the network takes several observations in one pass,
requests that wait are gathered into one.

Clients take turns, not requests: the next place in a pass goes to the client whose last one is longest ago, so whoever
asks without end waits behind everyone who asks once. A client that has more than its share of places is refused.

A request whose deadline has passed, or whose client has gone, is dropped before it starts and takes no place in a
pass; a running one cannot be stopped.

The thread says after each pass that it is alive, and between them when it is knocked at: one that hangs in a pass says
nothing.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Generic, TypeVar

from pi0_edge.errors import BusyError, DeadlineError, ServingError, StoppingError

WAITING_OF_ONE = 3
"""Requests of one client that may wait at a time."""

WAITING_BESIDE = 16
"""Requests that may wait at a time, beside those of two full passes: a robot waits with one, so there is one for each
of so many robots."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Batching:
    """How requests are gathered into passes.

    Attributes:
        most: Requests in one pass.
        wait_s: How long a request waits for others, counted from when it came; 0 takes only those that are there.
    """

    most: int = 1
    wait_s: float = 0.0

    @property
    def waiting(self) -> int:
        """Requests of all clients that may wait at a time."""
        return WAITING_BESIDE + 2 * self.most


@dataclass(eq=False)
class _Waiting(Generic[Asked, Answer]):
    asked: Asked
    client: str
    arrived_s: float
    due_s: float | None
    answer: Future[Answer]

    def is_late(self) -> bool:
        return self.due_s is not None and self.due_s <= time.monotonic()


class InferenceQueue(Generic[Asked, Answer]):
    """Answers requests in the turn of their clients."""

    def __init__(
        self,
        answer: Callable[[Sequence[Asked]], Sequence[Answer | Exception]],
        batching: Batching | None = None,
        on_alive: Callable[[], object] | None = None,
        on_pass: Callable[[Sequence[float]], object] | None = None,
    ) -> None:
        """Prepares a queue.

        Args:
            answer: One pass: for each of several requests its answer, or why it has none.
            batching: How requests are gathered; one at a time where None.
            on_alive: Called in the thread of the inferences, after each pass and when it is knocked at.
            on_pass: Called before each pass with the seconds that each of its requests has waited.
        """
        self._answer = answer
        self._batching = batching or Batching()
        self._on_alive = on_alive or (lambda: None)
        self._on_pass = on_pass or (lambda waited: None)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._changed = threading.Condition()
        self._of_client: OrderedDict[str, deque[_Waiting[Asked, Answer]]] = OrderedDict()  # in the order of turns
        self._count = self._running = 0
        self._closed = False
        self._knocked: Future[object] | None = None

    @property
    def waiting(self) -> int:
        """Requests that wait now; those of the running pass do not."""
        with self._changed:
            return self._count

    def run(
        self,
        asked: Asked,
        client: str = "",
        timeout_s: float | None = None,
        on_queued: Callable[[Callable[[], None]], object] = lambda drop: None,
    ) -> Answer:
        """Waits for its turn and returns the answer.

        Args:
            asked: The request.
            client: Who asks: clients take turns.
            timeout_s: Seconds that the caller still waits; None for any time.
            on_queued: Given a function that drops the request as long as it has not started.

        Raises:
            BusyError: If this client, or all together, have as many requests in the queue as they may.
            DeadlineError: If `timeout_s` passed, or the request was dropped.
            StoppingError: If the queue was closed before its turn.
            Exception: What the pass gives instead of an answer.
        """
        request = self._enter(asked, client, timeout_s)
        on_queued(lambda: self._drop(request))
        try:
            return request.answer.result(timeout_s)
        except (TimeoutError, FutureTimeoutError):  # two classes before Python 3.11
            self._drop(request)
            if request.answer.done() and not request.answer.cancelled():  # it was answered in this very moment
                return request.answer.result()
            raise _late(timeout_s or 0.0) from None
        except CancelledError:
            raise self._dropped(request, timeout_s) from None

    def knock(self) -> None:
        """Lets the thread say that it is alive, once it comes to it; takes no place of a request.

        Call it from one thread.
        """
        if self._knocked is None or self._knocked.done():
            self._knocked = self._executor.submit(self._on_alive)

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until no request waits or runs, for so long at most; returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._count and not self._running, timeout_s)

    def close(self) -> None:
        """Drops what waits; the running pass ends on its own."""
        with self._changed:
            self._closed = True
            left = [request for requests in self._of_client.values() for request in requests]
            self._changed.notify_all()
        for request in left:
            self._drop(request)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _enter(self, asked: Asked, client: str, timeout_s: float | None) -> _Waiting[Asked, Answer]:
        now = time.monotonic()
        due_s = None if timeout_s is None else now + timeout_s
        request: _Waiting[Asked, Answer] = _Waiting(asked, client, now, due_s, Future())
        with self._changed:
            if self._closed:
                raise _stopping()
            own = self._of_client.get(client, ())
            if len(own) >= WAITING_OF_ONE:
                raise BusyError(f"{len(own)} observations of yours wait already; send the next one after a chunk")
            if self._count >= self._batching.waiting:
                raise BusyError(f"{self._count} observations of all clients wait already; ask again after a chunk")
            self._of_client.setdefault(client, deque()).append(request)
            self._count += 1
            self._executor.submit(self._pass)  # finds nothing to do where an earlier pass takes this request too
            self._changed.notify_all()
        return request

    def _drop(self, request: _Waiting[Asked, Answer]) -> None:
        if request.answer.cancel():
            with self._changed:
                self._remove(request)

    def _remove(self, request: _Waiting[Asked, Answer]) -> None:
        """Takes a request out of the queue, if it is there yet."""
        own = self._of_client.get(request.client, deque())
        if request in own:
            own.remove(request)
            self._count -= 1
            if not own:
                del self._of_client[request.client]
            self._changed.notify_all()

    def _pass(self) -> None:
        requests = self._take()
        if not requests:
            return
        try:
            now = time.monotonic()
            self._on_pass([now - request.arrived_s for request in requests])
            answers = self._answer([request.asked for request in requests])
            for request, answer in zip(requests, answers, strict=True):
                if isinstance(answer, Exception):
                    request.answer.set_exception(answer)
                else:
                    request.answer.set_result(answer)
        except BaseException as error:
            for request in requests:
                if not request.answer.done():
                    request.answer.set_exception(error)
        finally:
            with self._changed:
                self._running = 0
                self._changed.notify_all()
            self._on_alive()

    def _take(self) -> list[_Waiting[Asked, Answer]]:
        """The requests of the next pass; none where earlier passes took all."""
        taken: list[_Waiting[Asked, Answer]] = []
        with self._changed:
            self._wait_for_more()
            while self._of_client and len(taken) < self._batching.most:
                request = next(iter(self._of_client.values()))[0]
                self._remove(request)
                if request.is_late():
                    request.answer.cancel()
                elif request.answer.set_running_or_notify_cancel():
                    taken.append(request)
                    if request.client in self._of_client:
                        self._of_client.move_to_end(request.client)
            self._running = len(taken)
        return taken

    def _dropped(self, request: _Waiting[Asked, Answer], timeout_s: float | None) -> ServingError:
        """Why a request was."""
        if self._closed:
            return _stopping()
        if timeout_s is not None and request.is_late():
            return _late(timeout_s)
        return DeadlineError("the client went away before its turn")

    def _wait_for_more(self) -> None:
        """Until a pass is full, or the oldest request has waited for others as long as it may."""
        while not self._closed and 0 < self._count < self._batching.most:
            oldest_s = min(requests[0].arrived_s for requests in self._of_client.values())
            left_s = oldest_s + self._batching.wait_s - time.monotonic()
            if left_s <= 0:
                return
            self._changed.wait(left_s)


def _late(timeout_s: float) -> DeadlineError:
    return DeadlineError(f"no chunk within the deadline of {timeout_s:.3f} s; allow more time")


def _stopping() -> StoppingError:
    return StoppingError("the policy server is shutting down; ask another one, or this one once it is back")
