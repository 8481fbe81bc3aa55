"""The records of an MCAP file in their order, each with its bytes, also of a file that was cut off or changed.

The reader goes from record to record as the specification of MCAP has them (opcode, length, content), so that it needs
no index at the end of the file. What it cannot trust it leaves out and names: a chunk whose CRC-32 differs, a gap in
the numbers of a topic's messages, a record that ends after the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from pi0_edge.errors import MissingDependencyError, RecordingError

try:
    from mcap.data_stream import ReadDataStream
    from mcap.exceptions import McapError
    from mcap.opcode import Opcode
    from mcap.records import (
        Attachment,
        Channel,
        Chunk,
        DataEnd,
        Header,
        McapRecord,
        Message,
        MessageIndex,
        Metadata,
        Schema,
    )
    from mcap.stream_reader import get_chunk_data_stream
    from mcap.writer import MCAP0_MAGIC
except ImportError as error:
    raise MissingDependencyError(f"recordings need mcap ({error}): pip install 'pi0-edge[recording]'") from error

_HEAD = struct.Struct("<BQ")  # opcode, length of the content
_MALFORMED = (McapError, struct.error, ValueError, EOFError, OverflowError, RuntimeError, MemoryError)
_READERS: dict[int, Callable[[ReadDataStream], McapRecord]] = {
    Opcode.HEADER: Header.read,
    Opcode.SCHEMA: Schema.read,
    Opcode.CHANNEL: Channel.read,
    Opcode.CHUNK: Chunk.read,
    Opcode.MESSAGE_INDEX: MessageIndex.read,
    Opcode.ATTACHMENT: Attachment.read,
    Opcode.METADATA: Metadata.read,
}
"""The records of the data section, outside of chunks."""


@dataclass(frozen=True)
class Place:
    """Where a record is in the file.

    Attributes:
        offset: Of its first byte.
        size: Bytes, its head included.
        inside: Whether the bytes are those of the compressed chunk that it is in.
    """

    offset: int
    size: int
    inside: bool = False

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.size

    def __str__(self) -> str:
        return f"bytes {self.offset} to {self.end - 1}" + (", a compressed chunk" if self.inside else "")


@dataclass(frozen=True)
class Damage:
    """What was found to be wrong with a file.

    Attributes:
        place: The bytes that are not to be trusted.
        reason: What is wrong with them.
        cut: Whether the file simply ends there, as that of a killed process does.
    """

    place: Place
    reason: str
    cut: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class StoredMessage:
    """One message.

    Attributes:
        topic: Of its channel.
        schema: Name of its type.
        data: The encoded message.
        arrived_ns: log_time, nanoseconds since 1970.
        captured_ns: publish_time.
        sequence: Counts the messages of its topic.
        place: Of its record.
    """

    topic: str
    schema: str
    data: bytes
    arrived_ns: int
    captured_ns: int
    sequence: int
    place: Place


class McapFile:
    """One pass over a file.

    Attributes:
        path: The file.
        damage: What was found so far; complete when `messages` is exhausted.
        closed: Whether the file has its end: the data section is complete and the last magic bytes are there.
        metadata: Metadata records so far, by name.
        attachments: Attachments so far, by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: list[Damage] = []
        self.closed = False
        self.metadata: dict[str, dict[str, str]] = {}
        self.attachments: dict[str, bytes] = {}
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._sequences: dict[str, int] = {}

    def messages(self) -> Iterator[StoredMessage]:
        """All messages that can be trusted, in the order of the file.

        Raises:
            RecordingError: If the file cannot be read or is no MCAP file at all.
        """
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                if file.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
                    raise RecordingError(f"{self.path} is no MCAP file; expected a recording of `pi0-edge run`")
                yield from self._data_section(file, size)
        except OSError as error:
            raise RecordingError(f"{self.path} cannot be read ({error.strerror or error})") from error

    def _data_section(self, file: IO[bytes], size: int) -> Iterator[StoredMessage]:
        crc, offset = zlib.crc32(MCAP0_MAGIC), len(MCAP0_MAGIC)
        while True:
            head = file.read(_HEAD.size)
            opcode, length = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
            place = Place(offset, _HEAD.size + length)
            if len(head) < _HEAD.size or place.end > size:
                self._cut(offset, size)
                return
            content = file.read(length)
            if opcode == Opcode.DATA_END:
                self._finish(file, content, crc, place)
                return
            crc = zlib.crc32(content, zlib.crc32(head, crc))
            yield from self._record(opcode, content, place)
            offset = place.end

    def _cut(self, offset: int, size: int) -> None:
        if offset == size:
            reason = "the file ends here without its index: its recorder was killed, or the disk was full"
        else:
            reason = "the file ends within a record, or the record's length was changed"
        self.damage.append(Damage(Place(offset, size - offset), reason, cut=True))

    def _finish(self, file: IO[bytes], content: bytes, crc: int, place: Place) -> None:
        try:
            expected = DataEnd.read(ReadDataStream(BytesIO(content))).data_section_crc
        except _MALFORMED:
            expected = -1
        if expected not in (0, crc) and not self.damage:
            self.damage.append(Damage(Place(0, place.offset), "bytes outside of the chunks of messages were changed"))
        file.seek(-len(MCAP0_MAGIC), 2)
        self.closed = file.read() == MCAP0_MAGIC
        if not self.closed:
            end = file.tell()
            self.damage.append(Damage(Place(place.end, end - place.end), "the index is not complete", cut=True))

    def _record(self, opcode: int, content: bytes, place: Place) -> Iterator[StoredMessage]:
        if opcode not in _READERS:
            self.damage.append(Damage(place, f"a record of the unknown kind {opcode:#04x}"))
            return
        try:
            stream = ReadDataStream(BytesIO(content))
            record = _READERS[opcode](stream)
            if stream.count != len(content):
                raise ValueError(f"it takes {stream.count} bytes, but has a length of {len(content)}")
            match record:
                case Chunk():
                    yield from self._chunk(record, place)
                case Metadata():
                    self.metadata[record.name] = dict(record.metadata)
                case Attachment():
                    self._attachment(record, content, place)
                case Schema() | Channel():
                    self._describe_channel(opcode, content)
        except _MALFORMED as error:
            self.damage.append(Damage(place, f"a record that cannot be read ({error or type(error).__name__})"))

    def _attachment(self, found: Attachment, content: bytes, place: Place) -> None:
        (expected,) = struct.unpack("<I", content[-4:])
        if expected not in (0, zlib.crc32(content[:-4])):
            self.damage.append(Damage(place, f"the attachment {found.name} does not have its CRC-32"))
        self.attachments[found.name] = found.data

    def _chunk(self, chunk: Chunk, place: Place) -> Iterator[StoredMessage]:
        data = _uncompressed(chunk)
        if chunk.uncompressed_crc not in (0, zlib.crc32(data)):
            self._describe_channels(data)
            held = self._describe(data)
            self.damage.append(Damage(place, f"a chunk of messages does not have its CRC-32; it holds {held}"))
            return
        compressed = chunk.compression != ""
        first = place.end - len(data)  # the data are the last field of the record
        for opcode, content, offset in _inner_records(data):
            inner = place if compressed else Place(first + offset, _HEAD.size + len(content))
            self._describe_channel(opcode, content)
            if opcode == Opcode.MESSAGE:
                yield self._message(content, Place(inner.offset, inner.size, compressed))

    def _describe_channel(self, opcode: int, content: bytes) -> None:
        """Takes in a schema or a channel."""
        if opcode == Opcode.SCHEMA:
            schema = Schema.read(ReadDataStream(BytesIO(content)))
            self._schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = Channel.read(ReadDataStream(BytesIO(content)))
            self._channels[channel.id] = channel

    def _describe_channels(self, data: bytes) -> None:
        """Takes in what a damaged chunk says of channels: the chunks after it do not say it again."""
        try:
            for opcode, content, _ in _inner_records(data):
                self._describe_channel(opcode, content)
        except _MALFORMED:
            return

    def _message(self, content: bytes, place: Place) -> StoredMessage:
        message = Message.read(ReadDataStream(BytesIO(content)), len(content))
        channel = self._channels.get(message.channel_id)
        schema = None if channel is None else self._schemas.get(channel.schema_id)
        if channel is None or schema is None:
            raise ValueError(f"channel {message.channel_id} is not described before")
        missing = message.sequence - self._sequences.get(channel.topic, 0) - 1
        if missing > 0 and not self.damage:
            reason = f"{missing} messages of {channel.topic} before it are gone"
            self.damage.append(Damage(Place(place.offset, place.size), reason))
        self._sequences[channel.topic] = message.sequence
        return StoredMessage(
            channel.topic,
            schema.name,
            message.data,
            message.log_time,
            message.publish_time,
            message.sequence,
            place,
        )

    def _describe(self, data: bytes) -> str:
        """What a damaged chunk seems to hold, for people."""
        counts: dict[str, int] = {}
        try:
            for opcode, content, _ in _inner_records(data):
                if opcode == Opcode.MESSAGE:
                    channel = self._channels.get(int.from_bytes(content[:2], "little"))
                    topic = "an unknown topic" if channel is None else channel.topic
                    counts[topic] = counts.get(topic, 0) + 1
        except _MALFORMED:
            pass
        return ", ".join(f"{count} of {topic}" for topic, count in sorted(counts.items())) or "nothing that can be read"


def _uncompressed(chunk: Chunk) -> bytes:
    try:
        stream, size = get_chunk_data_stream(chunk)
        return stream.read(size)
    except Exception as error:  # of zstandard or lz4, which have no common base
        raise ValueError(f"its compression cannot be undone: {error}") from error


def _inner_records(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Opcode, content and offset of each record in the data of a chunk."""
    offset = 0
    while offset < len(data):
        opcode, length = _HEAD.unpack_from(data, offset)
        end = offset + _HEAD.size + length
        if end > len(data):
            raise ValueError("a message ends after its chunk")
        yield opcode, data[offset + _HEAD.size : end], offset
        offset = end
