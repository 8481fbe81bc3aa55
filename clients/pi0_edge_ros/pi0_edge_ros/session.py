"""What the node does between *configure* and *cleanup*, without ROS: observe, ask, send.

One inference runs at a time, in a thread of its own: no callback of ROS ever waits for one. `stop` may be called from
any thread at any time; once it has returned, nothing is sent any more, and the answer of an inference that still runs
is thrown away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pi0_edge.errors import ObservationError, Pi0EdgeError, ServingError
from pi0_edge.protos.policy_pb2 import Chunk, Continuation
from pi0_edge_ros.agreement import Agreement
from pi0_edge_ros.arm_plan import ArmPlan
from pi0_edge_ros.inbox import Inbox, Moment, Observed
from pi0_edge_ros.settings import Settings
from pi0_edge_ros.trajectories import NANOSECONDS, MessageClasses, due_positions, write_trajectory

PAUSE_NS = NANOSECONDS // 4
"""Between a failed inference and the next one."""

BACKWARDS_NS = NANOSECONDS // 10
"""A clock that goes back further than this began anew: the plan of the arm is of another time and is forgotten."""


class PolicyClient(Protocol):
    """As `pi0_edge.serving.policy_client.PolicyClient`."""

    def infer(
        self, observation: Any, tick: int, capture_time_ns: int, *, continuation: Continuation | None = None
    ) -> Chunk:
        """The chunk that answers an observation."""
        ...


@dataclass(frozen=True)
class Counts:
    """What happened since *configure*.

    Attributes:
        chunks: Chunks that were sent.
        skipped: Actions of these that were past due and left out.
        late: Chunks of which every action was past due.
        refused: Observations that could not be made of the messages that came.
        errors: Inferences that failed.
        infer_ms: How long the last inference took, from the observation to its answer.
    """

    chunks: int = 0
    skipped: int = 0
    late: int = 0
    refused: int = 0
    errors: int = 0
    infer_ms: float = 0.0


class Session:
    """A policy that moves a robot, or is ready to.

    Attributes:
        inbox: Takes the messages.
    """

    def __init__(
        self,
        settings: Settings,
        agreement: Agreement,
        client: PolicyClient,
        classes: MessageClasses,
        publish: Callable[[Any], object],
        now_ns: Callable[[], int],
    ) -> None:
        """Starts stopped.

        Args:
            settings: The parameters.
            agreement: What they and the policy agree on.
            client: Asks the policy.
            classes: Of the messages that are sent.
            publish: Sends a trajectory; called in the thread of the inferences.
            now_ns: The time by the clock of the messages' stamps, ns.
        """
        self.inbox = Inbox(
            settings.cameras, agreement.joints, agreement.prompt, settings.max_age_s, settings.max_apart_s
        )
        self._settings, self._agreement = settings, agreement
        self._client, self._classes, self._publish, self._now_ns = client, classes, publish, now_ns
        self._plan = ArmPlan(agreement.splice, agreement.control_hz, settings.replan_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._running: Future[None] | None = None
        self._lock = threading.Lock()
        self._active = False
        self._epoch = 0  # of the last start or stop: the answer of an inference from another one is thrown away
        self._last_ns = 0
        self._failed_in_a_row = 0
        self._problem = ""
        self._gave_up = ""
        self._counts = Counts()

    @property
    def is_active(self) -> bool:
        """Whether chunks are sent."""
        return self._active

    @property
    def problem(self) -> str:
        """Why no chunk is sent now, in words; empty where all is well."""
        return self._gave_up or self._problem

    @property
    def gave_up(self) -> str:
        """Why the session stopped by itself; empty where it did not."""
        return self._gave_up

    @property
    def counts(self) -> Counts:
        """What happened so far."""
        return self._counts

    def start(self) -> None:
        """Begins to send chunks, with no plan to continue."""
        with self._lock:
            self._begin_epoch(active=True)
            self._failed_in_a_row, self._problem, self._gave_up = 0, "", ""

    def stop(self) -> None:
        """Sends nothing any more. The arm executes what it has, and then holds."""
        with self._lock:
            self._begin_epoch(active=False)

    def close(self) -> None:
        """Stops, and ends the thread; close the client first, where a running inference shall end at once."""
        self.stop()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def step(self) -> None:
        """Starts an inference if it is time for one; returns at once. Call it every control period."""
        now_ns = self._now_ns()
        with self._lock:
            if now_ns < self._last_ns - BACKWARDS_NS and self._active:  # a simulation that began anew
                self._begin_epoch(active=True)
            self._last_ns = now_ns
            if not self._active or (self._running is not None and not self._running.done()):
                return
            if not self._plan.is_due(now_ns):
                return
            try:
                moment = self.inbox.moment(now_ns)
            except ObservationError as error:
                self._problem = str(error)
                return
            continuation = self._plan.observed(moment.time_ns, now_ns)
            self._running = self._thread.submit(self._answer, moment, continuation, self._epoch)

    def _begin_epoch(self, active: bool) -> None:
        self._active = active
        self._epoch += 1
        self._plan.stopped()

    def _answer(self, moment: Moment, continuation: Continuation | None, epoch: int) -> None:
        """One inference, in its thread."""
        try:
            observed = self.inbox.read(moment)
        except Pi0EdgeError as error:
            with self._lock:
                if epoch == self._epoch:
                    self._problem = str(error)
                    self._count(refused=1)
                    self._plan.lost(self._now_ns() + PAUSE_NS)
            return
        try:
            self._send(observed, self._ask(observed, continuation), epoch)
        except Exception as error:  # an error in this thread must not be lost, whatever it is
            said = str(error) if isinstance(error, Pi0EdgeError) else f"{type(error).__name__}: {error}"
            with self._lock:
                if epoch == self._epoch:
                    self._fail(said)

    def _ask(self, observed: Observed, continuation: Continuation | None) -> Chunk:
        begin_ns = time.monotonic_ns()
        chunk = self._client.infer(observed, 0, begin_ns, continuation=continuation)
        self._counts = replace(self._counts, infer_ms=(time.monotonic_ns() - begin_ns) * 1e-6)
        return chunk

    def _send(self, observed: Observed, chunk: Chunk, epoch: int) -> None:
        joints = self._agreement.joints
        whole = due_positions(chunk, len(joints), observed.time_ns, self._agreement.control_hz)
        with self._lock:
            if epoch != self._epoch:
                return
            now_ns = self._now_ns()
            due = whole.since(now_ns + round(self._settings.lead_s * NANOSECONDS))
            if not len(due.due_ns):
                self._count(late=1)
                raise ServingError(
                    f"a chunk came {(now_ns - observed.time_ns) / NANOSECONDS:.2f} s after its observation and reaches "
                    f"{chunk.horizon / self._agreement.control_hz:.2f} s: every action was past due; use a faster "
                    "engine or scheme, or a policy server that fewer robots ask"
                )
            self._publish(write_trajectory(self._classes, joints, due))
            self._plan.entered(due)
            self._count(chunks=1, skipped=len(whole.due_ns) - len(due.due_ns))
            self._failed_in_a_row, self._problem = 0, ""

    def _fail(self, said: str) -> None:
        self._problem = said
        self._failed_in_a_row += 1
        self._count(errors=1)
        self._plan.lost(self._now_ns() + PAUSE_NS)
        if self._failed_in_a_row >= self._settings.max_errors:
            self._gave_up = f"{self._failed_in_a_row} inferences in a row failed, the last one: {said}"
            self._begin_epoch(active=False)

    def _count(self, **more: int) -> None:
        counts = self._counts
        self._counts = replace(counts, **{name: getattr(counts, name) + value for name, value in more.items()})
