"""The file itself: read by others, cut anywhere, changed anywhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer
from mcap_protobuf.decoder import DecoderFactory

from pi0_edge.errors import RecordingError
from pi0_edge.protos.policy_pb2 import PolicyMetadata
from pi0_edge.robots import load_robot
from pi0_edge.run.recording import RunDescription, RunRecorder, RunRecording
from pi0_edge.run.recording.file_reader import McapFile
from pi0_edge.run.recording.recovery import recover


def test_the_plain_reader_decodes_every_message_by_the_schemas_in_the_file(run_file: Path) -> None:
    recording = RunRecording(run_file)
    counts: dict[str, int] = {}
    with run_file.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        assert [record.name for record in reader.iter_metadata()] == ["pi0_edge.run"]
        for schema, channel, message, decoded in reader.iter_decoded_messages():
            assert schema is not None
            counts[channel.topic] = counts.get(channel.topic, 0) + 1
            assert type(decoded).__name__ == schema.name.split(".")[-1]
            assert abs(message.log_time - message.publish_time) < 1 << 62
            if channel.topic == "/cameras/top":
                assert schema.name == "foxglove.CompressedImage"
                assert decoded.format in ("png", "jpeg") and decoded.frame_id == "top"
                assert decoded.timestamp.ToNanoseconds() == message.publish_time
            elif channel.topic == "/ticks":
                assert len(decoded.executed) == 14
    assert counts["/ticks"] == len(recording.ticks) and counts["/chunks"] == len(recording.answers)
    assert counts["/observations"] == len(recording.observations) and counts["/events"] == len(recording.events)
    assert counts["/cameras/top"] == len(recording.images("top"))


def test_the_description_stands_first(run_file: Path) -> None:
    with run_file.open("rb") as file:
        kinds = [type(record).__name__ for record in StreamReader(file).records]
    assert kinds[:6] == ["Header", "Metadata", *["Attachment"] * 4]


def test_the_description_is_read_as_it_was(run_file: Path) -> None:
    description = RunRecording(run_file).description
    assert description.robot == load_robot("aloha_sim")
    assert description.policy.engine == "reference" and len(description.policy.checkpoint_sha256) == 64
    assert description.calibration == "zero: 0\n" and description.cameras == {"top": {"fps": 25}}
    assert description.splice == "rtc" and description.host["python"]
    assert int(description.metadata()["limits_hash"], 16) > 0


def test_a_file_is_never_overwritten(run_file: Path) -> None:
    with pytest.raises(RecordingError, match="exists"):
        RunRecorder(run_file, RunDescription(load_robot("aloha_sim"), PolicyMetadata()))


@pytest.mark.parametrize(("name", "message"), [("run.txt", "ends in .mcap"), ("missing/run.mcap", "cannot record")])
def test_a_place_that_cannot_be_is_refused_at_once(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        RunRecorder(tmp_path / name, RunDescription(load_robot("aloha_sim"), PolicyMetadata()))


@pytest.mark.parametrize(
    "content", [b"", b"\x89MCAP0\r\n", b"PK\x03\x04 something else", b"\x89MCAP0\r\n" + b"\x00" * 40]
)
def test_what_is_no_recording_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.mcap").write_bytes(content)
    with pytest.raises(RecordingError, match="recording of `pi0-edge run`"):
        RunRecording(tmp_path / "run.mcap")


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.mcap"
    with path.open("wb") as file:
        writer = Writer(file, compression=CompressionType.NONE)
        writer.start()
        writer.add_metadata("pi0_edge.run", {"format": "2"})
        writer.finish()
    with pytest.raises(RecordingError, match="format 2; this version reads up to 1"):
        RunRecording(path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cut") / "run.mcap.partial"


@settings(max_examples=60)
@given(share=st.floats(0.0, 1.0))
def test_a_file_that_is_cut_anywhere_is_read_up_to_there(run_file: Path, scratch: Path, share: float) -> None:
    content = run_file.read_bytes()
    size = int(share * (len(content) - 1))
    scratch.write_bytes(content[:size])
    whole = RunRecording(run_file)
    first_message = min(tick.place.offset for tick in whole.ticks)
    try:
        cut = RunRecording(scratch)
    except RecordingError:
        assert size < first_message  # not even the description is there
        return
    assert not cut.closed and len(cut.damage) == 1 and cut.damage[0].cut
    assert cut.damage[0].place.offset <= size == cut.damage[0].place.end
    kept = len(cut.ticks)
    assert [tick.message for tick in cut.ticks] == [tick.message for tick in whole.ticks[:kept]]
    assert all(tick.place.end <= cut.damage[0].place.offset for tick in cut.ticks)


@settings(max_examples=80)
@given(share=st.floats(0.0, 1.0), bit=st.integers(0, 7))
def test_a_changed_bit_anywhere_before_the_index_is_noticed(
    run_file: Path, scratch: Path, share: float, bit: int
) -> None:
    content = bytearray(run_file.read_bytes())
    with run_file.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    end = max(index.chunk_start_offset + index.chunk_length for index in summary.chunk_indexes)
    offset = int(share * (end - 1))
    content[offset] ^= 1 << bit
    scratch.write_bytes(content)
    try:
        damage = RunRecording(scratch).damage
    except RecordingError:
        return  # the description itself, in words
    assert damage, offset
    assert any(found.place.offset <= offset < max(found.place.end, offset + 1) for found in damage)


def test_a_cut_file_is_recovered_whole(run_file: Path, tmp_path: Path) -> None:
    content = run_file.read_bytes()
    cut = tmp_path / "cut.mcap.partial"
    cut.write_bytes(content[: len(content) * 19 // 20])
    report = recover(cut, tmp_path / "whole.mcap")
    assert len(report.damage) == 1 and report.damage[0].cut
    old, new = RunRecording(cut), RunRecording(tmp_path / "whole.mcap")
    assert new.closed and not new.damage and new.description == old.description
    assert [tick.message for tick in new.ticks] == [tick.message for tick in old.ticks]
    assert report.messages["/ticks"] == len(old.ticks) > 80
    assert [(image.taken_ns) for image in new.images("top")] == [image.taken_ns for image in old.images("top")]


def test_a_file_that_another_tool_compressed_is_read_and_recovered(run_file: Path, tmp_path: Path) -> None:
    compressed = tmp_path / "compressed.mcap"
    source = McapFile(run_file)
    with compressed.open("wb") as file, run_file.open("rb") as original:
        writer = Writer(file, compression=CompressionType.ZSTD)
        writer.start()
        channels: dict[str, int] = {}
        for record in StreamReader(original).records:
            match type(record).__name__:
                case "Metadata":
                    writer.add_metadata(record.name, record.metadata)  # type: ignore[attr-defined]
                case "Attachment":
                    writer.add_attachment(0, 0, record.name, record.media_type, record.data)  # type: ignore[attr-defined]
        for message in source.messages():
            if message.topic not in channels:
                schema = writer.register_schema(message.schema, "protobuf", b"")
                channels[message.topic] = writer.register_channel(message.topic, "protobuf", schema)
            writer.add_message(channels[message.topic], message.arrived_ns, message.data, message.captured_ns)
        writer.finish()
    read = RunRecording(compressed)
    assert [tick.message for tick in read.ticks] == [tick.message for tick in RunRecording(run_file).ticks]
    with pytest.raises(RecordingError, match="recover"):
        read.pixels(read.images("top")[0], "an image")
    recover(compressed, tmp_path / "whole.mcap")
    whole = RunRecording(tmp_path / "whole.mcap")
    assert whole.pixels(whole.images("top")[0], "an image").shape == (112, 112, 3)


def test_a_damaged_chunk_is_left_out_and_the_rest_is_read(run_file: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(run_file, tmp_path / "run.mcap"))
    content = bytearray(path.read_bytes())
    whole = RunRecording(path)
    content[whole.ticks[3].place.offset + 20] ^= 4
    path.write_bytes(content)
    damaged = RunRecording(path)
    assert 0 < len(damaged.ticks) < len(whole.ticks)
    assert "of /ticks" in damaged.damage[0].reason
