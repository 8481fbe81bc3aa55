"""Faults of the line, of the bridge and of its clients: each ends in the documented state and within the limits.

The wire records what the board reports before the line can damage it, so that every executed tick is checked, also
while nobody listens.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from motion_audit import (
    ALOHA,
    SWING,
    TICK_S,
    assert_ends_at_rest,
    assert_no_watchdog_reset,
    assert_within_limits,
    executed_ticks,
    fast_swing,
    freeze_until_watchdog_resets,
    wait_until,
)

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.errors import BridgeError
from firmware_bridge.link.link import FirmwareLink
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import Fault, State, Telemetry, TickFlag

pytestmark = [pytest.mark.real_time, pytest.mark.system]

CHUNK_EVERY_S = 0.1
DEAF_TICKS = 25  # until the bridge takes silence for deafness
SAFE_WITHIN_TICKS = 40  # heartbeat limit, ticks to starve and to stop, and a busy machine


class Arm:
    """An emulated board and a client that moves it fast, one chunk every tenth of a second."""

    def __init__(self, board: EmulatedBoard, client: BridgeClient, record: Path) -> None:
        self.board = board
        self.client = client
        self.record = record
        self.outcomes: list[int] = []
        self.start = 0
        self.resets = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._swing)

    def swing(self, seconds: float) -> None:
        self.client.wait_ready(20.0)
        self.client.arm(ALOHA.names)
        self._thread.start()
        time.sleep(seconds)

    def stop_swinging(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _swing(self) -> None:
        try:
            with self.client.play() as stream:
                while not self._stop.wait(CHUNK_EVERY_S):
                    tick = self.client.status().tick
                    if ChunkReport.ACCEPTED not in self.outcomes:
                        self.start = (
                            tick  # the arm rests until then: a chunk that came too late is sent again from rest
                        )
                    stream.send(fast_swing(tick - self.start + np.arange(1, 51)), tick)
                    report = stream.next_report(2.0)
                    self.outcomes.append(-1 if report is None else report.outcome)
        except BridgeError:
            return  # the arm was stopped, as most of these tests intend

    def ticks(self) -> list[Telemetry]:
        return executed_ticks(self.record)

    def state(self) -> State:
        return State(self.ticks()[-1].state)

    def has_restarted(self) -> bool:
        ticks = [tick.tick for tick in self.ticks()]
        return ticks != sorted(ticks)

    def assert_recovers(self) -> None:
        assert wait_until(lambda: self.client.status().link_up)
        self.client.clear()
        assert self.client.arm(ALOHA.names) == State.ARMED


@pytest.fixture
def board(firmware_image: Path, tmp_path: Path) -> Iterator[EmulatedBoard]:
    with EmulatedBoard(firmware_image, record=tmp_path / "record", fault_seed=7) as board:
        yield board


@pytest.fixture
def arm(board: EmulatedBoard, tmp_path: Path) -> Iterator[Arm]:
    server = BridgeServer(board.port, "127.0.0.1:0", "aloha")
    server.start()
    with BridgeClient(server.address, "swinger") as client:
        arm = Arm(board, client, tmp_path / "record")
        yield arm
        arm.stop_swinging()
    server.stop()
    assert_within_limits(arm.ticks())
    if not arm.resets:
        assert_no_watchdog_reset(arm.ticks())


def ticks_until(ticks: list[Telemetry], state: State, since: int) -> int:
    """Ticks from `since` until the board was first in this state."""
    return next(tick.tick for tick in ticks if tick.tick > since and tick.state == state) - since


def assert_was_moving(ticks: list[Telemetry]) -> None:
    positions = np.array([tick.executed for tick in ticks])
    assert np.ptp(positions[:, 0]) > SWING


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param({"bit_error_rate": 1e-5}, marks=pytest.mark.slow),
        {"bit_error_rate": 1e-4},
        pytest.param({"byte_drop_rate": 1e-4}, marks=pytest.mark.slow),
        pytest.param({"byte_duplicate_rate": 1e-4}, marks=pytest.mark.slow),
        {"frame_duplicate_rate": 0.05, "frame_swap_rate": 0.05},
    ],
    ids=lambda faults: "-".join(faults) + f"-{max(faults.values()):g}",
)
def test_damaged_line_causes_retransmissions_and_no_wrong_motion(arm: Arm, faults: dict[str, float]):
    arm.swing(0.5)
    arm.board.line.set_faults("both", **faults)
    time.sleep(2.0)
    arm.board.line.set_faults("both", **dict.fromkeys(faults, 0.0))
    ticks = arm.ticks()
    assert_was_moving(ticks)
    assert arm.board.line.counts()["to_firmware"]["damaged"] > 0 or faults == {"bit_error_rate": 1e-5}
    assert arm.outcomes.count(ChunkReport.ACCEPTED) > len(arm.outcomes) // 2
    assert arm.state() in (State.RUNNING, State.SAFE)
    followed = [tick for tick in ticks if tick.flags == TickFlag.EXECUTED and tick.tick > arm.start + 25]
    positions = np.array([tick.executed for tick in followed])
    commanded = fast_swing(np.array([tick.tick for tick in followed]) - arm.start)
    # what was executed without a limit was commanded: no damaged frame ever passed for a setpoint
    np.testing.assert_allclose(positions, commanded, atol=0.51e-4)


def test_cut_line_stops_the_arm_and_the_link_recovers(arm: Arm):
    arm.swing(0.6)
    cut_at = arm.ticks()[-1].tick
    arm.board.line.cut(1.2)
    assert wait_until(lambda: not arm.client.status().link_up, 1.5)
    assert wait_until(lambda: arm.state() == State.SAFE)
    ticks = arm.ticks()
    assert ticks_until(ticks, State.SAFE, cut_at) < SAFE_WITHIN_TICKS
    assert ticks[-1].faults & Fault.HEARTBEAT
    assert_was_moving(ticks)
    arm.stop_swinging()
    assert_ends_at_rest(arm.ticks(), State.SAFE)
    arm.assert_recovers()


def test_line_cut_towards_the_board_only_stops_the_arm(arm: Arm):
    arm.swing(0.6)
    cut_at = arm.ticks()[-1].tick
    arm.board.line.cut(60.0, "to_firmware")
    assert wait_until(lambda: arm.state() == State.SAFE)
    assert ticks_until(arm.ticks(), State.SAFE, cut_at) < SAFE_WITHIN_TICKS
    assert wait_until(lambda: arm.client.status().owner == "")
    with pytest.raises(BridgeError):
        arm.client.clear()
    arm.board.line.cut(0.0)
    arm.stop_swinging()
    arm.assert_recovers()


def test_host_that_receives_nothing_stops_the_arm(arm: Arm):
    """The host receives nothing from the board: the arm must not continue to move."""
    arm.swing(0.6)
    cut_at = arm.ticks()[-1].tick
    arm.board.line.cut(60.0, "to_host")
    assert wait_until(lambda: arm.state() == State.SAFE)
    assert ticks_until(arm.ticks(), State.SAFE, cut_at) < SAFE_WITHIN_TICKS + DEAF_TICKS
    assert arm.ticks()[-1].faults & Fault.HEARTBEAT
    arm.board.line.cut(0.0)
    arm.stop_swinging()
    arm.assert_recovers()


def test_watchdog_reset_under_a_running_bridge_ends_disarmed_and_is_reported(arm: Arm):
    arm.resets = True
    arm.swing(0.6)
    freeze_until_watchdog_resets(arm.board, lambda: bool(arm.ticks()[-1].faults & Fault.WATCHDOG_RESET))
    assert arm.state() == State.DISARMED
    assert arm.ticks()[-1].faults == Fault.WATCHDOG_RESET
    arm.stop_swinging()
    assert wait_until(lambda: arm.client.status().link_up)
    with pytest.raises(BridgeError, match="WATCHDOG_RESET"):
        arm.client.arm(ALOHA.names)
    assert wait_until(lambda: recovers(arm))
    positions = [tick.executed for tick in arm.ticks() if tick.faults & Fault.WATCHDOG_RESET]
    assert len(set(positions)) == 1  # at rest, wherever the joints were


def recovers(arm: Arm) -> bool:
    try:
        arm.client.clear()
        return arm.client.arm(ALOHA.names) == State.ARMED
    except BridgeError:
        return False


def test_estop_commanded_while_the_line_is_cut_is_executed_when_it_is_restored(arm: Arm):
    arm.swing(0.3)
    arm.board.line.cut(60.0)
    with pytest.raises(BridgeError, match="repeated until the firmware confirms it"):
        arm.client.estop("while cut")
    arm.board.line.cut(0.0)
    assert wait_until(lambda: arm.state() == State.ESTOP)
    arm.stop_swinging()
    assert_ends_at_rest(arm.ticks(), State.ESTOP)


def test_stalled_line_stops_the_arm_and_nothing_late_moves_it(arm: Arm):
    arm.swing(0.6)
    stalled_at = arm.ticks()[-1].tick
    arm.board.line.stall(0.8)
    assert wait_until(lambda: arm.state() == State.SAFE)
    assert ticks_until(arm.ticks(), State.SAFE, stalled_at) < SAFE_WITHIN_TICKS
    time.sleep(1.0)  # now everything held back arrives
    assert_ends_at_rest(arm.ticks(), State.SAFE)
    arm.stop_swinging()
    arm.assert_recovers()


def test_policy_that_stops_sending_starves_the_arm_into_safe(arm: Arm):
    arm.client.arm(ALOHA.names)
    speeding_up = np.tile(ALOHA.home, (30, 1))
    acceleration = 0.9 * ALOHA.velocity[0] / (30 * TICK_S)
    speeding_up[:, 0] += 0.5 * acceleration * (np.arange(1, 31) * TICK_S) ** 2  # ends near the largest velocity
    with arm.client.play() as stream:
        stream.send(speeding_up, arm.client.status().tick)
        assert (report := stream.next_report(2.0)) and report.outcome == ChunkReport.ACCEPTED
        assert wait_until(lambda: arm.state() == State.SAFE)
    ticks = arm.ticks()
    states = [tick.state for tick in ticks]
    assert states.index(State.RUNNING) < states.index(State.STARVED) < states.index(State.SAFE)
    assert ticks[-1].faults == Fault.STARVATION
    starved = states.index(State.STARVED)
    waist = np.diff([tick.executed[0] for tick in ticks])
    assert waist[starved - 2] > waist[starved - 1] > 0.0  # it slows down, and does not freeze
    assert_ends_at_rest(ticks, State.SAFE)
    arm.assert_recovers()


def can_arm(client: BridgeClient) -> bool:
    try:
        return client.arm(ALOHA.names) == State.ARMED
    except BridgeError:
        return False


POLICY = """
import sys
import numpy as np
from motion_audit import ALOHA, fast_swing
from firmware_bridge.client import BridgeClient
from pi0_edge.protos.bridge_pb2 import ChunkReport
with BridgeClient(sys.argv[1], "doomed policy") as client:
    client.arm(ALOHA.names)
    start = None
    with client.play() as stream, client.telemetry() as ticks:
        for tick in ticks:
            if tick.tick % 10 == 0:
                begun = tick.tick if start is None else start  # the arm rests until its first chunk is accepted
                stream.send(fast_swing(tick.tick - begun + np.arange(1, 51)), tick.tick)
                outcome = stream.next_report(2.0).outcome
                if outcome == ChunkReport.ACCEPTED:
                    start = begun
                if start is not None:
                    print(outcome, flush=True)
