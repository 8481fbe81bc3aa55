"""Asks the policy for a chunk and hands it to the bridge, beside the loop that follows the ticks.

One request is under way at a time. The worker takes the observation of one tick, and what the arm does meanwhile is the
rest of the chunk before: the bridge enters the new chunk at the action that is due by then.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass

from firmware_bridge.bridge_client import ChunkStream
from pi0_edge.processing import Observation
from pi0_edge.serving.policy_client import PolicyClient
from protos import bridge_pb2, policy_pb2

REPORT_LIMIT_S = 2.0


@dataclass(frozen=True)
class PlayedChunk:
    """A chunk, the observation it answers, and what became of it.

    Attributes:
        to_policy_ms: Observation taken to chunk received.
        to_ring_ms: Observation taken to the firmware's confirmation.
    """

    tick: int
    observation: Observation
    chunk: policy_pb2.Chunk
    report: bridge_pb2.ChunkReport
    to_policy_ms: float
    to_ring_ms: float


class PolicyWorker:
    """One thread between the policy server and the bridge; a context manager."""

    def __init__(self, policy: PolicyClient, stream: ChunkStream) -> None:
        self._policy = policy
        self._stream = stream
        self._requests: queue.SimpleQueue[tuple[int, Observation] | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[PlayedChunk | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="policy-worker", daemon=True)
        self.busy = False

    def __enter__(self) -> PolicyWorker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._thread.join(REPORT_LIMIT_S)

    def submit(self, tick: int, observation: Observation) -> None:
        """Starts a request; only while not `busy`."""
        self.busy = True
        self._requests.put((tick, observation))

    def poll(self) -> PlayedChunk | None:
        """The finished request, if there is one.

        Raises:
            Pi0EdgeError: If the policy server refused or is gone.
            BridgeError: If the bridge ended the stream.
        """
        try:
            finished = self._finished.get_nowait()
        except queue.Empty:
            return None
        self.busy = False
        if isinstance(finished, BaseException):
            raise finished
        return finished

    def wait(self, timeout_s: float) -> PlayedChunk | None:
        """As `poll`, but waits for a request that is under way."""
        deadline = time.monotonic() + timeout_s
        while self.busy and time.monotonic() < deadline:
            if played := self.poll():
                return played
            time.sleep(0.005)
        return None

    def _work(self) -> None:
        for tick, observation in iter(self._requests.get, None):
            try:
                self._finished.put(self._play(tick, observation))
            except Exception as error:  # handed to the loop, which raises it there
                self._finished.put(error)

    def _play(self, tick: int, observation: Observation) -> PlayedChunk:
        started = time.monotonic_ns()
        chunk = self._policy.infer(observation, tick, started)
        received = time.monotonic_ns()
        self._stream.send_message(chunk)
        report = self._stream.next_report(REPORT_LIMIT_S) or bridge_pb2.ChunkReport(
            outcome=bridge_pb2.ChunkReport.LOST, reason=f"the bridge gave no report within {REPORT_LIMIT_S:g} s"
        )
        confirmed = time.monotonic_ns()
        return PlayedChunk(tick, observation, chunk, report, (received - started) / 1e6, (confirmed - started) / 1e6)
