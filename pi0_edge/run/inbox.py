"""What a run handles, one thing at a time in the order of arrival: ticks, chunks, reports, and what people wish.

Every thread of a run puts here what it has; the run's own thread alone changes its state. That is why nothing else in a
run needs a lock.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from firmware_bridge.client import ChunkStream, Tick
from firmware_bridge.errors import BridgeError
from pi0_edge.protos import bridge_pb2, policy_pb2
from pi0_edge.run.events import Observed
from pi0_edge.run.interventions import SetpointSource
from pi0_edge.run.policy_source import PolicySource


@dataclass(frozen=True)
class Inferred:
    """The answer of the policy, or why there is none.

    Attributes:
        observed: What it was asked; None where only its metadata was asked for.
        answer: Chunk, metadata, or an error.
        time_ns: When it came, on the clock of `time.monotonic_ns`.
    """

    observed: Observed | None
    answer: policy_pb2.Chunk | policy_pb2.PolicyMetadata | Exception
    time_ns: int


@dataclass(frozen=True)
class Reported:
    """The report for the oldest chunk of a stream without one, or why the stream has ended."""

    stream: ChunkStream
    report: bridge_pb2.ChunkReport | BridgeError
    time_ns: int


@dataclass(frozen=True)
class Wish:
    """What a person, a signal or the mismatch guard asks for.

    Attributes:
        name: A key of `RunLoop`'s wishes, most of them methods of `RobotRun`.
        text: A reason, a prompt or a label.
        source: What a person who takes over moves.
    """

    name: str
    text: str = ""
    source: SetpointSource | None = None


@dataclass(frozen=True)
class TelemetryEnded:
    """No further tick will come."""

    error: Exception


_ANSWERS_S = 1.0
_ENDS_S = 10.0
"""A thread is waited for so long: a chunk of the full-size policy takes some seconds on a processor without GPU."""

Item = Tick | Inferred | Reported | Wish | TelemetryEnded


class Inbox:
    """A queue that any thread, and any signal handler, may put things into.

    Attributes:
        newest_tick: Number of the newest tick that came, handled or not.
    """

    def __init__(self) -> None:
        self.newest_tick = 0
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._ticked_at = time.monotonic()

    def put(self, item: Item) -> None:
        """Adds something."""
        self._items.put(item)

    def next(self, timeout_s: float) -> Item | None:
        """The oldest thing that was not handled yet; None after `timeout_s` seconds."""
        try:
            return self._items.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def next_tick(self, timeout_s: float) -> Tick | None:
        """The newest tick, once one has come; None after `timeout_s` seconds. What is no tick is dropped."""
        newest, deadline = None, time.monotonic() + timeout_s
        while newest is None or not self._items.empty():
            item = self.next(max(0.0, deadline - time.monotonic()))
            if isinstance(item, Tick):
                newest = item
            elif item is None or isinstance(item, TelemetryEnded):
                break
        return newest

    @property
    def silent_s(self) -> float:
        """Seconds since the last tick came."""
        return time.monotonic() - self._ticked_at

    def follow(self, ticks: Iterator[Tick]) -> None:
        """Puts in every tick of a stream, in a thread of its own, until it ends."""
        self._ticked_at = time.monotonic()
        self._start(threading.Thread(target=self._follow, args=(ticks,), name="run-telemetry", daemon=True))

    def collect(self, stream: ChunkStream) -> None:
        """Puts in every report of a stream of chunks, in a thread of its own, until it ends."""
        self._start(threading.Thread(target=self._collect, args=(stream,), name="run-reports", daemon=True))

    def close(self) -> None:
        """Waits for its threads, whose streams are closed: a thread that outlives the interpreter ends the process."""
        for thread in self._threads:
            thread.join(_ENDS_S)

    def _start(self, thread: threading.Thread) -> None:
        self._threads = [other for other in self._threads if other.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _follow(self, ticks: Iterator[Tick]) -> None:
        try:
            for tick in ticks:
                self._ticked_at, self.newest_tick = time.monotonic(), tick.tick
                self.put(tick)
            self.put(TelemetryEnded(BridgeError("the bridge ended the telemetry")))
        except BridgeError as error:
            self.put(TelemetryEnded(error))

    def _collect(self, stream: ChunkStream) -> None:
        while True:
            try:
                report = stream.next_report(timeout_s=1.0)
            except BridgeError as error:
                self.put(Reported(stream, error, time.monotonic_ns()))
                return
            if report is not None:
                self.put(Reported(stream, report, time.monotonic_ns()))


class PolicyThread:
    """Asks the policy beside the run's own thread, one request at a time.

    Attributes:
        busy: Whether a request is under way.
    """

    def __init__(self, policy: PolicySource, inbox: Inbox) -> None:
        self.busy = False
        self._policy = policy
        self._inbox = inbox
        self._requests: queue.SimpleQueue[tuple[Observed | None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="run-policy", daemon=True)
        self._thread.start()

    def ask(self, observed: Observed | None) -> None:
        """Asks for a chunk, or for the metadata where `observed` is None; only where no request is under way."""
        self.busy = True
        self._requests.put((observed,))

    def close(self) -> None:
        """Ends the thread, once its last request has been answered, or its connection was closed.

        A thread that is still inside of torch when the interpreter ends would abort the process.
        """
        self._requests.put(None)
        self._thread.join(_ANSWERS_S)
        if self._thread.is_alive():
            self._policy.close()
            self._thread.join(_ENDS_S)

    def _work(self) -> None:
        for (observed,) in iter(self._requests.get, None):
            try:
                answer = self._policy.metadata() if observed is None else self._policy.infer(observed)
            except Exception as error:  # handed to the run, which ends or holds because of it
                answer = error
            self._inbox.put(Inferred(observed, answer, time.monotonic_ns()))