"""


def test_killed_policy_ends_in_safe_and_ends_the_lease(arm: Arm):
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests.parent), str(tests / "apparatus")])
    argv = [sys.executable, "-c", POLICY, arm.client.address]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}) as policy:
        assert policy.stdout is not None
        assert [policy.stdout.readline() for _ in range(5)] == [b"0\n"] * 5
        policy.kill()
    assert wait_until(lambda: arm.state() == State.SAFE)
    assert_was_moving(arm.ticks())
    assert_ends_at_rest(arm.ticks(), State.SAFE)
    assert wait_until(lambda: arm.client.status().owner == "")
    arm.assert_recovers()


def test_reset_of_the_board_ends_disarmed(arm: Arm):
    arm.swing(0.6)
    arm.board.reset()
    assert wait_until(arm.has_restarted)
    assert arm.state() == State.DISARMED
    assert wait_until(lambda: arm.client.status().owner == "")
    arm.stop_swinging()
    assert wait_until(lambda: can_arm(arm.client))  # once the bridge has shaken hands with the restarted firmware


def test_board_that_is_paused_stays_within_its_limits(arm: Arm):
    arm.swing(0.6)
    with arm.board.frozen():
        time.sleep(0.3)
    time.sleep(0.5)
    arm.stop_swinging()
    assert wait_until(lambda: arm.state() in (State.SAFE, State.DISARMED))
    assert_ends_at_rest(arm.ticks(), State.SAFE, State.DISARMED)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_killed_or_frozen_bridge_ends_in_safe(board: EmulatedBoard, tmp_path: Path, number: signal.Signals):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    argv = [sys.executable, "-m", "firmware_bridge", "--port", board.port, "--listen", address]
    bridge = subprocess.Popen(argv, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    try:
        with BridgeClient(address, "swinger") as client:
            arm = Arm(board, client, tmp_path / "record")
            arm.swing(0.6)
            killed_at = arm.ticks()[-1].tick
            os.kill(bridge.pid, number)
            assert wait_until(lambda: arm.state() == State.SAFE)
            bridge.kill()
            arm.stop_swinging()
    finally:
        bridge.kill()
        bridge.wait()
    ticks = arm.ticks()
    assert ticks_until(ticks, State.SAFE, killed_at) < SAFE_WITHIN_TICKS
    assert ticks[-1].faults == Fault.HEARTBEAT
    assert_was_moving(ticks)
    assert_within_limits(ticks)
    successor = FirmwareLink(board.port, ALOHA)
    successor.start()
    assert successor.telemetry is not None
    assert successor.telemetry.state == State.SAFE
    successor.close()


def test_random_bytes_on_the_serial_line_move_nothing(board: EmulatedBoard, tmp_path: Path):
    noise = np.random.default_rng(3).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    descriptor = os.open(board.port, os.O_WRONLY | os.O_NOCTTY)
    os.write(descriptor, noise)
    time.sleep(20_000 * 10 / 921600 + 0.5)
    os.close(descriptor)
    link = FirmwareLink(board.port, ALOHA)
    link.start()
    assert wait_until(lambda: link.counters is not None and link.counters.framing_errors + link.counters.crc_errors > 0)
    link.close()
    ticks = executed_ticks(tmp_path / "record")
    assert {tick.state for tick in ticks} == {State.DISARMED}
    assert {tick.executed for tick in ticks} == {ticks[0].executed}
    assert len(ticks) > 0.5 / TICK_S
