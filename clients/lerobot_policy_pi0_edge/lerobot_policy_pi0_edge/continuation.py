"""LeRobot's real-time chunking as the continuation of a request.

LeRobot hands over the rows that are not executed yet, the first due at the next tick, cut to its execution horizon or
filled up to it with rows of zeros, and how many of them will have been executed when the new chunk arrives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.protos import policy_pb2

Continuation = policy_pb2.Continuation

EXECUTION_HORIZON = 10
MAX_GUIDANCE_WEIGHT = 10.0
"""LeRobot's defaults, where it gives no settings."""


def without_padding(left_over: NDArray[np.floating]) -> NDArray[np.floating]:
    """The rows in front of a tail of zeros, which is no plan: guided by it, the arm would go to zero.

    A plan that is zero throughout cannot be told from padding, and is none.

    Args:
        left_over: [rows, action_dim].
    """
    filled = np.flatnonzero(np.any(left_over != 0, axis=1))
    return left_over[: filled[-1] + 1 if len(filled) else 0]


def make_continuation(
    rows: NDArray[np.floating], delay: int, metadata: policy_pb2.PolicyMetadata, rtc: Any
) -> policy_pb2.Continuation | None:
    """What the arm executes meanwhile; None where nothing is left of its plan.

    Where the policy was trained to continue a frozen prefix that is as long as the delay, that is the method; guidance
    is it elsewhere.

    Args:
        rows: [rows, action_dim] in the policy's order and units, without padding.
        delay: Rows that will have been executed when the chunk arrives.
        metadata: Of the policy.
        rtc: LeRobot's RTCConfig, or None.
    """
    if not len(rows):
        return None
    delay = max(0, min(delay, len(rows), metadata.horizon - 1))
    message = Continuation(actions=np.asarray(rows, np.float32).ravel().tolist(), delay=delay)
    if 0 < delay <= metadata.trained_delay:
        message.method = Continuation.FROZEN_PREFIX
        return message
    schedule = getattr(getattr(rtc, "prefix_attention_schedule", None), "name", "LINEAR")
    message.method = Continuation.GUIDED
    message.schedule = Continuation.Schedule.Value(schedule)  # pyright: ignore[reportAttributeAccessIssue]
    message.overlap = max(1, min(getattr(rtc, "execution_horizon", EXECUTION_HORIZON), len(rows)))
    message.max_weight = getattr(rtc, "max_guidance_weight", MAX_GUIDANCE_WEIGHT)
    return message
