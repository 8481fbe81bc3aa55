"""The calls of `transport.AsyncInference`, each robot with a state of its own.

| what is wrong                                         | status              |
|-------------------------------------------------------|---------------------|
| the pickle, or a value in it                          | INVALID_ARGUMENT    |
| the client's robot is not that of the policy, or the  | FAILED_PRECONDITION |
| calls come in another order                           |                     |
| too many robots, bytes or calls                       | RESOURCE_EXHAUSTED  |
| the network gave no usable chunk, or a bug            | INTERNAL            |

None of them is UNAVAILABLE or DEADLINE_EXCEEDED, which the client tries again by itself. A robot is one connection:
state of one is never seen by another, and a client that connects again has to begin again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from pi0_edge.errors import BusyError, ConfigError, DeadlineError, ObservationError, Pi0EdgeError
from pi0_edge.serving.lerobot_async import wire
from pi0_edge.serving.lerobot_async.messages import read_config, read_observation
from pi0_edge.serving.lerobot_async.pickle_reader import BYTES_LIMIT
from pi0_edge.serving.lerobot_async.robot_match import RobotMatch
from pi0_edge.serving.lerobot_async.robot_session import RobotSession
from pi0_edge.serving.lerobot_joints import Units
from pi0_edge.serving.shared_policy import SharedPolicy

ROBOTS = 4
"""Robots at a time. Each may hold one observation of `BYTES_LIMIT`, and one that arrives."""

IDLE_S = 10.0
"""A robot that did not call for so long gives its place to another."""

SENDING_S = 10.0
"""Longest time that one observation may take to arrive."""

CANCELLED_S = 0.5
"""Within so long, a call that was cancelled has given its place back; its client has heard of it before."""

REFUSED_AFTER_S = 0.1
"""How long a refused call for actions takes at least; the stock client asks again at once, for ever."""

_MOST_WORDS = 2000  # characters of a refusal; gRPC sends it in a header, which has a limit

_CODES: dict[type[Pi0EdgeError], grpc.StatusCode] = {
    ObservationError: grpc.StatusCode.INVALID_ARGUMENT,
    ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.ABORTED,
}

logger = logging.getLogger(__name__)


class AsyncInferenceService:
    """The four calls around one policy."""

    def __init__(
        self,
        shared: SharedPolicy,
        *,
        fps: float,
        units: Units | None = None,
    ) -> None:
        """Prepares a service without robots.

        Args:
            shared: Makes the chunks.
            fps: Actions per second.
            units: What the joints of clients are in; None where that is not known.
        """
        self._shared = shared
        self._fps = fps
        self._units: Units | None = units
        self._executor = ThreadPoolExecutor(2 * ROBOTS, thread_name_prefix="lerobot-chunk")
        self._sessions: dict[str, RobotSession] = {}
        self._sending: set[str] = set()
        self._place_free = threading.Condition()
        self._lock = threading.Lock()

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a gRPC server needs to know of the calls."""
        unary, empty = grpc.unary_unary_rpc_method_handler, wire.Empty
        write = empty.SerializeToString
        return grpc.method_handlers_generic_handler(
            wire.SERVICE,
            {
                "Ready": unary(self.ready, empty.FromString, write),
                "SendPolicyInstructions": unary(self.send_policy_instructions, wire.PolicySetup.FromString, write),
                "SendObservations": grpc.stream_unary_rpc_method_handler(
                    self.send_observations, wire.Observation.FromString, write
                ),
                "GetActions": unary(self.get_actions, empty.FromString, wire.Actions.SerializeToString),
            },
        )

    def close(self) -> None:
        """Forgets all robots; running inferences end on their own."""
        with self._lock:
            sessions = list(self._sessions.values())
            self._sessions.clear()
        for session in sessions:
            session.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def ready(self, _request: Any, context: grpc.ServicerContext) -> Any:
        """Forgets what the robot sent before."""
        with self._lock:
            session = self._sessions.pop(context.peer(), None)
        if session is not None:
            session.close()
        return wire.Empty()

    def send_policy_instructions(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Checks that the policy can drive the robot. What the robot names as a policy is not loaded."""
        with _refusals(context):
            config = read_config(request.data)
            robot = self._shared.policy.processor.robot
            match = RobotMatch(robot, config, self._units)
            peer = context.peer()
            session = RobotSession(self._shared, self._executor, config, match, f"lerobot {peer}", self._fps)
            self._add(peer, session)
            logger.info(
                "%s: a robot with the joints %.400r and cameras %.400s is served by the policy of %s at %g actions per "
                "second; what it names as its policy is not loaded: %.40r %.80r",
                *(peer, ", ".join(match.joints), match.cameras, robot.name, self._fps),
                *(config.policy_type, config.pretrained_name_or_path),
            )
        return wire.Empty()

    def send_observations(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        """Takes one observation, in pieces."""
        with _refusals(context):
            session = self._session(context)
            with self._one_at_a_time(context.peer()):
                timer = threading.Timer(SENDING_S, context.cancel)
                timer.daemon = True
                timer.start()
                try:
                    payload = _payload(requests)
                finally:
                    timer.cancel()
                kept = session.offer(read_observation(payload))
            logger.debug("%s: an observation of %d bytes, kept=%s", context.peer(), len(payload), kept)
        return wire.Empty()

    def get_actions(self, _request: Any, context: grpc.ServicerContext) -> Any:
        """The next chunk; empty where there is none yet."""
        with _refusals(context):
            try:
                return wire.Actions(data=self._session(context).reply())
            except Pi0EdgeError:
                time.sleep(REFUSED_AFTER_S)
                raise

    def _session(self, context: grpc.ServicerContext) -> RobotSession:
        with self._lock:
            session = self._sessions.get(context.peer())
            if session is None:
                raise ConfigError("this connection sent no policy instructions; call Ready and SendPolicyInstructions")
            session.used_s = time.monotonic()
            return session

    def _add(self, peer: str, session: RobotSession) -> None:
        with self._lock:
            old = [self._sessions.pop(peer, None)]
            now = time.monotonic()
            for name in [name for name, other in self._sessions.items() if now - other.used_s > IDLE_S]:
                old.append(self._sessions.pop(name))
            full = len(self._sessions) >= ROBOTS
            if not full:
                self._sessions[peer] = session
        for other in old:
            if other is not None:
                other.close()
        if full:
            raise BusyError(f"{ROBOTS} robots are served already; stop one, or wait {IDLE_S:g} s after one has stopped")

    @contextmanager
    def _one_at_a_time(self, peer: str) -> Iterator[None]:
        with self._place_free:
            if not self._place_free.wait_for(lambda: peer not in self._sending, CANCELLED_S):
                raise BusyError("this robot sends an observation already; send the next one after it")
            self._sending.add(peer)
        try:
            yield
        finally:
            with self._place_free:
                self._sending.discard(peer)
                self._place_free.notify_all()


def _payload(requests: Iterator[Any]) -> bytes:
    """The pieces of one payload, joined. A piece BEGIN starts it anew, END ends it whether or not a BEGIN came."""
    pieces: list[bytes] = []
    size, ended = 0, False
    for request in requests:  # to the end of the stream: a call that is answered before it stays open for a while
        state, data = request.transfer_state, request.data
        if ended:
            raise ObservationError("an observation goes on after its last piece; send the next one in another call")
        if state == wire.BEGIN:
            pieces, size = [], 0
        elif state not in (wire.MIDDLE, wire.END):
            raise ObservationError(f"transfer_state is {state}, expected 1 to 3")
        elif state == wire.MIDDLE and not data:
            raise ObservationError("a piece of an observation is empty, expected up to 2 MiB")
        size += len(data)
        if size > BYTES_LIMIT:
            raise ObservationError(f"an observation has more than {BYTES_LIMIT} bytes; send smaller images")
        pieces.append(data)
        ended = state == wire.END
    if not ended:
        raise ObservationError("an observation ended without its last piece")
    return b"".join(pieces)


@contextmanager
def _refusals(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends the call with the status of an error that is raised inside."""
    refusal: tuple[grpc.StatusCode, str]
    try:
        yield
        return
    except Pi0EdgeError as error:
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
        refusal = code, str(error)[:_MOST_WORDS]
        # The text and not the error: whoever keeps log records would keep the call with it, and its place on the wire.
        logger.warning("%s: refused code=%s reason=%s", context.peer(), code.name, refusal[1])
    except grpc.RpcError:  # the client went away, or took too long
        refusal = grpc.StatusCode.CANCELLED, "the observation did not arrive in time"
    except Exception:
        logger.exception("a call failed")
        refusal = grpc.StatusCode.INTERNAL, "the policy failed; the log of the policy server says why"
    context.abort(*refusal)
