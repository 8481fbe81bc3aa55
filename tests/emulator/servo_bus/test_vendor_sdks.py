"""The vendors' own drivers work on the emulated buses as on real ones, through a pseudo-terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import dynamixel_sdk
import pytest
import scservo_sdk

from firmware_bridge.emulator.servo_bus.arms import aloha_bus, so101_bus
from firmware_bridge.emulator.servo_bus.child import ServoBusProcess
from firmware_bridge.emulator.servo_bus.settings import BusSettings, ServoSettings

pytestmark = [pytest.mark.real_time, pytest.mark.system]

BAUD = 1_000_000
ARM = range(1, 10)
TORQUE, GOAL, PRESENT, PRESENT_SIZE, POSITION = 64, 116, 126, 10, 132
OLD, SLOW = "XM430-W350", 57_600
NO_ANSWER, DAMAGED = dynamixel_sdk.COMM_RX_TIMEOUT, dynamixel_sdk.COMM_RX_CORRUPT


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """The drivers expect an answer 34 ms after its bytes; here the bus has to wait for the processor as well."""
    with pytest.MonkeyPatch.context() as patch:
        for driver in (dynamixel_sdk, scservo_sdk):
            patch.setattr(driver.port_handler, "LATENCY_TIMER", 150)
        yield


@pytest.fixture(scope="module")
def buses() -> Iterator[ServoBusProcess]:
    odd = BusSettings("odd", (ServoSettings(1, OLD, firmware=44), ServoSettings(2, OLD, baud=SLOW)))
    with ServoBusProcess([aloha_bus("left"), aloha_bus("right"), so101_bus("arm"), odd]) as process:
        yield process


class Dynamixel:
    """One bus as the vendor's driver sees it."""

    def __init__(self, path: str, baud: int = BAUD) -> None:
        self.port = dynamixel_sdk.PortHandler(path)
        assert self.port.openPort()
        assert self.port.setBaudRate(baud)
        self.handler = dynamixel_sdk.PacketHandler(2.0)

    def present(self) -> dynamixel_sdk.GroupSyncRead:
        group = dynamixel_sdk.GroupSyncRead(self.port, self.handler, PRESENT, PRESENT_SIZE)
        for number in ARM:
            assert group.addParam(number)
        return group

    def write_all(self, address: int, size: int, values: dict[int, int]) -> None:
        group = dynamixel_sdk.GroupSyncWrite(self.port, self.handler, address, size)
        for number, value in values.items():
            assert group.addParam(number, value.to_bytes(size, "little"))
        assert group.txPacket() == dynamixel_sdk.COMM_SUCCESS


@pytest.fixture
def open_bus(buses: ServoBusProcess) -> Iterator[Callable[..., Dynamixel]]:
    opened: list[Dynamixel] = []

    def open_one(name: str, baud: int = BAUD) -> Dynamixel:
        opened.append(Dynamixel(buses.paths[name], baud))
        return opened[-1]

    yield open_one
    for bus in opened:
        bus.port.closePort()


def test_dynamixel_ping_finds_all_servos(open_bus: Callable[..., Dynamixel]) -> None:
    left = open_bus("left")
    assert left.handler.ping(left.port, 8) == (1020, dynamixel_sdk.COMM_SUCCESS, 0)
    found, result = left.handler.broadcastPing(left.port)
    assert result == dynamixel_sdk.COMM_SUCCESS
    assert found == {number: [1020 if number > 7 else 1120, 47] for number in ARM}


def test_dynamixel_goals_and_present_values_in_groups(open_bus: Callable[..., Dynamixel]) -> None:
    left = open_bus("left")
    left.write_all(TORQUE, 1, dict.fromkeys(ARM, 1))
    left.write_all(GOAL, 4, dict.fromkeys(ARM, 2200))
    time.sleep(1.0)
    group = left.present()
    for read in (group.txRxPacket, group.fastSyncRead):
        assert read() == dynamixel_sdk.COMM_SUCCESS
        positions = [group.getData(number, POSITION, 4) for number in ARM]
        assert positions == pytest.approx([2200] * 9, abs=1)


def test_dynamixel_buses_with_the_same_ids_are_separate(open_bus: Callable[..., Dynamixel]) -> None:
    right = open_bus("right")
    position, result, error = right.handler.read4ByteTxRx(right.port, 1, POSITION)
    assert (position, result, error) == (2048, dynamixel_sdk.COMM_SUCCESS, 0)


def test_dynamixel_errors_reach_the_driver(open_bus: Callable[..., Dynamixel]) -> None:
    right = open_bus("right")
    assert right.handler.write1ByteTxRx(right.port, 1, TORQUE, 1) == (dynamixel_sdk.COMM_SUCCESS, 0)
    result, error = right.handler.write4ByteTxRx(right.port, 1, 20, 5)
    assert result == dynamixel_sdk.COMM_SUCCESS
    assert "not available" in right.handler.getRxPacketError(error)
    result, error = right.handler.write4ByteTxRx(right.port, 2, GOAL, 4000)
    assert "exceeds the limit" in right.handler.getRxPacketError(error)


def test_dynamixel_missing_servo_is_noticed(buses: ServoBusProcess, open_bus: Callable[..., Dynamixel]) -> None:
    right = open_bus("right")
    buses.control.connect("right", 5, False)
    try:
        assert right.handler.ping(right.port, 5)[1] == NO_ANSWER
        assert right.present().txRxPacket() == NO_ANSWER
        assert right.present().fastSyncRead() in (NO_ANSWER, DAMAGED)
    finally:
        buses.control.connect("right", 5, True)
    assert right.present().txRxPacket() == dynamixel_sdk.COMM_SUCCESS


