"""Frames are decoded from a stream in any portions, and no damaged frame is accepted."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.link.framing import (
    FrameDecoder,
    LineCounters,
    SequenceTracker,
    cobs_decode,
    cobs_encode,
    encode_frame,
)
from pi0_edge.protos.serial_link import MAX_FRAME, MAX_PAYLOAD

payloads = st.binary(max_size=MAX_PAYLOAD)
frames = st.tuples(st.integers(0, 255), st.integers(0, 0xFFFF), payloads)


def portions(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.binary(max_size=253))
def test_cobs_removes_every_zero_and_adds_one_byte(data: bytes):
    encoded = cobs_encode(data)
    assert 0 not in encoded
    assert len(encoded) == len(data) + 1
    assert cobs_decode(encoded) == data


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_frames_are_decoded_from_a_stream_in_any_portions(sent: list[tuple[int, int, bytes]], cuts: list[int]):
    stream = b"".join(encode_frame(*frame) for frame in sent)
    decoder = FrameDecoder()
    received = [frame for portion in portions(stream, cuts) for frame in decoder.feed(portion)]
    assert [tuple(frame) for frame in received] == sent
    assert decoder.counters == LineCounters(frames=len(sent))


@given(frames, st.data())
def test_a_frame_with_one_flipped_bit_is_never_accepted(frame: tuple[int, int, bytes], data: st.DataObject):
    stream = bytearray(encode_frame(*frame))
    bit = data.draw(st.integers(0, 8 * len(stream) - 1))
    stream[bit // 8] ^= 1 << bit % 8
    decoder = FrameDecoder()
    assert decoder.feed(bytes(stream) + b"\0") == []
    assert decoder.counters.crc_errors + decoder.counters.framing_errors > 0


@given(frames, st.data())
def test_truncated_frame_is_counted_and_the_next_one_arrives(frame: tuple[int, int, bytes], data: st.DataObject):
    stream = encode_frame(*frame)
    kept = data.draw(st.integers(1, len(stream) - 2))
    decoder = FrameDecoder()
    received = decoder.feed(stream[:kept] + b"\0" + stream)
    assert [tuple(found) for found in received] == [frame]
    assert decoder.counters.crc_errors + decoder.counters.framing_errors == 1


@given(st.lists(st.binary(max_size=2 * MAX_FRAME), max_size=8))
@settings(max_examples=200)
def test_random_bytes_raise_no_error_and_the_next_frame_is_decoded(garbage: list[bytes]):
    decoder = FrameDecoder()
    for portion in garbage:
        assert decoder.feed(portion) == []
    decoder.feed(b"\0")
    assert [tuple(frame) for frame in decoder.feed(encode_frame(7, 8, b"after"))] == [(7, 8, b"after")]


def test_endless_frame_is_one_error_and_needs_no_memory():
    decoder = FrameDecoder()
    for _ in range(1000):
        assert decoder.feed(b"\x05" * 300) == []
        assert len(decoder._partial) <= MAX_FRAME + 1
    decoder.feed(b"\0")
    assert decoder.counters.framing_errors == 1


@given(st.integers(0, 0xFFFF), st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_losses_are_counted_across_the_wrap(start: int, gaps: list[int]):
    counters = LineCounters()
    tracker = SequenceTracker(counters)
    seq = start
    assert tracker.accepts(seq)
    for gap in gaps:
        seq = (seq + 1 + gap) & 0xFFFF
        assert tracker.accepts(seq)
    assert counters.lost_frames == sum(gaps)


@given(st.integers(0, 0xFFFF), st.integers(0, 31))
def test_repeated_and_overtaken_frames_are_dropped(newest: int, behind: int):
    counters = LineCounters()
    tracker = SequenceTracker(counters)
    tracker.accepts(newest)
    assert not tracker.accepts((newest - behind) & 0xFFFF)
    assert counters.duplicate_frames == 1


def test_decoder_follows_a_sender_that_restarts():
    tracker = SequenceTracker(LineCounters())
    tracker.accepts(5000)
    assert tracker.accepts(3)
    assert not tracker.accepts(3)
