"""Between protobuf messages and the policy's own types; what a peer sends is checked here as far as its form goes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pi0_edge.bundle import GateState
from pi0_edge.errors import ObservationError
from pi0_edge.policy import Policy, PolicyChunk
from pi0_edge.processing import Method, Observation, RunningPlan, Schedule
from pi0_edge.protos import policy_pb2
from pi0_edge.serving.jpeg_images import decode_jpeg

MESSAGE_LIMIT = 32 << 20
"""Bytes of one observation: three cameras of 1920x1080 are 18 MiB. JPEGs may unfold to no more."""

PROMPT_CHARACTERS = 4096
"""No tokenizer of π0 turns more than this into a prompt that fits; longer ones are refused before it reads them."""

_GATES: dict[GateState, policy_pb2.Gate] = {
    "passed": policy_pb2.GATE_PASSED,
    "failed": policy_pb2.GATE_FAILED,
    "missing": policy_pb2.GATE_MISSING,
}


def read_observation(message: policy_pb2.Observation) -> Observation:
    """The observation in a request; an empty prompt means the robot's default.

    Raises:
        ObservationError: If an image's bytes do not fit its size, a camera comes twice, JPEGs unfold to more than a
            message may have, or the prompt is over-long.
    """
    unfolded = sum(image.height * image.width * 3 for image in message.images if image.WhichOneof("pixels") == "jpeg")
    if unfolded > MESSAGE_LIMIT:
        raise ObservationError(
            f"images are JPEGs of {unfolded} bytes of pixels, expected at most {MESSAGE_LIMIT}; scale them down, as "
            "the policy does anyway"
        )
    images: dict[str, NDArray[np.uint8]] = {}
    for image in message.images:
        if image.camera in images:
            raise ObservationError(f"images has the camera {image.camera!r} twice; expected each camera once")
        images[image.camera] = _read_image(image)
    if len(message.prompt) > PROMPT_CHARACTERS:
        raise ObservationError(
            f"prompt has {len(message.prompt)} characters, expected at most {PROMPT_CHARACTERS}; shorten it"
        )
    return Observation(images, np.array(message.state, np.float32), message.prompt or None)


def read_plan(message: policy_pb2.Continuation, action_dim: int) -> RunningPlan:
    """The plan in a request, in the robot's units.

    Raises:
        ObservationError: If its values are no whole rows, or method or schedule are not known.
    """
    if len(message.actions) % action_dim:
        raise ObservationError(
            f"continuation.actions holds {len(message.actions)} values, expected rows of {action_dim} actions"
        )
    for name, value, kind in (("method", message.method, Method), ("schedule", message.schedule, Schedule)):
        if not 0 <= value < len(kind):
            raise ObservationError(f"continuation.{name} is {value}, expected 0 to {len(kind) - 1}")
    return RunningPlan(
        actions=np.array(message.actions, np.float64).reshape(-1, action_dim),
        delay=message.delay,
        method=Method[policy_pb2.Continuation.Method.Name(message.method)],
        schedule=Schedule[policy_pb2.Continuation.Schedule.Name(message.schedule)],
        overlap=message.overlap,
        max_weight=message.max_weight,
    )


def write_chunk(
    chunk: PolicyChunk, clock: policy_pb2.ObservationClock, overrides: tuple[str, ...] = ()
) -> policy_pb2.Chunk:
    """The reply, with the clock of the observation that it answers and the overrides under which it was made."""
    horizon, action_dim = chunk.actions.shape
    return policy_pb2.Chunk(
        horizon=horizon,
        action_dim=action_dim,
        actions=chunk.actions.astype(np.float32).ravel().tolist(),
        clock=clock,
        timing=policy_pb2.Timing(
            preprocess_ms=chunk.preprocess_ms, infer_ms=chunk.infer_ms, postprocess_ms=chunk.postprocess_ms
        ),
        overrides=overrides,
        prefix_age_ms=chunk.prefix_age_ms,
    )


def describe_policy(policy: Policy) -> policy_pb2.PolicyMetadata:
    """What the policy is and expects."""
    robot, config, bundle = policy.processor.robot, policy.engine.config, policy.bundle
    return policy_pb2.PolicyMetadata(
        model=config.kind,
        engine=policy.engine.name,
        scheme=policy.engine.scheme,
        horizon=config.horizon,
        action_dim=robot.action_dim,
        state_dim=robot.state_dim,
        control_hz=robot.control_hz,
        cameras=list(robot.cameras),
        default_prompt=robot.default_prompt or "",
        checkpoint_sha256=policy.checkpoint_sha256,
        bundle_sha256="" if bundle is None else bundle.sha256,
        gate=policy_pb2.GATE_NONE if bundle is None else _GATES[bundle.gate],
        gate_reasons=() if bundle is None else bundle.gate_reasons,
        overrides=policy.overrides,
        trained_delay=config.trained_delay,
        action_names=robot.action_names,
        refuses_continuation=config.head != "flow",
    )


def _read_image(image: policy_pb2.Image) -> NDArray[np.uint8]:
    expected = image.height * image.width * 3
    where = f"images[{image.camera!r}]"
    if image.WhichOneof("pixels") == "jpeg":
        try:
            return decode_jpeg(image.jpeg, image.height, image.width)
        except ObservationError as error:
            raise ObservationError(f"{where} is {error}") from error
    if len(image.rgb) != expected or not expected:
        raise ObservationError(
            f"{where} holds {len(image.rgb)} bytes, but height {image.height} and width {image.width} "
            f"require {expected or 'at least 3'}: height * width * 3, row major, RGB"
        )
    return np.frombuffer(image.rgb, np.uint8).reshape(image.height, image.width, 3)
