"""The counters of the C frame decoder, read through its library."""

from __future__ import annotations

from typing import Any

from firmware_library import HostFirmware

from firmware_bridge.lockstep.host_firmware import only
from pi0_edge.protos.serial_link import Counters


def counters(firmware: HostFirmware) -> Counters:
    messages: list[Any] = []
    for _ in range(50):
        firmware.tick_number += 1
        firmware.library.host_tick(firmware.tick_number)
        messages += firmware.poll()
    return only(Counters, messages)[-1]
