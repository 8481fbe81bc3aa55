"""Writes a recording that was cut off anew, as a closed file that every tool reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from pi0_edge.errors import RecordingError
from pi0_edge.run.recording.description import METADATA, RunDescription
from pi0_edge.run.recording.file_reader import Damage, McapFile
from pi0_edge.run.recording.file_writer import RecordingFile
from pi0_edge.run.recording.messages import OutgoingMessage, message_type

RECOVERING = ".mcap.recovering"
"""What the new file ends in until it is complete: the old one is often the `.partial` file beside it."""


@dataclass(frozen=True)
class RecoveryReport:
    """What was saved.

    Attributes:
        messages: By topic.
        damage: What was left out, and where it was in the old file.
    """

    messages: dict[str, int]
    damage: tuple[Damage, ...]


def recover(source: Path, target: Path) -> RecoveryReport:
    """Writes all messages of `source` that can be trusted to the new file `target`.

    Raises:
        RecordingError: If `source` cannot be read or is no recording of a run, or `target` cannot be written.
    """
    file = McapFile(source)
    messages = file.messages()
    first = next(messages, None)
    description = RunDescription.read(file.metadata.get(METADATA, {}), file.attachments, str(source))
    offset_ns = description.wall_minus_monotonic_ns
    counts: dict[str, int] = {}
    try:
        written = RecordingFile(target, description, RECOVERING)
        while first is not None:
            kind = message_type(first.topic)
            if kind is not None:
                captured, arrived = first.captured_ns - offset_ns, first.arrived_ns - offset_ns
                written.write(OutgoingMessage(first.topic, kind.FromString(first.data), captured, arrived))
                counts[first.topic] = counts.get(first.topic, 0) + 1
            first = next(messages, None)
        written.close()
    except OSError as error:
        raise RecordingError(f"{target} cannot be written ({error.strerror or error})") from error
    except DecodeError as error:
        raise RecordingError(f"{source} has a message that cannot be read ({error})") from error
    return RecoveryReport(counts, tuple(file.damage))
