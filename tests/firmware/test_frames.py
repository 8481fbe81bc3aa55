"""The C codec agrees with zlib and with the Python messages, and accepts no damaged frame."""

from __future__ import annotations

import ctypes
import zlib

import pytest
from firmware_library import HostFirmware, load_library
from frame_counters import counters
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.link.framing import cobs_decode, encode_frame
from firmware_bridge.lockstep.host_firmware import only
from pi0_edge.protos.serial_link import SCHEMA_HASH, Hello, Ping, Pong, Telemetry, Welcome


@given(data=st.binary(max_size=600), split=st.integers(0, 600))
def test_crc_is_that_of_zlib(data: bytes, split: int) -> None:
    library = load_library()
    head, tail = data[:split], data[split:]
    crc = library.crc32_update(0, head, ctypes.c_size_t(len(head)))
    assert library.crc32_update(crc, tail, ctypes.c_size_t(len(tail))) == zlib.crc32(data)


@given(data=st.binary(max_size=253) | st.lists(st.sampled_from([0, 1, 255]), max_size=253).map(bytes))
def test_python_decodes_cobs_of_the_firmware(data: bytes) -> None:
    out = ctypes.create_string_buffer(260)
    size = load_library().cobs_encode(data, ctypes.c_size_t(len(data)), out)
    coded = out.raw[:size]
    assert size == len(data) + 1 and 0 not in coded
    assert cobs_decode(coded) == data


def echoed(firmware: HostFirmware, data: bytes) -> list[Pong]:
    firmware.receive(data)
    return only(Pong, firmware.poll())


@given(ping_id=st.integers(0, 2**32 - 1), time=st.integers(0, 2**64 - 1), seq=st.integers(0, 2**16 - 1))
def test_a_ping_comes_back_unchanged(ping_id: int, time: int, seq: int) -> None:
    firmware = HostFirmware()
    (pong,) = echoed(firmware, encode_frame(Ping.ID, seq, Ping(ping_id, time).pack()))
    assert (pong.ping_id, pong.host_time_us) == (ping_id, time)


@settings(max_examples=20, deadline=None)
@given(ping_id=st.integers(0, 2**32 - 1), time=st.integers(0, 2**64 - 1))
def test_no_single_flipped_bit_is_accepted(ping_id: int, time: int) -> None:
    firmware = HostFirmware()
    good = encode_frame(Ping.ID, 0, Ping(ping_id, time).pack())
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        assert echoed(firmware, bytes(bad) + b"\0") == []
    assert len(echoed(firmware, good)) == 1


@settings(max_examples=200)
@given(data=st.data())
def test_only_sent_pings_are_answered_on_a_damaged_line(data: st.DataObject) -> None:
    firmware = HostFirmware()
    sent = [encode_frame(Ping.ID, index, Ping(index, 7 * index).pack()) for index in range(6)]
    line = bytearray(b"".join(sent))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(line) - 1))
        action = data.draw(st.sampled_from(["flip", "drop", "double", "noise"]))
        if action == "flip":
            line[place] ^= 1 << data.draw(st.integers(0, 7))
        elif action == "drop":
            del line[place]
        elif action == "double":
            line.insert(place, line[place])
        else:
            line[place:place] = data.draw(st.binary(max_size=20))
    pongs = echoed(firmware, bytes(line) + b"\0")
    assert all(pong.host_time_us == 7 * pong.ping_id and pong.ping_id < 6 for pong in pongs)
    assert len({pong.ping_id for pong in pongs}) == len(pongs) >= 1


def test_every_kind_of_wrong_frame_is_counted() -> None:
    firmware = HostFirmware()
    first, second, fourth = (encode_frame(Ping.ID, seq, Ping(seq, 0).pack()) for seq in (1, 2, 4))
    corrupt = bytearray(second)
    corrupt[1] ^= 0x20
    for part in (first, first, bytes(corrupt), b"\x05\x01\0", second, fourth, encode_frame(0x70, 5, b"?")):
        firmware.receive(part)
    found = counters(firmware)
    assert (found.frames_received, found.crc_errors, found.duplicate_frames) == (4, 1, 1)
    assert (found.framing_errors, found.sequence_gaps, found.receive_overruns) == (2, 1, 0)


def test_bytes_that_do_not_fit_are_counted() -> None:
    firmware = HostFirmware()
    firmware.receive(b"\x01" * 5000)
    firmware.poll()
    assert counters(firmware).receive_overruns == 5000 - 4096


@pytest.mark.parametrize("payload", [b"", b"\0" * 3, b"\0" * 5])
def test_a_payload_of_the_wrong_size_is_no_message(payload: bytes) -> None:
    firmware = HostFirmware()
    firmware.receive(encode_frame(Hello.ID, 0, payload))
    assert firmware.poll() == []
    assert counters(firmware).framing_errors == 1


def test_hello_resets_the_sequence_number() -> None:
    firmware = HostFirmware()
    for _ in range(2):
        firmware.receive(encode_frame(Hello.ID, 0, Hello(SCHEMA_HASH).pack()))
        firmware.receive(encode_frame(Ping.ID, 1, Ping(1, 1).pack()))
    messages = firmware.poll()
    assert len(only(Pong, messages)) == len(only(Welcome, messages)) == 2


def test_telemetry_is_numbered_without_gaps() -> None:
    firmware = HostFirmware()
    reports = [firmware.tick(heartbeat=False) for _ in range(20)]
    assert [report.tick for report in reports] == list(range(1, 21))
    assert all(isinstance(report, Telemetry) and report.counter == report.tick * 500_000 for report in reports)
