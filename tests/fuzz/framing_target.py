"""The Python decoder and the messages against any bytes, in portions of any size."""

from __future__ import annotations

import itertools
import math

from firmware_bridge.link.framing import FrameDecoder, SequenceTracker, encode_frame
from pi0_edge.protos.serial_link import MAX_FRAME, MAX_PAYLOAD, MESSAGES


def check(data: bytes) -> None:
    """Raises where the decoder does: the first byte says how the others are cut into portions.

    What the decoder takes is, byte for byte, what the encoder makes of it. Because no fuzzer guesses a CRC, the input
    is also sent as the body of a frame whose CRC is right, which has to arrive.
    """
    size, stream = data[0] + 1 if data else 1, data[1:]
    body = stream[:MAX_PAYLOAD]
    decoder = FrameDecoder()
    tracker = SequenceTracker(decoder.counters)
    taken = []
    for start in range(0, len(stream), size):
        taken += decoder.feed(stream[start : start + size])
        assert len(decoder._partial) <= MAX_FRAME + 1
    taken += decoder.feed(b"\0" + encode_frame(data[0] if data else 0, len(stream), body))
    assert taken[-1].payload == body
    delimited = [part + b"\0" for part in stream.split(b"\0")]
    sent = itertools.chain(delimited, [encode_frame(taken[-1].type, taken[-1].seq, body)])
    for frame in taken:
        encoded = encode_frame(*frame)
        assert any(part == encoded for part in sent), frame
        tracker.accepts(frame.seq)
        unpack(frame.type, frame.payload)
    counters = decoder.counters
    assert counters.frames == len(taken)
    assert counters.crc_errors + counters.framing_errors <= len(delimited)


def unpack(kind: int, payload: bytes) -> None:
    """A payload is a message that packs to the same bytes, or a `ValueError`."""
    if kind not in MESSAGES:
        return
    try:
        message = MESSAGES[kind].unpack(payload)
    except ValueError:
        return
    # A NaN may come back as another NaN.
    assert message.pack() == payload or any(math.isnan(value) for value in getattr(message, "executed", ()))
