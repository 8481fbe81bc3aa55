"""What openpi's robots get: what the policy is, once, and a chunk for each observation.

openpi's client slices every array of a reply at the current step, so that the actions are the only one; what else there
is are numbers, and texts in a list.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pi0_edge.policy import Policy, PolicyChunk
from pi0_edge.processing import Method, Schedule
from pi0_edge.protos import policy_pb2
from pi0_edge.robots import Robot
from pi0_edge.serving.messages import describe_policy
from pi0_edge.serving.openpi.observations import CONTINUATION_FIELDS

ALOHA_RESET_POSE = (0.0, -1.5, 1.5, 0.0, 0.0, 0.0)
"""Where ALOHA's runtime moves each arm before an episode, rad: `policy_metadata` of openpi's ALOHA configurations."""

_ARM = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")


def describe(policy: Policy, default_prompt: str | None = None) -> dict[str, Any]:
    """The first message of a connection, in plain values.

    `reset_pose` is there for robots with ALOHA's arms alone: its runtime moves them there. `continuation` says which
    fields the optional map of that name has.

    Args:
        policy: What is served.
        default_prompt: Of this server; None for the robot's own.
    """
    facts = describe_policy(policy)
    described: dict[str, Any] = {
        field.name: value if isinstance(value := getattr(facts, field.name), (str, int, float)) else list(value)
        for field in facts.DESCRIPTOR.fields
    }
    described["gate"] = policy_pb2.Gate.Name(facts.gate).removeprefix("GATE_").lower()
    described["robot"] = policy.processor.robot.name
    described["default_prompt"] = default_prompt or facts.default_prompt
    described["continuation"] = {
        "fields": list(CONTINUATION_FIELDS),
        "method": [method.name.lower() for method in Method],
        "schedule": [schedule.name.lower() for schedule in Schedule],
    }
    if _has_alohas_arms(policy.processor.robot):
        described["reset_pose"] = list(ALOHA_RESET_POSE)
    return described


def write_reply(
    chunk: PolicyChunk,
    rows: int | None,
    overrides: tuple[str, ...],
    infer_ms: float,
    prev_total_ms: float | None,
) -> dict[str, Any]:
    """The answer to one observation.

    Args:
        chunk: Of the policy.
        rows: As in `OpenpiRequest`.
        overrides: Rules that the user of the server overrode; the reply names them where there are any.
        infer_ms: From the observation to the chunk, the wait for its turn included.
        prev_total_ms: From the arrival of the client's previous observation to the end of its reply; None in the
            first.
    """
    server_timing = {"infer_ms": infer_ms}
    if prev_total_ms is not None:
        server_timing["prev_total_ms"] = prev_total_ms
    reply: dict[str, Any] = {
        "actions": np.ascontiguousarray(chunk.actions[:rows], np.float64),
        "policy_timing": {
            "infer_ms": chunk.infer_ms,
            "preprocess_ms": chunk.preprocess_ms,
            "postprocess_ms": chunk.postprocess_ms,
            "prefix_age_ms": chunk.prefix_age_ms,
        },
        "server_timing": server_timing,
    }
    if overrides:
        reply["overrides"] = list(overrides)
    return reply


def _has_alohas_arms(robot: Robot) -> bool:
    names = [f"{side}_{joint}" for side in ("left", "right") for joint in _ARM]
    limits = {joint.name: joint.position for joint in robot.joints}
    return all(
        (limit := limits.get(name)) is not None and limit[0] <= angle <= limit[1]
        for name, angle in zip(names, ALOHA_RESET_POSE * 2, strict=True)
    )
