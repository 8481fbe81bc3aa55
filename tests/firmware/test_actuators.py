"""The back ends of the Raspberry Pi Pico, seen at its pins: servo pulses and the packets of the Dynamixel bus."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from firmware_library import FIRMWARE, make
from rp2040_board import Script, require_emulator

from firmware_bridge.firmware.joint_table import Joint, load_joint_table
from firmware_bridge.lockstep.host_firmware import HostFirmware
from pi0_edge.protos.serial_link import SCHEMA_HASH, Command, CommandRequest, Hello, Ping

SO101 = load_joint_table("so101")
JOINTS = SO101.joints
TICKS = 40


def image_with(actuators: str) -> Path:
    require_emulator()
    build = f"build/{actuators}"
    built = make("-s", "rp2040", "ROBOT=so101", f"ACTUATORS={actuators}", f"BUILD={build}")
    assert built.returncode == 0, built.stderr
    return FIRMWARE / build / "rp2040" / "firmware.uf2"


def counts(step: int) -> list[int]:
    """Each joint moves slowly to a different position."""
    return [round(j.home / j.resolution) + 40 * step * (number + 1) for number, j in enumerate(JOINTS)]


def moving() -> Script:
    script = Script().send(2.5, Hello(SCHEMA_HASH))
    for tick in range(3, TICKS, 2):
        script.send(tick + 0.3, Ping(tick, 0))
    chunk = HostFirmware(SO101).fragments(12, [counts(step) for step in range(15)], per_fragment=15)
    return script.send(5.5, CommandRequest(1, Command.ARM)).send(7.5, *chunk)


def goal_of(joint: Joint, position: float) -> int:
    if joint.unit == "rad":
        return round(2048 + position * 4096 / math.tau)
    return round(1024 + 2048 * (position - joint.minimum) / (joint.maximum - joint.minimum))


def test_the_bus_carries_the_goals_of_every_servo_step() -> None:
    run = moving().run(image_with("dynamixel"), TICKS)
    assert run.figures["bus_baud"] == 1_000_000
    packets = bytes.fromhex(run.figures["bus"]).split(b"\xff\xff\xfd\x00")[1:]
    size = 1 + 2 + 1 + 4 + 5 * len(JOINTS) + 2
    assert {len(packet) for packet in packets} == {size}
    assert len(packets) == pytest.approx(TICKS * 5, abs=5)
    assert {packet[:8].hex() for packet in packets} == {"fe25008374000400"}
    goals = [[int.from_bytes(packet[9 + 5 * k : 13 + 5 * k], "little") for k in range(6)] for packet in packets]
    rest = run.ticks[-1].executed
    assert goals[-1] == pytest.approx([goal_of(joint, place) for joint, place in zip(JOINTS, rest, strict=True)], abs=1)
    assert len({tuple(row) for row in goals}) > 60  # the way between the setpoints, too


def test_pulses_follow_the_joints() -> None:
    run = moving().run(image_with("pwm_servo"), TICKS)
    pulses = [value for word in run.figures["pwm"][1:4] for value in (word & 0xFFFF, word >> 16)]
    rest = zip(JOINTS, run.ticks[-1].executed, strict=True)
    expected = [1000 + 1000 * (place - joint.minimum) / (joint.maximum - joint.minimum) for joint, place in rest]
    assert pulses == pytest.approx(expected, abs=1)
    assert pulses[0] > 1500
