"""Decoders refuse each damaged frame and recover by the next one; a conversation may stop after any byte."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from firmware_library import HostFirmware, moved
from frame_counters import counters

from firmware_bridge.link.framing import FrameDecoder, encode_frame
from firmware_bridge.lockstep.host_firmware import only
from pi0_edge.protos.serial_link import (
    MAX_PAYLOAD,
    SCHEMA_HASH,
    ChunkReply,
    ChunkResult,
    Command,
    CommandReply,
    CommandRequest,
    CommandResult,
    Hello,
    Ping,
    Pong,
    ResetCause,
    State,
    Telemetry,
    Welcome,
)

UNKNOWN = 0x70  # a type that the firmware counts and does not answer
NOISE = np.random.default_rng(5)
LONGEST = encode_frame(UNKNOWN, 9, NOISE.integers(0, 256, MAX_PAYLOAD, dtype=np.uint8).tobytes())
BODY_BITS = 8 * (len(LONGEST) - 1)  # the delimiter comes after


def flipped(bits: slice) -> bytes:
    """The longest frame with these bits inverted."""
    mask = np.zeros(8 * len(LONGEST), np.uint8)
    mask[bits] = 1
    return (np.frombuffer(LONGEST, np.uint8) ^ np.packbits(mask, bitorder="little")).tobytes()


def single_bits() -> Iterator[bytes]:
    return (flipped(slice(bit, bit + 1)) for bit in range(8 * len(LONGEST)))


def short_bursts() -> Iterator[bytes]:
    """Every burst of 2 to 32 inverted bits."""
    spans = itertools.product(range(BODY_BITS), range(2, 33))
    return (flipped(slice(start, min(start + length, BODY_BITS))) for start, length in spans)


def long_bursts() -> Iterator[bytes]:
    """Noise, ones and inverted bits from every fourth byte on, in lengths up to the whole frame."""
    size = len(LONGEST) - 1
    for start, length in itertools.product(range(0, size, 4), range(5, size + 1, 9)):
        end = min(start + length, size)
        noise = NOISE.integers(0, 256, end - start, dtype=np.uint8).tobytes()
        for burst in (noise, b"\xff" * (end - start), flipped(slice(8 * start, 8 * end))[start:end]):
            yield LONGEST[:start] + burst + LONGEST[end:]


@pytest.mark.parametrize("damage", [single_bits, short_bursts, long_bursts], ids=lambda damage: damage.__name__)
def test_neither_decoder_takes_a_damaged_frame(damage):
    firmware, decoder = HostFirmware(), FrameDecoder()
    trials = 0
    for data in damage():
        if data != LONGEST:  # noise may be what it replaces
            trials += 1
            assert decoder.feed(data + b"\0") == []
            firmware.receive(data + b"\0")
            firmware.library.host_poll()
    found = counters(firmware)
    assert trials >= BODY_BITS
    assert found.frames_received == found.receive_overruns == 0
    assert found.crc_errors + found.framing_errors >= trials
    assert decoder.counters.crc_errors + decoder.counters.framing_errors >= trials


def without_byte(data: bytes, at: int) -> bytes:
    return data[:at] + data[at + 1 :]


def doubled_byte(data: bytes, at: int) -> bytes:
    return data[: at + 1] + data[at:]


def swapped_bytes(data: bytes, at: int) -> bytes:
    return data[:at] + data[at : at + 2][::-1] + data[at + 2 :]


def zeroed_byte(data: bytes, at: int) -> bytes:
    return data[:at] + b"\0" + data[at + 1 :]


@pytest.mark.parametrize("damage", [without_byte, doubled_byte, swapped_bytes, zeroed_byte])
def test_a_damaged_byte_costs_its_frame_and_at_most_the_next(damage):
    pings = [Ping(7 * number, 2**40 + number) for number in range(5)]
    frames = [encode_frame(Ping.ID, number, ping.pack()) for number, ping in enumerate(pings)]
    line = b"".join(frames)
    for at in range(len(frames[0]), len(frames[0]) * 3):
        damaged = damage(line, at)
        firmware = HostFirmware()
        firmware.receive(damaged)
        heard = [pong.ping_id for pong in only(Pong, firmware.poll())]
        decoded = [Ping.unpack(frame.payload).ping_id for frame in FrameDecoder().feed(damaged)]
        assert heard == decoded
        assert heard[0] == 0 and heard[-1] == 28 and heard == sorted(set(heard)) and set(heard) <= {0, 7, 14, 21, 28}
        assert len(heard) >= (5 if damaged == line else 3)


ROWS = [moved(20 * k) for k in range(50)]


def greeting(firmware: HostFirmware, seq: int) -> list[object]:
    """The first bytes that a host sends; they end an incomplete frame in the board's decoder."""
    firmware.receive(b"\0" + encode_frame(Hello.ID, seq, Hello(SCHEMA_HASH).pack()))
    return firmware.poll()


