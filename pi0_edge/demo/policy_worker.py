"""Asks the policy for a chunk and sends it to the bridge, in a thread beside the loop that follows the ticks.

One request is under way at a time. The worker takes the observation of one tick and what the arm executes meanwhile, so
that the policy can continue it; the bridge enters the new chunk at the action that is due by then.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass

from firmware_bridge.client import ChunkStream
from pi0_edge.processing import Observation
from pi0_edge.protos import bridge_pb2, policy_pb2
from pi0_edge.serving.policy_client import PolicyClient

REPORT_LIMIT_S = 2.0


@dataclass(frozen=True)
class Request:
    """An observation of one tick, and what its chunk is to continue."""

    tick: int
    observation: Observation
    continuation: policy_pb2.Continuation | None


@dataclass(frozen=True)
class PlayedChunk:
    """A chunk, the request it answers, and what became of it.

    Attributes:
        begin_ns: When the observation was taken, on the clock of `time.monotonic_ns`.
        received_ns: When the chunk was received.
        confirmed_ns: When the bridge's report came.
    """

    request: Request
    chunk: policy_pb2.Chunk
    report: bridge_pb2.ChunkReport
    begin_ns: int
    received_ns: int
    confirmed_ns: int


class PolicyWorker:
    """One thread between the policy server and the bridge; a context manager."""

    def __init__(self, policy: PolicyClient, stream: ChunkStream) -> None:
        self._policy = policy
        self._stream = stream
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[PlayedChunk | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="policy-worker", daemon=True)
        self._busy = False

    def __enter__(self) -> PolicyWorker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._thread.join(REPORT_LIMIT_S)

    def submit(self, request: Request) -> None:
        """Starts a request; only where none is under way."""
        self._busy = True
        self._requests.put(request)

    def poll(self) -> PlayedChunk | None:
        """The finished request, if there is one.

        Raises:
            Pi0EdgeError: If the policy server refuses or does not answer.
            BridgeError: If the bridge ended the stream.
        """
        try:
            finished = self._finished.get_nowait()
        except queue.Empty:
            return None
        self._busy = False
        if isinstance(finished, BaseException):
            raise finished
        return finished

    def wait(self, timeout_s: float) -> PlayedChunk | None:
        """As `poll`, but waits for a request that is under way."""
        deadline = time.monotonic() + timeout_s
        while self._busy and time.monotonic() < deadline:
            if played := self.poll():
                return played
            time.sleep(0.005)
        return None

    def _work(self) -> None:
        for request in iter(self._requests.get, None):
            try:
                self._finished.put(self._play(request))
            except Exception as error:  # handed to the loop, which raises it there
                self._finished.put(error)

    def _play(self, request: Request) -> PlayedChunk:
        begin_ns = time.monotonic_ns()
        chunk = self._policy.infer(request.observation, request.tick, begin_ns, continuation=request.continuation)
        received_ns = time.monotonic_ns()
        self._stream.send_message(chunk)
        report = self._stream.next_report(REPORT_LIMIT_S) or bridge_pb2.ChunkReport(
            outcome=bridge_pb2.ChunkReport.LOST, reason=f"the bridge gave no report within {REPORT_LIMIT_S:g} s"
        )
        return PlayedChunk(request, chunk, report, begin_ns, received_ns, time.monotonic_ns())
