"""The MCAP file while it is written: whole records only, brought to the disk each second, whatever happens after.

While it grows, it is called `NAME.mcap.partial`; closed, with its index, it is `NAME.mcap`. A `.partial` file that a
killed process left is read up to its last whole second by `RunRecording` and by `pi0-edge recording recover`.

Chunks are not compressed: PNG and JPEG do not shrink further, and so every record has its own bytes in the file, by
which a damaged one can be named.
"""

from __future__ import annotations

import os
from pathlib import Path

from pi0_edge.errors import MissingDependencyError, RecordingError
from pi0_edge.run.recording.description import METADATA, RunDescription
from pi0_edge.run.recording.messages import OutgoingMessage, message_type
from pi0_edge.synced_files import replace_synced

try:
    from mcap.writer import CompressionType, Writer
    from mcap_protobuf.schema import register_schema
except ImportError as error:
    raise MissingDependencyError(f"recordings need mcap ({error}): pip install 'pi0-edge[recording]'") from error

SUFFIX = ".mcap"
PARTIAL = ".mcap.partial"
CHUNK_BYTES = 1 << 18


class RecordingFile:
    """A recording that is being written. Only one thread may use it.

    Attributes:
        path: Its name when it is closed.
        partial: Its name until then.
    """

    def __init__(self, path: Path, description: RunDescription, partial: str = PARTIAL) -> None:
        """Begins the file; the description stands first and is on the disk when this returns.

        Args:
            path: Its name, NAME.mcap.
            description: Of the run.
            partial: What its name ends in until it is closed.

        Raises:
            RecordingError: If the name does not end in .mcap, or such a file exists.
            OSError: If it cannot be written.
        """
        if path.suffix != SUFFIX:
            raise RecordingError(f"{path}: expected a name that ends in {SUFFIX}")
        self.path, self.partial = path, path.with_name(path.stem + partial)
        for taken in (self.path, self.partial):
            if taken.exists():
                raise RecordingError(f"{taken} exists; a recording is never overwritten: give another name")
        self._offset_ns = description.wall_minus_monotonic_ns
        self._stream = _WholeWrites(self.partial)
        self._writer = Writer(
            self._stream,  # pyright: ignore[reportArgumentType]
            chunk_size=CHUNK_BYTES,
            compression=CompressionType.NONE,
            enable_data_crcs=True,
        )
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._sequences: dict[str, int] = {}
        self._writer.start(profile="", library="pi0-edge")
        self._writer.add_metadata(METADATA, description.metadata())
        for name, content in description.attachments().items():
            media_type = "application/json" if name.endswith(".json") else "text/plain"
            self._writer.add_attachment(0, 0, name, media_type, content)
        self.flush()

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._stream.whole

    def write(self, outgoing: OutgoingMessage) -> None:
        """Adds a message to the chunk in progress.

        Raises:
            OSError: If a chunk cannot be written.
        """
        topic = outgoing.topic
        if topic not in self._channels:
            self._register(topic)
        self._sequences[topic] += 1
        self._writer.add_message(
            self._channels[topic],
            log_time=outgoing.arrived_ns + self._offset_ns,
            publish_time=outgoing.captured_ns + self._offset_ns,
            data=outgoing.message.SerializeToString(),
            sequence=self._sequences[topic] & 0xFFFFFFFF,
        )

    def flush(self) -> None:
        """Brings all messages to the disk.

        Raises:
            OSError: If that fails.
        """
        self._writer.flush()
        self._stream.sync()

    def close(self) -> None:
        """Writes the index and gives the file its name.

        Raises:
            OSError: If that fails; the file keeps its partial name.
        """
        self._writer.finish()
        self._stream.sync()
        self._stream.close()
        replace_synced(self.partial, self.path)

    def abandon(self) -> None:
        """Ends the file after its last whole record, after an error of the disk; it keeps its partial name."""
        self._stream.cut()
        self._stream.close()

    def _register(self, topic: str) -> None:
        kind = message_type(topic)
        name = kind.DESCRIPTOR.full_name
        if name not in self._schemas:
            self._schemas[name] = register_schema(self._writer, kind)
        self._channels[topic] = self._writer.register_channel(topic, "protobuf", self._schemas[name])
        self._sequences[topic] = 0


class _WholeWrites:
    """A file without a buffer, which knows where the last whole record ends.

    Each call of the MCAP library to `write` brings one or several whole records.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self.whole = 0

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) or 0 :]
        self.whole += len(data)
        return len(data)

    def tell(self) -> int:
        return self.whole

    def flush(self) -> None:
        """Nothing waits."""

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def cut(self) -> None:
        os.ftruncate(self._file.fileno(), self.whole)

    def close(self) -> None:
        self._file.close()
