"""gRPC service PolicyService: translates between messages and the policy, and refusals into status codes.

| what is wrong                                | status              |
|----------------------------------------------|---------------------|
| the observation                              | INVALID_ARGUMENT    |
| checkpoint, tokenizer and robot do not fit   | FAILED_PRECONDITION |
| too many requests wait                       | RESOURCE_EXHAUSTED  |
| the client's deadline passed                 | DEADLINE_EXCEEDED   |
| the server shuts down before its turn        | UNAVAILABLE         |
| the network gave no usable chunk, or a bug   | INTERNAL            |

A state that the policy was not trained on is counted by joint, and refused where the policy refuses it. A peer gets
the message of an error that is meant for people, never a stack trace; that goes to this machine's log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from pi0_edge.errors import (
    BusyError,
    ConfigError,
    DeadlineError,
    ObservationError,
    Pi0EdgeError,
    StoppingError,
)
from pi0_edge.protos import policy_pb2, policy_pb2_grpc
from pi0_edge.serving.messages import describe_policy, read_observation, read_plan, write_chunk
from pi0_edge.serving.shared_policy import Request, SharedPolicy

logger = logging.getLogger(__name__)

CLIENT_KEY = "x-pi0-edge-client"
"""Metadata of a call in which a load balancer names the client, see examples/envoy. Whoever names several gains
nothing that several connections would not give."""

_CODES: dict[type[Pi0EdgeError], grpc.StatusCode] = {
    ObservationError: grpc.StatusCode.INVALID_ARGUMENT,
    ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    StoppingError: grpc.StatusCode.UNAVAILABLE,
}


class PolicyService(policy_pb2_grpc.PolicyServiceServicer):
    """PolicyService around one policy."""

    def __init__(self, shared: SharedPolicy) -> None:
        self._shared = shared

    def Infer(self, request: policy_pb2.Observation, context: grpc.ServicerContext) -> policy_pb2.Chunk:
        """Answers one observation with one chunk."""
        with _refusals(context):
            chunk = self._shared.infer(
                lambda: self._read(request), _client(context), context.time_remaining(), context.add_callback
            )
            return write_chunk(chunk, request.clock, self._shared.policy.overrides)

    def GetMetadata(
        self, request: policy_pb2.MetadataRequest, context: grpc.ServicerContext
    ) -> policy_pb2.PolicyMetadata:
        """What the policy is and expects."""
        return describe_policy(self._shared.policy)

    def _read(self, request: policy_pb2.Observation) -> Request:
        action_dim = self._shared.policy.processor.robot.action_dim
        plan = read_plan(request.continuation, action_dim) if request.HasField("continuation") else None
        return Request(
            observation=read_observation(request),
            noise_seed=request.noise_seed if request.HasField("noise_seed") else None,
            plan=plan,
            tick=request.clock.tick,
            capture_time_ns=request.clock.capture_time_ns,
        )


def _client(context: grpc.ServicerContext) -> str:
    """The connection, and whom it carries where a load balancer says so: its connections carry many robots."""
    named = dict(context.invocation_metadata()).get(CLIENT_KEY, "")
    return f"{context.peer()} {named}"


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