def test_dynamixel_duplicate_id_is_an_incorrect_packet(
    buses: ServoBusProcess, open_bus: Callable[..., Dynamixel]
) -> None:
    right = open_bus("right")
    buses.control.duplicate_id("right", 9)
    try:
        assert right.handler.ping(right.port, 9)[1] in (NO_ANSWER, DAMAGED)
    finally:
        buses.control.duplicate_id("right", 9, present=False)


def test_dynamixel_reboot_and_registered_write(open_bus: Callable[..., Dynamixel]) -> None:
    right = open_bus("right")
    assert right.handler.reboot(right.port, 6) == (dynamixel_sdk.COMM_SUCCESS, 0)
    assert right.handler.ping(right.port, 6)[1] == NO_ANSWER
    time.sleep(0.3)
    right.handler.write1ByteTxRx(right.port, 6, TORQUE, 1)
    data = (2100).to_bytes(4, "little")
    assert right.handler.regWriteTxRx(right.port, 6, GOAL, 4, data) == (dynamixel_sdk.COMM_SUCCESS, 0)
    right.handler.action(right.port, dynamixel_sdk.BROADCAST_ID)
    time.sleep(0.5)
    assert right.handler.read4ByteTxRx(right.port, 6, POSITION)[0] == pytest.approx(2100, abs=1)


def test_the_speed_of_the_port_has_to_be_that_of_the_servo(open_bus: Callable[..., Dynamixel]) -> None:
    fast = open_bus("odd")
    assert fast.handler.ping(fast.port, 1)[1] == dynamixel_sdk.COMM_SUCCESS
    assert fast.handler.ping(fast.port, 2)[1] == NO_ANSWER
    assert fast.port.setBaudRate(SLOW)
    assert fast.handler.ping(fast.port, 1)[1] == NO_ANSWER
    assert fast.handler.ping(fast.port, 2)[1] == dynamixel_sdk.COMM_SUCCESS


@pytest.fixture
def arm(buses: ServoBusProcess) -> Iterator[tuple[scservo_sdk.PortHandler, scservo_sdk.protocol_packet_handler]]:
    port = scservo_sdk.PortHandler(buses.paths["arm"])
    assert port.openPort()
    assert port.setBaudRate(BAUD)
    yield port, scservo_sdk.PacketHandler(0)
    port.closePort()


Feetech = tuple[scservo_sdk.PortHandler, scservo_sdk.protocol_packet_handler]


def test_feetech_ping_read_and_write(arm: Feetech) -> None:
    port, handler = arm
    assert handler.ping(port, 6) == (777, scservo_sdk.COMM_SUCCESS, 0)
    assert handler.ping(port, 7)[1] == scservo_sdk.COMM_RX_TIMEOUT
    assert handler.read2ByteTxRx(port, 6, 56) == (2048, scservo_sdk.COMM_SUCCESS, 0)
    assert handler.write1ByteTxRx(port, 6, 40, 1) == (scservo_sdk.COMM_SUCCESS, 0)
    assert handler.write2ByteTxRx(port, 6, 42, 2100) == (scservo_sdk.COMM_SUCCESS, 0)
    time.sleep(0.5)
    assert handler.read2ByteTxRx(port, 6, 56)[0] == pytest.approx(2100, abs=1)


def test_feetech_goals_and_positions_in_groups(arm: Feetech) -> None:
    port, handler = arm
    for number in range(1, 7):
        handler.write1ByteTxRx(port, number, 40, 1)
    goals = scservo_sdk.GroupSyncWrite(port, handler, 42, 2)
    positions = scservo_sdk.GroupSyncRead(port, handler, 56, 2)
    for number in range(1, 7):
        assert goals.addParam(number, list((2000 + number).to_bytes(2, "little")))
        assert positions.addParam(number)
    assert goals.txPacket() == scservo_sdk.COMM_SUCCESS
    time.sleep(0.8)
    assert positions.txRxPacket() == scservo_sdk.COMM_SUCCESS
    found = [positions.getData(number, 56, 2) for number in range(1, 7)]
    assert found == pytest.approx([2000 + number for number in range(1, 7)], abs=1)


def test_feetech_overload_reaches_the_driver_with_data(buses: ServoBusProcess, arm: Feetech) -> None:
    port, handler = arm
    buses.control.overload("arm", 5)
    position, result, error = handler.read2ByteTxRx(port, 5, 56)
    assert result == scservo_sdk.COMM_SUCCESS
    assert position == pytest.approx(2005, abs=60)
    assert "Overload" in handler.getRxPacketError(error)
    handler.write1ByteTxRx(port, 5, 40, 0)


def test_feetech_homing_by_hand(buses: ServoBusProcess, arm: Feetech) -> None:
    port, handler = arm
    handler.write1ByteTxRx(port, 4, 40, 0)
    buses.control.move_by_hand("arm", 4, 2900)
    assert handler.read2ByteTxRx(port, 4, 56)[0] == 2900
    assert handler.write1ByteTxRx(port, 4, 40, 128) == (scservo_sdk.COMM_SUCCESS, 0)
    assert handler.read2ByteTxRx(port, 4, 56)[0] == 2048
