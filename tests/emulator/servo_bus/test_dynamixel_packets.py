"""Dynamixel protocol 2.0 byte for byte, and a decoder that survives every stream of bytes."""

from __future__ import annotations

import struct

import pytest
from dynamixel_sdk.protocol2_packet_handler import Protocol2PacketHandler
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.emulator.servo_bus.dynamixel_packets import (
    HEADER,
    LONGEST,
    Decoder,
    Instruction,
    crc16,
    fast_status,
    packet,
    status,
)
from firmware_bridge.emulator.servo_bus.packet import Packet

PRINTED = [
    (Packet(1, Instruction.PING, b""), "FF FF FD 00 01 03 00 01 19 4E"),
    (Packet(1, Instruction.READ, bytes.fromhex("84 00 04 00")), "FF FF FD 00 01 07 00 02 84 00 04 00 1D 15"),
    (
        Packet(1, Instruction.WRITE, bytes.fromhex("74 00 00 02 00 00")),
        "FF FF FD 00 01 09 00 03 74 00 00 02 00 00 CA 89",
    ),
    (
        Packet(0xFE, Instruction.FAST_SYNC_READ, bytes.fromhex("84 00 04 00 03 07 04")),
        "FF FF FD 00 FE 0A 00 8A 84 00 04 00 03 07 04 20 F2",
    ),
]
"""Of the vendor's e-manual."""

parameters = st.binary(max_size=60) | st.lists(
    st.sampled_from([b"\xff\xff\xfd", b"\xff\xff\xfd\x00", b"\xff", b"\xfd", b"\x00"]), max_size=12
).map(b"".join)
packets = st.builds(Packet, st.integers(0, 0xFE), st.sampled_from(list(Instruction)), parameters)


def encoded(one: Packet) -> bytes:
    return packet(one.id, one.instruction, one.parameters)


@pytest.mark.parametrize(("one", "printed"), PRINTED)
def test_instructions_are_those_of_the_manual(one: Packet, printed: str) -> None:
    assert encoded(one) == bytes.fromhex(printed)
    assert Decoder().feed(bytes.fromhex(printed)) == [one]


def test_answers_are_those_of_the_manual() -> None:
    assert status(1, 0, struct.pack("<HB", 1030, 38)) == bytes.fromhex("FF FF FD 00 01 07 00 55 00 06 04 26 65 5D")
    assert status(1, 0, bytes.fromhex("A6 00 00 00")) == bytes.fromhex("FF FF FD 00 01 08 00 55 00 A6 00 00 00 8C C0")
    assert status(1, 0) == bytes.fromhex("FF FF FD 00 01 04 00 55 00 A1 0C")


def test_every_piece_of_a_fast_answer_has_the_crc_of_everything_before() -> None:
    parts = [(number, 0, struct.pack("<i", counts)) for number, counts in ((3, 166), (7, 2079), (4, 1023))]
    assert fast_status(parts) == [
        bytes.fromhex("FF FF FD 00 FE 19 00 55 00 03 A6 00 00 00 84 08"),
        bytes.fromhex("00 07 1F 08 00 00 16 CA"),
        bytes.fromhex("00 04 FF 03 00 00 D1 9E"),
    ]


@given(st.binary(max_size=80), st.integers(0, 80))
def test_the_crc_is_that_of_the_vendor_and_can_be_continued(data: bytes, cut: int) -> None:
    vendors = Protocol2PacketHandler()
    assert crc16(data) == vendors.updateCRC(0, data, len(data))
    assert crc16(data[cut:], crc16(data[:cut])) == crc16(data)


@given(packets)
def test_what_is_encoded_is_decoded(one: Packet) -> None:
    decoder = Decoder()
    assert decoder.feed(encoded(one)) == [one]
    assert decoder.waiting == decoder.bad == 0


@given(packets)
def test_a_header_occurs_nowhere_else_in_a_packet(one: Packet) -> None:
    assert encoded(one).count(HEADER[:3]) - encoded(one).count(b"\xff\xff\xfd\xfd") == 1


@given(st.lists(st.binary(max_size=100), max_size=8))
def test_no_bytes_break_the_decoder(parts: list[bytes]) -> None:
    decoder = Decoder()
    for part in parts:
        decoder.feed(part)
    assert decoder.waiting <= LONGEST


@given(st.binary(max_size=40).filter(lambda noise: HEADER not in noise), packets, st.integers(1, 7))
def test_packets_after_noise_are_found_in_portions_of_any_size(noise: bytes, one: Packet, size: int) -> None:
    decoder, found = Decoder(), []
    stream = noise + b"\x01" + encoded(one) * 2
    for at in range(0, len(stream), size):
        found += decoder.feed(stream[at : at + size])
    assert found == [one, one]


@given(packets, st.data())
def test_a_damaged_packet_is_not_taken_and_the_next_ones_are(one: Packet, data: st.DataObject) -> None:
    damaged = bytearray(encoded(one))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    decoder = Decoder()
    found = decoder.feed(bytes(damaged))
    assert found == []
    after = Packet(5, Instruction.PING, b"")
    for _ in range(LONGEST // len(encoded(after)) + 2):  # a damaged length may swallow as much
        found += decoder.feed(encoded(after))
    assert found and set(found) == {after}
