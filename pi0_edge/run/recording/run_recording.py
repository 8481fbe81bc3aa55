"""A recording as it is read: what the policy was asked and answered, what the firmware did, with the bytes of each.

A file that was cut off, or of which some bytes were changed, is read as far as it can be trusted; `damage` says what is
missing and where. Images stay in the file until they are asked for.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from pi0_edge.errors import RecordingError
from pi0_edge.protos import recording_pb2
from pi0_edge.run.recording.description import METADATA, RunDescription
from pi0_edge.run.recording.file_reader import Damage, McapFile, Place, StoredMessage
from pi0_edge.run.recording.images import LOSSLESS, CompressedImage, decode_image, pixel_crc
from pi0_edge.run.recording.messages import ANSWERS, CAMERAS, EVENTS, OBSERVATIONS, TICKS, TYPES

Kind = TypeVar("Kind")
_HEAD_BYTES = 9 + 22  # of a message: opcode, length; channel, sequence and two times


class UnreadableError(RecordingError):
    """A record is missing or cannot be read.

    Attributes:
        place: Its bytes, or those of the record that refers to it.
    """

    def __init__(self, message: str, place: Place) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True)
class Recorded(Generic[Kind]):
    """One message and where it is.

    Attributes:
        message: The message.
        place: Its bytes in the file.
    """

    message: Kind
    place: Place


@dataclass(frozen=True)
class StoredImage:
    """An image in the file.

    Attributes:
        taken_ns: When it was taken, on the host's monotonic clock.
        place: Its bytes in the file.
    """

    taken_ns: int
    place: Place


class RunRecording:
    """One recording.

    Attributes:
        path: The file.
        description: What the run was made of.
        observations: In the order in which they were put together.
        answers: In the order in which the bridge reported.
        ticks: As they arrived.
        events: As they arrived.
        damage: What of the file cannot be trusted; empty where all of it can.
        closed: Whether the recorder closed it.
    """

    def __init__(self, path: str | Path) -> None:
        """Reads a recording, but its images.

        Raises:
            RecordingError: If it cannot be read, or is no recording of a run.
        """
        self.path = Path(path)
        self.observations: list[Recorded[recording_pb2.RecordedObservation]] = []
        self.answers: list[Recorded[recording_pb2.RecordedAnswer]] = []
        self.ticks: list[Recorded[recording_pb2.RecordedTick]] = []
        self.events: list[Recorded[recording_pb2.RecordedEvent]] = []
        self._images: dict[str, list[StoredImage]] = {}
        self._lists: dict[str, list[Any]] = {
            OBSERVATIONS: self.observations,
            ANSWERS: self.answers,
            TICKS: self.ticks,
            EVENTS: self.events,
        }
        file = McapFile(self.path)
        self.damage: list[Damage] = file.damage
        for message in file.messages():
            self._add(message, file)
        self.closed = file.closed
        self.description = _description(file)
        for images in self._images.values():
            images.sort(key=lambda image: image.taken_ns)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Those of which there are images, sorted."""
        return tuple(sorted(self._images))

    def images(self, camera: str) -> list[StoredImage]:
        """The images of a camera in the order in which they were taken."""
        return self._images.get(camera, [])

    def image_at(self, camera: str, time_ns: int) -> StoredImage | None:
        """The newest image of a camera that was taken at `time_ns` or before, None where there is none."""
        found = self.images(camera)
        place = bisect.bisect_right(found, time_ns, key=lambda image: image.taken_ns)
        return found[place - 1] if place else None

    def pixels(self, image: StoredImage, name: str) -> NDArray[np.uint8]:
        """The pixels of an image, uint8 [height, width, 3]; messages begin with `name`.

        Raises:
            UnreadableError: If it cannot be read.
        """
        return self._decoded(self._image_message(image, name), image, name)

    def observed_pixels(
        self, observation: Recorded[recording_pb2.RecordedObservation]
    ) -> dict[str, tuple[NDArray[np.uint8], bool]]:
        """The images that an observation shows, and of each whether its pixels are those that the policy was given.

        Raises:
            UnreadableError: If one is missing, cannot be read, or has another size.
        """
        found = {}
        for wanted in observation.message.images:
            name = f"the image of camera {wanted.camera} taken at {wanted.taken_ns} ns"
            candidates = [image for image in self.images(wanted.camera) if image.taken_ns == wanted.taken_ns]
            if not candidates:
                raise UnreadableError(f"{name} is not in {self.path}; an observation shows it", observation.place)
            messages = [(self._image_message(image, name), image) for image in candidates]
            message, image = min(messages, key=lambda pair: pair[0].format != LOSSLESS)
            pixels = self._decoded(message, image, name)
            if pixels.shape[:2] != (wanted.height, wanted.width):
                raise UnreadableError(
                    f"{name} in {self.path} has {pixels.shape[0]}x{pixels.shape[1]} pixels, expected "
                    f"{wanted.height}x{wanted.width}",
                    image.place,
                )
            found[wanted.camera] = pixels, pixel_crc(pixels) == wanted.crc
        return found

    def image_place(self, camera: str, taken_ns: int) -> Place | None:
        """Where the image of a camera that was taken at `taken_ns` is."""
        return next((image.place for image in self.images(camera) if image.taken_ns == taken_ns), None)

    @cached_property
    def lossless(self) -> bool:
        """Whether the images that the policy was asked about are stored as they were."""
        for observation in self.observations:
            for wanted in observation.message.images:
                stored = [image for image in self.images(wanted.camera) if image.taken_ns == wanted.taken_ns]
                if not any(self._image_message(image, wanted.camera).format == LOSSLESS for image in stored):
                    return False
        return True

    def _image_message(self, image: StoredImage, name: str) -> Any:
        if image.place.inside:
            raise UnreadableError(
                f"{self.path} was compressed by another tool; `pi0-edge recording recover` writes it as it was",
                image.place,
            )
        with self.path.open("rb") as file:
            file.seek(image.place.offset + _HEAD_BYTES)
            content = file.read(image.place.size - _HEAD_BYTES)
        try:
            return CompressedImage.FromString(content)
        except DecodeError as error:
            raise UnreadableError(f"{name} in {self.path} is no image message ({error})", image.place) from error

    def _decoded(self, message: Any, image: StoredImage, name: str) -> NDArray[np.uint8]:
        try:
            return decode_image(message, f"{name} in {self.path}")
        except RecordingError as error:
            raise UnreadableError(str(error), image.place) from error

    def _add(self, message: StoredMessage, file: McapFile) -> None:
        if message.topic.startswith(CAMERAS):
            images = self._images.setdefault(message.topic.removeprefix(CAMERAS), [])
            images.append(StoredImage(message.captured_ns - _wall_offset_ns(file), message.place))
        elif message.topic in self._lists:
            try:
                decoded = TYPES[message.topic].FromString(message.data)
            except DecodeError as error:
                self.damage.append(Damage(message.place, f"a message of {message.topic} that cannot be read ({error})"))
                return
            self._lists[message.topic].append(Recorded(decoded, message.place))


def _wall_offset_ns(file: McapFile) -> int:
    text = file.metadata.get(METADATA, {}).get("wall_minus_monotonic_ns", "")
    return int(text) if text.lstrip("-").isdigit() else 0


def _description(file: McapFile) -> RunDescription:
    return RunDescription.read(file.metadata.get(METADATA, {}), file.attachments, str(file.path))
