"""Packets of Feetech servos byte for byte, and a decoder that survives every stream of bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.emulator.servo_bus.feetech_packets import (
    Decoder,
    Instruction,
    from_signed,
    packet,
    to_signed,
)
from firmware_bridge.emulator.servo_bus.packet import Packet

EXAMPLES = [
    (Packet(1, Instruction.PING, b""), "FF FF 01 02 01 FB"),
    (Packet(1, Instruction.READ, bytes((56, 2))), "FF FF 01 04 02 38 02 BE"),
    (Packet(1, Instruction.READ, bytes((56, 15))), "FF FF 01 04 02 38 0F B1"),
    (
        Packet(0xFE, Instruction.SYNC_WRITE, struct.pack("<BBBHBH", 42, 2, 1, 2048, 2, 2047)),
        "FF FF FE 0A 83 2A 02 01 00 08 02 FF 07 37",
    ),
    (Packet(0xFE, Instruction.SYNC_READ, bytes((56, 2, 1, 2))), "FF FF FE 06 82 38 02 01 02 3C"),
    (Packet(1, Instruction.WRITE, bytes((40, 1))), "FF FF 01 04 03 28 01 CE"),
    (Packet(1, Instruction.WRITE, bytes((40, 128))), "FF FF 01 04 03 28 80 4F"),
]

packets = st.builds(
    Packet,
    st.integers(0, 0xFE),
    st.integers(0, 0xFF),
    st.binary(max_size=60) | st.lists(st.sampled_from([b"\xff\xff", b"\xff", b"\x01"]), max_size=20).map(b"".join),
)


def encoded(one: Packet) -> bytes:
    return packet(one.id, one.instruction, one.parameters)


@pytest.mark.parametrize(("one", "example"), EXAMPLES)
def test_instructions_have_the_bytes_of_the_examples(one: Packet, example: str) -> None:
    assert encoded(one) == bytes.fromhex(example)
    assert Decoder().feed(bytes.fromhex(example)) == [one]


@given(packets)
def test_what_is_encoded_is_decoded(one: Packet) -> None:
    decoder = Decoder()
    assert decoder.feed(encoded(one)) == [one]
    assert decoder.waiting == decoder.bad == 0


@given(st.lists(st.binary(max_size=100), max_size=8))
def test_no_bytes_break_the_decoder(parts: list[bytes]) -> None:
    decoder = Decoder()
    for part in parts:
        decoder.feed(part)
    assert decoder.waiting < 256


@given(st.binary(max_size=40).filter(lambda noise: b"\xff\xff" not in noise), packets, st.integers(1, 7))
def test_packets_after_noise_are_found_in_portions_of_any_size(noise: bytes, one: Packet, size: int) -> None:
    decoder, found = Decoder(), []
    stream = noise + b"\x01" + encoded(one) * 2
    for at in range(0, len(stream), size):
        found += decoder.feed(stream[at : at + size])
    assert found == [one, one]


@given(packets, st.data())
def test_packets_after_a_damaged_one_are_found(one: Packet, data: st.DataObject) -> None:
    """A sum sees one flipped bit, unless it is in the header or the length, when other bytes are summed."""
    damaged = bytearray(encoded(one))
    damaged[data.draw(st.sampled_from([2, *range(4, len(damaged))]))] ^= 1 << data.draw(st.integers(0, 7))
    decoder = Decoder()
    after = Packet(5, Instruction.PING, b"")
    found = decoder.feed(bytes(damaged))
    assert one not in found
    for _ in range(256 // len(encoded(after)) + 2):
        found += decoder.feed(encoded(after))
    assert found[-1] == after


@given(st.integers(-2047, 2047))
def test_signed_words_have_a_magnitude_and_a_sign(number: int) -> None:
    assert to_signed(from_signed(number, 11), 11) == number
    assert from_signed(-1, 11) == 0x801


def test_a_number_that_does_not_fit_becomes_the_nearest() -> None:
    assert to_signed(from_signed(-2048, 11), 11) == -2047
