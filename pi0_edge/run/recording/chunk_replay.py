"""Computes the chunks of a recorded run again from what the policy was asked, and compares every bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import Pi0EdgeError, RecordingError
from pi0_edge.policy import Policy, PolicyChunk
from pi0_edge.processing import Observation
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.protos import recording_pb2
from pi0_edge.run.recording.comparison import Difference, first_other_bits
from pi0_edge.run.recording.description import RunDescription, this_host
from pi0_edge.run.recording.run_recording import Recorded, RunRecording, UnreadableError
from pi0_edge.serving.messages import describe_policy, read_plan

STALE_PREFIX = "stale-prefix"
_SAME = ("model", "engine", "scheme", "checkpoint_sha256", "bundle_sha256")


@dataclass(frozen=True)
class AskedChunk:
    """A recorded chunk and what the policy was asked for it.

    Attributes:
        number: In the order of the file, from 1.
        asked: The observation.
        answer: The chunk and what became of it.
        observation: What the policy was given.
        changed_images: Cameras whose pixels in the file are not those that the policy was given.
    """

    number: int
    asked: Recorded[recording_pb2.RecordedObservation]
    answer: Recorded[recording_pb2.RecordedAnswer]
    observation: Observation
    changed_images: tuple[str, ...]

    @property
    def actions(self) -> NDArray[np.float32]:
        """float32 [horizon, joints], as recorded."""
        chunk = self.answer.message.chunk
        return np.array(chunk.actions, np.float32).reshape(chunk.horizon, chunk.action_dim)

    def infer(self, policy: Policy) -> PolicyChunk:
        """What a policy answers to it, with the same noise and the same continuation."""
        message = self.asked.message
        action_dim = policy.processor.robot.action_dim
        plan = read_plan(message.continuation, action_dim) if message.HasField("continuation") else None
        return policy.infer(self.observation, message.noise_seed, plan)


@dataclass(frozen=True)
class ChunkReport:
    """What came of computing chunks again.

    Attributes:
        chunks: Recorded chunks.
        computed: Those that were computed and are the same bit for bit.
        why_not: Why none can be compared bit for bit, in words; empty where they can.
        difference: The first that is not the same; no chunk after it was computed.
    """

    chunks: int
    computed: int
    why_not: str
    difference: Difference | None

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        return {**vars(self), "difference": None if self.difference is None else self.difference.to_dict()}


def asked_chunks(recording: RunRecording) -> Iterator[AskedChunk]:
    """The recorded chunks in their order, each with its observation.

    Raises:
        UnreadableError: If an observation or one of its images is not in the file or cannot be read.
    """
    by_time = {one.message.time_ns: one for one in recording.observations}
    for number, answer in enumerate(recording.answers, start=1):
        asked = by_time.get(answer.message.observation_ns)
        if asked is None:
            raise UnreadableError(
                f"the observation of chunk {number}, taken at {answer.message.observation_ns} ns, is not in "
                f"{recording.path}",
                answer.place,
            )
        images = recording.observed_pixels(asked)
        state = np.array(asked.message.state, np.float32)
        pixels = {camera: image for camera, (image, _) in images.items()}
        observation = Observation(pixels, state, asked.message.prompt or None)
        yield AskedChunk(
            number, asked, answer, observation, tuple(camera for camera, (_, same) in images.items() if not same)
        )


def check_same_policy(policy: Policy, description: RunDescription) -> None:
    """Passes where a policy is the one of the recording, on the same engine.

    Raises:
        RecordingError: If it is another; the message names what is different.
    """
    found = describe_policy(policy)
    for name in _SAME:
        recorded, given = getattr(description.policy, name), getattr(found, name)
        if recorded != given:
            raise RecordingError(
                f"the policy has the {name.replace('_', ' ')} {given or 'of none'!r}, but the run was played with "
                f"{recorded or 'none'!r}; give that policy, or --policy to see what another would have done"
            )


def why_not_exact(recording: RunRecording) -> str:
    """Why the chunks of a recording cannot be computed again bit for bit, in words; empty where they can."""
    if STALE_PREFIX in recording.description.policy.overrides:
        return "the policy planned from images older than its observations (stale-prefix), which depends on the time"
    if recording.description.image_encoding != "raw":
        encoding = recording.description.image_encoding
        return f"its images reached the policy as {encoding}, and not as they were recorded"
    if not recording.lossless:
        return "its images were recorded as JPEG (lossless=False), which loses what the policy saw"
    return ""


def replay_chunks(recording: RunRecording, policy: Policy, on_progress: ProgressCallback | None = None) -> ChunkReport:
    """Computes every chunk again, until one is not as recorded.

    Args:
        recording: Of a run that this policy played.
        policy: As `check_same_policy` demands.
        on_progress: Is called after every chunk.

    Raises:
        RecordingError: If the policy is another one.
    """
    check_same_policy(policy, recording.description)
    total = len(recording.answers)
    if reason := why_not_exact(recording):
        return ChunkReport(total, 0, reason, None)
    stage = Stage("chunks", total, on_progress)
    computed = 0
    try:
        for asked in asked_chunks(recording):
            if difference := _difference(asked, policy, recording):
                return ChunkReport(total, computed, "", difference)
            computed += 1
            stage.advance()
    except UnreadableError as error:
        where = f"what chunk {computed + 1} answers"
        return ChunkReport(total, computed, "", Difference(where, "complete", "not readable", error.place, str(error)))
    return ChunkReport(total, computed, "", None)


def _difference(asked: AskedChunk, policy: Policy, recording: RunRecording) -> Difference | None:
    where = f"chunk {asked.number} (observation of tick {asked.asked.message.tick})"
    place = asked.answer.place
    if asked.changed_images:
        camera = asked.changed_images[0]
        wanted = next(image for image in asked.asked.message.images if image.camera == camera)
        found = recording.image_place(camera, wanted.taken_ns) or asked.asked.place
        return Difference(f"{where}, image of camera {camera}", f"CRC-32 {wanted.crc:#010x}", "another", found)
    try:
        computed = asked.infer(policy).actions.astype(np.float32)
    except Pi0EdgeError as error:
        return Difference(where, "a chunk", "a refusal", asked.asked.place, str(error))
    recorded = asked.actions
    if recorded.shape != computed.shape:
        return Difference(f"{where}, shape", str(list(recorded.shape)), str(list(computed.shape)), place)
    index = first_other_bits(recorded, computed)
    if index is None:
        return None
    row, joint = index
    names = recording.description.joint_names
    others = int((recorded.view(np.uint32) != computed.view(np.uint32)).sum())
    return Difference(
        f"{where}, row {row}, joint {names[joint]}",
        float(recorded[index]),
        float(computed[index]),
        place,
        _hint(others, recorded.size, asked, recording.description),
    )


def _hint(others: int, size: int, asked: AskedChunk, description: RunDescription) -> str:
    said = f"{others} of its {size} values differ"
    if others > size // 2:
        said += f", so more likely its observation was changed ({asked.asked.place})"
    here = this_host()
    changed = [f"{name} {text} then, {here.get(name, 'none')} now" for name, text in description.host.items()
               if name not in ("name", "mcap", "pi0-edge") and here.get(name) != text]  # fmt: skip
    return said + (f"; other than then: {'; '.join(changed)}" if changed else "")
