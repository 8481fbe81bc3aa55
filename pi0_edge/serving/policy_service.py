"""gRPC service PolicyService: translates between messages and the policy, and refusals into status codes.

| what is wrong                                | status              |
|----------------------------------------------|---------------------|
| the observation                              | INVALID_ARGUMENT    |
| checkpoint, tokenizer and robot do not fit   | FAILED_PRECONDITION |
| too many requests wait                       | RESOURCE_EXHAUSTED  |
| the client's deadline passed                 | DEADLINE_EXCEEDED   |
| the network gave no usable chunk, or a bug   | INTERNAL            |

A state that the policy was not trained on is counted by joint, and refused where the policy refuses it. A peer gets
the message of an error that is meant for people, never a stack trace; that goes to this machine's log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
from prometheus_client import CollectorRegistry

from pi0_edge.errors import BusyError, ConfigError, DeadlineError, ObservationError, Pi0EdgeError
from pi0_edge.policy import Policy
from pi0_edge.protos import policy_pb2, policy_pb2_grpc
from pi0_edge.serving.inference_queue import InferenceQueue
from pi0_edge.serving.latency_budget import LatencyBudget
from pi0_edge.serving.messages import describe_policy, read_observation, read_plan, write_chunk
from pi0_edge.serving.observation_recorder import ObservationRecorder
from pi0_edge.serving.policy_metrics import PolicyMetrics

logger = logging.getLogger(__name__)

_CODES: dict[type[Pi0EdgeError], grpc.StatusCode] = {
    ObservationError: grpc.StatusCode.INVALID_ARGUMENT,
    ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class PolicyService(policy_pb2_grpc.PolicyServiceServicer):
    """PolicyService around one policy.

    Attributes:
        chunks: How many chunks were made.
    """

    def __init__(
        self,
        policy: Policy,
        recorder: ObservationRecorder | None = None,
        registry: CollectorRegistry | None = None,
        on_alive: Callable[[], object] | None = None,
        budget: LatencyBudget | None = None,
    ) -> None:
        self.chunks = 0
        self._recorder = recorder
        self._policy = policy
        self._queue = InferenceQueue(on_alive=on_alive)
        self._peer = ""
        self._budget = budget
        budget_ms = None if budget is None else budget.budget_ms
        self._metrics = PolicyMetrics(policy, registry or CollectorRegistry(), budget_ms=budget_ms)

    def Infer(self, request: policy_pb2.Observation, context: grpc.ServicerContext) -> policy_pb2.Chunk:
        """Answers one observation with one chunk."""
        with _refusals(context):
            peer = context.peer()
            return self._queue.run(lambda: self._infer(request, peer), context.time_remaining(), context.add_callback)

    def GetMetadata(
        self, request: policy_pb2.MetadataRequest, context: grpc.ServicerContext
    ) -> policy_pb2.PolicyMetadata:
        """What the policy is and expects."""
        return describe_policy(self._policy)

    def knock(self) -> None:
        """Lets the thread of the inferences say that it is alive, see `InferenceQueue.knock`."""
        self._queue.knock()

    def close(self) -> None:
        """Drops the requests that wait."""
        self._queue.close()

    def _infer(self, request: policy_pb2.Observation, peer: str) -> policy_pb2.Chunk:
        if peer != self._peer:
            self._policy.reset_prefix()
            self._peer = peer
        seed = request.noise_seed if request.HasField("noise_seed") else None
        action_dim = self._policy.processor.robot.action_dim
        plan = read_plan(request.continuation, action_dim) if request.HasField("continuation") else None
        observation = read_observation(request)
        unfit = self._policy.processor.unfit_state(observation)
        for joint in () if unfit is None else unfit.joints:
            self._metrics.on_unfit_state(joint.name)
        chunk = self._policy.infer(observation, seed, plan)
        self.chunks += 1
        self._metrics.on_chunk(chunk)
        if self._budget is not None and self._budget.add(chunk.total_ms):
            self._metrics.on_miss()
        if self._recorder is not None:
            self._recorder.record(observation, request.clock.tick, request.clock.capture_time_ns)
        logger.debug(
            "chunk number=%d tick=%d capture_time_ns=%d preprocess_ms=%.2f infer_ms=%.2f postprocess_ms=%.2f "
            "prefix_age_ms=%.2f overrides=%s",
            *(self.chunks, request.clock.tick, request.clock.capture_time_ns),
            *(chunk.preprocess_ms, chunk.infer_ms, chunk.postprocess_ms, chunk.prefix_age_ms),
            ",".join(self._policy.overrides) or "none",
        )
        return write_chunk(chunk, request.clock, self._policy.overrides)


@contextmanager
def _refusals(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends the call with the status of an error that is raised inside."""
    try:
        yield
    except Pi0EdgeError as error:
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
        logger.warning("refused code=%s reason=%s", code.name, error)
        context.abort(code, str(error))
    except Exception:
        logger.exception("an inference failed")
        context.abort(grpc.StatusCode.INTERNAL, "the policy failed; the log of the policy server says why")
