"""When commands leave an emulated servo bus: after the bytes of the packet, whatever they are divided into."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.emulator.servo_bus import dynamixel_packets, feetech_packets
from firmware_bridge.emulator.servo_bus.bus import ServoBus
from firmware_bridge.emulator.servo_bus.goal_log import goal_record, read_goal_log
from firmware_bridge.emulator.servo_bus.settings import BusSettings, ServoSettings
from firmware_bridge.errors import EmulatorError

BAUD = 1_000_000
BYTE_S = 10 / BAUD
MODELS = {"dynamixel": "XM540-W270", "feetech": "STS3215"}


def bus_of(protocol: str) -> ServoBus:
    servos = tuple(ServoSettings(number, MODELS[protocol]) for number in (1, 2))
    return ServoBus(BusSettings("bus", servos), 0.0)


def goals(protocol: str, count: int) -> bytes:
    """The packet by which the firmware commands."""
    if protocol == "dynamixel":
        rows = b"".join(struct.pack("<Bi", number, count) for number in (1, 2))
        return dynamixel_packets.packet(0xFE, 0x83, struct.pack("<HH", 116, 4) + rows)
    rows = b"".join(struct.pack("<BH", number, count) for number in (1, 2))
    return feetech_packets.packet(0xFE, 0x83, bytes((42, 2)) + rows)


def ping(protocol: str) -> bytes:
    packets = dynamixel_packets if protocol == "dynamixel" else feetech_packets
    return packets.packet(1, 0x01, b"")


@pytest.mark.parametrize("protocol", MODELS)
@given(st.data())
def test_a_command_has_left_when_its_last_byte_has(protocol: str, data: st.DataObject):
    bus, sent = bus_of(protocol), goals(protocol, 2000)
    behind = data.draw(st.sampled_from([b"", ping(protocol), sent]))
    whole = sent + behind
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=4)))
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        bus.receive(10.0, whole[begin:end], BAUD)
    left = [10.0 + len(sent) * BYTE_S] + ([10.0 + len(whole) * BYTE_S] if behind == sent else [])
    np.testing.assert_allclose(list(bus.goals_left), left, atol=1e-9)


@pytest.mark.parametrize("protocol", MODELS)
def test_only_goals_are_commands(protocol: str):
    bus = bus_of(protocol)
    bus.receive(1.0, ping(protocol), BAUD)
    other = bytearray(goals(protocol, 2000))
    if protocol == "dynamixel":  # the torque of two servos
        other = dynamixel_packets.packet(0xFE, 0x83, struct.pack("<HH", 64, 1) + bytes((1, 1, 2, 1)))
    else:
        other = feetech_packets.packet(0xFE, 0x83, bytes((40, 1, 1, 1, 2, 1)))
    bus.receive(2.0, bytes(other), BAUD)
    bus.receive(3.0, goals(protocol, 2000)[:-1] + b"\x00", BAUD)  # damaged
    assert not bus.goals_left


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1e9)), max_size=20), st.integers(0, 8))
def test_the_log_gives_back_what_was_written_and_leaves_out_half_a_record(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, float]], cut: int
):
    path = tmp_path_factory.mktemp("log") / "goals"
    path.write_bytes(b"".join(goal_record(*record) for record in records) + goal_record(0, 1.0)[:cut])
    for bus, left in enumerate(read_goal_log(path, 2)):
        assert left.tolist() == [time for number, time in records if number == bus]


def test_a_missing_log_is_named(tmp_path: Path):
    with pytest.raises(EmulatorError, match=r"cannot be read: .*No such file"):
        read_goal_log(tmp_path / "goals", 1)