def conversation(firmware: HostFirmware) -> bytes:
    """With the arm armed: two pings and a chunk that is due soon."""
    fragments = firmware.fragments(firmware.tick_number + 8, ROWS)
    return b"".join(firmware.frame(message) for message in (Ping(1, 1), *fragments[:4], Ping(2, 2), *fragments[4:]))


LENGTH = len(conversation(HostFirmware()))


@pytest.mark.parametrize("start", range(0, LENGTH, LENGTH // 8))
def test_host_may_restart_after_any_byte_of_a_conversation(start: int):
    for cut in range(start, min(start + LENGTH // 8, LENGTH)):
        firmware = HostFirmware().armed()
        firmware.receive(conversation(firmware)[:cut])
        firmware.poll()
        (welcome,) = only(Welcome, greeting(firmware, cut))
        assert welcome.schema_hash == SCHEMA_HASH
        firmware._seq = cut + 1
        # The new host knows of no chunk: it disarms, arms and counts chunks from one.
        assert firmware.command(Command.DISARM).result == firmware.command(Command.ARM).result == 0
        firmware.chunk_id = 0
        reply = firmware.play(firmware.tick_number + 3, ROWS[:9])
        assert (reply.chunk_id, reply.result) == (1, ChunkResult.ACCEPTED)
        executed = [report.executed for _ in range(14) if (report := firmware.tick()).chunk_id]
        assert [[round(value * 1e4) for value in row] for row in executed] == ROWS[:9]


def test_answers_may_be_truncated_after_any_byte():
    firmware = HostFirmware()
    first = b"".join(encode_frame(Pong.ID, seq, Pong(seq, 1, 2, 3).pack()) for seq in range(3))
    second = encode_frame(Welcome.ID, 0, only(Welcome, greeting(firmware, 0))[0].pack())
    for cut in range(len(first) + 1):
        # The host opens the port while the board is in the middle of a frame, or loses it there and comes back.
        decoder = FrameDecoder()
        received = decoder.feed(first[cut:])
        assert len(received) == first[cut:].count(b"\0") - (cut not in frame_starts(first))
        again = FrameDecoder()
        again.feed(first[:cut] + b"\0")
        assert [frame.type for frame in again.feed(second)] == [Welcome.ID]


def frame_starts(stream: bytes) -> list[int]:
    return [0, *(at + 1 for at, byte in enumerate(stream) if byte == 0)]


def test_incomplete_chunk_of_a_killed_host_is_never_executed():
    firmware = HostFirmware().armed()
    old = firmware.fragments(firmware.tick_number + 8, ROWS)
    firmware.send(*old[:4])
    greeting(firmware, 500)
    firmware._seq = 501
    firmware.send(*old[5:])  # what was still in a buffer somewhere
    assert {firmware.tick().chunk_id for _ in range(40)} == {0}


def test_restarted_board_executes_nothing_sent_before_the_restart():
    """The host continues in the middle of a chunk, as it does until it receives a smaller counter."""
    firmware = HostFirmware().armed()
    fragments = firmware.fragments(firmware.tick_number + 8, ROWS)
    firmware.send(*fragments[:5])
    restarted = HostFirmware(ResetCause.WATCHDOG)
    restarted._seq = firmware._seq
    replies = only(ChunkReply, restarted.send(*fragments[5:], *fragments))
    assert {reply.result for reply in replies} == {ChunkResult.NOT_ARMED}
    report = restarted.tick()
    assert (report.state, report.chunk_id) == (State.DISARMED, 0)
    assert restarted.command(Command.ARM).result != 0  # the reset is latched, and no host has said hello


def test_command_repeated_across_a_handshake_is_carried_out_once():
    firmware = HostFirmware()
    greeting(firmware, 0)
    firmware._seq = 1
    firmware.tick()
    arm = CommandRequest(99, Command.ARM)
    (first,) = only(CommandReply, firmware.send(arm))
    greeting(firmware, 400)
    firmware._seq = 401
    (again,) = only(CommandReply, firmware.send(arm))
    assert first == again and first.result == CommandResult.OK


@pytest.mark.parametrize("cause", [ResetCause.POWER_ON, ResetCause.WATCHDOG])
def test_replayed_commands_from_before_a_restart_move_nothing(cause: ResetCause):
    firmware = HostFirmware(cause)
    firmware.receive(encode_frame(CommandRequest.ID, 77, CommandRequest(5, Command.ARM).pack()) * 3)
    messages = firmware.poll()
    assert firmware.tick().state == State.DISARMED
    assert only(Telemetry, messages) == []
