"""What happens in a run, as messages of `protos/recording.proto`, and their topics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from firmware_bridge.client import Tick
from pi0_edge.protos import policy_pb2, recording_pb2
from pi0_edge.run.events import Answered, Event, Observed
from pi0_edge.run.recording.images import CompressedImage, encode_image, pixel_crc

OBSERVATIONS, ANSWERS, TICKS, EVENTS = "/observations", "/chunks", "/ticks", "/events"
TYPES: dict[str, Any] = {
    OBSERVATIONS: recording_pb2.RecordedObservation,
    ANSWERS: recording_pb2.RecordedAnswer,
    TICKS: recording_pb2.RecordedTick,
    EVENTS: recording_pb2.RecordedEvent,
}
"""Message type of each topic; the other topics are those of cameras."""

CAMERAS = "/cameras/"


@dataclass(frozen=True)
class OutgoingMessage:
    """A message on its way into the file.

    Attributes:
        topic: See `TYPES` and `CAMERAS`.
        message: Of protobuf.
        captured_ns: When what it says was the case, on the host's monotonic clock.
        arrived_ns: When the recorder was told.
    """

    topic: str
    message: Any
    captured_ns: int
    arrived_ns: int


def camera_topic(camera: str) -> str:
    """The topic of a camera's images."""
    return f"{CAMERAS}{camera}"


def message_type(topic: str) -> Any:
    """The message type of a topic; None for a topic that recordings do not have."""
    return CompressedImage if topic.startswith(CAMERAS) else TYPES.get(topic)


def observation_message(observed: Observed) -> recording_pb2.RecordedObservation:
    """What the policy is asked, without the pixels."""
    return recording_pb2.RecordedObservation(
        time_ns=observed.time_ns,
        tick=observed.tick,
        images=[
            recording_pb2.RecordedImage(
                camera=camera,
                sequence=image.sequence,
                taken_ns=image.taken_ns,
                height=image.pixels.shape[0],
                width=image.pixels.shape[1],
                crc=pixel_crc(image.pixels),
            )
            for camera, image in observed.images.items()
        ],
        state=np.asarray(observed.state, np.float32).tolist(),
        prompt=observed.prompt,
        noise_seed=observed.noise_seed,
        continuation=observed.continuation,
    )


def image_message(
    camera: str, pixels: Any, taken_ns: int, arrived_ns: int, wall_minus_monotonic_ns: int, lossless: bool
) -> OutgoingMessage:
    """An image of a camera, uint8 [height, width, 3]."""
    message = encode_image(pixels, camera, taken_ns + wall_minus_monotonic_ns, lossless)
    return OutgoingMessage(camera_topic(camera), message, taken_ns, arrived_ns)


def answer_message(answered: Answered) -> recording_pb2.RecordedAnswer:
    """The chunk and the report of the bridge."""
    horizon, action_dim = answered.chunk.shape
    chunk = policy_pb2.Chunk(
        horizon=horizon,
        action_dim=action_dim,
        actions=answered.chunk.astype(np.float32).ravel().tolist(),
        clock=policy_pb2.ObservationClock(tick=answered.observed.tick, capture_time_ns=answered.observed.time_ns),
        timing=policy_pb2.Timing(infer_ms=answered.infer_ms),
        overrides=answered.overrides,
    )
    return recording_pb2.RecordedAnswer(
        observation_ns=answered.observed.time_ns,
        time_ns=answered.time_ns,
        chunk=chunk,
        to_chunk_ms=answered.to_chunk_ms,
        report=answered.report,
    )


def tick_message(tick: Tick, arrived_ns: int) -> recording_pb2.RecordedTick:
    """The telemetry of one tick."""
    return recording_pb2.RecordedTick(
        tick=tick.tick,
        time_ns=arrived_ns,
        counter=tick.counter,
        counter_hz=tick.counter_hz,
        state=int(tick.state),  # pyright: ignore[reportArgumentType]
        faults=tick.faults,
        ring_level=tick.ring_level,
        chunk_id=tick.chunk_id,
        observed_tick=tick.observed_tick,
        flags=tick.flags,
        host_time_s=tick.host_time_s,
        executed=tick.executed.tolist(),
        measured=tick.measured.tolist(),
        measurement_age_s=tick.measurement_age_s.tolist(),
        current=tick.current.tolist(),
        joint_flags=tick.joint_flags.tolist(),
        fault_joint=tick.fault_joint,
    )


def event_message(event: Event) -> recording_pb2.RecordedEvent:
    """Anything else."""
    return recording_pb2.RecordedEvent(tick=event.tick, time_ns=event.time_ns, name=event.name, text=event.text)
