"""An adapter of a single wire returns what was sent: that is no answer, and hides none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firmware_bridge.emulator.robot_servos import servos_at_home
from firmware_bridge.emulator.servo_bus.child import ServoBusProcess
from firmware_bridge.errors import LinkError
from firmware_bridge.servo_reading.hand_moved_bus import HandMovedBus
from pi0_edge.robots import load_robot

pytestmark = pytest.mark.real_time


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("robot", ["so101", "aloha"])
def test_every_servo_is_read_and_a_silent_one_is_named(robot: str, echo: bool) -> None:
    bus = replace(servos_at_home(load_robot(robot))[0], echo=echo)
    servos = {servo.id: f"servo {servo.id}" for servo in bus.servos}
    with ServoBusProcess([bus]) as process:
        port = process.paths[bus.name]
        reader = HandMovedBus(port, bus.protocol, bus.baud, servos)
        read = max((reader.positions() for _ in range(20)), key=len)
        assert read == {servo.id: servo.position for servo in bus.servos}
        reader.close()
        process.control.connect(bus.name, bus.servos[2].id, connected=False)
        with pytest.raises(LinkError, match=rf"servo {bus.servos[2].id} .* does not answer"):
            HandMovedBus(port, bus.protocol, bus.baud, servos)
