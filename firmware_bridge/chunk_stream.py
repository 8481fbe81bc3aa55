"""A client's stream of chunks to the bridge, and the reports that come back."""

import queue
import threading

import grpc
import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import BridgeError, StateError
from firmware_bridge.rpc_errors import translated
from protos import bridge_pb2, bridge_pb2_grpc, policy_pb2

_CLOSE_LIMIT_S = 1.0


class ChunkStream:
    """Chunks on their way to the arm; a thread collects the reports."""

    def __init__(self, bridge: bridge_pb2_grpc.RobotBridgeStub, lease: str, address: str) -> None:
        self._lease = lease
        self._address = address
        self._requests: queue.SimpleQueue[bridge_pb2.PlayRequest | None] = queue.SimpleQueue()
        self._reports: queue.SimpleQueue[bridge_pb2.ChunkReport | BridgeError] = queue.SimpleQueue()
        self._call = bridge.PlayChunks(iter(self._requests.get, None))
        self._collector = threading.Thread(target=self._collect, name="chunk-reports", daemon=True)
        self._collector.start()

    def send(self, actions: NDArray[np.floating], observed_tick: int) -> None:
        """Plays a chunk; its report comes from `next_report`.

        Args:
            actions: [horizon, joints], physical units.
            observed_tick: tick of the observation that the chunk answers; action k is due at that + 1 + k.
        """
        self.send_message(
            policy_pb2.Chunk(
                horizon=actions.shape[0],
                action_dim=actions.shape[1],
                actions=actions.ravel().tolist(),
                clock=policy_pb2.ObservationClock(tick=observed_tick),
            )
        )

    def send_message(self, chunk: policy_pb2.Chunk) -> None:
        """Plays a chunk as the policy service returned it."""
        self._requests.put(bridge_pb2.PlayRequest(lease=self._lease, chunk=chunk))

    def next_report(self, timeout_s: float) -> bridge_pb2.ChunkReport | None:
        """What became of the oldest chunk that was not reported yet; None after `timeout_s` seconds.

        Raises:
            BridgeError: the stream has ended, and why: a malformed chunk, a lost lease, a bridge that is gone.
        """
        try:
            report = self._reports.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(report, BridgeError):
            self._reports.put(report)  # every later call says the same
            raise report
        return report

    def close(self) -> None:
        """Ends the stream; chunks already entered are played to their end."""
        self._requests.put(None)
        self._collector.join(_CLOSE_LIMIT_S)
        self._call.cancel()
        self._collector.join()

    def _collect(self) -> None:
        try:
            for report in self._call:
                self._reports.put(report)
            self._reports.put(StateError("the stream of chunks was closed"))
        except grpc.RpcError as error:
            self._reports.put(translated(error, self._address))
