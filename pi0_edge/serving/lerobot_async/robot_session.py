"""What one connected robot asked for: its newest observation, and the one chunk that is made for it.

The rules are those of LeRobot's own server, which its client relies on:

- Only the newest observation is kept.
- One that need not be answered (`must_go`) is skipped where its timestep was answered already, or where its state is
  closer than 1 to that of the last one that was kept (Euclidean distance in the client's units).
- Action k of the reply to timestep i at time t has timestep i + k and time t + k / fps.
- There is no action yet within 2 s: the reply is empty, and the client asks again. A chunk that takes longer is made
  meanwhile, and handed out by a later call.

The client marks one observation as one that must be answered, and no other before it got a chunk. So after one that
could not be answered, the next is taken whatever its state.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDoneError

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import BusyError, Pi0EdgeError
from pi0_edge.serving.lerobot_async.messages import RemotePolicyConfig, TimedObservation
from pi0_edge.serving.lerobot_async.pickle_writer import write_actions
from pi0_edge.serving.lerobot_async.robot_match import RobotMatch
from pi0_edge.serving.shared_policy import Request, SharedPolicy

REPLY_WITHIN_S = 2.0
"""Longest time that a client waits for a reply, which may be empty; its calls have no deadline of their own."""

SIMILAR_WITHIN = 1.0
"""States closer than this are taken as the same, in the client's units (LeRobot's `observations_similar`)."""

_TIMESTEPS = 4096  # remembered as answered; a client's timesteps only grow

logger = logging.getLogger(__name__)


class RobotSession:
    """One robot from its RemotePolicyConfig on. Safe to use from several threads.

    Attributes:
        used_s: When the robot last called, on the monotonic clock.
    """

    def __init__(
        self,
        shared: SharedPolicy,
        executor: ThreadPoolExecutor,
        config: RemotePolicyConfig,
        match: RobotMatch,
        client: str,
        fps: float,
    ) -> None:
        """Begins without an observation.

        Args:
            shared: Makes the chunks.
            executor: Waits for them.
            config: What the robot asks for.
            match: Its names and units.
            client: Names it to the policy.
            fps: Actions per second.
        """
        self.used_s = time.monotonic()
        self._shared = shared
        self._executor = executor
        self._config = config
        self._match = match
        self._client = client
        self._fps = fps
        self._changed = threading.Condition()
        self._newest: TimedObservation | None = None
        self._last_state: NDArray[np.float64] | None = None
        self._answered: OrderedDict[int, None] = OrderedDict()
        self._running: Future[bytes] | None = None
        self._drop: Callable[[], None] = lambda: None
        self._closed = False
        self._asking = threading.Lock()

    def offer(self, observation: TimedObservation) -> bool:
        """Keeps an observation for the next chunk, and says whether it did.

        Raises:
            ObservationError: If a joint is missing.
        """
        state = self._match.state(observation.observation)
        with self._changed:
            if not observation.must_go and (observation.timestep in self._answered or self._is_similar(state)):
                return False
            self._newest, self._last_state = observation, state
            self._changed.notify_all()
            return True

    def reply(self, within_s: float = REPLY_WITHIN_S) -> bytes:
        """The next chunk as a pickle; empty where there is none yet.

        Args:
            within_s: Longest time to wait.

        Raises:
            BusyError: If another call of this robot waits already, or too many robots do.
            Pi0EdgeError: As `SharedPolicy.infer`; the observation is then forgotten.
        """
        if not self._asking.acquire(blocking=False):
            raise BusyError("this robot waits for its actions already; ask again after the reply")
        try:
            return self._reply(time.monotonic() + within_s)
        finally:
            self._asking.release()

    def close(self) -> None:
        """Forgets the observation; a request that waits for its turn is dropped, and whoever waits gets nothing."""
        with self._changed:
            self._closed, self._newest = True, None
            self._changed.notify_all()
            drop = self._drop
        drop()

    def _reply(self, due_s: float) -> bytes:
        with self._changed:
            while self._running is None:
                if self._closed or not self._changed.wait_for(
                    lambda: self._newest is not None or self._closed, due_s - time.monotonic()
                ):
                    return b""
                if self._newest is not None:
                    observation, self._newest = self._newest, None
                    self._remember(observation.timestep)
                    self._running = self._executor.submit(self._infer, observation)
            running = self._running
        try:
            reply = running.result(max(0.0, due_s - time.monotonic()))
        except NotDoneError:
            if not running.done():
                return b""
            reply = running.result()
        except (Pi0EdgeError, CancelledError):
            if self._closed:
                return b""
            raise
        finally:
            if running.done():
                with self._changed:
                    self._running = None
        return b"" if self._closed else reply

    def _infer(self, observation: TimedObservation) -> bytes:
        try:
            chunk = self._shared.infer(lambda: self._request(observation), self._client, on_queued=self._on_queued)
        except Exception:
            with self._changed:
                self._answered.pop(observation.timestep, None)
                self._last_state = None
            raise
        actions = self._match.to_client(chunk.actions[: self._config.actions_per_chunk])
        return write_actions(self._config.module, observation.timestamp, observation.timestep, actions, self._fps)

    def _request(self, observation: TimedObservation) -> Request:
        return Request(self._match.observation(observation.observation))

    def _on_queued(self, drop: Callable[[], None]) -> None:
        with self._changed:
            self._drop = drop
            closed = self._closed
        if closed:
            drop()

    def _is_similar(self, state: NDArray[np.float64]) -> bool:
        return self._last_state is not None and bool(np.linalg.norm(state - self._last_state) < SIMILAR_WITHIN)

    def _remember(self, timestep: int) -> None:
        self._answered[timestep] = None
        self._answered.move_to_end(timestep)
        if len(self._answered) > _TIMESTEPS:
            self._answered.popitem(last=False)
